"""From explanations to the cards of the page "Methods": scales, pictures, measures, words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import cdam_core as cdam
from cdam_core.benchmarks import compactness
from cdam_core.maps import symmetric_scale
from cdam_core.methods import METHODS
from cdam_core.pictures import draw, legend, palette_for
from cdam_core.sanity import correlation
from pages._panels import COLOURED, Look, counted_scores, data_url, is_per_pixel, per_patch
from pages._state import Prepared
from pages._words import decimals_for, plain, signed

# What shares one scale. Units differ between methods, so sharing across them is not the default.
SCALES = {
    "method": "Each method",
    "map": "Each map",
    "column": "All signed maps of a class",
}
SAME, ALIKE = 0.95, 0.5  # correlations from which two maps are called (nearly) the same, or alike


@dataclass(frozen=True, eq=False)
class Row:
    """One method's maps as they are shown, with what is measured on them.

    Attributes:
        explanation: with pixel scores summed to patches where the visitor wants it so.
        compactness: per target; NaN where nothing supports it.
        correlation: of the maps of the first two targets; NaN for a single target or a flat map.
    """

    explanation: cdam.Explanation
    compactness: tuple[float, ...]
    correlation: float

    @property
    def method(self) -> str:
        """Id in ``METHODS``."""
        return self.explanation.method


def row_of(explanation: cdam.Explanation, to_be_summed: bool) -> Row:
    """Measure what is shown."""
    explanation = per_patch(explanation) if to_be_summed else explanation
    counted = counted_scores(explanation)
    pair = correlation(counted[0], counted[1]) if len(counted) > 1 else math.nan
    return Row(explanation, tuple(compactness(each) for each in counted), pair)


# ---- scales --------------------------------------------------------------------------------------


def scales_of(rows: Sequence[Row], sharing: str) -> dict[str, list[float]]:
    """Method -> |score| at full colour, per target.

    Args:
        rows: everything that is shown.
        sharing: id in ``SCALES``. Methods without signs never share: their units have nothing in
            common.
    """
    counted = {row.method: counted_scores(row.explanation) for row in rows}
    signed_maps = [maps for method, maps in counted.items() if METHODS[method].signed]
    found = {}
    for method, maps in counted.items():
        if sharing == "column" and METHODS[method].signed:
            groups = [[each[index] for each in signed_maps] for index in range(len(maps))]
        else:
            groups = [[each] if sharing == "map" else list(maps) for each in maps]
        found[method] = [symmetric_scale(group, COLOURED) for group in groups]
    return found


def number(value: float, scale: float) -> str:
    """A score with two digits at the size of the scale, whatever its unit."""
    decimals = max(2, 1 - math.floor(math.log10(scale))) if scale > 0 else 2
    return f"{abs(value):.{min(decimals, 8)}f}"


# ---- what the card component is given ------------------------------------------------------------


def card_data(prepared: Prepared, row: Row, scales: Sequence[float], look: Look) -> dict[str, Any]:
    """Pictures, scales and the numbers behind hovering; JSON-able."""
    explanation = row.explanation
    patches = per_patch(explanation).scores
    decimals = decimals_for(float(np.abs(patches).max()))
    return {
        "panels": [_panel(prepared, row, index, scale, look) for index, scale in enumerate(scales)],
        "grid": list(explanation.grid),
        "content": explanation.content.ravel().astype(int).tolist(),
        "signed": METHODS[row.method].signed,
        "decimals": decimals,
        "values": [np.round(each.ravel(), decimals).tolist() for each in patches],
    }


def _panel(
    prepared: Prepared, row: Row, index: int, scale: float, look: Look
) -> dict[str, Any]:
    explanation = row.explanation
    picture = draw(
        prepared.view, explanation, index, scale, look.palette, look.opacity, look.smooth
    )
    if look.outlines and prepared.outlines is not None:
        picture.paste(prepared.outlines, mask=prepared.outlines)
    label = explanation.labels[index]
    return {
        "title": label,
        "src": data_url(picture),
        "alt": f"{METHODS[row.method].label}, map of {label}",
        "scale": scale_texts(row.method, scale, look),
        "note": f"compactness {fraction(row.compactness[index])}",
    }


def scale_texts(method: str, scale: float, look: Look) -> dict[str, str]:
    """The printed scale under a map: signed ones around zero, the others from zero."""
    colours, end = palette_for(method, look.palette), number(scale, scale)
    low, high = (f"−{end}", f"+{end}") if colours.signed else ("0", end)
    return {
        "src": data_url(legend(scale, colours)),
        "low": low,
        "high": high,
        "alt": f"Colour scale from {low} to {high}",
    }


def fraction(value: float) -> str:
    """A measure between 0 and 1, or a dash where it is not defined."""
    return "–" if math.isnan(value) else f"{value:.2f}"


# ---- words ---------------------------------------------------------------------------------------


def kind_of(row: Row) -> str:
    """E.g. "signed, per patch"."""
    method = METHODS[row.method]
    is_summed = method.resolution == "pixel" and not is_per_pixel(row.explanation)
    shown = "pixels summed to patches" if is_summed else f"per {method.resolution}"
    return f"{'signed' if method.signed else 'support only'}, {shown}"


def seconds_text(seconds: float) -> str:
    """Time as people say it."""
    if seconds < 0.01:
        return "under 0.01 s"
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    return f"{seconds:.0f} s"


def cares_sentence(row: Row) -> str:
    """Does it care which class you ask for?"""
    if not METHODS[row.method].class_specific:
        return "By construction the same map for every class."
    if len(row.explanation.labels) < 2:
        return "Choose two classes to see whether it cares which one you ask for."
    a, b = map(plain, row.explanation.labels[:2])
    if math.isnan(row.correlation):
        return "One of the two maps is flat, so they cannot be compared."
    verdict = (
        "it hardly cares which class you ask for"
        if row.correlation >= SAME
        else "it cares a little which class you ask for"
        if row.correlation >= ALIKE
        else "it cares which class you ask for"
    )
    return f"Correlation of {a} with {b} **{signed(row.correlation)}**: {verdict}."


# ---- the table of measures -----------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One measure by which cards can be sorted.

    Attributes:
        id: name in the file of measures.
        label: shown to people.
        best_first: +1 if the smallest number comes first, -1 if the largest does.
    """

    id: str
    label: str
    best_first: int


