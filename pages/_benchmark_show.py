"""What a run found: tables to sort, curves, the pictures where a method did best and worst."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

import cdam_core as cdam
from cdam_core import archive
from cdam_core.assets import assets_dir
from cdam_core.benchmarks import averages, figures, outputs, reading, tables
from cdam_core.benchmarks.averages import QUANTITIES, Curve, Quantity
from cdam_core.benchmarks.datasets import BUILT_IN, Data, open_data
from cdam_core.benchmarks.reading import Results
from cdam_core.benchmarks.results import RANDOM, RIGHT
from cdam_core.errors import BadData
from cdam_core.images import digest
from cdam_core.intervals import Estimate
from cdam_core.methods import METHODS
from pages import _cache, _downloads, _frame, _state
from pages._attention_sets import folders
from pages._methods_trust import COLOURS, GREY
from pages._words import plain, signed

DRAWN = 4  # pictures of each kind
THUMBNAIL = 224  # pixels
DASHES = {(): "solid", (5, 2): "dash", (2, 1.5): "dot", (7, 2, 1.5, 2): "dashdot"}
SYMBOLS = ("circle", "square", "diamond", "triangle-down", "triangle-up", "cross", "x", "star",
           "triangle-left", "triangle-right", "pentagon", "hourglass", "hexagon", "bowtie",
           "octagon")  # fmt: skip
MEANS, DIFFERENCES = "Means over images", "Less CDAM on the same images"


@dataclass(frozen=True, eq=False)
class Shown:
    """A run whose results are looked at.

    Attributes:
        id: tells these results from others.
        name: for files.
        results: its rows.
        files: gives the contents of results.parquet and run.json, as they are.
    """

    id: str
    name: str
    results: Results
    files: Callable[[], Mapping[str, bytes]]


# ---- where results come from ---------------------------------------------------------------------


def of_folder(folder: Path) -> Shown:
    """A run on this server, as far as it is put together.

    Raises:
        BadRecord: with one sentence.
    """
    state = [(folder / name).stat().st_mtime_ns if (folder / name).is_file() else 0
             for name in (reading.ROWS_FILE, reading.RUN_FILE)]  # fmt: skip
    key = f"{folder}-{state[0]}-{state[1]}"
    results = _cache.shelf.get(("benchmark", key), partial(reading.read_folder, folder),
                               _state.visit(), _state.still_wanted)  # fmt: skip
    return Shown(key, folder.name, results, lambda: {
        name: (folder / name).read_bytes() for name in (reading.ROWS_FILE, reading.RUN_FILE)
    })  # fmt: skip


def of_upload(content: bytes, token: str) -> Shown:
    """A run that a visitor has brought; raises as above."""
    files = archive.pick(content, (reading.ROWS_FILE, reading.RUN_FILE))
    return Shown(token, "uploaded", reading.read_files(files), lambda: files)


def made_tables(shown: Shown) -> list[tables.Table]:
    """The paper's tables of it, made once."""
    return _cache.shelf.get(("benchmark-tables", shown.id), partial(tables.tables, shown.results),
                            _state.visit(), _state.still_wanted)  # fmt: skip


# ---- all of it -----------------------------------------------------------------------------------


def show(shown: Shown, model: cdam.VisionModel, model_id: str) -> None:
    """Everything about one run."""
    results = shown.results
    for note in results.notes:
        st.warning(note)
    if tables.is_simulated(results.about):
        st.caption("**SIMULATED DATA**: drawn scenes. What holds here may not hold on photographs.")
    found = made_tables(shown)
    if not found:
        st.info("Nothing has been measured in this run yet.")
        return
    parts = st.tabs(["Tables", "Curves", "Best and worst pictures", "What made it"])
    with parts[0]:
        show_tables(shown, found)
    with parts[1]:
        show_curves(shown)
    with parts[2]:
        show_pictures(shown, model, model_id)
    with parts[3]:
        show_making(results)
    offer(shown)


