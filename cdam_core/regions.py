"""Where evidence lies: in a region that somebody drew, and in the smallest box that holds most.

Numbers and plain sentences; no colours. Positions are (row, col) fractions of what the model saw,
from 0 at its top left to 1 at its bottom right, so that a region means the same at every size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdam_core.errors import BadRegion

KINDS = ("box", "lasso")
MAX_POINTS = 500  # of a lasso; more are finer than any patch
SAMPLES = 32  # lines through a patch on which a lasso's inside is measured
MOST = 0.6  # share of the evidence that the smallest box holds
SPREAD = 0.5  # share of the picture from which such a box says nothing any more


@dataclass(frozen=True)
class Region:
    """A part of the picture.

    Attributes:
        kind: "box" (two opposite corners) or "lasso" (corners of a closed polygon).
        points: (row, col) each, fractions of the height and width of what the model saw. What lies
            outside 0 to 1 is cut off. Where a lasso crosses itself, places that it surrounds an
            even number of times are outside.

    Raises:
        BadRegion: another kind, too few or too many points, numbers that are not finite, or a
            region without any area inside the picture.
    """

    kind: str
    points: tuple[tuple[float, float], ...]

    def __post_init__(self):
        if self.kind not in KINDS:
            raise BadRegion("wrong-type", "A region of an unknown kind arrived; expected one of "
                            f"{', '.join(KINDS)}.")  # fmt: skip
        object.__setattr__(self, "points", _checked(self.kind, self.points))
        if not self.coverage((8, 8)).any():
            raise BadRegion("empty", "The region has no area inside the picture; draw it larger.")

    def coverage(self, grid: tuple[int, int]) -> np.ndarray:
        """(rows, cols) float64: the fraction of every patch that lies inside, 0 to 1.

        Exact for a box. Of a lasso, lengths are exact along ``SAMPLES`` lines through each row.
        """
        if self.kind == "box":
            (top, left), (bottom, right) = self.points
            return np.outer(_overlap(top, bottom, grid[0]), _overlap(left, right, grid[1]))
        return _inside_polygon(np.array(self.points), grid)

    def description(self) -> dict[str, Any]:
        """What it is, JSON-able."""
        return {"kind": self.kind, "points": [list(point) for point in self.points]}

    @classmethod
    def from_description(cls, found: Any) -> "Region":
        """The region of a description, which may come from a stranger.

        Raises:
            BadRegion: it describes none.
        """
        if not isinstance(found, Mapping):
            raise BadRegion("wrong-type", "A region must have a kind and points.")
        return cls(found.get("kind"), found.get("points"))

    def words(self, grid: tuple[int, int]) -> str:
        """Where it is, e.g. "box over rows 4–9, columns 2–7"."""
        touched = self.coverage(grid) > 0
        rows, cols = np.flatnonzero(touched.any(1)), np.flatnonzero(touched.any(0))
        return f"{self.kind} over {_place((rows[0], cols[0], rows[-1] + 1, cols[-1] + 1))}"


def _checked(kind: str, points: Any) -> tuple[tuple[float, float], ...]:
    try:
        found = [(float(row), float(col)) for row, col in points]
    except (TypeError, ValueError):
        raise BadRegion("wrong-type", "The points of a region are no pairs of numbers; expected "
                        "(row, column) fractions from 0 to 1.") from None  # fmt: skip
    low, high = (2, 2) if kind == "box" else (3, MAX_POINTS)
    if not low <= len(found) <= high:
        expected = f"{low}" if low == high else f"{low} to {high}"
        raise BadRegion("wrong-type", f"A {kind} with {len(found)} points arrived; expected "
                        f"{expected}.")  # fmt: skip
    if not all(math.isfinite(value) for point in found for value in point):
        raise BadRegion("wrong-type", "The points of a region are not finite; expected fractions "
                        "from 0 to 1.")  # fmt: skip
    if kind == "box":
        rows, cols = zip(*found, strict=True)
        found = [(min(rows), min(cols)), (max(rows), max(cols))]
    return tuple((min(max(row, 0.0), 1.0), min(max(col, 0.0), 1.0)) for row, col in found)


def _overlap(low: float, high: float, cells: int) -> np.ndarray:
    """(cells,) fraction of every cell of 0..1 that low..high covers."""
    edges = np.clip(np.arange(cells + 1), low * cells, high * cells)
    return np.diff(edges)


def _inside_polygon(points: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(rows, cols) fractions inside a polygon (n, 2), by the even-odd rule."""
    rows, cols = grid
    covered = np.zeros((rows * SAMPLES, cols))
    ends = np.roll(points, -1, axis=0)
    for index, row in enumerate((np.arange(rows * SAMPLES) + 0.5) / (rows * SAMPLES)):
        crossed = (points[:, 0] <= row) != (ends[:, 0] <= row)
        (r0, c0), (r1, c1) = points[crossed].T, ends[crossed].T
        stops = np.sort(c0 + (row - r0) * (c1 - c0) / (r1 - r0))
        for left, right in stops.reshape(-1, 2):
            covered[index] += _overlap(left, right, cols)
    return covered.reshape(rows, SAMPLES, cols).mean(1)


# ---- shares --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shares:
    """How much of a map lies inside a region.

    Attributes:
        area: share of the picture (padding left out), 0 to 1.
        positive, negative: share of the evidence for and against inside; NaN where there is none.
        sum_positive, sum_negative: scores inside, summed by sign.
    """

    area: float
    positive: float
    negative: float
    sum_positive: float
    sum_negative: float


