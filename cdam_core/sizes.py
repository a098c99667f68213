"""Explaining at another input size: which sizes a model takes, and what each of them costs.

A larger input makes more and smaller patches on the picture. Nothing is trained for it: positions
are interpolated, and answers can get worse far from the size that the model was trained at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cdam_core.architectures import takes_any_size, width_and_depth
from cdam_core.models import MAX_PATCHES, VisionModel

SIDES = (224, 336, 488)  # pixels; 488 makes the paper's 61 x 61 grid of 8 px patches
# Numbers per token and feature that live at once while an image is encoded: the residual stream,
# queries, keys and values, and the MLP's inner layer with its activation.
LIVE_NUMBERS = 16
BYTES = 4


@dataclass(frozen=True)
class Cost:
    """What one input size costs.

    Attributes:
        size: (height, width) in pixels.
        grid: (rows, cols) of patches.
        times: work of encoding an image, in units of that at the model's own size.
        megabytes: about what the encoding needs beside the weights.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    times: float
    megabytes: float


def sizes_for(model: VisionModel, sides: Sequence[int] = SIDES) -> list[tuple[int, int]]:
    """The model's own size and square ones near the given sides, each once, smallest first.

    Args:
        model: the model; one that takes its own size alone gets that alone.
        sides: in pixels; each becomes the nearest multiple of the patch size.
    """
    own = tuple(model.input_size)
    if not takes_any_size(model.module):
        return [own]
    height, width = model.patch_size
    near = {(max(1, round(side / height)) * height, max(1, round(side / width)) * width)
            for side in sides}  # fmt: skip
    few = {size for size in near if _patches(model, size) <= MAX_PATCHES}
    return sorted(few | {own})


def cost_of(model: VisionModel, size: Sequence[int]) -> Cost:
    """What encoding an image of (height, width) pixels costs.

    Per block and token, 12 d^2 multiplications in linear layers (MLP four times as wide) and 2 N d
    in the attention, N tokens of d features: work goes with N (6 d + N). Memory goes with N alone,
    as attention is computed without its matrix.
    """
    width, _ = width_and_depth(model.module)
    tokens = model.num_prefix_tokens + _patches(model, size)
    own = model.num_prefix_tokens + _patches(model, model.input_size)
    times = tokens * (6 * width + tokens) / (own * (6 * width + own))
    megabytes = LIVE_NUMBERS * tokens * width * BYTES / 1e6
    return Cost(tuple(size), model.grid_of(size), times, megabytes)


def _patches(model: VisionModel, size: Sequence[int]) -> int:
    rows, cols = model.grid_of(size)
    return rows * cols
