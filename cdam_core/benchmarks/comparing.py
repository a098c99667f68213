"""Measures made of other measures, and those that need no perturbed image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cdam_core.benchmarks.boxes import BoxDrops, BoxSensitivity, box_drops, box_sensitivity
from cdam_core.benchmarks.ordering import Fidelity, area_percent, fidelity
from cdam_core.benchmarks.sight import pearson, to_patches
from cdam_core.models import VisionModel
from cdam_core.targets import Target


@dataclass(frozen=True, eq=False)
class Discrimination:
    """A measure with the right class's map less the same with a wrong class's map.

    Attributes:
        positions: fractions (fidelity) or box sizes.
        difference: the curve, right less wrong; for fidelity of LIF - MIF.
        area: the area under it, in the measure's own unit; high is good, 0 is blind to the class.
        right, wrong: the two results; the value read is always the right target's.
    """

    positions: np.ndarray
    difference: np.ndarray
    area: float
    right: Fidelity | BoxSensitivity
    wrong: Fidelity | BoxSensitivity


@dataclass(frozen=True, eq=False)
class AblationCorrelation:
    """Pearson correlation of maps with token ablation maps.

    Attributes:
        pooled: over all patches of all images at once, as the authors report it; images with large
            values weigh more.
        per_image: (images,) of each; 0 where nothing varies.
        mean: of ``per_image``.
    """

    pooled: float
    per_image: np.ndarray
    mean: float


def fidelity_discrimination(
    model: VisionModel,
    pixels: Tensor,
    right: np.ndarray,
    wrong: np.ndarray,
    target: Target,
    **settings: Any,
) -> Discrimination:
    """(f_LIF - f_MIF) of the right class's map less that of a wrong class's map (Eq. 7).

    Args:
        model, pixels: as for ``fidelity``.
        right, wrong: maps of the right and of a wrong class.
        target: the right one; its value is read for both maps.
        **settings: of ``fidelity``.
    """
    one, two = (fidelity(model, pixels, each, target, **settings) for each in (right, wrong))
    difference = (one.lif - one.mif) - (two.lif - two.mif)
    area = area_percent(one.fractions, difference)
    return Discrimination(one.fractions, difference, area, one, two)


def box_discrimination(
    model: VisionModel,
    pixels: Tensor,
    right: np.ndarray,
    wrong: np.ndarray,
    target: Target,
    drops: BoxDrops | None = None,
    **settings: Any,
) -> Discrimination:
    """f_box of the right class's map less that of a wrong class's map (Eq. 8); as above."""
    drops = drops or box_drops(model, pixels, target, **settings)
    one, two = (
        box_sensitivity(model, pixels, each, target, drops=drops) for each in (right, wrong)
    )
    difference = one.correlation - two.correlation
    area = float(np.trapezoid(difference, one.sizes))
    return Discrimination(one.sizes, difference, area, one, two)


def compactness(scores: np.ndarray, threshold: float = 0.05) -> float:
    """Fraction of the scores with |score| <= threshold * largest score.

    The largest *signed* score, as the paper's text has it; NaN where that is not above 0.
    """
    scores = np.asarray(scores, np.float64)
    largest = scores.max()
    return float((np.abs(scores) <= threshold * largest).mean()) if largest > 0 else float("nan")


def ablation_correlation(
    scores: np.ndarray | Sequence[np.ndarray], ablation: np.ndarray | Sequence[np.ndarray]
) -> AblationCorrelation:
    """Pearson correlation with the token ablation map, pooled and per image.

    Source: the notebook of the CDAM authors. One map is an image; pixel maps are summed to patches.

    Args:
        scores: (rows, cols) or (H, W), or a list of maps, one per image.
        ablation: (rows, cols), the token ablation maps of the same images and targets.
    """
    maps, ablations = (
        [each] if isinstance(each, np.ndarray) and each.ndim == 2 else list(each)
        for each in (scores, ablation)
    )
    pairs = [
        (to_patches(one, np.shape(two)), np.asarray(two, np.float64))
        for one, two in zip(maps, ablations, strict=True)
    ]
    per_image = np.array([pearson(*pair) for pair in pairs])
    pooled = pearson(*(np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1)))
    return AblationCorrelation(pooled, per_image, float(per_image.mean()))