def shares(scores: np.ndarray, covered: np.ndarray, content: np.ndarray | None = None) -> Shares:
    """Shares of the evidence inside a region.

    Args:
        scores: (rows, cols) signed scores of one target.
        covered: (rows, cols) fraction of every patch inside; see ``Region.coverage``.
        content: (rows, cols) bool, False on padding, which is not counted; None: no padding.
    """
    counted = np.ones(scores.shape) if content is None else np.asarray(content, np.float64)
    scores = np.asarray(scores, np.float64) * counted
    inside = covered * counted
    up, down = np.clip(scores, 0, None), np.clip(scores, None, 0)
    return Shares(
        _share(inside.sum(), counted.sum()),
        _share((up * inside).sum(), up.sum()),
        _share((down * inside).sum(), down.sum()),
        float((up * inside).sum()),
        float((down * inside).sum()),
    )


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole != 0 else math.nan


def shares_words(label: str, found: Shares, is_signed: bool = True) -> str:
    """One sentence, e.g. "62 % of the evidence for zebra and 10 % of that against it lie in …"."""
    end = f"inside the region, which is {_percent(found.area)} of the picture"
    evidence = f"evidence for {label}" if is_signed else f"map of {label}"
    inside = f"{_percent(found.positive)} of the {evidence}"
    if math.isnan(found.positive) and math.isnan(found.negative):
        return f"No patch of the map of {label} has a score."
    if not is_signed:
        return f"{inside} lies {end}."
    if math.isnan(found.negative):
        return f"{inside} lies {end}; nothing speaks against it."
    if math.isnan(found.positive):
        return (f"Nothing speaks for {label}; {_percent(found.negative)} of the evidence against "
                f"it lies {end}.")  # fmt: skip
    return f"{inside} and {_percent(found.negative)} of that against it lie {end}."


# ---- the smallest box ----------------------------------------------------------------------------


def smallest_box(scores: np.ndarray, share: float = MOST) -> tuple[int, int, int, int] | None:
    """The box of patches with the smallest area that holds a share of the positive scores.

    Args:
        scores: (rows, cols); what is not positive counts as zero.
        share: 0 to 1.

    Returns:
        (top, left, bottom, right), the last two excluded; of equally small boxes the one that
        holds most, then the topmost, then the leftmost. None where nothing is positive.
    """
    positive = np.clip(np.asarray(scores, np.float64), 0, None)
    total = positive.sum()
    if total <= 0:
        return None
    rows, cols = positive.shape
    wanted = share * total * (1 - 1e-9)  # rounding must not cost a patch
    down = np.vstack([np.zeros(cols), positive.cumsum(0)])
    best: tuple[float, ...] = (math.inf,)
    for top in range(rows):
        for bottom in range(top + 1, rows + 1):
            along = np.concatenate([[0.0], (down[bottom] - down[top]).cumsum()])
            right = np.searchsorted(along, along[:-1] + wanted)
            held = np.where(right <= cols, along[np.minimum(right, cols)] - along[:-1], 0)
            area = np.where(right <= cols, (right - np.arange(cols)) * (bottom - top), np.inf)
            left = int(np.lexsort((-held, area))[0])
            best = min(best, (area[left], -round(held[left] / total, 9), top, left, bottom,
                              int(right[left])))  # fmt: skip
    _, _, top, left, bottom, right = best
    return top, left, bottom, right


def summary_words(
    label: str, scores: np.ndarray, content: np.ndarray | None = None, is_signed: bool = True
) -> str:
    """Where the positive evidence lies, in one sentence with computed numbers.

    E.g. "62 % of the positive evidence for zebra lies in rows 4–9, columns 2–7 (14 % of the
    picture)."; rows and columns of patches count from 1.

    Args:
        label: of the target.
        scores: (rows, cols) of it.
        content: (rows, cols) bool, False on padding, which is not counted.
        is_signed: False for methods that show support only.
    """
    scores = np.asarray(scores, np.float64)
    if content is not None:
        scores = np.where(content, scores, 0)
    box = smallest_box(scores)
    if box is None:
        return f"No patch speaks for {label}."
    covered = np.zeros(scores.shape)
    covered[box[0] : box[2], box[1] : box[3]] = 1
    found = shares(scores, covered, content)
    what = f"positive evidence for {label}" if is_signed else f"map of {label}"
    if found.area >= SPREAD:
        return (f"The {what} is spread out: no box smaller than {_percent(found.area)} of the "
                f"picture holds {_percent(MOST)} of it.")  # fmt: skip
    return (f"{_percent(found.positive)} of the {what} lies in {_place(box)} "
            f"({_percent(found.area)} of the picture).")  # fmt: skip


def balance_words(scores: Sequence[float] | np.ndarray, unit: str) -> str:
    """Sums of the evidence for and against, e.g. "for +3.20, against −1.15 (logit)"."""
    scores = np.asarray(scores, np.float64)
    up, down = scores[scores > 0].sum(), -scores[scores < 0].sum()
    return f"for +{up:.2f}, against −{down:.2f} ({unit})"


def _place(box: tuple[int, int, int, int]) -> str:
    top, left, bottom, right = box
    return f"{_span('row', top, bottom)}, {_span('column', left, right)}"


def _span(word: str, start: int, end: int) -> str:
    return f"{word} {end}" if end == start + 1 else f"{word}s {start + 1}–{end}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
