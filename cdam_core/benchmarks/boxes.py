"""Box sensitivity: do the scores in a box foretell what blurring it costs?"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from cdam_core.benchmarks.sight import OnStep, Protocol, Sight, pearson, to_patches
from cdam_core.errors import BadTarget
from cdam_core.models import VisionModel
from cdam_core.targets import Target


@dataclass(frozen=True, eq=False)
class BoxDrops:
    """What blurring random boxes does to the value; shared by all maps of one image and target.

    Attributes:
        sizes: box sides in patches.
        corners: per size, (n_boxes, 2) rows and columns of the upper left patch.
        drops: per size, (n_boxes,) value lost.
        protocol: how it was measured.
    """

    sizes: np.ndarray
    corners: tuple[np.ndarray, ...]
    drops: tuple[np.ndarray, ...]
    protocol: Protocol


@dataclass(frozen=True, eq=False)
class BoxSensitivity:
    """Correlation of the scores in a box with what its blurring costs.

    Attributes:
        sizes: box sides in patches.
        correlation: (sizes,) Pearson; 0 where nothing varies.
        area: area under it over the sizes; high is good.
        n_boxes: boxes per size.
        protocol: how it was measured.
    """

    sizes: np.ndarray
    correlation: np.ndarray
    area: float
    n_boxes: int
    protocol: Protocol


def box_sensitivity(
    model: VisionModel,
    pixels: Tensor,
    scores: np.ndarray,
    target: Target,
    sizes: Sequence[int] | None = None,
    n_boxes: int = 100,
    blur_sigma: float = 14.0,
    seed: int = 0,
    drops: BoxDrops | None = None,
    on_step: OnStep | None = None,
) -> BoxSensitivity:
    """Correlate the sum of scores in random boxes with the value lost when the box is blurred.

    Args:
        model: adapted ViT.
        pixels: (1, 3, H, W), normalised.
        scores: (rows, cols) or (H, W), signed.
        target: the one whose value is read.
        sizes: box sides in patches; None: 1 to min(rows, cols) - 1.
        n_boxes: boxes per size, aligned with patches.
        blur_sigma: of the blur that takes the place of pixels, in pixels.
        seed: of the boxes; the same for all maps and targets, give every image its own.
        drops: from ``box_drops`` with the same arguments, to judge many maps at one price.
        on_step: called with (done, total) between batches; may raise to cancel.

    Returns:
        ``BoxSensitivity``.
    """
    if drops is None:
        drops = box_drops(model, pixels, target, sizes, n_boxes, blur_sigma, seed, on_step)
    return correlate(drops, scores, model.grid_of(pixels.shape[-2:]))


def correlate(drops: BoxDrops, scores: np.ndarray, grid: tuple[int, int]) -> BoxSensitivity:
    """``box_sensitivity`` of a map, given what blurring the boxes costs; asks no model.

    Args:
        drops: of the image and target.
        scores: (rows, cols) or (H, W), signed.
        grid: (rows, cols) of the model's patches.
    """
    patches = to_patches(scores, grid)
    pairs = zip(drops.sizes, drops.corners, drops.drops, strict=True)
    correlation = np.array(
        [pearson(_box_sums(patches, size, corners), lost) for size, corners, lost in pairs]
    )
    area = float(np.trapezoid(correlation, drops.sizes))
    return BoxSensitivity(drops.sizes, correlation, area, len(drops.corners[0]), drops.protocol)


def box_drops(
    model: VisionModel,
    pixels: Tensor,
    target: Target,
    sizes: Sequence[int] | None = None,
    n_boxes: int = 100,
    blur_sigma: float = 14.0,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> BoxDrops:
    """What blurring each of many random boxes costs; arguments as for ``box_sensitivity``."""
    sight = Sight.of_one(model, pixels, target, blur_sigma, seed)
    return box_drops_of(sight, sizes, n_boxes, on_step)[0]


def box_drops_of(
    sight: Sight,
    sizes: Sequence[int] | None = None,
    n_boxes: int = 100,
    on_step: OnStep | None = None,
) -> list[BoxDrops]:
    """``box_drops`` for every target of a sight, from the same perturbed images."""
    rows, cols = sight.grid
    sizes = np.arange(1, min(rows, cols)) if sizes is None else np.asarray(sizes, int)
    if not len(sizes) or sizes.min() < 1 or sizes.max() > min(rows, cols):
        raise BadTarget(
            "bad-setting",
            f"Box sizes {list(map(int, sizes))} arrived for a grid of {rows} x {cols} patches; "
            f"expected sizes from 1 to {min(rows, cols)}.",
        )
    corners = tuple(random_corners(sight.grid, int(size), n_boxes, sight.seed) for size in sizes)
    boxes = [(int(size), *map(int, corner)) for size, each in zip(sizes, corners, strict=True)
             for corner in each]  # fmt: skip
    distinct = list(dict.fromkeys(boxes))
    masks = (sight.box(*box) for box in distinct)
    nothing = torch.zeros(sight.size, dtype=torch.bool)
    values = sight.values(chain([nothing], masks), len(distinct) + 1, on_step)
    lost = dict(zip(distinct, values[0] - values[1:], strict=True))
    drops = np.array([lost[box] for box in boxes]).reshape(len(sizes), n_boxes, -1)
    return [
        BoxDrops(sizes, corners, tuple(drops[..., index]), sight.protocol("patch", index))
        for index in range(len(sight.targets))
    ]


def random_corners(grid: tuple[int, int], size: int, n_boxes: int, seed: int) -> np.ndarray:
    """(n_boxes, 2) upper left patches of random boxes; they depend on grid, size and seed alone."""
    draw = np.random.default_rng([seed, size])
    return draw.integers(0, [grid[0] - size + 1, grid[1] - size + 1], (n_boxes, 2))


def _box_sums(patches: np.ndarray, size: int, corners: np.ndarray) -> np.ndarray:
    return np.array([patches[r : r + size, c : c + size].sum() for r, c in corners])
