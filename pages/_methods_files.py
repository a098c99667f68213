"""What can be taken home from the page "Methods": all maps, all measures, all scores."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

import cdam_core as cdam
from cdam_core import pictures
from cdam_core.methods import METHODS
from cdam_core.sanity import RANDOMISATIONS
from pages._methods_cards import Row, scales_of
from pages._methods_trust import Judged
from pages._panels import Look, is_per_pixel
from pages._state import Prepared

JUDGED = ("fidelity", "fidelity_mif", "fidelity_lif", "box_sensitivity")


def sheet(prepared: Prepared, rows: Mapping[str, Row], look: Look, sharing: str) -> bytes:
    """A PNG with one line per method, as the page shows them."""
    scales = scales_of(list(rows.values()), sharing)
    return pictures.sheet(
        prepared.view,
        [row.explanation for row in rows.values()],
        [scales[name] for name in rows],
        look.palette,
        look.opacity,
        outlines=prepared.outlines if look.outlines else None,
        scale_note="Colours end at the printed scale; 1 % of the scores lie beyond.",
    )


def measures(
    rows: Mapping[str, Row],
    judged: Mapping[str, Judged],
    checked: Mapping[str, Mapping[str, float]],
    judged_index: int,
) -> str:
    """One line per method and class; what was not measured stays empty."""
    out = io.StringIO()
    first = next(iter(rows.values())).explanation
    out.write(f"# {json.dumps(_made(first, judged), ensure_ascii=False)}\n")
    writer = csv.writer(out, lineterminator="\n")
    sanity = [f"correlation_{how}" for how in RANDOMISATIONS]
    writer.writerow(["model", "method", "target", "value", "resolution", "signed", "seconds",
                     "compactness", "correlation_first_two_targets", *JUDGED, *sanity])
    for name, row in rows.items():
        for index, label in enumerate(row.explanation.labels):
            is_judged = index == judged_index
            numbers = judged[name].numbers() if is_judged and name in judged else {}
            changes = checked.get(name, {}) if is_judged else {}
            writer.writerow([
                *_start(row, index, label),
                _cell(row.explanation.seconds), _cell(row.compactness[index]),
                _cell(row.correlation),
                *(_cell(numbers.get(each)) for each in JUDGED),
                *(_cell(changes.get(how)) for how in RANDOMISATIONS),
            ])
    return out.getvalue()


def _start(row: Row, index: int, label: str) -> list[str | int]:
    explanation = row.explanation
    return [
        explanation.model_id, row.method, _as_text(label), repr(float(explanation.values[index])),
        "pixel" if is_per_pixel(explanation) else "patch", int(METHODS[row.method].signed),
    ]


def _made(first: cdam.Explanation, judged: Mapping[str, Judged]) -> dict:
    made = {"model": first.model_id, "simulated": first.simulated,
            "versions": dict(first.versions)}
    if judged:
        one = next(iter(judged.values()))
        made["judged"] = vars(one.fidelity.protocol) | {
            "steps": len(one.fidelity.fractions) - 1,
            "box_sizes": [int(size) for size in one.boxes.sizes], "boxes": one.boxes.n_boxes,
        }
        made["judged"].pop("unit")
    return made


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def _as_text(cell: str) -> str:
    """Keep a spreadsheet from reading a class name as a formula."""
    return f"'{cell}" if cell[:1] in "=+-@\t\r" else cell


def scores(explanations: Sequence[cdam.Explanation]) -> bytes:
    """An NPZ with the scores of every method, at its own resolution, and what made them."""
    first = explanations[0]
    made = {each.method: each.provenance() for each in explanations}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        content=first.content,
        values=first.values,
        provenance=np.array(json.dumps(made, ensure_ascii=False)),
        **{f"{each.method}.scores": each.scores for each in explanations},
        **{f"{each.method}.rest": each.rest for each in explanations},
    )
    return buffer.getvalue()