def show_tables(shown: Shown, found: list[tables.Table]) -> None:
    """The paper's tables; a click on a head sorts."""
    kind = st.segmented_control("Numbers", [MEANS, DIFFERENCES], key="benchmark.numbers",
                                default=MEANS, required=True, label_visibility="collapsed")
    paper = tables.paper_data(shown.results.about)
    for table in found:
        name = table.layout.paper.get(paper or "")
        st.markdown(f"**{table.layout.title}**" + (f" · as the paper's {name}" if name else ""))
        rows = [_row(table, method, cells, kind) for method, cells in table.rows.items()]
        rows = [row for row in rows if len(row) > 1]
        if not rows:
            st.caption("Nothing to compare: that takes CDAM and another method.")
            continue
        st.dataframe(rows, key=f"benchmark.table.{table.layout.id}.{kind}", hide_index=True,
                     column_config=_formats(table), width="stretch", height="content")  # fmt: skip
        st.caption(" ".join([table.layout.says, *map(str.strip, tables.undefined_words(table))]))


def _row(
    table: tables.Table, method: str, cells: Mapping[str, tables.Cell], kind: str
) -> dict[str, Any]:
    row: dict[str, Any] = {"Method": tables.label(method)}
    for column in table.columns:
        cell = cells.get(column.id)
        estimate = cell and (cell.estimate if kind == MEANS else cell.difference)
        if estimate is None:
            continue
        head = tables.head(column)
        row[head] = None if np.isnan(estimate.value) else estimate.value
        row[f"95 % of {column.symbol}"] = _interval(estimate, column)
        if kind == MEANS and cell.paper is not None:
            row[f"{head}, paper"] = cell.paper
    return row


def _interval(found: Estimate, column: Quantity) -> str:
    if np.isnan(found.low):
        return "–"
    return f"{signed(found.low, column.decimals)} to {signed(found.high, column.decimals)}".replace(
        "+", "")  # fmt: skip


def _formats(table: tables.Table) -> dict[str, Any]:
    made: dict[str, Any] = {"Method": st.column_config.TextColumn(pinned=True)}
    for column in table.columns:
        made[tables.head(column)] = st.column_config.NumberColumn(
            format=f"%.{column.decimals}f",
            help=f"{column.label}: {column.better} is better. Mean over images.",
        )
        made[f"95 % of {column.symbol}"] = st.column_config.TextColumn(
            "95 % interval", help="From drawing whole images with replacement."
        )
    return made


# ---- curves --------------------------------------------------------------------------------------


def show_curves(shown: Shown) -> None:
    """Mean curves with their bands."""
    results = shown.results
    known = [q for q in QUANTITIES.values() if q.has_curve and len(_measured(results, q))]
    if not known:
        st.info("This run holds no curves.")
        return
    quantity = st.selectbox(
        "Curve", known, key="benchmark.curve", width=340,
        index=next((i for i, q in enumerate(known) if q.id == "fidelity"), 0),
        format_func=lambda q: f"{q.label} ({figures.y_of(q)})",
    )
    lines = _cache.shelf.get(("benchmark-curves", shown.id, quantity.id),
                             partial(figures.curves, results, quantity),
                             _state.visit(), _state.still_wanted)  # fmt: skip
    st.plotly_chart(chart(lines, quantity), key="benchmark.chart", width="stretch",
                    alt=f"Mean curves of {quantity.label}, one line per method")  # fmt: skip
    st.caption(
        "A click on a name hides a method, a double click shows it alone. The bands are 95 % "
        "intervals of the mean over images; where two bands do not touch, the methods differ. "
        f"{quantity.better.capitalize()} is better."
    )


def _measured(results: Results, quantity: Quantity) -> list[str]:
    return [method for method in results.methods()
            if len(averages.per_output(results, method, quantity).value)]  # fmt: skip


