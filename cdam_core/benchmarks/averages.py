"""Numbers and curves over the images of a run, with intervals over the images.

The targets of one image are not independent, so they are averaged first and whole images are drawn.
A wrong class's map is compared with the right one's on the same image and output.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cdam_core.benchmarks.reading import Results
from cdam_core.benchmarks.results import RIGHT, WRONG
from cdam_core.intervals import Estimate, bootstrap_means

Take = Callable[[np.ndarray], np.ndarray]  # (n,) rows to their (n, K) numbers

GRID = np.linspace(0, 1, 101, dtype=np.float32)  # where curves of different steps are compared


@dataclass(frozen=True)
class Quantity:
    """One number of a method: a column of the tables, and a curve where it is the area under one.

    Attributes:
        id: name in code and files.
        label: name shown to people.
        symbol: the paper's, for the head of a column.
        better: "higher" | "lower".
        measure: of the rows it is made of; "lif-mif" has the areas of "fidelity".
        is_difference: the right class's map less a wrong class's.
        decimals: in tables.
        has_curve: whether it is an area.
    """

    id: str
    label: str
    symbol: str
    better: str
    measure: str
    is_difference: bool = False
    decimals: int = 2
    has_curve: bool = False


QUANTITIES: dict[str, Quantity] = {
    quantity.id: quantity
    for quantity in (
        Quantity("mif", "Most important first", "A_MIF", "lower", "mif", decimals=1,
                 has_curve=True),
        Quantity("lif", "Least important first", "A_LIF", "higher", "lif", decimals=1,
                 has_curve=True),
        Quantity("fidelity", "Fidelity", "A_LIF−MIF", "higher", "fidelity", decimals=1,
                 has_curve=True),
        Quantity("box", "Box sensitivity", "A_box", "higher", "box", has_curve=True),
        Quantity("fidelity_discrimination", "Class discrimination by fidelity", "A_Δ(LIF−MIF)",
                 "higher", "fidelity", is_difference=True, decimals=1, has_curve=True),
        Quantity("box_discrimination", "Class discrimination by boxes", "A_Δbox", "higher", "box",
                 is_difference=True, has_curve=True),
        Quantity("compactness", "Compactness", "Compactness", "higher", "compactness"),
        Quantity("strongest_on_target", "Strongest patch on the target", "Strongest on target",
                 "higher", "strongest_on_target"),
        Quantity("strongest_on_other", "Strongest patch on the other object", "Strongest on other",
                 "lower", "strongest_on_other"),
        Quantity("mass_inside", "Positive evidence on the target", "Positive mass on target",
                 "higher", "mass_inside"),
        Quantity("mass_other", "Positive evidence on the other object", "Positive mass on other",
                 "lower", "mass_other"),
        Quantity("other_negative", "Other object negative", "Other negative", "higher",
                 "other_negative"),
        Quantity("ablation_correlation", "Agreement with token ablation", "Correlation", "higher",
                 "ablation_correlation"),
    )
}  # fmt: skip


# ---- numbers -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PerOutput:
    """A number for every image and output that it is known for.

    Attributes:
        image, output: (n,) indices into the names of the results.
        value: (n,) float64; NaN where it is not defined.
    """

    image: np.ndarray
    output: np.ndarray
    value: np.ndarray


def per_output(results: Results, method: str, quantity: Quantity) -> PerOutput:
    """The quantity of a method for every image and output."""
    numbers = results.value[:, None]
    image, output, values = _grouped(results, method, quantity, numbers.__getitem__)
    return PerOutput(image, output, values[:, 0])


def per_image(results: Results, method: str, quantity: Quantity) -> np.ndarray:
    """(images,) the mean over the outputs of each image; NaN where it has none that is defined."""
    found = per_output(results, method, quantity)
    return _means(len(results.images), found.image, found.value[:, None])[:, 0]


def mean(values: np.ndarray, seed: int = 0) -> Estimate:
    """The mean of (images,) numbers with its interval; NaN ones are left out."""
    known = values[np.isfinite(values)]
    if not known.size:
        return Estimate(float("nan"), float("nan"), float("nan"))
    value, low, high = bootstrap_means(known[:, None], seed)
    return Estimate(float(value[0]), float(low[0]), float(high[0]))


# ---- curves --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Curve:
    """A mean curve with its band.

    Attributes:
        x: (K,) fractions blurred, or box sides in patches.
        mean, low, high: (K,) over the images; NaN bounds from a single one.
        images: how many.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    images: int


