"""From scores per patch to maps at image size: numbers only, no colours.

Signs and zero survive everything here: nothing is clipped to positive, rescaled or made absolute.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cdam_core.images import place

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


# ---- maps of different grids ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lattice:
    """Where the patches of a model lie in the picture it was given.

    Attributes:
        rows: (rows + 1,) edges of the patches from top to bottom, as fractions of the picture's
            height; below 0 and above 1 is padding.
        cols: (cols + 1,) the same from left to right, of its width.
    """

    rows: np.ndarray
    cols: np.ndarray

    @property
    def cell(self) -> float:
        """Area of a patch, as a fraction of the picture's."""
        return float((self.rows[1] - self.rows[0]) * (self.cols[1] - self.cols[0]))

    def patch_at(self, row: float, col: float) -> tuple[int, int]:
        """The patch that holds a place of the picture (fractions), or the one nearest to it."""
        pairs = ((self.rows, row), (self.cols, col))
        return tuple(int(np.searchsorted(edges[1:-1], at, side="right")) for edges, at in pairs)

    def centre_of(self, patch: tuple[int, int]) -> tuple[float, float]:
        """(row, col) fractions of the picture at the centre of a patch."""
        pairs = zip((self.rows, self.cols), patch, strict=True)
        return tuple(float(edges[index] + edges[index + 1]) / 2 for edges, index in pairs)


def lattice(
    original: tuple[int, int],
    size: tuple[int, int],
    patch: tuple[int, int],
    grid: tuple[int, int],
    fit: str = "pad",
) -> Lattice:
    """Where patches lie in a picture.

    Args:
        original: (H0, W0) of the picture.
        size: (H, W) of the model's input.
        patch: (height, width) of a patch in pixels of that input.
        grid: (rows, cols) of patches.
        fit: how the picture became the input.
    """
    placed = place(original, size, fit)
    rows = [placed.to_original(row * patch[0], 0)[0] / original[0] for row in range(grid[0] + 1)]
    cols = [placed.to_original(0, col * patch[1])[1] / original[1] for col in range(grid[1] + 1)]
    return Lattice(np.array(rows), np.array(cols))


def resample(
    scores: np.ndarray, content: np.ndarray, source: Lattice, target: Lattice
) -> np.ndarray:
    """A map on the patches of another lattice: the mean score of what each of them covers.

    Args:
        scores: (rows, cols) signed.
        content: (rows, cols) bool, False on padded patches, which count for nothing.
        source: of the scores.
        target: to read them on.

    Returns:
        Scores on the target's patches, in the unit of a patch of the source; NaN where less than
        half of a patch is covered.
    """
    rows, cols = _overlap(target.rows, source.rows), _overlap(target.cols, source.cols)
    covered = rows @ content.astype(np.float64) @ cols.T
    sums = rows @ np.where(content, scores, 0).astype(np.float64) @ cols.T
    enough = covered >= 0.5 * target.cell
    return np.where(enough, sums / np.where(enough, covered, 1), np.nan)


def _overlap(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(n, m): length of what the n intervals between edges share with the m of others."""
    low = np.maximum(one[:-1, None], two[None, :-1])
    return np.clip(np.minimum(one[1:, None], two[None, 1:]) - low, 0, None)


def map_correlation(
    one: np.ndarray,
    two: np.ndarray,
    contents: tuple[np.ndarray, np.ndarray],
    lattices: tuple[Lattice, Lattice],
) -> tuple[float, int]:
    """How alike two maps of one picture are, on the coarser of their grids.

    Args:
        one, two: (rows, cols) each.
        contents: (rows, cols) bool of each, False on padding.
        lattices: of each.

    Returns:
        Pearson's correlation, NaN where a map is flat or fewer than three patches are shared; and
        the number of patches that both show.
    """
    coarse = int(lattices[1].cell > lattices[0].cell)
    maps, fine = (one, two), 1 - coarse
    other = resample(maps[fine], contents[fine], lattices[fine], lattices[coarse])
    shared = contents[coarse] & np.isfinite(other)
    pair = np.stack([np.asarray(maps[coarse], np.float64)[shared], other[shared]])
    spread = np.ptp(pair, axis=1) if shared.any() else np.zeros(2)
    if shared.sum() < 3 or not (spread > 1e-9 * np.abs(pair).max()).all():
        return float("nan"), int(shared.sum())
    return float(np.corrcoef(pair)[0, 1]), int(shared.sum())
