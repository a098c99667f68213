"""The paper's tables from the results of a run: means over images, intervals, differences to CDAM.

Source of layout and printed numbers: Brocki, Binda, Chung, arXiv 2312.02364, Tables 1, 2, 3 and S1.
The row of random orders is what any map has to beat. Where data have masks, a table says where the
evidence lies.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdam_core.benchmarks.averages import QUANTITIES, Quantity, mean, per_image
from cdam_core.benchmarks.reading import Results
from cdam_core.benchmarks.results import RANDOM, RIGHT, WRONG
from cdam_core.explanation import as_text
from cdam_core.intervals import DRAWS, Estimate, interval_text
from cdam_core.methods import METHODS

REFERENCE = "cdam"  # what every method is compared with, image by image
RANDOM_LABEL = "Random order"
MULTI, VAL = "multi", "val"  # the paper's data: several things in a picture; any validation image


@dataclass(frozen=True)
class Layout:
    """One table.

    Attributes:
        id: name in files.
        title: above it.
        columns: ids in ``QUANTITIES``.
        paper: the paper's data -> its name of the table.
        says: how to read it, one or two sentences.
    """

    id: str
    title: str
    columns: tuple[str, ...]
    paper: Mapping[str, str]
    says: str


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "correctness", "Correctness: fidelity and box sensitivity",
        ("mif", "lif", "fidelity", "box"), {MULTI: "Table 2", VAL: "Table S1"},
        "Areas under the output while the most (MIF) or least (LIF) important parts are blurred "
        "first, in percent, and under the correlation of scores and lost output over box sizes.",
    ),
    Layout(
        "discrimination", "Class discrimination",
        ("fidelity_discrimination", "box_discrimination"), {MULTI: "Table 3"},
        "What is lost when the map of a wrong class is used for the same output. Zero: the map "
        "does not care which class is asked for.",
    ),
    Layout(
        "compactness", "Compactness", ("compactness",), {MULTI: "Table 1"},
        "Share of the map that is nearly zero. A compact map is easy to read, which does not make "
        "it right.",
    ),
    Layout(
        "masks", "Where the evidence lies",
        ("strongest_on_target", "strongest_on_other", "mass_inside", "mass_other",
         "other_negative"), {},
        "Against the true masks of the objects: shares of maps, and of positive evidence. A map "
        "may follow the model and still leave the object.",
    ),
    Layout(
        "ablation", "Agreement with token ablation", ("ablation_correlation",), {},
        "Correlation of the scores with what leaving a patch out costs, mean over images.",
    ),
)  # fmt: skip

_ORDER = ("cdam", "integrated_cdam", "smooth_cdam", "relevance_propagation", "partial_lrp",
          "attention", "smoothgrad", "integrated_gradients", "input_x_gradient")  # fmt: skip
_PRINTED = {  # column by column in that order
    MULTI: {
        "compactness": (0.88, 0.88, 0.75, 0.48, 0.74, 0.56, 0.80, 0.84, 0.88),
        "mif": (404, 375, 282, 315, 489, 452, 534, 226, 273),
        "lif": (1038, 1045, 1110, 957, 837, 846, 529, 802, 713),
        "fidelity": (632, 669, 827, 643, 348, 393, -4, 574, 439),
        "box": (12.2, 13.0, 12.4, 10.0, 4.5, 4.8, 0.4, 7.6, 3.5),
        "fidelity_discrimination": (739, 708, 823, 293, 3, 0, -11, 540, 433),
        "box_discrimination": (14.6, 14.8, 13.4, 6.6, 0.0, -0.2, -0.1, 7.6, 3.4),
    },
    VAL: {
        "mif": (801, 696, 591, 475, 654, 580, 796, 411, 470),
        "lif": (1423, 1459, 1482, 1432, 1329, 1352, 786, 1055, 935),
        "fidelity": (623, 753, 890, 957, 674, 771, -10, 644, 465),
        "box": (11.3, 12.9, 11.9, 12.7, 8.4, 9.1, 0.2, 8.3, 3.1),
    },
}
PAPER: dict[str, dict[str, dict[str, float]]] = {  # data -> column -> method -> number
    data: {column: dict(zip(_ORDER, numbers, strict=True)) for column, numbers in columns.items()}
    for data, columns in _PRINTED.items()
}


@dataclass(frozen=True)
class Cell:
    """One number of a method.

    Attributes:
        estimate: mean over images and its interval.
        difference: to ``REFERENCE`` on the same images; None for itself and where there is none.
        images: how many the mean is over.
        undefined: images on which the number is not defined (the compactness of a map without
            positive scores) and which the mean leaves out.
        paper: the paper's own number, or None.
    """

    estimate: Estimate
    difference: Estimate | None
    images: int
    undefined: int
    paper: float | None

    @property
    def differs(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return self.difference is not None and (self.difference.low > 0 or self.difference.high < 0)


@dataclass(frozen=True)
class Table:
    """A layout with its numbers.

    Attributes:
        layout: which.
        columns: those of its columns that the run has.
        rows: method (or ``RANDOM``) -> column -> cell; what was not measured is missing.
    """

    layout: Layout
    columns: tuple[Quantity, ...]
    rows: Mapping[str, Mapping[str, Cell]]

    def best(self, column: Quantity) -> set[str]:
        """The methods with the best mean of a column, as it is printed."""
        sign = 1 if column.better == "higher" else -1
        means = {method: sign * round(cells[column.id].estimate.value, column.decimals)
                 for method, cells in self.rows.items() if method != RANDOM
                 and column.id in cells}  # fmt: skip
        top = max((value for value in means.values() if not np.isnan(value)), default=None)
        return {method for method, value in means.items() if value == top}


def tables(results: Results, seed: int = 0) -> list[Table]:
    """Every table that the run has numbers for.

    Args:
        results: of the run.
        seed: of the draws for the intervals.
    """
    values = {
        (method, column.id): per_image(results, method, column)
        for method in (*_sorted(results.methods()), RANDOM)
        for column in QUANTITIES.values()
        if _was_measured(results, method, column)
    }
    numbers = PAPER.get(paper_data(results.about), {})
    made = (_table(layout, results, values, numbers, seed) for layout in LAYOUTS)
    return [table for table in made if table.rows]


def label(method: str) -> str:
    """Name of a row shown to people."""
    return METHODS[method].label if method in METHODS else RANDOM_LABEL


def paper_data(about: Mapping[str, Any]) -> str | None:
    """Which of the paper's data a run was on: ``MULTI``, ``VAL``, or None."""
    data = about.get("data")
    if not isinstance(data, dict) or data.get("is_imagenet") is not True:
        return None
    return MULTI if "multi" in str(data.get("id", "")).lower() else VAL


