"""Methods: every explanation side by side, put to the test on this very picture."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

import cdam_core as cdam
from cdam_core.methods import METHODS
from cdam_core.sanity import RANDOMISATIONS
from pages import (
    _controls,
    _downloads,
    _exports,
    _frame,
    _links,
    _methods_cards,
    _methods_files,
    _methods_jobs,
    _methods_sanity,
    _methods_trust,
    _methods_viewer,
    _pickers,
    _state,
)
from pages._controls import BY_COST, class_labels
from pages._methods_cards import COLUMNS, SCALES, Row
from pages._methods_jobs import Failed
from pages._methods_tasks import Question, method_task
from pages._panels import Look
from pages._words import plain

MAX_CLASSES = 4
DRAWN_KEPT = 2 * len(METHODS)
# Shown without being asked for; transformer attribution takes as long as all of these together.
AT_FIRST = [name for name in BY_COST
            if METHODS[name].cost != "minutes" and name != "transformer_attribution"]

PURPOSE = (
    "Every method draws its own map of the same answer. See them side by side, and let the model "
    "itself say which of them it bears out on this picture."
)
HOW_TO_READ = """
**The maps.** Every card shows one method, with one map per class. *Signed* maps use two colours:
for the class, and against it. *Support only* maps have no negative side and are drawn in purple.
The scale is printed under every map. Each method has a unit of its own, so by default each has a
scale of its own, shared by its maps; colours of two methods can then not be compared, only where
they are. Methods that work *per pixel* can be summed to patches to compare them with the others.

**The numbers.**

- *Seconds*: for all maps of a card. Methods that look at the last block only start from what was
  already read of the picture; the others start from its pixels.
- *Compactness*: the share of the map that is nearly zero. A compact map is easy to read, which does
  not make it right.
- *Correlation* between the maps of the first two classes: near 1, the method says the same
  whichever class you ask for; near 0 or below, it tells the classes apart.
- *Fidelity*: parts of the picture are blurred, the most important first, then the least important
  first. The logit should fall fast in the first case and stay in the second. The grey band is what
  random orders do.
- *Box sensitivity*: how well the scores inside random boxes foretell what blurring the box costs.
- *Random weights, swapped classes*: a map that does not change when the model has forgotten
  everything does not explain the model.

**What all this does not tell**

- No test here knows the truth. They ask whether a map agrees with what the model does, on one
  picture and with one kind of disturbance.
- A method that wins here need not win on the next picture. Judge methods on many pictures before
  trusting one.
