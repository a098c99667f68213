"""Fidelity: perturb in the order of the scores, from either end, and watch the value."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from cdam_core.benchmarks.sight import OnStep, Protocol, Sight, checked_scores
from cdam_core.errors import BadTarget
from cdam_core.models import VisionModel
from cdam_core.targets import Target


@dataclass(frozen=True, eq=False)
class Band:
    """What perturbing in random order does: the floor that a map has to leave.

    Attributes:
        fractions: (steps + 1,) really perturbed, 0 to 1.
        mean, sd: (steps + 1,) of the values over the rankings.
        area_mean, area_sd: of the areas under the single curves.
        rankings: how many.
    """

    fractions: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    area_mean: float
    area_sd: float
    rankings: int


@dataclass(frozen=True, eq=False)
class Fidelity:
    """Values while the image is perturbed in the order of its scores.

    Attributes:
        fractions: (steps + 1,) really perturbed, 0 to 1.
        mif, lif: (steps + 1,) values, most and least important first.
        area_mif: area under ``mif``, fractions in percent; low is good.
        area_lif: the same of ``lif``; high is good.
        area: ``area_lif - area_mif``; high is good.
        protocol: how it was measured.
        band: of random orders, or None where none was asked for.
    """

    fractions: np.ndarray
    mif: np.ndarray
    lif: np.ndarray
    area_mif: float
    area_lif: float
    area: float
    protocol: Protocol
    band: Band | None = None


def fidelity(
    model: VisionModel,
    pixels: Tensor,
    scores: np.ndarray,
    target: Target,
    steps: int = 100,
    blur_sigma: float = 14.0,
    seed: int = 0,
    band: int | Band | None = None,
    on_step: OnStep | None = None,
) -> Fidelity:
    """Perturb most-important-first (MIF) and least-important-first (LIF) and watch the value.

    Step k perturbs round(k / steps * N) of the N patches of a patch map, or pixels of a pixel map.
    Equal scores are taken in one random order, so LIF is MIF read from the other end.

    Args:
        model: adapted ViT.
        pixels: (1, 3, H, W), normalised.
        scores: (rows, cols) or (H, W), signed: the most negative are the least important.
        target: the one whose value is read.
        steps: number of steps.
        blur_sigma: of the blur that takes the place of pixels, in pixels.
        seed: of the order of equal scores, and of the random rankings.
        band: number of random rankings to compare with (10 is usual), a ``Band`` measured before
            on the same image, target and steps, or None.
        on_step: called with (done, total) between batches; may raise to cancel.

    Returns:
        ``Fidelity``.
    """
    sight = Sight.of_one(model, pixels, target, blur_sigma, seed)
    return fidelities(sight, scores, steps, [band], on_step)[0]


def fidelities(
    sight: Sight,
    scores: np.ndarray,
    steps: int = 100,
    bands: Sequence[int | Band | None] | None = None,
    on_step: OnStep | None = None,
) -> list[Fidelity]:
    """``fidelity`` of one map for every target of a sight, from the same perturbed images.

    Args:
        sight: image and targets.
        scores, steps, on_step: as for ``fidelity``.
        bands: as ``band`` of ``fidelity``, one per target; None: none.
    """
    scores, unit = checked_scores(sight.model, sight, scores)
    bands = bands or [None] * len(sight.targets)
    counts = _counts(scores.size, steps)
    mif = ranking(scores, sight.seed)
    orders = [mif, mif[::-1]]
    drawn = max((band for band in bands if isinstance(band, int)), default=0)
    orders += _random_orders(scores.size, drawn, sight.seed)
    curves = _curves(sight, unit, orders, counts, on_step)
    fractions = counts / scores.size
    return [
        _fidelity(sight.protocol(unit, index), fractions, [curve[:, index] for curve in curves],
                  bands[index])
        for index in range(len(sight.targets))
    ]  # fmt: skip


def _fidelity(
    protocol: Protocol, fractions: np.ndarray, curves: Sequence[np.ndarray], band: int | Band | None
) -> Fidelity:
    """From the curves of MIF, LIF, and the random orders if there are any."""
    if isinstance(band, int):
        band = _band(fractions, curves[2 : 2 + band]) if band > 0 else None
    mif, lif = curves[:2]
    area_mif, area_lif = area_percent(fractions, mif), area_percent(fractions, lif)
    return Fidelity(fractions, mif, lif, area_mif, area_lif, area_lif - area_mif, protocol, band)


def random_band(
    model: VisionModel,
    pixels: Tensor,
    target: Target,
    steps: int = 100,
    blur_sigma: float = 14.0,
    rankings: int = 10,
    seed: int = 0,
    unit: str = "patch",
    on_step: OnStep | None = None,
) -> Band:
    """Mean and standard deviation of the curves of random rankings, once for all maps of an image.

    Args:
        model, pixels, target, steps, blur_sigma, on_step: as for ``fidelity``.
        rankings: how many random orders.
        seed: of these.
        unit: "patch" | "pixel", what is ranked.
    """
    sight = Sight.of_one(model, pixels, target, blur_sigma, seed)
    return random_bands(sight, steps, rankings, unit, on_step)[0]


def random_bands(
    sight: Sight,
    steps: int = 100,
    rankings: int = 10,
    unit: str = "patch",
    on_step: OnStep | None = None,
) -> list[Band]:
    """``random_band`` for every target of a sight, from the same perturbed images."""
    total = sight.grid[0] * sight.grid[1] if unit == "patch" else sight.size[0] * sight.size[1]
    counts = _counts(total, steps)
    orders = _random_orders(total, rankings, sight.seed)
    curves = _curves(sight, unit, orders, counts, on_step)
    return [
        _band(counts / total, [curve[:, index] for curve in curves])
        for index in range(len(sight.targets))
    ]


def ranking(scores: np.ndarray, seed: int = 0) -> np.ndarray:
    """Indices of the flat scores, most important first, equal ones in a random order."""
    flat = np.asarray(scores).ravel()
    shuffled = np.random.default_rng(seed).permutation(flat.size)
    return shuffled[np.argsort(-flat[shuffled], kind="stable")]


def area_percent(fractions: np.ndarray, curve: np.ndarray) -> float:
    """Area under a curve (trapezoids), fractions counted in percent."""
    return float(np.trapezoid(curve, 100 * fractions))


def _counts(total: int, steps: int) -> np.ndarray:
    """How many of ``total`` are perturbed after each step."""
    if steps < 1:
        raise BadTarget("bad-setting", f"{steps} steps arrived; expected at least 1.")
    return np.array([round(k / steps * total) for k in range(steps + 1)])


def _random_orders(total: int, rankings: int, seed: int) -> list[np.ndarray]:
    return [np.random.default_rng([seed, index]).permutation(total) for index in range(rankings)]


def _band(fractions: np.ndarray, curves: Sequence[np.ndarray]) -> Band:
    areas = [area_percent(fractions, curve) for curve in curves]
    return Band(fractions, np.mean(curves, 0), np.std(curves, 0), float(np.mean(areas)),
                float(np.std(areas)), len(areas))  # fmt: skip


def _curves(
    sight: Sight,
    unit: str,
    orders: Sequence[np.ndarray],
    counts: np.ndarray,
    on_step: OnStep | None,
) -> list[np.ndarray]:
    """(steps + 1, T) after perturbing the first ``counts`` of every order; no image runs twice."""
    wanted, where = np.unique(counts, return_inverse=True)
    inner = [(order, count) for order in range(len(orders)) for count in wanted[1:-1]]
    ranks = [sight.to_pixels(np.argsort(order), unit) for order in orders]
    masks = (ranks[order] < int(count) for order, count in inner)
    ends = [torch.zeros_like(ranks[0], dtype=torch.bool), torch.ones_like(ranks[0], dtype=bool)]
    values = sight.values(chain(ends, masks), len(inner) + 2, on_step)
    empty, full = values[:1], values[1:2]
    rest = values[2:].reshape(len(orders), len(wanted) - 2, -1)
    return [np.concatenate([empty, each, full])[where] for each in rest]