def _sorted(methods: Sequence[str]) -> list[str]:
    """The paper's order, then the others."""
    return sorted(methods, key=[*_ORDER, *METHODS].index)


def _was_measured(results: Results, method: str, column: Quantity) -> bool:
    kinds = (RIGHT, WRONG) if column.is_difference else (RIGHT,)
    return all(len(results.where(method=method, measure=column.measure, kind=kind))
               for kind in kinds)  # fmt: skip


def _table(
    layout: Layout,
    results: Results,
    values: Mapping[tuple[str, str], np.ndarray],
    numbers: Mapping[str, Mapping[str, float]],
    seed: int,
) -> Table:
    columns = [QUANTITIES[name] for name in layout.columns
               if any(column == name for method, column in values if method != RANDOM)]  # fmt: skip
    rows: dict[str, dict[str, Cell]] = {}
    for method, column in values:
        if column in layout.columns and any(column == each.id for each in columns):
            cell = _cell(results, values, method, column, seed)
            paper = numbers.get(column, {}).get(method)
            rows.setdefault(method, {})[column] = Cell(*cell, paper)
    return Table(layout, tuple(columns), rows)


def _cell(
    results: Results,
    values: Mapping[tuple[str, str], np.ndarray],
    method: str,
    column: str,
    seed: int,
) -> tuple[Estimate, Estimate | None, int, int]:
    own, reference = values[method, column], values.get((REFERENCE, column))
    difference = None
    if method != REFERENCE and reference is not None:
        difference = mean(own - reference, seed)
    measured = np.unique(results.codes["image"][results.where(
        method=method, measure=QUANTITIES[column].measure, kind=RIGHT)])  # fmt: skip
    undefined = 0 if QUANTITIES[column].is_difference else int(np.isnan(own[measured]).sum())
    return mean(own, seed), difference, int(np.isfinite(own).sum()), undefined


# ---- what made them ------------------------------------------------------------------------------


def is_simulated(about: Mapping[str, Any]) -> bool:
    """Whether model or data are simulated: all scenes are drawn."""
    model, data = about.get("model"), about.get("data")
    is_drawn = isinstance(data, dict) and str(data.get("id", "")).startswith("scenes")
    return is_drawn or (isinstance(model, dict) and model.get("simulated") is True)


def stamp(about: Mapping[str, Any]) -> str:
    """What is printed behind a title where data are simulated."""
    return " · SIMULATED DATA" if is_simulated(about) else ""


