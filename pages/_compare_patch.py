"""One patch of the comparison: which is chosen, and the classes it speaks for and against."""

from typing import Any

import numpy as np
import streamlit as st

import cdam_core as cdam
from cdam_core.methods import METHODS
from pages import _panels, _state, _viewer
from pages._controls import VARIANTS
from pages._words import plain

INSPECTED = 5  # classes on either side


def every_class(
    model_id: str, picture: _state.Picture, explanation: cdam.Explanation
) -> cdam.Explanation | None:
    """The map of every class, by plain CDAM, which answers for all of them at once.

    None for methods that are no variant of it: its numbers would not be theirs.
    """
    if explanation.method not in VARIANTS:
        return None
    heads = explanation.settings.get("heads")
    settings = {"heads": tuple(heads)} if heads else {}
    return _state.explain(model_id, picture, None, "cdam", settings)


def on_patch() -> None:
    """A click in the viewer moves the numbers beside the inspector, which hold the patch."""
    row, col = st.session_state["viewer"]["patch"]
    rows, cols = st.session_state["patch.grid"]
    st.session_state["patch.row"] = min(max(int(row), 0), rows - 1) + 1
    st.session_state["patch.col"] = min(max(int(col), 0), cols - 1) + 1


def current_patch(explanation: cdam.Explanation, token: str) -> tuple[int, int]:
    """(row, col) of the selected patch; at first the strongest one for A."""
    known, *patch = st.session_state.get("patch", ("", 0, 0))
    if known != token:
        patch = _panels.strongest_patch(explanation, 0)
    if known != token or "patch.row" not in st.session_state:
        st.session_state["patch.row"], st.session_state["patch.col"] = patch[0] + 1, patch[1] + 1
    row, col = st.session_state["patch.row"] - 1, st.session_state["patch.col"] - 1
    st.session_state["patch"], st.session_state["patch.grid"] = (token, row, col), explanation.grid
    return row, col


def inspect(
    explanation: cdam.Explanation,
    every: cdam.Explanation | None,
    patch: tuple[int, int],
    look: _panels.Look,
) -> None:
    """One patch: the classes it speaks for and against most, or its scores without signs."""
    rows, cols = explanation.grid
    title = "One patch, all classes" if every is not None else "One patch, the classes shown"
    st.subheader(title if METHODS[explanation.method].class_specific else "One patch",
                 anchor=False)  # fmt: skip
    where, left, right = st.columns([1, 1.3, 1.3], gap="medium")
    with where, st.container(horizontal=True):
        st.number_input("Row", 1, rows, key="patch.row", width=95)
        st.number_input("Column", 1, cols, key="patch.col", width=95)
    if not explanation.content[patch]:
        left.info("This patch is padding around the picture. It is not counted.")
        return
    with where:
        st.caption("Click a patch in any map, or choose it here.")
    told = every if every is not None else classes_alone(_panels.per_patch(explanation))
    draw_bars(told, patch, look, (left, right))
    if every is None:
        st.caption(f"These values are those of {plain(METHODS[explanation.method].label)}. Only "
                   "CDAM answers for all classes at once.")  # fmt: skip
    elif explanation.method != "cdam":
        st.caption("These values are plain CDAM's, which answers for all classes at once.")


def classes_alone(explanation: cdam.Explanation) -> cdam.Explanation:
    """The same without the difference."""
    kinds = [target["kind"] for target in explanation.targets]
    return _panels.only(explanation, [i for i, kind in enumerate(kinds) if kind == "class"])


def draw_bars(
    told: cdam.Explanation,
    patch: tuple[int, int],
    look: _panels.Look,
    columns: tuple[Any, Any],
    key: str = "bars",
) -> None:
    """The patch's scores: for and against, or one list where there are no signs."""
    supported, opposed = _panels.patch_bars(told, patch, INSPECTED)
    against, favour = _panels.bar_colours(told.method, look)
    lists = [("Speaks most for", supported, favour), ("Speaks most against", opposed, against)]
    row = METHODS[told.method]
    if not row.signed:
        supported = supported if row.class_specific else [(row.label, x) for _, x in supported]
        lists = [("Score of this patch", supported, favour)]
    full = max((abs(value) for _, value in supported + opposed), default=1.0)
    scale = float(np.abs(told.scores).max())
    for column, (title, found, colour) in zip(columns, lists, strict=False):
        items = [(name, value, _panels.number_text(value, scale, row.signed))
                 for name, value in found]  # fmt: skip
        with column:
            none = "No class at all." if row.signed else "Nothing."
            _viewer.bars(title, items, full, key=f"{key}.{title}", colour=colour, none=none)