def chart(lines: Mapping[str, Curve], quantity: Quantity) -> go.Figure:
    """One line and band per method, drawn as on the page Methods."""
    figure = go.Figure()
    scale = 1 if quantity.measure == "box" else 100
    for method, one in lines.items():
        x, colour = one.x * scale, _colour(method)
        if np.isfinite(one.low).all():
            figure.add_trace(go.Scatter(
                x=np.concatenate([x, x[::-1]]), y=np.concatenate([one.high, one.low[::-1]]),
                fill="toself", mode="lines", line={"width": 0, "color": colour}, opacity=0.25,
                hoverinfo="skip", legendgroup=method, showlegend=False,
            ))  # fmt: skip
        look = figures.style(method)
        figure.add_trace(go.Scatter(
            x=x, y=one.mean, mode="lines+markers", name=tables.label(method), legendgroup=method,
            line={"color": colour, "width": 2, "dash": DASHES.get(look.dashes, "dot")},
            marker={"symbol": _symbol(method), "size": 7, "color": colour,
                    "maxdisplayed": figures.MARKS},
            hovertemplate="%{y:.3g}",
        ))  # fmt: skip
    figure.update_xaxes(title_text=figures.x_title(quantity))
    figure.update_yaxes(title_text=figures.y_title(quantity), zeroline=True)
    figure.update_layout(
        height=520, margin={"l": 10, "r": 10, "t": 10, "b": 10}, hovermode="x unified",
        legend={"orientation": "h", "yanchor": "top", "y": -0.18, "x": 0},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def _colour(method: str) -> str:
    if method == RANDOM:
        return GREY.format(1)
    return COLOURS[list(METHODS).index(method) % len(COLOURS)]


def _symbol(method: str) -> str:
    return "line-ew" if method == RANDOM else SYMBOLS[list(METHODS).index(method) % len(SYMBOLS)]


# ---- pictures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """One picture and output, and what a method got there."""

    image: str
    output: str
    value: float


def ranked(results: Results, method: str, quantity: Quantity) -> list[Place]:
    """Every picture and output that is measured, the best first."""
    found = averages.per_output(results, method, quantity)
    names = results.names["image"], results.names["output"]
    places = [Place(names[0][i], names[1][o], float(v)) for i, o, v in
              zip(found.image, found.output, found.value, strict=True)
              if np.isfinite(v)]  # fmt: skip
    sign = -1 if quantity.better == "higher" else 1
    return sorted(places, key=lambda each: (sign * each.value, each.image, each.output))


def show_pictures(shown: Shown, model: cdam.VisionModel, model_id: str) -> None:
    """Where a method did best and worst, to be looked at in the comparison."""
    results = shown.results
    with st.container(horizontal=True, vertical_alignment="bottom"):
        method = st.selectbox("Method", results.methods(), key="benchmark.method", width=240,
                              format_func=tables.label)  # fmt: skip
        known = [q for q in QUANTITIES.values()
                 if len(averages.per_output(results, method, q).value)]  # fmt: skip
        quantity = st.selectbox(
            "By", known, key="benchmark.quantity", width=300, format_func=lambda q: q.label,
            index=next((i for i, q in enumerate(known) if q.id == "fidelity"), 0),
        )
    places = ranked(results, method, quantity) if quantity else []
    if not places:
        st.info("Nothing is known of this.")
        return
    source = source_of(shown, model, model_id)
    if source is None:
        st.caption(_where(results, model))
    count = min(DRAWN, (len(places) + 1) // 2)
    for words, some in (("Best", places[:count]), ("Worst", places[::-1][:count])):
        st.markdown(f"**{words}**")
        for column, place in zip(st.columns(DRAWN), some, strict=False):
            with column.container(border=True):
                show_place(shown, place, quantity, method, model, model_id, source, words)
    with st.expander(f"All {len(places)}, the best first"):
        st.dataframe([{"Picture": p.image, "Output": p.output, quantity.label: p.value}
                      for p in places], hide_index=True, key="benchmark.places")  # fmt: skip


def show_place(
    shown: Shown,
    place: Place,
    quantity: Quantity,
    method: str,
    model: cdam.VisionModel,
    model_id: str,
    source: Data | None,
    words: str,
) -> None:
    """One picture with its number."""
    image = open_image(source, place.image)
    if image is not None:
        st.image(cdam.limit_side(image, THUMBNAIL), width="stretch")
    st.caption(f"{plain(place.image)} · output {plain(place.output)}  \n{plain(quantity.label)} "
               f"**{signed(place.value, quantity.decimals).removeprefix('+')}**")  # fmt: skip
    key = f"benchmark.open.{words}.{place.image}.{place.output}"
    if image is not None and st.button("Compare", key=key, icon=":material/compare:",
                                       help="Open it in Compare classes."):  # fmt: skip
        names = [place.output, *others(shown.results, place)]
        open_comparison(image, names, method, model, model_id)


def others(results: Results, place: Place) -> list[str]:
    """The other classes of a picture that were measured."""
    rows = results.where(image=place.image, kind=RIGHT)
    found = {results.text("output", row) for row in rows} - {place.output}
    return sorted(found)


def source_of(shown: Shown, model: cdam.VisionModel, model_id: str) -> Data | None:
    """The run's data, if they are shipped or in an allowed folder, unchanged."""
    told = shown.results.about.get("data")
    wanted = told.get("digest") if isinstance(told, dict) else None
    if not isinstance(wanted, str):
        return None
    allowed = tuple(map(str, folders().values()))
    return _cache.shelf.get(("benchmark-data", model_id, wanted, allowed),
                            partial(_find_data, model, wanted, allowed),
                            _state.visit(), _state.still_wanted)  # fmt: skip


def _find_data(model: cdam.VisionModel, wanted: str, allowed: tuple[str, ...]) -> Data | None:
    for source in (*built_in(), *allowed):
        try:
            data = open_data(model, source)
        except (BadData, cdam.BadTarget, OSError):
            continue  # other classes, or no folder by class
        if data.digest == wanted:
            return data
    return None


def built_in() -> list[str]:
    """The data sets that are installed with the app."""
    return [name for name, file in BUILT_IN.items() if (assets_dir() / "scenes" / file).is_file()]


def _where(results: Results, model: cdam.VisionModel) -> str:
    told = results.about.get("model")
    made_by = told.get("id") if isinstance(told, dict) else None
    if isinstance(made_by, str) and made_by != model.id:
        return f"To see the pictures, choose the run's model in the menu: {plain(made_by[:100])}."
    return ("The pictures themselves are not here: they are shown where a run was on the shipped "
            "scenes, or on a folder by class that the administrator allows, unchanged since.")


def open_image(source: Data | None, name: str) -> Any:
    """A picture of the data; None where it is not there or cannot be read."""
    if source is None:
        return None
    item = next((each for each in source.items if each.id == name), None)
    content = source.read(item).content if item is not None else None
    if content is None:
        return None
    try:
        return cdam.limit_side(cdam.open_image(content), _state.LONGEST_SIDE)
    except cdam.BadImage:
        return None


def open_comparison(
    image: Any, names: list[str], method: str, model: cdam.VisionModel, model_id: str
) -> None:
    """Go to the comparison with this picture, these classes and this method."""
    picture = _state.Picture(image, digest(image), ())
    st.session_state["picture"] = picture
    token = f"{model_id}.{picture.digest[:16]}"
    for key in (f"a.{token}", f"b.{token}", "method"):
        st.session_state.pop(key, None)
    known = [name for name in names if name in model.class_names]
    st.session_state["link"] = {"class": known, "method": method}
    st.switch_page(_frame.navigation_pages()[1])


# ---- what made it, files -------------------------------------------------------------------------


def show_making(results: Results) -> None:
    """Model, data, protocol, settings: everything that a reader must know."""
    st.dataframe([{"": name, "Value": text} for name, text in tables.made_by(results.about)],
                 hide_index=True, key="benchmark.making", width="stretch",
                 height="content")  # fmt: skip
    told = [{"Method": tables.label(method), "Settings": tables.settings_of(results.about, method)}
            for method in results.methods()]  # fmt: skip
    st.markdown("**Settings**")
    st.dataframe(told, hide_index=True, key="benchmark.settings", width="stretch",
                 height="content")


def offer(shown: Shown) -> None:
    """What can be taken home."""
    about = shown.results.about
    parts = ["benchmark", *(["simulated"] if tables.is_simulated(about) else []), shown.name]
    _downloads.buttons("benchmark", parts, (
        ("Tables (Markdown)", "md", "text/markdown",
         lambda: tables.to_markdown(shown.results, made_tables_of(shown.results))),
        ("Tables (CSV)", "csv", "text/csv",
         lambda: tables.to_csv(made_tables_of(shown.results), about)),
        ("All of it (ZIP)", "zip", "application/zip", partial(zip_of, shown)),
    ))  # fmt: skip


def made_tables_of(results: Results) -> list[tables.Table]:
    """The tables, in a thread without a page."""
    return tables.tables(results)


def zip_of(shown: Shown) -> bytes:
    """Results, run.json without this server's paths, tables and figures."""
    files = dict(shown.files())
    files[reading.RUN_FILE] = without_paths(files[reading.RUN_FILE])
    return archive.pack(files | outputs.files(shown.results))


def without_paths(content: bytes) -> bytes:
    """run.json as it may leave the server: of a path, only its last part."""
    said = json.loads(content)
    asked = said.get("asked") if isinstance(said, dict) else None
    for name, value in asked.items() if isinstance(asked, dict) else ():
        if isinstance(value, str) and Path(value).is_absolute():
            asked[name] = Path(value).name
    return json.dumps(said, indent=1, ensure_ascii=False).encode()