- They explain the model, not the world. A wrong answer gets a map as clear as a right one.
- All methods run with their standard settings.
"""


def main() -> None:
    _frame.guard()
    with st.sidebar:
        model_id = _pickers.pick_model()
        picture = _pickers.pick_picture()
    _pickers.show_model_problem()
    st.title("Which map may I trust?", anchor=False)
    st.markdown(PURPOSE)
    try:
        model = _state.get_model(model_id)
    except cdam.BadCheckpoint as error:
        st.error(plain(str(error)))
        return
    if picture is None:
        st.info("Open a picture of your own in the menu on the left to begin.")
        return
    prepared = _state.prepare(model_id, picture)
    if not _pickers.wants_maps_anyway(picture, prepared):
        return
    with st.sidebar:
        _pickers.show_predictions(model, prepared.logits)
    question = Question(model_id, picture, pick_classes(model, model_id, picture, prepared))
    methods = pick_methods(model_id)
    if question.targets and methods:
        compare_methods(question, prepared, methods)
        names = [model.class_names[target] for target in question.targets]
        _links.write(picture, names, methods)
    else:
        st.info("Choose at least one class and one method.")
    with st.expander("How to read this, and what it does not tell", icon=":material/help:"):
        st.markdown(HOW_TO_READ)


# ---- what is asked -------------------------------------------------------------------------------


def pick_classes(
    model: cdam.VisionModel, model_id: str, picture: _state.Picture, prepared: _state.Prepared
) -> tuple[int, ...]:
    """The classes to explain: those chosen on another page; at first the two strongest answers."""
    token = f"{model_id}.{picture.digest[:16]}"
    key = f"classes.{token}"
    if key not in st.session_state:
        asked = _links.asked_classes(model)
        if not asked and st.session_state.get("classes", ("",))[0] == token:
            asked = st.session_state["classes"][1]
        strongest = [int(c) for c in np.argsort(-prepared.logits, kind="stable")[:2]]
        st.session_state[key] = (asked or strongest)[:MAX_CLASSES]
    chosen = st.multiselect(
        "Classes to explain", range(len(model.class_names)), key=key,
        format_func=class_labels(model).__getitem__, max_selections=MAX_CLASSES,
        placeholder="Choose up to four classes",
    )
    if chosen:
        st.session_state["classes"] = (token, list(chosen))
    return tuple(chosen)


def pick_methods(model_id: str) -> list[str]:
    """Which methods to show, each with what it costs here."""
    if "methods" not in st.session_state:
        named = [name for name in st.query_params.get_all("method") if name in BY_COST]
        st.session_state["methods"] = st.session_state.get("kept.methods") or named or AT_FIRST
    chosen = st.pills(
        "Methods, and what they cost on this machine", BY_COST, key="methods",
        selection_mode="multi",
        format_func=_controls.method_with_cost(model_id),
    )
    st.session_state["kept.methods"] = chosen
    return [name for name in BY_COST if name in chosen]


def pick_view(prepared: _state.Prepared, has_pixels: bool) -> tuple[Look, str, bool, str]:
    """How maps are drawn, which of them share a scale, and the order of the cards."""
    _controls.restore()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        order = st.selectbox(
            "Sort by", ["", *COLUMNS], key="sort", width=180,
            format_func=lambda name: COLUMNS[name].label if name else "The list above",
            help="Best first. Fidelity and box sensitivity have to be measured first, below.",
        )
        sharing = st.selectbox(
            "One scale for", list(SCALES), key="sharing", format_func=SCALES.get, width=190,
            help="Units differ between methods. Where all signed maps share one scale, those in "
            "small units look empty.",
        )
        palette = _controls.pick_palette(160)
        with st.container(width=195, gap="xsmall"):
            summed = _controls.pick_summed(has_pixels)
            outlines = _controls.pick_outlines(prepared)
    _controls.remember()
    return Look(palette, outlines=outlines), sharing, summed, order


# ---- the grid ------------------------------------------------------------------------------------


def compare_methods(
    question: Question, prepared: _state.Prepared, methods: Sequence[str]
) -> None:
    """Compute what is missing, show everything, and offer the tests."""
    progress = st.empty()
    has_pixels = any(METHODS[name].resolution == "pixel" for name in methods)
    look, sharing, summed, order = pick_view(prepared, has_pixels)
    index = judged_class(question)
    tasks = {name: method_task(question, name) for name in methods}
    rows = known_rows(tasks, summed)
    judged = _methods_trust.judged_so_far(question, list(rows.values()), index)
    values = values_by_method(rows, judged)
    waiting = [name for name in tasks if name not in rows]
    shown = _methods_cards.sorted_methods([n for n in methods if n in rows], values, order)
    slots = draw_slots([*shown, *waiting], len(question.targets))
    scales = _methods_cards.scales_of(list(rows.values()), sharing)
    for name in tasks:
        if name in rows:
            with slots[name].container(border=True, height="stretch"):
                show_card(question, prepared, rows[name], scales[name], look, values[name])
        else:
            show_waiting(slots[name], name, tasks[name])

    def show_result(task: _methods_jobs.Task) -> None:
        name = task.key[-1]
        fresh = known_rows({name: task}, summed)
        if name not in fresh:
            show_waiting(slots[name], name, task)
            return
        rows.update(fresh)
        _methods_cards.note_cost(question.model_id, fresh[name].explanation)
        own = _methods_cards.scales_of([fresh[name]], sharing)[name]
        numbers = values_by_method(fresh, {})[name]
        with slots[name].container(border=True, height="stretch"):
            show_card(question, prepared, fresh[name], own, look, numbers)

    computed = _methods_jobs.run("methods", list(tasks.values()), progress, show_result)
    if computed and (order or sharing == "column"):
        st.rerun()  # places and shared scales depend on all of them
    rows = {name: rows[name] for name in methods if name in rows}
    if rows:
        put_to_the_test(question, prepared, rows, look)
        offer_downloads(question, prepared, rows, look, sharing)


def known_rows(tasks: dict[str, _methods_jobs.Task], summed: bool) -> dict[str, Row]:
    """Method -> its maps, for those that are there."""
    found = {name: _state.recall(task.key) for name, task in tasks.items()}
    return {
        name: _methods_cards.row_of(result, summed)
        for name, result in found.items()
        if isinstance(result, cdam.Explanation)
    }


def values_by_method(
    rows: dict[str, Row], judged: dict[str, _methods_trust.Judged]
) -> dict[str, dict[str, float]]:
    numbers = {name: one.numbers() for name, one in judged.items()}
    return {name: _methods_cards.values_of(row, numbers) for name, row in rows.items()}


def draw_slots(order: Sequence[str], n_maps: int) -> dict[str, Any]:
    """A place for every card, in order, so that each can be filled when it is ready."""
    per_row = {1: 4, 2: 2}.get(n_maps, 1)
    slots = {}
    for start in range(0, len(order), per_row):
        columns = st.columns(per_row)
        for column, name in zip(columns, order[start : start + per_row], strict=False):
            slots[name] = column.empty()
    return slots


def show_waiting(slot: Any, name: str, task: _methods_jobs.Task) -> None:
    """A card without maps: not there yet, or not to be had."""
    result = _state.recall(task.key)
    with slot.container(border=True, height="stretch"):
        st.markdown(f"**{plain(METHODS[name].label)}**")
        if isinstance(result, Failed):
            st.warning(plain(result.message))
        else:
            st.caption("Not computed yet.")


def show_card(
    question: Question,
    prepared: _state.Prepared,
    row: Row,
    scales: Sequence[float],
    look: Look,
    values: dict[str, float],
) -> None:
    """One method: its maps, and what is known about them."""
    method = METHODS[row.method]
    seconds = _methods_cards.seconds_text(row.explanation.seconds)
    st.markdown(
        f"**{plain(method.label)}**  :small[{seconds} · {_methods_cards.kind_of(row)}]",
        help=f"{plain(method.summary)}  \n*Source:* {plain(method.source)}",
    )
    _methods_viewer.card(
        drawn(question, prepared, row, scales, look), key=f"card.{row.method}"
    )
    words = [_methods_cards.cares_sentence(row)]
    if not math.isnan(values["fidelity"]):
        words.append(f"Fidelity **{values['fidelity']:.0f}**, box sensitivity "
                     f"**{values['box_sensitivity']:.1f}**.")
    st.caption("  \n".join(words))
    if st.button(
        "Open in Compare classes", key=f"compare.{row.method}", type="tertiary",
        icon=":material/compare:",
    ):
        open_comparison(question, row)


def drawn(
    question: Question, prepared: _state.Prepared, row: Row, scales: Sequence[float], look: Look
) -> dict[str, Any]:
    """What a card shows; drawing takes most of the time of a redraw, so the last ones are kept."""
    kept = st.session_state.setdefault("drawn", {})
    key = (*question.key, row.method, row.explanation.scores.shape, tuple(scales), look)
    if key not in kept:
        if len(kept) >= DRAWN_KEPT:
            kept.pop(next(iter(kept)))
        kept[key] = _methods_cards.card_data(prepared, row, scales, look)
    return kept[key]


def open_comparison(question: Question, row: Row) -> None:
    """Go to the comparison page with these classes and this method, as an address would."""
    model = _state.get_model(question.model_id)
    token = f"{question.model_id}.{question.picture.digest[:16]}"
    for key in (f"a.{token}", f"b.{token}", "method"):
        st.session_state.pop(key, None)
    st.session_state["link"] = {
        "class": [model.class_names[target] for target in question.targets],
        "method": row.method,
    }
    st.switch_page(_frame.navigation_pages()[1])


# ---- tests of trust ------------------------------------------------------------------------------


def judged_class(question: Question) -> int:
    """Which of the classes the tests below are about."""
    chosen = st.session_state.get("judged")
    return question.targets.index(chosen) if chosen in question.targets else 0


def put_to_the_test(
    question: Question, prepared: _state.Prepared, rows: dict[str, Row], look: Look
) -> None:
    st.subheader("Put the maps to the test", anchor=False)
    model = _state.get_model(question.model_id)
    if st.session_state.get("judged") not in question.targets:
        st.session_state["judged"] = question.targets[0]
    st.selectbox(
        "Judge the maps of", question.targets, key="judged", width=260,
        format_func=class_labels(model).__getitem__,
    )
    index = judged_class(question)
    measure(question, list(rows.values()), index)
    check_sanity(question, prepared, rows, index, look)


def measure(question: Question, rows: Sequence[Row], index: int) -> None:
    """Fidelity and boxes of all shown maps, on demand."""
    st.markdown("**Does the model lose its answer where the map is strong?**")
    target = question.targets[index]
    asked_key = ("measure", *question.key[:2], target)
    asked = st.session_state.setdefault("measured", set())
    if st.button("Measure all shown maps", key="measure", icon=":material/straighten:",
                 help="Blurs the picture in some hundred ways; it takes a minute or two."):
        asked.add(asked_key)
    progress = st.empty()
    if asked_key not in asked:
        return
    label = rows[0].explanation.labels[index]
    end = st.segmented_control(
        "Curve", list(_methods_trust.ENDS), key="trust.end", default="mif", required=True,
        format_func=_methods_trust.ENDS.get, label_visibility="collapsed",
    )
    words, figure, lines = (st.empty() for _ in range(3))
    known = -1

    def show(_task: _methods_jobs.Task | None = None) -> None:
        nonlocal known
        judged = _methods_trust.judged_so_far(question, rows, index)
        if not judged or len(judged) == known:
            return
        known = len(judged)
        words.markdown(_methods_trust.ranking_words(judged, label))
        # A key of its own each time: one key cannot be drawn twice in a run.
        figure.plotly_chart(
            _methods_trust.chart(judged, end, label), key=f"trust.chart.{known}"
        )
        with lines.container():
            numbers = {name: st.column_config.NumberColumn(format=form)
                       for name, form in _methods_trust.FORMATS.items()}
            st.dataframe(
                _methods_trust.table(judged), hide_index=True, column_config=numbers
            )
            st.caption(_methods_trust.CAVEATS)

    show()
    tasks = _methods_trust.tasks_for(question, rows, index)
    if _methods_jobs.run("measure", tasks, progress, show):
        st.rerun()  # the cards show and sort by what is known now


def check_sanity(
    question: Question, prepared: _state.Prepared, rows: dict[str, Row], index: int, look: Look
) -> None:
    """The same map from models that know less, on demand."""
    st.markdown("**Does the map change when the model forgets what it learned?**")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        method = st.selectbox("Method", list(rows), key="sanity.method", width=260,
                              format_func=lambda name: METHODS[name].label)
        one = st.button("Check this one", key="sanity.one", icon=":material/psychology_alt:")
        every = st.button("Check all shown", key="sanity.every")
    asked = st.session_state.setdefault("checked", set())
    asked |= {(*question.key, name) for name in (rows if every else [method] if one else [])}
    wanted = [name for name in rows if (*question.key, name) in asked]
    progress, place = st.empty(), st.empty()
    if not wanted:
        return

    def show(_task: _methods_jobs.Task | None = None) -> None:
        with place.container():
            show_sanity(question, prepared, rows, wanted, method, index, look)

    show()
    try:
        tasks = _methods_sanity.tasks_for(question, wanted)
    except cdam.BadTarget as error:
        st.warning(plain(str(error)))
        return
    _methods_jobs.run("sanity", tasks, progress, show)


def show_sanity(
    question: Question,
    prepared: _state.Prepared,
    rows: dict[str, Row],
    wanted: Sequence[str],
    method: str,
    index: int,
    look: Look,
) -> None:
    changed = {name: _methods_sanity.found(question, rows[name]) for name in wanted}
    known = {
        name: _methods_sanity.correlations(rows[name], changed[name], index) for name in wanted
    }
    if known.get(method):
        data = _methods_sanity.panels(prepared, rows[method], changed[method], index, look)
        # A key of its own each time: one key cannot be drawn twice in a run.
        steps = sum(len(each) for each in changed.values())
        _methods_viewer.card(data, key=f"sanity.card.{steps}")
        st.markdown(_methods_sanity.verdict(method, known[method]))
    lines = _methods_sanity.table({name: r for name, r in known.items() if r})
    if len(lines) > 1:
        numbers = {row.label: st.column_config.NumberColumn(format="%.2f", help=row.summary)
                   for row in RANDOMISATIONS.values()}
        st.dataframe(lines, hide_index=True, column_config=numbers)
    if lines:
        st.caption(_methods_sanity.CAVEATS)


# ---- downloads -----------------------------------------------------------------------------------


def offer_downloads(
    question: Question,
    prepared: _state.Prepared,
    rows: dict[str, Row],
    look: Look,
    sharing: str,
) -> None:
    """The sheet of all maps, the measures, and the raw scores with what made them."""
    first = next(iter(rows.values())).explanation
    simulated = ["simulated"] if first.simulated else []
    parts = ["methods", question.model_id.removeprefix("timm:"), *first.labels, *simulated]
    index = judged_class(question)
    judged = _methods_trust.judged_so_far(question, list(rows.values()), index)
    checked = {
        name: _methods_sanity.correlations(
            row, _methods_sanity.found(question, row), index)
        for name, row in rows.items()
    }
    originals = [_state.recall(method_task(question, name).key) for name in rows]
    st.subheader("Take it home", anchor=False)
    offers = (
        ("All maps (PNG)", "png", "image/png",
         lambda: _methods_files.sheet(prepared, rows, look, sharing)),
        ("Measures (CSV)", "csv", "text/csv",
         lambda: _methods_files.measures(rows, judged, checked, index)),
        ("Scores (NPZ)", "npz", "application/octet-stream",
         lambda: _methods_files.scores(originals)),
    )
    _downloads.buttons("methods", parts, offers)
    model = _state.get_model(question.model_id)
    ends = _methods_cards.scales_of(list(rows.values()), sharing)
    summed = any(row.explanation.scores.shape != original.scores.shape
                 for row, original in zip(rows.values(), originals, strict=True))  # fmt: skip
    drawing = _exports.drawing(prepared, look, summed, tuple(tuple(ends[name]) for name in rows))
    _exports.offer_parcel(_exports.Parcel(
        "methods", parts, model, question.picture, prepared.logits, originals, drawing,
        measures=measures_per_map(rows, judged, index),
    ))  # fmt: skip


def measures_per_map(
    rows: dict[str, Row], judged: dict[str, _methods_trust.Judged], index: int
) -> dict[str, list[float]]:
    """What was measured, map by map; of each method, one class is put to the test."""
    known = {name: one.numbers() for name, one in judged.items()}
    return {
        label: [known.get(name, {}).get(id_, math.nan) if position == index else math.nan
                for name, row in rows.items() for position in range(len(row.explanation.labels))]
        for id_, label in (("fidelity", "fidelity"), ("box_sensitivity", "box sensitivity"))
        if known
    }  # fmt: skip


main()
