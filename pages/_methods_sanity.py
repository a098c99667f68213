"""Does a map explain the model at all? The same map from models that know less, in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdam_core.methods import METHODS
from cdam_core.sanity import RANDOMISATIONS, correlation
from pages import _state
from pages._methods_cards import (
    ALIKE,
    SAME,
    Row,
    card_data,
    row_of,
    scales_of,
)
from pages._methods_jobs import Failed
from pages._methods_tasks import Question, sanity_task
from pages._panels import Look, counted_scores, is_per_pixel, only
from pages._words import signed

PARTLY = 0.2  # |correlation| from which two maps are called partly alike

CAVEATS = (
    "A map that stays the same although the model has forgotten everything shows the picture, not "
    "the model. A map that changes has passed this test and no more: it may still be wrong. One "
    "random draw per row."
)


def found(question: Question, row: Row) -> dict[str, Row | str]:
    """Randomisation -> the map that came out, or why there is none; missing: not asked yet."""
    results = {}
    for how in RANDOMISATIONS:
        result = _state.recall(("sanity", *question.key, row.method, how))
        if isinstance(result, Failed):
            results[how] = result.message
        elif result is not None:
            results[how] = row_of(result, not is_per_pixel(row.explanation))
    return results


def tasks_for(question: Question, methods: Sequence[str]) -> list:
    """The same maps from every model that knows less."""
    return [sanity_task(question, method, how) for how in RANDOMISATIONS for method in methods]


def correlations(row: Row, changed: Mapping[str, Row | str], index: int) -> dict[str, float]:
    """Randomisation -> correlation with the original map of one target."""
    return {
        how: _with_original(row, other, index)
        for how, other in changed.items()
        if isinstance(other, Row)
    }


def _with_original(row: Row, other: Row, index: int) -> float:
    pair = (counted_scores(each.explanation)[index] for each in (row, other))
    return correlation(*pair)


def panels(
    prepared: _state.Prepared, row: Row, changed: Mapping[str, Row | str], index: int, look: Look
) -> dict[str, Any]:
    """The original beside what is left of it, each on its own printed scale."""
    known = correlations(row, changed, index)
    shown = {"": row} | {how: changed[how] for how in known}
    data, parts = None, []
    for how, each in shown.items():
        alone = row_of(only(each.explanation, [index]), False)
        one = card_data(prepared, alone, scales_of([alone], "map")[row.method], look)
        title = RANDOMISATIONS[how].label if how else "As trained"
        note = f"correlation {r_text(known[how])}" if how else alone.explanation.labels[0]
        parts.append(one["panels"][0] | {"title": title, "note": note})
        if data is None:
            data = one
        else:
            data["values"] += one["values"]
            data["decimals"] = max(data["decimals"], one["decimals"])
    return data | {"panels": parts}


def r_text(value: float) -> str:
    """A correlation with its sign, or a dash for a flat map."""
    return "–" if math.isnan(value) else signed(value)


def likeness(value: float) -> str:
    """A correlation in words."""
    if math.isnan(value):
        return "a flat map"
    size = abs(value)
    for least, words in ((SAME, "the same map"), (ALIKE, "much the same map"),
                         (PARTLY, "a partly similar map")):
        if size >= least:
            return words if value > 0 else f"{words} with opposite signs"
    return "another map"


def verdict(method: str, known: Mapping[str, float]) -> str:
    """What the correlations say about a method, in words."""
    label = METHODS[method].label
    words = [
        f"{RANDOMISATIONS[how].label}: {likeness(value)} ({r_text(value)})."
        for how, value in known.items()
    ]
    if "all_blocks" in known:
        stays = not math.isnan(known["all_blocks"]) and known["all_blocks"] >= ALIKE
        words.append(
            f"**{label} hardly changes although the model has forgotten everything: what it shows "
            "lies in the picture, not in what the model learned.**"
            if stays
            else f"**{label} depends on what the model learned.**"
        )
    if known.get("permuted_head", 0.0) >= SAME:
        words.append("With the classes swapped it stays the same: it cannot tell why the model "
                     "gave *this* answer.")
    return "  \n".join(words)


def table(known: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """One line per checked method."""
    return [
        {"Method": METHODS[method].label}
        | {row.label: values.get(how, np.nan) for how, row in RANDOMISATIONS.items()}
        for method, values in known.items()
    ]
