"""How good a model of nodules is, and whether its maps lie on the nodule.

Intervals are 95 % bootstrap intervals over patients, because nodules of one patient are alike.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

from cdam_core.explanation import explain
from cdam_core.images import fit_mask
from cdam_core.models import Encoding, VisionModel
from cdam_core.nodules.outlines import agreement
from cdam_core.nodules.pack import Nodule

ON_NODULE = 0.08  # covered share from which a patch counts as one of the nodule
RESAMPLES = 1000
LEVEL = (2.5, 97.5)


# ---- predictions ---------------------------------------------------------------------------------


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of nodules on the right side of 0."""
    return float(((logits > 0) == (labels > 0)).mean())


def auc(logits: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a malignant nodule gets more than a benign one; ties count half."""
    positive = int((labels > 0).sum())
    negative = len(labels) - positive
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(logits)[labels > 0].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def r_squared(found: np.ndarray, true: np.ndarray) -> float:
    """1 - squared error / variance; 0 for always saying the mean of these nodules."""
    return float(1 - ((found - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())


def mean_error(found: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute error."""
    return float(np.abs(found - true).mean())


def with_interval(
    measure: Callable[..., float], patients: Sequence[str], *columns: np.ndarray, seed: int = 0
) -> dict[str, float | list[float]]:
    """A measure and its interval.

    Args:
        measure: of the columns, row by row alike.
        patients: (n,) whose each row is; patients are drawn, with all their rows.
        columns: (n,) each.
        seed: of the draws.

    Returns:
        ``value`` and ``interval`` [low, high], rounded to four digits.
    """
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    rows_of = [np.flatnonzero(owner == k) for k in range(owner.max() + 1)]
    rng, found = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rows_of[k] for k in rng.integers(0, len(rows_of), len(rows_of))])
        found.append(measure(*(column[rows] for column in columns)))
    low, high = np.nanpercentile(found, LEVEL)
    return {"value": round(measure(*columns), 4),
            "interval": [round(float(low), 4), round(float(high), 4)]}  # fmt: skip


# ---- maps ----------------------------------------------------------------------------------------


def nodule_cover(nodule: Nodule, model: VisionModel) -> np.ndarray:
    """(rows, cols) share of each patch that the readers' consensus covers, central plane."""
    return patch_cover(agreement(nodule) >= 0.5, model)


def patch_cover(mask: np.ndarray, model: VisionModel) -> np.ndarray:
    """(rows, cols) share of each patch that a (64, 64) bool mask of a crop covers."""
    (rows, cols), fitted = model.grid, fit_mask(mask.astype(np.uint8), model.input_size)
    p, q = model.patch_size
    return fitted[: rows * p, : cols * q].reshape(rows, p, cols, q).mean((1, 3))


def map_shares(scores: np.ndarray, cover: np.ndarray) -> dict[str, float]:
    """Where a map's evidence lies, whatever its sign.

    Args:
        scores: (rows, cols) signed.
        cover: (rows, cols) as ``nodule_cover``.

    Returns:
        ``mass``: share of the summed absolute scores on patches of the nodule; ``strongest``: 1
        if the patch with the largest absolute score is one of them; ``patches``: their share of all
        patches, what a map without any sense would reach.
    """
    on_nodule, strength = cover > ON_NODULE, np.abs(scores)
    return {
        "mass": float(strength[on_nodule].sum() / max(strength.sum(), np.finfo(float).tiny)),
        "strongest": float(on_nodule.flat[strength.argmax()]),
        "patches": float(on_nodule.mean()),
    }


def measure_maps(
    model: VisionModel, encodings: Sequence[Encoding], nodules: Sequence[Nodule],
    targets: Sequence[str],
) -> dict[str, dict]:  # fmt: skip
    """``map_shares`` with intervals, by target; nodules that cover no patch are left out."""
    rows: dict[str, list[dict]] = {target: [] for target in targets}
    patients = []
    for encoding, nodule in zip(encodings, nodules, strict=True):
        cover = nodule_cover(nodule, model)
        if not (cover > ON_NODULE).any():
            continue
        patients.append(nodule.patient_id)
        scores = explain(model, encoding, list(targets)).scores
        for target, each in zip(targets, scores, strict=True):
            rows[target].append(map_shares(each, cover))
    return {
        target: {name: with_interval(_mean, patients, np.array([row[name] for row in found]))
                 for name in ("mass", "strongest", "patches")}
        for target, found in rows.items()
    }  # fmt: skip


def _mean(values: np.ndarray) -> float:
    return float(values.mean())
