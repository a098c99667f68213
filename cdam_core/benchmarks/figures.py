"""The paper's curves from the results of a run: Figures 7 to 10, S1 and S2, as SVG, PNG or PDF.

Every method has a colour that the colour-blind can tell from its neighbours, a line of its own kind
and a marker of its own, so that the figures read without colours. The bands are 95 % intervals of
the mean over images.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cdam_core.benchmarks.averages import QUANTITIES, Curve, Quantity, curve
from cdam_core.benchmarks.reading import Results
from cdam_core.benchmarks.results import RANDOM
from cdam_core.benchmarks.tables import MULTI, VAL, label, paper_data, stamp
from cdam_core.explanation import as_text
from cdam_core.methods import METHODS
from cdam_core.pictures import figure_file, printable

# Paul Tol's "muted" and "vibrant" schemes, darkest first where lines are thin.
COLOURS = ("#332288", "#CC6677", "#117733", "#EE7733", "#0077BB", "#AA4499", "#999933", "#882255",
           "#44AA99", "#CC3311", "#009988", "#DDAA33", "#88CCEE", "#555555", "#222222")  # fmt: skip
DASHES = ((), (5, 2), (2, 1.5), (7, 2, 1.5, 2))  # of lines, in points
MARKERS = "osD^vPX*<>phd8H"
RANDOM_COLOUR = "#777777"
MARKS = 8  # markers on a line


@dataclass(frozen=True)
class Drawing:
    """One figure.

    Attributes:
        id: name of its file.
        title: above it.
        quantities: ids in ``QUANTITIES``, one panel each.
        paper: the paper's data -> its name of the figure.
    """

    id: str
    title: str
    quantities: tuple[str, ...]
    paper: Mapping[str, str]


DRAWINGS: tuple[Drawing, ...] = (
    Drawing("box", "Box sensitivity", ("box",), {MULTI: "Figure 7", VAL: "Figure S1"}),
    Drawing("fidelity", "Fidelity", ("mif", "lif", "fidelity"),
            {MULTI: "Figure 8", VAL: "Figure S2"}),
    Drawing("fidelity_discrimination", "Class discrimination by fidelity",
            ("fidelity_discrimination",), {MULTI: "Figure 9"}),
    Drawing("box_discrimination", "Class discrimination by boxes", ("box_discrimination",),
            {MULTI: "Figure 10"}),
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How a method is drawn, the same everywhere.

    Attributes:
        colour: of line and band.
        dashes: of the line, in points; empty: solid.
        marker: on the line.
    """

    colour: str
    dashes: tuple[float, ...]
    marker: str


def style(method: str) -> Style:
    """Of a method, by its place in ``METHODS``; random orders are grey and dotted."""
    if method == RANDOM:
        return Style(RANDOM_COLOUR, (1, 1.2), "")
    place = list(METHODS).index(method)
    return Style(COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)],
                 MARKERS[place % len(MARKERS)])  # fmt: skip


def curves(results: Results, quantity: Quantity, seed: int = 0) -> dict[str, Curve]:
    """Method (and ``RANDOM``) -> its mean curve, for those that the run has one of."""
    found = {method: curve(results, method, quantity, seed)
             for method in (*results.methods(), RANDOM)}  # fmt: skip
    return {method: one for method, one in found.items() if one is not None}


def figures(
    results: Results, formats: Sequence[str] = ("svg", "png"), seed: int = 0
) -> dict[str, bytes]:
    """Name of a file -> its content, for every figure that the run has curves for."""
    files = {}
    for drawing in DRAWINGS:
        panels = _panels(results, drawing, seed)
        for file_format in formats if panels else ():
            files[f"{drawing.id}.{file_format}"] = draw(drawing, panels, results.about, file_format)
    return files


def _panels(
    results: Results, drawing: Drawing, seed: int
) -> dict[Quantity, dict[str, Curve]]:
    found = {QUANTITIES[name]: curves(results, QUANTITIES[name], seed)
             for name in drawing.quantities}  # fmt: skip
    return {quantity: lines for quantity, lines in found.items() if set(lines) - {RANDOM}}


