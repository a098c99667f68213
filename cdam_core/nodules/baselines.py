"""Simple rivals that every number of a model is printed beside: size, shape and mean density.

They are handed the readers' true outline, which no model is; what a network adds to them is
therefore understated. Malignancy in LIDC-IDRI is mostly size (docs/nodules.md).
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from cdam_core.nodules.crops import PIXEL_MM, NoduleSource
from cdam_core.nodules.outlines import agreement
from cdam_core.nodules.pack import Nodule

SHAPE_FEATURES = ("log area", "major axis", "minor axis", "eccentricity", "circularity",
                  "solidity", "log perimeter", "disagreement")  # fmt: skip
DENSITY_FEATURES = ("mean HU", "spread of HU", "10 % quantile", "90 % quantile")
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # of the penalty; the best on validation is taken


def shape_features(share: np.ndarray) -> np.ndarray:
    """(8,) of ``SHAPE_FEATURES``, mm where they have a unit.

    Args:
        share: (64, 64) share of readers whose outline holds the pixel, of the central plane.
    """
    mask = share >= 0.5
    area = mask.sum() * PIXEL_MM**2
    if mask.sum() < 3:
        return np.array([np.log1p(area), 1, 1, 0, 1, 1, 1, 1.0])
    places = np.argwhere(mask) * PIXEL_MM
    # a filled ellipse of half axes a, b has the variances a²/4 and b²/4
    minor, major = 2 * np.sqrt(np.linalg.eigvalsh(np.cov(places.T)) + PIXEL_MM**2 / 12)
    outline = (mask & ~ndimage.binary_erosion(mask)).sum() * PIXEL_MM
    disagreement = ((share > 0) & (share < 1)).sum() * PIXEL_MM**2 / area
    return np.array([np.log1p(area), major, minor, np.sqrt(1 - (minor / major) ** 2),
                     4 * np.pi * area / outline**2, area / _hull_area(places, area),
                     np.log(outline), disagreement])  # fmt: skip


def _hull_area(places: np.ndarray, area: float) -> float:
    corners = np.concatenate([places + step for step in PIXEL_MM / 2 * np.array(
        [(-1, -1), (-1, 1), (1, -1), (1, 1)])])  # fmt: skip
    try:
        return float(ConvexHull(corners).volume)
    except QhullError:
        return area


def density_features(hu: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(4,) of ``DENSITY_FEATURES`` of the crop inside the consensus (its middle, if that is empty).

    Args:
        hu: (64, 64).
        share: as for ``shape_features``.
    """
    mask = share >= 0.5
    inside = hu[mask] if mask.any() else hu[30:34, 30:34]
    return np.array([inside.mean(), inside.std(), *np.quantile(inside, [0.1, 0.9])])


def features(source: NoduleSource, nodules: Sequence[Nodule]) -> np.ndarray:
    """(nodules, 8 + 4) shape and density of the central plane."""
    rows = []
    for nodule in nodules:
        share = agreement(nodule)
        rows.append(np.r_[shape_features(share), density_features(source.crop(nodule), share)])
    return np.array(rows)


# ---- linear models -------------------------------------------------------------------------------


def standardised(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1 over the training rows, and one column of ones."""
    mean, spread = x[train].mean(0), x[train].std(0)
    return np.column_stack([(x - mean) / np.where(spread > 0, spread, 1), np.ones(len(x))])


def ridge(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """(features,) weights of least squares; the last column, the constant, is not penalised."""
    return np.linalg.solve(x.T @ x + _penalty(x, strength), x.T @ y)


def logistic(x: np.ndarray, y: np.ndarray, strength: float, rounds: int = 50) -> np.ndarray:
    """(features,) weights of logistic regression by Newton's method, penalised as ``ridge``."""
    weights, penalty = np.zeros(x.shape[1]), _penalty(x, strength)
    for _ in range(rounds):
        chance = 1 / (1 + np.exp(-x @ weights))
        curve = (x * (chance * (1 - chance))[:, None]).T @ x + penalty
        step = np.linalg.solve(curve, x.T @ (chance - y) + penalty @ weights)
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def _penalty(x: np.ndarray, strength: float) -> np.ndarray:
    penalty = strength * np.eye(x.shape[1])
    penalty[-1, -1] = 0
    return penalty


def predicted(x: np.ndarray, y: np.ndarray, train: np.ndarray, val: np.ndarray,
              classify: bool) -> np.ndarray:  # fmt: skip
    """(n,) predictions for all rows: logits, or values.

    Args:
        x: (n, features).
        y: (n,) labels 0 or 1, or values.
        train, val: row numbers; the penalty is the one with the smallest error on ``val``.
        classify: logistic regression instead of ridge.
    """
    x = standardised(x, train)
    fit, error = (logistic, _log_loss) if classify else (ridge, _square_error)
    fits = [x @ fit(x[train], y[train], strength) for strength in STRENGTHS]
    return min(fits, key=lambda found: error(found[val], y[val]))


def _log_loss(logits: np.ndarray, y: np.ndarray) -> float:
    return float(np.logaddexp(0, np.where(y > 0, -logits, logits)).mean())


def _square_error(found: np.ndarray, y: np.ndarray) -> float:
    return float(((found - y) ** 2).mean())
