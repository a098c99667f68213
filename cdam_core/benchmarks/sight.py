"""Looking at one image while parts of it are blurred; what all perturbing measures share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cdam_core.errors import BadTarget
from cdam_core.methods.blocks import as_pixels, images_per_batch, values_of_pixels
from cdam_core.models import VisionModel
from cdam_core.targets import Target, resolve

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Protocol:
    """What was perturbed, how, and what was read.

    Attributes:
        target: JSON-able description of the value that was read.
        label: its readable name.
        value: that value on the undisturbed image.
        model_id: the model.
        unit: "patch" | "pixel", what is perturbed at once.
        fill: what takes its place: "gaussian blur".
        blur_sigma: of the blur, in pixels.
        blur_sigma_relative: the same over the shorter side of the input.
        seed: of random orders and boxes.
    """

    target: dict[str, Any]
    label: str
    value: float
    model_id: str
    unit: str
    fill: str
    blur_sigma: float
    blur_sigma_relative: float
    seed: int


class Sight:
    """One image, its blurred twin, and the values of targets on mixtures of the two.

    Args:
        model: adapted ViT.
        pixels: (1, 3, H, W), normalised.
        target: one, or a list: the same perturbed images then answer for all of them.
        blur_sigma: of the blur that takes the place of pixels, in pixels.
        seed: of random orders and boxes.
    """

    def __init__(
        self,
        model: VisionModel,
        pixels: Tensor,
        target: Target,
        blur_sigma: float = 14.0,
        seed: int = 0,
    ):
        self.model, self.seed, self.blur_sigma = model, seed, float(blur_sigma)
        self.targets = resolve(model, target)
        self.undisturbed = model.values(model.encode(pixels), self.targets).tolist()  # checks both
        self.pixels = as_pixels(model, pixels)
        self.blurred = blur(self.pixels, blur_sigma)
        self.size = tuple(self.pixels.shape[-2:])
        self.grid = model.grid_of(self.size)

    @classmethod
    def of_one(
        cls, model: VisionModel, pixels: Tensor, target: Target, blur_sigma: float, seed: int
    ) -> "Sight":
        """The same for exactly one target; ``BadTarget`` for more."""
        sight = cls(model, pixels, target, blur_sigma, seed)
        if len(sight.targets) != 1:
            raise BadTarget(
                "wrong-type",
                f"{len(sight.targets)} targets arrived; a map is judged by one target at a time.",
            )
        return sight

    def protocol(self, unit: str, target: int = 0) -> Protocol:
        """What was done here, for one of the targets."""
        return Protocol(
            self.targets.descriptions[target],
            self.targets.labels[target],
            self.undisturbed[target],
            self.model.id,
            unit,
            "gaussian blur",
            self.blur_sigma,
            self.blur_sigma / min(self.size),
            self.seed,
        )

    def to_pixels(self, numbers: np.ndarray, unit: str) -> Tensor:
        """(H, W): a flat number per patch or pixel, at every pixel."""
        if unit == "pixel":
            return torch.from_numpy(numbers.reshape(self.size))
        (height, width), (rows, cols) = self.model.patch_size, self.grid
        numbers = torch.from_numpy(numbers.reshape(rows, cols))
        return numbers.repeat_interleave(height, 0).repeat_interleave(width, 1)

    def box(self, size: int, row: int, col: int) -> Tensor:
        """(H, W) bool: a box of size x size patches."""
        height, width = self.model.patch_size
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[row * height : (row + size) * height, col * width : (col + size) * width] = True
        return mask

    def values(self, masks: Iterable[Tensor], total: int, on_step: OnStep | None) -> np.ndarray:
        """(total, T) values of the image with the masked pixels blurred, in batches."""
        size = images_per_batch(self.model, self.size, with_graph=False)
        masks, found, done = iter(masks), [], 0
        while batch := list(islice(masks, size)):
            mask = torch.stack(batch).to(self.pixels.device)[:, None]
            mixed = torch.where(mask, self.blurred, self.pixels)
            found.append(values_of_pixels(self.model, mixed, self.targets).double().cpu())
            done += len(batch)
            if on_step:
                on_step(done, total)
        return torch.cat(found).numpy()


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """Every channel blurred with scipy's ``gaussian_filter``, its defaults."""
    channels = pixels[0].cpu().numpy()
    blurred = np.stack([gaussian_filter(channel, sigma) for channel in channels])
    return torch.from_numpy(blurred)[None].to(pixels)


def checked_scores(model: VisionModel, sight: Sight, scores: np.ndarray) -> tuple[np.ndarray, str]:
    """(rows, cols) or (H, W) float64 and the unit that is ranked."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim == 3 and len(scores) == 1:
        scores = scores[0]
    if not np.isfinite(scores).all():
        raise BadTarget("wrong-type", "The scores hold NaN or infinite values; nothing to rank.")
    if scores.shape == sight.grid:
        return scores, "patch"
    if scores.shape == sight.size:
        return scores, "pixel"
    raise _bad_shape(scores, f"{sight.grid} patches or {sight.size} pixels")


def _bad_shape(scores: np.ndarray, expected: str) -> BadTarget:
    return BadTarget(
        "wrong-type", f"Scores of shape {scores.shape} arrived; expected {expected} for this image."
    )


def to_patches(scores: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(rows, cols) scores as they are, (H, W) scores summed within every patch; float64."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim == 3 and len(scores) == 1:
        scores = scores[0]
    if scores.shape == tuple(grid):
        return scores
    if scores.ndim != 2 or any(
        side % cells for side, cells in zip(scores.shape, grid, strict=True)
    ):
        raise _bad_shape(scores, f"{tuple(grid)} or (height, width) in whole patches")
    rows, cols = grid
    return scores.reshape(rows, scores.shape[0] // rows, cols, -1).sum((1, 3))


def pearson(one: np.ndarray, two: np.ndarray, flat: float = 0.0) -> float:
    """Pearson correlation, -1 to 1; ``flat`` where one of the two does not vary."""
    one, two = (np.asarray(each, np.float64).ravel() for each in (one, two))
    one, two = one - one.mean(), two - two.mean()
    scale = np.sqrt((one**2).sum()) * np.sqrt((two**2).sum())
    return float(np.clip((one * two).sum() / scale, -1, 1)) if scale > 0 else flat
