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
    sight = Sight(model, pixels, target, blur_sigma, seed)
    scores, unit = checked_scores(model, sight, scores)
    counts = _counts(scores.size, steps)
    mif = ranking(scores, seed)
    orders = [mif, mif[::-1]]
    if isinstance(band, int) and band > 0:
        orders += _random_orders(scores.size, band, seed)
    curves = _curves(sight, unit, orders, counts, on_step)
    fractions = counts / scores.size
    if isinstance(band, int):
        band = _band(fractions, curves[2:]) if band > 0 else None
    area_mif, area_lif = (area_percent(fractions, curve) for curve in curves[:2])
    return Fidelity(
        fractions,
        curves[0],
        curves[1],
        area_mif,
        area_lif,
        area_lif - area_mif,
        sight.protocol(unit),
        band,
    )


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
    sight = Sight(model, pixels, target, blur_sigma, seed)
    total = sight.grid[0] * sight.grid[1] if unit == "patch" else sight.size[0] * sight.size[1]
    counts = _counts(total, steps)
    orders = _random_orders(total, rankings, seed)
    return _band(counts / total, _curves(sight, unit, orders, counts, on_step))


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
    """The value after perturbing the first ``counts`` of every order; no image is run twice."""
    wanted, where = np.unique(counts, return_inverse=True)
    inner = [(order, count) for order in range(len(orders)) for count in wanted[1:-1]]
    ranks = [sight.to_pixels(np.argsort(order), unit) for order in orders]
    masks = (ranks[order] < int(count) for order, count in inner)
    ends = [torch.zeros_like(ranks[0], dtype=torch.bool), torch.ones_like(ranks[0], dtype=bool)]
    values = sight.values(chain(ends, masks), len(inner) + 2, on_step)
    empty, full, rest = values[0], values[1], values[2:].reshape(len(orders), len(wanted) - 2)
    return [np.concatenate([[empty], row, [full]])[where] for row in rest]
