"""The scatter and the pictures beside it: what is selected among the points, what in the picture.

A selection belongs to what is plotted, a marked patch to its set of pictures; both are checked when
they arrive from a browser and forgotten when they no longer fit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

import cdam_core as cdam
from cdam_core.mechanism import Mechanism, Patches
from cdam_core.methods import METHODS
from cdam_core.pictures import draw
from pages import _attention_points, _attention_viewer, _panels
from pages._attention_points import Points, View
from pages._attention_pool import asks_one_class
from pages._attention_question import Question, once, palette
from pages._attention_sets import PictureSet
from pages._panels import Look, data_url
from pages._words import plain, signed

PANEL_SIDE = 280  # pixels of a picture beside the points
VIEWS_KEPT = 32  # such pictures of a set that are remembered


def link(
    question: Question,
    which: PictureSet,
    pictures: tuple[Patches, ...],
    view: View,
    colouring: str,
) -> None:
    """The scatter, the pictures beside it, and what is selected.

    Args:
        question: about the current picture.
        which: whose patches are plotted.
        pictures: their patches.
        view: what is plotted.
        colouring: id in ``_attention_points.COLOURINGS``.
    """
    is_current = which.id == question.set_id
    identity = identity_of(question, which)
    points = once(
        "points", (identity, view.id, colouring, tuple(pictures[0].scores)),
        lambda: _attention_points.points_of(pictures, view, colouring, which.titles, identity),
    )  # fmt: skip
    shape, marked = current_shape(points), current_mark(identity, pictures)
    hit = _attention_points.selected(points, shape) if shape else np.zeros(len(points.x), bool)
    chosen = _attention_points.chosen_patches(points, hit)
    panels = (
        once("panels", (question.key, view.needs, palette()), lambda: single_panels(question, view))
        if is_current
        else set_panels(question, which, pictures, chosen if shape else None, marked)
    )
    st.session_state["attention.plotted"] = (points.id, identity)
    selection = {"version": st.session_state.get("attention.version", 0), "shape": shape}
    data = _attention_points.viewer_data(
        points, view, pictures[0].grid, which.titles, panels, selection, marked
    )
    _attention_viewer.scatter(data, "attention-scatter", on_selection, on_patch)
    words = []
    if shape:
        words.append(_attention_points.selection_words(pictures, chosen, view.needs or "cdam"))
    if marked is not None:
        one = next(each for each in pictures if each.number == marked[0])
        title = "" if is_current else f"{which.titles[one.number]}: "
        words.append(plain(title + _attention_points.patch_words(one, marked[1])))
    # A place of its own, so that what stands below it stays what it is, and an open box open.
    with st.container():
        if words:
            st.markdown("  \n".join(words))
    select_by_numbers(points, view, pictures, which)


def identity_of(question: Question, which: PictureSet) -> str:
    """Of a set as it is asked: a marked patch belongs to it."""
    is_one = which.id == question.set_id or asks_one_class()
    return f"{which.id}.{question.model_id}.{question.target if is_one else 'strongest'}"


# ---- what is selected ----------------------------------------------------------------------------


def current_shape(points: Points) -> dict[str, Any] | None:
    """The selection, if it was made among these points."""
    identity, shape = st.session_state.get("attention.selection", ("", None))
    return shape if identity == points.id else None


def on_selection() -> None:
    """A box or lasso was drawn, or the selection cleared."""
    sent = st.session_state["attention-scatter"]["selection"]
    shape = _attention_points.checked_shape(sent)
    st.session_state["attention.selection"] = (st.session_state["attention.plotted"][0], shape)


def current_mark(identity: str, pictures: Sequence[Patches]) -> tuple[int, int] | None:
    """(picture, patch) that was clicked, if it is one of these; none at first."""
    known, number, patch = st.session_state.get("attention.marked", ("", 0, 0))
    one = next((each for each in pictures if each.number == number), None)
    fits = known == identity and one is not None and patch < one.grid[0] * one.grid[1]
    return (number, patch) if fits else None


def on_patch() -> None:
    """A point or a patch was clicked."""
    try:
        number, patch = (int(each) for each in st.session_state["attention-scatter"]["patch"])
    except (TypeError, ValueError, OverflowError):
        return
    if number >= 0 and patch >= 0:
        put_mark(st.session_state["attention.plotted"][1], number, patch)


def put_mark(identity: str, number: int, patch: int) -> None:
    """Mark a patch; here, and in the maps of the heads."""
    st.session_state["attention.marked"] = (identity, number, patch)


def marked_cell(question: Question, parts: Mechanism) -> tuple[int, int]:
    """(row, col) of the patch of the current picture that is marked; at first the strongest."""
    identity, _, patch = st.session_state.get("attention.marked", ("", 0, 0))
    rows, cols = parts.content.shape
    if identity.startswith(f"{question.set_id}.") and patch < rows * cols:
        return divmod(patch, cols)
    strength = np.where(parts.content, np.abs(parts.scores[0]), -1)
    return divmod(int(strength.argmax()), cols)


def select_by_numbers(
    points: Points, view: View, pictures: Sequence[Patches], which: PictureSet
) -> None:
    """The same by keyboard: a box among the points, and one patch."""
    with st.expander("Select by numbers", icon=":material/keyboard:"):
        _box_by_numbers(points, view)
        _patch_by_numbers(pictures, which)


def _box_by_numbers(points: Points, view: View) -> None:
    x0, x1, y0, y1 = points.range
    rows = ((view.x, "from", x0), (view.x, "to", x1), (view.y, "from", y0), (view.y, "to", y1))
    keys = [f"attention.box.{place}.{points.id}" for place in range(len(rows))]
    with st.form("attention.box", border=False), st.container(
            horizontal=True, vertical_alignment="bottom"):  # fmt: skip
        for key, (name, word, value) in zip(keys, rows, strict=True):
            st.number_input(f"{name} {word}", value=float(value), format="%.5g", width=150, key=key)
        st.form_submit_button("Select these points", on_click=_on_box, args=(points.id, keys))


def _on_box(plotted: str, keys: Sequence[str]) -> None:
    """A box was put in by numbers; the browser takes it over."""
    box = [st.session_state[key] for key in keys]
    shape = _attention_points.checked_shape({"kind": "box", "box": box})
    st.session_state["attention.selection"] = (plotted, shape)
    st.session_state["attention.version"] = st.session_state.get("attention.version", 0) + 1


def _patch_by_numbers(pictures: Sequence[Patches], which: PictureSet) -> None:
    (rows, cols), numbers = pictures[0].grid, [each.number for each in pictures]
    keys = (f"attention.picture.{which.id}", f"attention.row.{rows}", f"attention.col.{cols}")
    with st.form("attention.patch", border=False), st.container(
            horizontal=True, vertical_alignment="bottom"):  # fmt: skip
        if len(numbers) > 1:
            st.selectbox("Picture", numbers, format_func=which.titles.__getitem__, width=240,
                         key=keys[0])  # fmt: skip
        st.number_input("Row", 1, rows, width=110, key=keys[1])
        st.number_input("Column", 1, cols, width=110, key=keys[2])
        st.form_submit_button("Find this patch", on_click=_on_place, args=(keys, numbers[0], cols))


def _on_place(keys: Sequence[str], first: int, cols: int) -> None:
    """A patch was put in by numbers."""
    number = st.session_state.get(keys[0], first)
    row, col = (st.session_state[key] - 1 for key in keys[1:])
    put_mark(st.session_state["attention.plotted"][1], number, row * cols + col)


# ---- the pictures beside the points --------------------------------------------------------------


def single_panels(question: Question, view: View) -> list[dict[str, Any]]:
    """What the model saw, and the map that is plotted."""
    e = question.explain(view.needs or "cdam")
    scale = _panels.shared_scale(e)
    saw, coloured = drawn_small(question, e)
    label = METHODS[e.method].label
    return [
        {"picture": 0, "title": "What the model saw", "note": "", "src": saw,
         "alt": "The picture as the model saw it"},
        {"picture": 0, "title": label, "src": coloured,
         "note": f"colours to ±{_panels.number_text(scale, scale, False)}",
         "alt": f"{label}, {_panels.alt_text(e, 0, e.labels[0])}"},
    ]  # fmt: skip


def drawn_small(question: Question, e: cdam.Explanation) -> list[str]:
    """Data URLs of what the model saw and of a map, small."""
    look = Look(palette())
    coloured = draw(question.prepared.view, e, 0, _panels.shared_scale(e), look.palette,
                    look.opacity)  # fmt: skip
    return [data_url(small(each)) for each in (question.prepared.view, coloured)]


def small(picture: Image.Image) -> Image.Image:
    """A copy for beside the points."""
    copy = picture.copy()
    copy.thumbnail((PANEL_SIDE, PANEL_SIDE), Image.Resampling.BILINEAR)
    return copy


def set_panels(
    question: Question,
    which: PictureSet,
    pictures: Sequence[Patches],
    chosen: Mapping[int, set[int]] | None,
    marked: tuple[int, int] | None,
) -> list[dict[str, Any]]:
    """The pictures with most of the selected points, the clicked one first; else the first ones."""
    first = [marked[0]] if marked else []
    rest = [each.number for each in pictures] if chosen is None else list(chosen)
    numbers = list(dict.fromkeys([*first, *rest]))[: _attention_points.PANELS]
    by_number = {each.number: each for each in pictures}
    panels = []
    for number in numbers:
        each, title = by_number[number], which.titles[number]
        note = f"{each.label} {signed(each.value)}"
        if chosen is not None:
            note = f"{len(chosen.get(number, ()))} selected"
        panels.append({"picture": number, "title": title, "note": note,
                       "src": view_of(question, which, number),
                       "alt": f"{title}, as the model saw it"})  # fmt: skip
    return panels


def view_of(question: Question, which: PictureSet, number: int) -> str:
    """Data URL of a picture of a set, as the model saw it."""
    kept = st.session_state.setdefault("attention.views", {})
    key = (question.model_id, which.id, number)
    if key not in kept:
        model = question.model
        try:
            picture = model.fit(which.sources[number]()).image
        except cdam.BadImage:  # gone since it was read
            picture = Image.new("RGB", model.input_size[::-1], "grey")
        while len(kept) >= VIEWS_KEPT:
            kept.pop(next(iter(kept)))
        kept[key] = data_url(small(picture))
    return kept[key]