def curve(results: Results, method: str, quantity: Quantity, seed: int = 0) -> Curve | None:
    """The mean curve of a method; None where the run has none."""
    if quantity.measure == "fidelity":
        x, lif = _image_curves(results, method, quantity, "lif")
        _, mif = _image_curves(results, method, quantity, "mif")
        values = lif - mif if lif.shape == mif.shape else lif[:0]
    else:
        x, values = _image_curves(results, method, quantity, quantity.measure)
    values = values[np.isfinite(values).all(1)]
    if not len(values) or not len(x):
        return None
    return Curve(x, *bootstrap_means(values, seed), len(values))


def _image_curves(
    results: Results, method: str, quantity: Quantity, measure: str
) -> tuple[np.ndarray, np.ndarray]:
    """Positions, and (images, K) mean curves of the images, NaN rows where there are none."""
    rows = results.where(method=method, measure=measure)
    rows = rows[np.diff(results.offsets)[rows] > 0]
    if not len(rows):
        return np.empty(0, np.float32), np.empty((len(results.images), 0))
    x = _positions(results, rows, measure)

    def take(rows: np.ndarray) -> np.ndarray:
        curves = (results.curve_of(row) for row in rows)
        return np.array([np.interp(x, *one) if len(one[0]) else np.full(len(x), np.nan)
                         for one in curves]).reshape(-1, len(x))  # fmt: skip

    image, _, found = _grouped(results, method, quantity, take, measure)
    return x, _means(len(results.images), image, found)


def _positions(results: Results, rows: np.ndarray, measure: str) -> np.ndarray:
    """The rows' own positions if all have the same, else a grid that spans what all cover."""
    lengths = np.diff(results.offsets)[rows]
    if (lengths == lengths[0]).all():
        every = results.x[results.offsets[rows][:, None] + np.arange(lengths[0])]
        if (every == every[0]).all():
            return every[0]
    if measure != "box":
        return GRID
    return np.arange(1, int(min(results.curve_of(row)[0].max() for row in rows)) + 1)


# ---- grouping ------------------------------------------------------------------------------------


def _grouped(
    results: Results, method: str, quantity: Quantity, take: Take, measure: str = ""
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, output and (n, K) values for every image and output, several maps averaged."""
    measure = measure or quantity.measure
    keys, found = _kind(results, method, measure, RIGHT, take)
    if quantity.is_difference:
        others, wrong = _kind(results, method, measure, WRONG, take)
        both, at, other_at = np.intersect1d(keys, others, return_indices=True)
        keys, found = both, found[at] - wrong[other_at]
    image, output = np.divmod(keys, max(1, len(results.names["output"])))
    return image, output, found


def _kind(
    results: Results, method: str, measure: str, kind: str, take: Take
) -> tuple[np.ndarray, np.ndarray]:
    """Key of image and output, and the mean of the values with it; NaN ones are left out."""
    rows = results.where(method=method, measure=measure, kind=kind)
    count = max(1, len(results.names["output"]))
    keys = results.codes["image"][rows] * count + results.codes["output"][rows]
    unique, place = np.unique(keys, return_inverse=True)
    return unique, _means(len(unique), place, take(rows))


def _means(count: int, place: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(count, K) means of the values with each place; NaN where there are none."""
    known = np.isfinite(values)
    sums, counts = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(sums, place, np.where(known, values, 0))
    np.add.at(counts, place, known)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
