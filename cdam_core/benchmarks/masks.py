"""Maps against the true places of the objects, where masks tell them."""

import numpy as np

HIT_COVERAGE = 0.25  # a patch lies "on" an object from this covered share of its area


def coverage(mask: np.ndarray, index: int, grid: tuple[int, int]) -> np.ndarray:
    """Share of every patch that an object covers.

    Args:
        mask: (H, W) instance mask; H and W multiples of the grid.
        index: the object's number in the mask.
        grid: (rows, cols).

    Returns:
        (rows, cols) in 0..1.
    """
    (height, width), (rows, cols) = mask.shape, grid
    blocks = (mask == index).reshape(rows, height // rows, cols, width // cols)
    return blocks.mean((1, 3))


def measure_map(
    scores: np.ndarray, target: np.ndarray, other: np.ndarray | None = None
) -> dict[str, float]:
    """The measures of one map.

    Args:
        scores: (rows, cols) signed.
        target, other: (rows, cols) coverage of the explained object and of the other one; without
            another one, the measures that speak of it are left out.

    Returns:
        "hit_target", "hit_other": 1 where the strongest patch lies on the object, else 0;
        "mass_target", "mass_other": share of the positive evidence that lies on it;
        "other_negative": 1 where the evidence on the other object sums to less than 0, else 0.
    """
    peak = np.unravel_index(scores.argmax(), scores.shape)
    positive = np.clip(scores, 0, None)
    mass = max(positive.sum(), np.finfo(np.float32).tiny)
    found = {
        "hit_target": float(target[peak] >= HIT_COVERAGE),
        "mass_target": float((positive * target).sum() / mass),
    }
    if other is None:
        return found
    return found | {
        "hit_other": float(other[peak] >= HIT_COVERAGE),
        "mass_other": float((positive * other).sum() / mass),
        "other_negative": float((scores * other).sum() < 0),
    }