def made_by(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader must know of a run, as (name, text) lines; what is not told is left out."""
    found = [(name, _text(about, *path)) for name, path in _TOLD]
    return [(name, text) for name, text in found if text]


_TOLD = (
    ("Model", ("model", "id")),
    ("Weights (SHA-256)", ("model", "weights_sha256")),
    ("Input", ("model", "input_size")),
    ("Data", ("data", "id")),
    ("Data (SHA-256)", ("data", "digest")),
    ("Protocol", ("protocol",)),
    ("Steps", ("perturbation", "steps")),
    ("Boxes per size", ("perturbation", "boxes")),
    ("Random orders", ("perturbation", "rankings")),
    ("Blur, pixels", ("perturbation", "blur_sigma")),
    ("Blur / shorter side", ("perturbation", "blur_sigma_relative")),
    ("Seed", ("seed",)),
    ("Engine", ("engine", "name")),
    ("Device", ("engine", "device")),
    ("Images", ("images", "done")),
    ("Images left out", ("images", "broken")),
    ("Methods that this model cannot be asked by", ("left_out",)),
    ("Pairs of labels dropped, as they name one thing", ("data", "notes", "dropped_pairs")),
    ("Noise chosen on held-out images, as a share of the range", ("tuning",)),
)


def _text(about: Mapping[str, Any], *path: str) -> str:
    """What stands there in words; empty for what is not there."""
    found: Any = about
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return as_text(_WORDS.get(path[-1], _plain)(found))[:300]


def _plain(found: Any) -> str:
    if isinstance(found, list):
        return " × ".join(_plain(each) for each in found[:4])
    if isinstance(found, float):
        return f"{found:.4g}"
    return str(found) if isinstance(found, str | int) else ""


def _reasons(found: Any) -> str:
    """How many images were left out, and why."""
    if not isinstance(found, list) or not found:
        return ""
    reasons = Counter(str(each.get("reason", "")) for each in found if isinstance(each, dict))
    return f"{len(found)}: " + ", ".join(f"{n} {why}" for why, n in reasons.most_common(6))


def _methods(found: Any) -> str:
    known = [label(method) for method in METHODS if method in found] \
        if isinstance(found, dict) else []
    return ", ".join(known)


def _pairs(found: Any) -> str:
    """Which labels, the most frequent first."""
    if not isinstance(found, list) or not found:
        return ""
    told = [" and ".join(map(str, each["labels"])) for each in found
            if isinstance(each, dict) and isinstance(each.get("labels"), list)]  # fmt: skip
    return f"{len(found)}, such as " + "; ".join(told[:3])


def _shares(found: Any) -> str:
    if not isinstance(found, dict):
        return ""
    chosen = [(label(method), each["chosen"]) for method, each in found.items()
              if method in METHODS and isinstance(each, dict)
              and isinstance(each.get("chosen"), float)]  # fmt: skip
    return ", ".join(f"{name} {share:g}" for name, share in chosen)


_WORDS = {"broken": _reasons, "left_out": _methods, "dropped_pairs": _pairs, "tuning": _shares}


def settings_of(about: Mapping[str, Any], method: str) -> str:
    """The resolved settings of a method as JSON; empty where the run does not tell."""
    settings = about.get("settings")
    own = settings.get(method) if isinstance(settings, dict) else None
    return json.dumps(own, sort_keys=True, ensure_ascii=False)[:1000] if own is not None else ""


# ---- files ---------------------------------------------------------------------------------------

CSV_COLUMNS = ("table", "method", "column", "better", "mean", "low", "high", "images", "undefined",
               "minus_cdam", "minus_cdam_low", "minus_cdam_high", "paper", "settings", "model",
               "data", "protocol")  # fmt: skip


def to_csv(found: Sequence[Table], about: Mapping[str, Any]) -> str:
    """All tables as one, a line per number; what is not known stays empty."""
    shared = {"model": _text(about, "model", "id"), "data": _text(about, "data", "id"),
              "protocol": _text(about, "protocol")}  # fmt: skip
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for table in found:
        for method, cells in table.rows.items():
            for column, cell in cells.items():
                writer.writerow({
                    "table": table.layout.id, "method": method, "column": column,
                    "better": QUANTITIES[column].better, "images": cell.images,
                    "undefined": cell.undefined, "settings": settings_of(about, method),
                    "paper": "" if cell.paper is None else f"{cell.paper:g}",
                    **_csv_numbers(cell), **shared,
                })  # fmt: skip
    return out.getvalue()


def _csv_numbers(cell: Cell) -> dict[str, str]:
    none = Estimate(np.nan, np.nan, np.nan)
    found = {}
    for names, one in ((("mean", "low", "high"), cell.estimate),
                       (("minus_cdam", "minus_cdam_low", "minus_cdam_high"),
                        cell.difference or none)):  # fmt: skip
        numbers = zip(names, (one.value, one.low, one.high), strict=True)
        found |= {name: "" if np.isnan(value) else f"{value:.6g}" for name, value in numbers}
    return found


def to_markdown(results: Results, found: Sequence[Table] | None = None) -> str:
    """All tables as a page that reads without this program.

    Args:
        results: of the run.
        found: its tables, if they are there already.
    """
    found = tables(results) if found is None else found
    about = results.about
    parts = [f"# Benchmark{stamp(about)}", ""]
    parts += [f"- {name}: {_safe(text)}" for name, text in made_by(about)]
    parts += [
        "",
        f"Means over images with 95 % intervals: whole images drawn {DRAWS} times with "
        "replacement, because the targets of one image are not independent. ↓ low is good, ↑ high "
        "is good; the best mean of a column is bold. Under each table: less CDAM on the same "
        "images, bold where the interval leaves out zero.",
    ]
    for table in found:
        parts += ["", *_markdown_of(table, paper_data(about))]
    parts += ["", *_settings_lines(about, results.methods())]
    parts += [f"\n{note}" for note in results.notes]
    return "\n".join(parts).rstrip() + "\n"


def _markdown_of(table: Table, data: str | None) -> list[str]:
    layout = table.layout
    name = layout.paper.get(data or "")
    title = f"## {layout.title}" + (f" (the paper's {name})" if name else "")
    has_paper = any(cell.paper is not None for cells in table.rows.values()
                    for cell in cells.values())  # fmt: skip
    heads = [head(column) for column in table.columns]
    paper_heads = [f"paper: {head(column)}" for column in table.columns] if has_paper else []
    lines = [title, "", layout.says, "", *_rule(["", *heads, *paper_heads])]
    for method, cells in table.rows.items():
        own = [_cell_text(cells.get(c.id), c, method in table.best(c)) for c in table.columns]
        theirs = [_paper_text(cells.get(column.id)) for column in table.columns]
        lines.append(_line([label(method), *own, *(theirs if has_paper else [])]))
    compared = {method: cells for method, cells in table.rows.items()
                if any(cell.difference is not None for cell in cells.values())}  # fmt: skip
    if compared:
        lines += ["", *_rule(["less CDAM", *heads])]
        lines += [_line([label(method), *(_difference_text(cells.get(c.id), c)
                                          for c in table.columns)])
                  for method, cells in compared.items()]  # fmt: skip
    return lines + undefined_words(table)


def head(column: Quantity) -> str:
    """Head of a column, with which direction is good."""
    return f"{column.symbol} {'↑' if column.better == 'higher' else '↓'}"


def undefined_words(table: Table) -> list[str]:
    """A sentence on images that a mean leaves out, for every method that has some."""
    return [
        f"\n{label(method)}: {column.symbol} is not defined on {cell.undefined} of "
        f"{cell.undefined + cell.images} images, which are left out of the mean."
        for column in table.columns
        for method, cells in table.rows.items()
        if (cell := cells.get(column.id)) is not None and cell.undefined
    ]


def _cell_text(cell: Cell | None, column: Quantity, is_best: bool) -> str:
    if cell is None:
        return ""
    text = interval_text(cell.estimate, column.decimals)
    value, rest = text.partition(" (")[0], text.partition(" (")[1:]
    return f"**{value}**{''.join(rest)}" if is_best else text


def _difference_text(cell: Cell | None, column: Quantity) -> str:
    if cell is None or cell.difference is None:
        return ""
    text = interval_text(cell.difference, column.decimals)
    return f"**{text}**" if cell.differs else text


def _paper_text(cell: Cell | None) -> str:
    return "" if cell is None or cell.paper is None else f"{cell.paper:g}".replace("-", "−")


def _settings_lines(about: Mapping[str, Any], methods: Sequence[str]) -> list[str]:
    told = [(label(method), settings_of(about, method)) for method in _sorted(methods)]
    told = [(name, text) for name, text in told if text and text != "{}"]
    return ["## Settings", "", *(f"- {name}: `{text.replace('`', '')}`" for name, text in told)] \
        if told else []


def _rule(heads: Sequence[str]) -> list[str]:
    return [_line(heads), _line(["---", *(["---:"] * (len(heads) - 1))])]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _safe(text: str) -> str:
    """Text of a run that cannot become markup or leave its line."""
    return " ".join(text.split()).translate({ord(c): f"\\{c}" for c in "\\`*_[]<>|#!"})