COLUMNS = {
    column.id: column
    for column in (
        Column("seconds", "Seconds", 1),
        Column("compactness", "Compactness", -1),
        Column("correlation", "Correlation between classes", 1),
        Column("fidelity", "Fidelity", -1),
        Column("box_sensitivity", "Box sensitivity", -1),
    )
}


def values_of(row: Row, judged: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Column -> number of one method; NaN where it is not known."""
    defined = [value for value in row.compactness if not math.isnan(value)]
    known = judged.get(row.method, {})
    return {
        "seconds": row.explanation.seconds,
        "compactness": float(np.mean(defined)) if defined else math.nan,
        "correlation": row.correlation,
        "fidelity": known.get("fidelity", math.nan),
        "box_sensitivity": known.get("box_sensitivity", math.nan),
    }


def sorted_methods(
    methods: Sequence[str], values: Mapping[str, Mapping[str, float]], by: str | None
) -> list[str]:
    """Best first, what is not known last; ``by`` None keeps the order."""
    if by not in COLUMNS:
        return list(methods)

    def place(method: str) -> tuple[bool, float]:
        value = values.get(method, {}).get(by, math.nan)
        return (True, 0.0) if math.isnan(value) else (False, COLUMNS[by].best_first * value)

    return sorted(methods, key=place)


# ---- what methods cost here ----------------------------------------------------------------------

# (model, method) -> seconds it took last on this server; no visitor's data.
_COSTS: dict[tuple[str, str], float] = {}


def note_cost(model_id: str, explanation: cdam.Explanation) -> None:
    """Remember how long a method took."""
    _COSTS[model_id, explanation.method] = explanation.seconds


def cost_words(model_id: str, method: str) -> str:
    """E.g. "instant" or "about 3 s"; before the first measurement, the word of the table."""
    seconds = _COSTS.get((model_id, method))
    if seconds is None:
        return METHODS[method].cost
    if seconds < 0.5:
        return "instant"
    if seconds < 60:
        return f"about {math.ceil(seconds)} s"
    return f"about {math.ceil(seconds / 60)} min"
