"""Visits: how one begins anew after a restart, without an old map passing for the current one.

A visit is a browser tab: its pictures, maps and concepts live in the memory of one process. After a
restart the browser connects again by itself and names its old visit, which nobody knows any more.
"""

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

RESET = (
    "**Please open your pictures again.** The server was restarted, or this tab was away for too "
    "long: what you had opened, computed and built here is gone, and this page has begun anew."
)
PROTOCOL = "Sec-WebSocket-Protocol"  # "streamlit, <token>, <visit that the browser was in>"
DAY = 24 * 3600


@st.fragment(run_every=DAY)
def _watch() -> None:
    """Nothing to see; it makes the browser ask for the whole page when it is connected again.

    A browser does so by itself only where something on the page is drawn from time to time.
    Elsewhere it would go on showing what an earlier server has sent.
    """


def begin() -> None:
    """To be called by the frame, above the page: tell who comes from a visit that is no more."""
    _watch()
    if "visit" not in st.session_state:
        st.session_state["visit"] = "anew" if _earlier_visit() else "known"
    if st.session_state["visit"] == "anew":
        said, answer = st.columns([12, 1], vertical_alignment="center")
        said.warning(RESET, icon=":material/restart_alt:")
        answer.button("OK", key="visit.ok", on_click=_noted)


def _noted() -> None:
    st.session_state["visit"] = "known"


def _earlier_visit() -> str | None:
    """Id of the visit that the browser was in, where this one is another."""
    context = get_script_run_ctx()
    named = st.context.headers.get(PROTOCOL, "").split(",")
    earlier = named[2].strip() if len(named) > 2 else ""
    return earlier if context is not None and earlier not in ("", context.session_id) else None
