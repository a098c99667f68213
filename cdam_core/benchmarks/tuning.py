"""Choosing the noise of SmoothGrad and Smooth CDAM: best fidelity on pictures held out for it.

Noise is a share of the range (maximum less minimum) of what it is added to on each picture, as the
methods' defaults are, so that one number fits pictures and models of any scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdam_core.benchmarks.datasets import Picture
from cdam_core.benchmarks.measuring import Plan, Work, noise_range
from cdam_core.benchmarks.ordering import fidelities
from cdam_core.benchmarks.sight import OnStep
from cdam_core.errors import BadImage
from cdam_core.explanation import explain
from cdam_core.methods import METHODS
from cdam_core.models import VisionModel

# Method -> shares that are tried.
SHARES: dict[str, tuple[float, ...]] = {
    "smooth_cdam": (0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
    "smoothgrad": (0.02, 0.05, 0.1, 0.15, 0.3, 0.5),
}


@dataclass(frozen=True)
class Tuned:
    """What the held-out pictures say.

    Attributes:
        shares: that were tried.
        areas: mean area LIF - MIF of the right class's map for each; high is good.
        errors: standard error of each over pictures.
        chosen: the share with the largest area.
        images: pictures that took part.
        steps: of the curves.
    """

    shares: tuple[float, ...]
    areas: tuple[float, ...]
    errors: tuple[float, ...]
    chosen: float
    images: int
    steps: int


def try_shares(
    model: VisionModel,
    picture: Picture,
    plan: Plan,
    todo: Sequence[str],
    on_step: OnStep | None = None,
) -> tuple[str, dict[str, list[float]] | None]:
    """One held-out picture: its name, and per method the area LIF - MIF for every share.

    Args:
        model, picture, on_step: as for ``measuring.measure``.
        plan: ``steps`` is that of the tuning.
        todo: the methods.

    Returns:
        (name, areas), averaged over the picture's classes; None for a picture that cannot be read.
    """
    try:
        work = Work(model, picture, plan, on_step)
    except BadImage:
        return picture.id, None
    return picture.id, {method: [_area(work, method, share) for share in SHARES[method]]
                        for method in todo}  # fmt: skip


def _area(work: Work, method: str, share: float) -> float:
    """Mean over the picture's classes of the area of its own map, its own output watched."""
    settings = work.settings_of(method)
    reach = noise_range(work.model, method, work.pixels, work.encoding, settings.get("at"))
    given = work.encoding if METHODS[method].needs == "encoding" else work.pixels
    maps = explain(work.model, given, list(work.picture.labels), method, on_step=work.on_step,
                   **(settings | {"sigma": share * reach})).scores  # fmt: skip
    found = [fidelities(work.sight, scores, work.plan.steps, on_step=work.on_step)[index].area
             for index, scores in enumerate(maps)]  # fmt: skip
    return float(np.mean(found))


def choose(found: Sequence[Mapping[str, Sequence[float]]], method: str, steps: int) -> Tuned:
    """The best share of one method, from what ``try_shares`` gave for every picture."""
    areas = np.array([each[method] for each in found])
    means = areas.mean(0)
    spread = areas.std(0, ddof=1) if len(areas) > 1 else np.full_like(means, np.nan)
    return Tuned(SHARES[method], tuple(means.tolist()),
                 tuple((spread / np.sqrt(len(areas))).tolist()),
                 SHARES[method][int(means.argmax())], len(areas), steps)  # fmt: skip


def of_json(stored: Mapping[str, Any]) -> Tuned:
    """What ``dataclasses.asdict`` and JSON made of a ``Tuned``."""
    values = {key: tuple(value) if isinstance(value, list) else value
              for key, value in stored.items()}  # fmt: skip
    return Tuned(**values)
