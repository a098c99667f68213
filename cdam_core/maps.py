"""From scores per patch to maps at image size: numbers only, no colours.

Signs and zero survive everything here: nothing is clipped to positive, rescaled or made absolute.
"""

from collections.abc import Iterable

import numpy as np
from PIL import Image

MODES = ("nearest", "smooth")


def to_map(scores: np.ndarray, size: tuple[int, int], mode: str = "nearest") -> np.ndarray:
    """Scores at image size.

    Args:
        scores: (..., rows, cols), one value per patch (or pixel).
        size: (height, width) in pixels.
        mode: "nearest" shows every patch as it is; "smooth" interpolates linearly, so that
            no peak and no sign is invented between patches.

    Returns:
        (..., height, width) float32 in the unit of the scores.
    """
    if mode not in MODES:
        raise ValueError(f"Mode {mode!r} arrived; expected one of {', '.join(MODES)}.")
    scores = np.asarray(scores, np.float32)
    flat = scores.reshape(-1, *scores.shape[-2:])
    resize = _nearest if mode == "nearest" else _smooth
    return np.stack([resize(each, size) for each in flat]).reshape(*scores.shape[:-2], *size)


def _nearest(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, cols = (
        np.arange(side) * cells // side for side, cells in zip(size, scores.shape, strict=True)
    )
    return scores[rows[:, None], cols]


def _smooth(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    resized = Image.fromarray(scores).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(resized), scores.min(), scores.max())  # rounding, no more


def symmetric_scale(maps: Iterable[np.ndarray], quantile: float = 1.0) -> float:
    """The one scale of panels that are compared: colours run from -scale over 0 to +scale.

    Args:
        maps: arrays of scores; non-finite values are ignored.
        quantile: quantile of |score| over all of them; 1 is the largest, less clips the rest when
            drawn, and must be stated beside the picture.

    Returns:
        The scale, in the unit of the scores; 1 where every score is zero.
    """
    values = np.concatenate([np.abs(np.asarray(each, np.float64)).ravel() for each in maps])
    values = values[np.isfinite(values)]
    scale = float(np.quantile(values, quantile)) if values.size else 0.0
    return scale if scale > 0 else float(values.max(initial=0.0)) or 1.0


def counted(scores: np.ndarray, content: np.ndarray) -> np.ndarray:
    """(T, n): scores (T, rows, cols) or (T, H, W) of what shows picture, padding left out.

    Args:
        scores: of patches or of pixels.
        content: (rows, cols) bool, False on padded patches.
    """
    if scores.shape[1:] != content.shape:
        content = to_map(content, scores.shape[1:]) > 0.5
    return scores[:, content]


def coverage(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(rows, cols): the fraction of every patch that a mask (H, W) covers, 0 to 1."""
    resized = Image.fromarray(np.asarray(mask, np.float32))
    return np.asarray(resized.resize((grid[1], grid[0]), Image.Resampling.BOX))


def positive_share(scores: np.ndarray, covered: np.ndarray) -> float:
    """Share of the positive evidence that lies inside a region.

    Args:
        scores: (rows, cols) signed scores.
        covered: (rows, cols) fraction of every patch inside the region.

    Returns:
        0 to 1; NaN where there is no positive evidence at all.
    """
    positive = np.clip(np.asarray(scores, np.float64), 0, None)
    total = positive.sum()
    return float((positive * covered).sum() / total) if total > 0 else float("nan")