def draw(
    drawing: Drawing,
    panels: Mapping[Quantity, Mapping[str, Curve]],
    about: Mapping[str, Any],
    file_format: str = "png",
) -> bytes:
    """One figure as a file; equal results give equal bytes.

    Args:
        drawing: which.
        panels: its quantities, each with the curves of its methods.
        about: content of run.json, for title and stamp.
        file_format: "svg" | "png" | "pdf".
    """
    return figure_file(figure_of(drawing, panels, about), file_format)


def figure_of(
    drawing: Drawing,
    panels: Mapping[Quantity, Mapping[str, Curve]],
    about: Mapping[str, Any],
) -> Figure:
    """The same before it becomes a file."""
    count = len(panels)
    figure = Figure(figsize=(4.6 * count + 2.4, 4.6), dpi=130, layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis, (quantity, lines) in zip(axes, panels.items(), strict=True):
        for method, one in lines.items():
            _line(axis, method, one, is_share=quantity.measure != "box")
        _label(axis, quantity)
    handles, names = _legend(axes)
    figure.legend(handles, names, loc="outside right center", fontsize=9, frameon=False,
                  handlelength=4)  # fmt: skip
    figure.suptitle(textwrap.fill(_title(drawing, panels, about), 34 + 46 * count), fontsize=11)
    return figure


def _line(axis: Axes, method: str, one: Curve, is_share: bool) -> None:
    look, x = style(method), one.x * 100 if is_share else one.x
    every = max(1, len(x) // MARKS)
    (line,) = axis.plot(x, one.mean, color=look.colour, linewidth=1.6, label=label(method),
                        marker=look.marker or None, markevery=every, markersize=4.5)  # fmt: skip
    if look.dashes:
        line.set_dashes(look.dashes)
    if np.isfinite(one.low).all():
        axis.fill_between(x, one.low, one.high, color=look.colour, alpha=0.15, linewidth=0)


def _label(axis: Axes, quantity: Quantity) -> None:
    is_box = quantity.measure == "box"
    axis.set_title(f"{quantity.label} ({y_of(quantity)})", fontsize=10)
    axis.set_xlabel(x_title(quantity), fontsize=9)
    axis.set_ylabel(y_title(quantity), fontsize=9)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.tick_params(labelsize=8)
    if is_box:
        axis.xaxis.get_major_locator().set_params(integer=True)


def x_title(quantity: Quantity) -> str:
    """Of the positions of a curve."""
    return "side of the box, patches" if quantity.measure == "box" else "blurred, %"


def y_title(quantity: Quantity) -> str:
    """Of the values of a curve."""
    unit = "correlation" if quantity.measure == "box" else "output"
    if quantity.is_difference:
        return f"{unit}, right less wrong class"
    return f"{unit}, LIF less MIF" if quantity.measure == "fidelity" else unit


def y_of(quantity: Quantity) -> str:
    """The paper's symbol of a curve, f where its area is A."""
    return quantity.symbol.replace("A_", "f_", 1)


def _legend(axes: Sequence[Axes]) -> tuple[list, list[str]]:
    found = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    return list(found.values()), list(found)


def _title(
    drawing: Drawing, panels: Mapping[Quantity, Mapping[str, Curve]], about: Mapping[str, Any]
) -> str:
    own = [one.images for lines in panels.values() for method, one in lines.items()
           if method != RANDOM]  # fmt: skip
    model, data = (about.get(name) for name in ("model", "data"))
    names = [as_text(str(part["id"]))[:60] for part in (model, data)
             if isinstance(part, dict) and "id" in part]  # fmt: skip
    paper = drawing.paper.get(paper_data(about) or "")
    words = [drawing.title, *([f"as {paper}"] if paper else []), *names,
             f"{max(own)} image{'s' if max(own) > 1 else ''}, 95 % intervals"]  # fmt: skip
    return printable("  ·  ".join(words) + stamp(about)).replace("$", r"\$")
