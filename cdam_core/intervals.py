"""How sure a number is: percentile intervals from drawing whole groups with replacement.

What belongs together (the patches of a picture, the targets of an image) is drawn together, because
it is alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

DRAWS = 2000  # of the bootstrap
LEVEL = 0.95  # of the intervals


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; NaN bounds where nothing could be drawn."""

    value: float
    low: float
    high: float


def bootstrap(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0
) -> Estimate:
    """A statistic of sums over groups, with a percentile interval from drawing whole groups.

    Args:
        sums: (groups, K) what every group adds.
        statistic: (..., K) sums to (...) numbers.
        seed: of the draws; the same groups give the same interval.

    Returns:
        ``Estimate`` at ``LEVEL``; NaN bounds from a single group.
    """
    sums = np.asarray(sums, np.float64)
    value = float(statistic(sums.sum(0)))
    count = len(sums)
    if count < 2:
        return Estimate(value, float("nan"), float("nan"))
    found = statistic(_drawn(count, seed) @ sums)
    found = found[np.isfinite(found)]
    if not found.size:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def interval_text(found: Estimate, decimals: int = 2) -> str:
    """E.g. "0.44 (0.40 to 0.48)"; a minus sign that prints well."""
    def number(value: float) -> str:
        rounded = round(value, decimals) + 0.0  # no negative zero
        return f"{rounded:.{decimals}f}".replace("-", "−")

    if np.isnan(found.value):
        return "not defined"
    if np.isnan(found.low):
        return number(found.value)
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


def bootstrap_means(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over groups, each with a percentile interval, from the same draws for all of them.

    Args:
        values: (groups, K), at least one group, finite.
        seed: of the draws.

    Returns:
        Three (K,) arrays: mean, low and high; NaN bounds from a single group.
    """
    values = np.asarray(values, np.float64)
    count = len(values)
    if count < 2:
        return values.mean(0), np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    drawn = _drawn(count, seed) @ values / count
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return values.mean(0), low, high


@lru_cache(maxsize=2)  # many numbers are asked of the same groups, and drawing is what takes time
def _drawn(count: int, seed: int) -> np.ndarray:
    """(DRAWS, count) how often every group is drawn."""
    draw = np.random.default_rng(seed)
    return draw.multinomial(count, np.full(count, 1 / count), DRAWS).astype(np.float32)
