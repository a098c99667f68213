"""A part of the picture that the visitor draws: how much of the evidence lies inside."""

from collections.abc import Sequence

import streamlit as st

import cdam_core as cdam
from cdam_core.methods import METHODS
from cdam_core.regions import shares, shares_words
from pages import _panels
from pages._words import percent, plain

KEY = "region"  # (token, Region) of this visit; goes with the picture


def current(token: str) -> cdam.Region | None:
    """The region drawn on this picture; another picture has none."""
    known, region = st.session_state.get(KEY, ("", None))
    return region if known == token else None


def on_drawn(viewer: str, token: str) -> None:
    """Take what the viewer sent; what is no region changes nothing."""
    try:
        region = cdam.Region.from_description(st.session_state[viewer]["region"])
    except cdam.BadRegion:
        return
    st.session_state[KEY] = (token, region)


def pick(grid: tuple[int, int], token: str) -> None:
    """Rows and columns instead of drawing: for the keyboard, and for exact borders."""
    rows, cols = grid
    with st.expander("A region: how much of the evidence lies inside?",
                     icon=":material/select_all:"):  # fmt: skip
        st.caption("Draw a box or a lasso on any map, or give rows and columns of patches.")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            high = st.slider("Rows", 1, rows, (1, max(1, rows // 2)), key=f"region.rows.{rows}",
                             width=220)  # fmt: skip
            wide = st.slider("Columns", 1, cols, (1, max(1, cols // 2)),
                             key=f"region.cols.{cols}", width=220)  # fmt: skip
            box = ((high[0] - 1) / rows, (wide[0] - 1) / cols), (high[1] / rows, wide[1] / cols)
            st.button("Use this box", on_click=_set, args=(token, cdam.Region("box", box)),
                      key="region.use")  # fmt: skip
            st.button("Remove the region", on_click=_set, args=(token, None), key="region.remove",
                      disabled=current(token) is None)  # fmt: skip


def _set(token: str, region: cdam.Region | None) -> None:
    st.session_state[KEY] = (token, region)


def tell(explanation: cdam.Explanation, names: Sequence[str], region: cdam.Region) -> None:
    """Shares of every map, in words for the first one and as a table for all."""
    patches, covered = _panels.per_patch(explanation), region.coverage(explanation.grid)
    is_signed = METHODS[explanation.method].signed
    found = [shares(scores, covered, explanation.content) for scores in patches.scores]
    place = region.words(explanation.grid)
    st.markdown(plain(f"In the region ({place}): {shares_words(names[0], found[0], is_signed)}"))
    if len(names) < 2:
        return
    head = ["Map", "for, inside", "against, inside"] if is_signed else ["Map", "inside"]
    rows = [[plain(name), _share(each.positive), _share(each.negative)][: len(head)]
            for name, each in zip(names, found, strict=True)]  # fmt: skip
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    st.markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _share(value: float) -> str:
    return "–" if value != value else percent(value)
