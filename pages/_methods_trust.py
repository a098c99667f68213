"""Which of the shown maps foretells what the model does? Fidelity and boxes, in one chart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from cdam_core.benchmarks import Band, BoxSensitivity, Fidelity, box_sensitivity
from cdam_core.methods import METHODS
from pages import _state
from pages._methods_cards import Row
from pages._methods_jobs import Failed, Task
from pages._methods_tasks import Question, band_task, drops_task, fidelity_task
from pages._panels import is_per_pixel
from pages._words import plain

CHANCE = 2.0  # standard deviations of random orders that a map has to leave
ENDS = {"mif": "Most important first", "lif": "Least important first"}
FORMATS = {
    "Fidelity (LIF − MIF) ↑": "%.0f",
    "Most important first ↓": "%.0f",
    "Least important first ↑": "%.0f",
    "Box sensitivity ↑": "%.1f",
}
# Distinct for the colour-blind first; the darkest one would be lost on a dark page.
COLOURS = [{"rgb(51, 34, 136)": "rgb(112, 98, 210)"}.get(colour, colour)
           for colour in qualitative.Safe + qualitative.Bold]  # fmt: skip
GREY = "rgba(128, 128, 128, {})"

CAVEATS = (
    "One picture and one way to disturb it: parts are replaced by a strongly blurred copy. Blurred "
    "pictures are unlike anything that the model was trained on, small differences mean nothing, "
    "and on another picture the order may well be another one."
)


@dataclass(frozen=True, eq=False)
class Judged:
    """What was found out about one method's map of one class.

    Attributes:
        fidelity: its curves.
        band: those of random orders, of the same unit.
        boxes: correlation with random boxes.
    """

    fidelity: Fidelity
    band: Band
    boxes: BoxSensitivity

    def numbers(self) -> dict[str, float]:
        """Measure -> number, as the cards sort by them."""
        return {
            "fidelity": self.fidelity.area,
            "fidelity_mif": self.fidelity.area_mif,
            "fidelity_lif": self.fidelity.area_lif,
            "box_sensitivity": self.boxes.area,
        }

    def good_ends(self) -> list[str]:
        """Ends of the order, ids in ``ENDS``, whose curve leaves the random band as it should."""
        margin = CHANCE * self.band.area_sd
        good = {
            "mif": self.fidelity.area_mif < self.band.area_mean - margin,
            "lif": self.fidelity.area_lif > self.band.area_mean + margin,
        }
        return [end for end in ENDS if good[end]]

    def beats_chance(self) -> bool:
        """Whether the area between the curves is larger than random orders would leave."""
        # Of a random order, both ends are random orders: their difference has twice the variance.
        return self.fidelity.area > CHANCE * math.sqrt(2) * self.band.area_sd


# ---- work ----------------------------------------------------------------------------------------


def tasks_for(question: Question, rows: Sequence[Row], index: int) -> list[Task]:
    """Everything that has to be computed to judge the shown maps of one target."""
    target = question.targets[index]
    bands = {_unit(row): band_task(question, target, _unit(row)) for row in rows}
    curves = [
        fidelity_task(question, row.method, target, row.explanation.scores[index]) for row in rows
    ]
    return [drops_task(question, target), *bands.values(), *curves]


def judged_so_far(question: Question, rows: Sequence[Row], index: int) -> dict[str, Judged]:
    """Method -> what is known; methods still to be judged are missing."""
    target = question.targets[index]
    drops = _found(drops_task(question, target))
    known = {}
    for row in rows:
        scores = row.explanation.scores[index]
        curves = _found(fidelity_task(question, row.method, target, scores))
        band = _found(band_task(question, target, _unit(row)))
        if drops is not None and curves is not None and band is not None:
            model = _state.get_model(question.model_id)
            pixels = model.preprocess(question.picture.image)
            boxes = box_sensitivity(model, pixels, scores, target, drops=drops)
            known[row.method] = Judged(curves, band, boxes)
    return known


def _found(task: Task) -> Any | None:
    result = _state.recall(task.key)
    return None if isinstance(result, Failed) else result


def _unit(row: Row) -> str:
    return "pixel" if is_per_pixel(row.explanation) else "patch"


# ---- words ---------------------------------------------------------------------------------------


def ranking_words(judged: Mapping[str, Judged], label: str) -> str:
    """Who foretells best, and who is no better than chance."""
    order = sorted(judged, key=lambda method: -judged[method].fidelity.area)
    good = [_name(method) for method in order if judged[method].beats_chance()]
    lost = [_name(method) for method in order if not judged[method].beats_chance()]
    words = []
    if good:
        rest = f", followed by {_joined(good[1:])}" if good[1:] else ""
        words.append(f"**{good[0]}** foretells best what blurring does to the logit of "
                     f"{plain(label)}{rest}.")
    for method in order:
        ends = judged[method].good_ends()
        if judged[method].beats_chance() and len(ends) == 1:
            words.append(f"{_name(method)} does so at one end only: {ENDS[ends[0]].lower()}.")
    if lost:
        words.append(f"Not clearly better than a random order: {_joined(lost)}.")
    best = max(judged, key=lambda method: judged[method].boxes.area)
    words.append(f"What a whole box is worth, **{_name(best)}** knows best.")
    return " ".join(words)


def _name(method: str) -> str:
    return plain(METHODS[method].label)


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _chance_words(one: Judged) -> str:
    if not one.beats_chance():
        return "no"
    ends = one.good_ends()
    return f"{ENDS[ends[0]].lower()} only" if len(ends) == 1 else "yes"


def table(judged: Mapping[str, Judged]) -> list[dict[str, Any]]:
    """One line per method, best first."""
    order = sorted(judged, key=lambda method: -judged[method].fidelity.area)
    return [
        {
            "Method": METHODS[method].label,
            **dict(zip(FORMATS, judged[method].numbers().values(), strict=True)),
            "Better than chance": _chance_words(judged[method]),
        }
        for method in order
    ]


# ---- chart ---------------------------------------------------------------------------------------


def chart(judged: Mapping[str, Judged], end: str, label: str) -> go.Figure:
    """Fidelity above, boxes below; a click in the legend hides a method in both.

    Args:
        judged: method -> its curves.
        end: "mif" | "lif", which of the fidelity curves.
        label: of the class.
    """
    better = "falling fast is good" if end == "mif" else "staying high is good"
    figure = make_subplots(
        2, 1, vertical_spacing=0.17, row_heights=[0.58, 0.42],
        subplot_titles=(f"{ENDS[end]}: {better}", "Boxes: high is good"),
    )
    for unit, band in {one.fidelity.protocol.unit: one.band for one in judged.values()}.items():
        _draw_band(figure, band, unit)
    for method, one in judged.items():
        _draw_curves(figure, method, one, end)
    figure.update_xaxes(title_text="blurred, %", row=1, col=1)
    figure.update_yaxes(title_text=f"logit of {_literal(label)}", row=1, col=1)
    figure.update_xaxes(title_text="side of the box, patches", row=2, col=1)
    figure.update_yaxes(title_text="correlation", row=2, col=1)
    figure.update_layout(
        height=640, margin={"l": 10, "r": 10, "t": 40, "b": 10},
        legend={"orientation": "h", "yanchor": "top", "y": -0.12, "x": 0},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def _literal(text: str) -> str:
    """Plotly reads tags in titles; class names are text."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _draw_band(figure: go.Figure, band: Band, unit: str) -> None:
    x = np.concatenate([band.fractions, band.fractions[::-1]]) * 100
    y = np.concatenate([band.mean + band.sd, (band.mean - band.sd)[::-1]])
    name = "Random order" if unit == "patch" else "Random order of pixels"
    figure.add_trace(
        go.Scatter(x=x, y=y, fill="toself", fillcolor=GREY.format(0.25), mode="lines",
                   line={"width": 0}, hoverinfo="skip", name=name),
        row=1, col=1,
    )


def _draw_curves(figure: go.Figure, method: str, one: Judged, end: str) -> None:
    place = list(METHODS).index(method)
    line = {"color": COLOURS[place % len(COLOURS)], "width": 2,
            "dash": "solid" if place % 2 == 0 else "dash"}
    name = METHODS[method].label
    curve = getattr(one.fidelity, end)
    figure.add_trace(
        go.Scatter(x=one.fidelity.fractions * 100, y=curve, mode="lines", line=line, name=name,
                   legendgroup=method),
        row=1, col=1,
    )
    figure.add_trace(
        go.Scatter(x=one.boxes.sizes, y=one.boxes.correlation, mode="lines+markers", line=line,
                   name=name, legendgroup=method, showlegend=False),
        row=2, col=1,
    )
