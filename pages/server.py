"""Server: how this process is doing, for its administrators alone."""

import time

import streamlit as st

from pages import _operations
from pages._frame import guard

PAUSE = 5  # seconds between two looks


def main() -> None:
    guard()
    st.title("Server", anchor=False)
    if not _operations.is_for_visitor():
        st.error("This page is for the administrators of this server.")
        return
    show()


@st.fragment(run_every=PAUSE)
def show() -> None:
    found = _operations.report()
    hours = (time.time() - found.started) / 3600
    st.markdown(f"This process is **{found.state}**; it began {hours:.1f} hours ago. Everything "
                "here is counted in this process alone, and nothing of it is about a person.")
    figures = (
        ("Open tabs", f"{found.open_tabs}", "Visits whose tab is connected."),
        ("Closed tabs", f"{found.closed_tabs}", "Visits that will be forgotten in a moment."),
        ("Jobs at work", f"{found.at_work}", "Computations that have a place."),
        ("Jobs in line", f"{found.waiting}", "Computations that wait for a place."),
        ("Memory", megabytes(found.memory), "Of the whole process."),
        ("Encodings and maps", megabytes(found.cache),
         f"Kept for all visits together; {megabytes(found.cache_budget)} at most, by "
         "computing.cache_mb in server.toml."),
        ("Uploads waiting", megabytes(found.uploads), "Files that have come and are not read yet."),
        ("Files to fetch", megabytes(found.media), "Files for browsers of open visits."),
    )  # fmt: skip
    with st.container(horizontal=True):
        for label, value, meaning in figures:
            st.metric(label, value, help=meaning, border=True, width=200)
    st.subheader("Models in memory", anchor=False)
    st.text("\n".join(found.models) or "none")
    st.subheader("Latest errors", anchor=False)
    if found.errors:
        st.dataframe([{"When (UTC)": each.when, "Error id": each.id, "Where": " ".join(each.places)}
                      for each in found.errors], hide_index=True)  # fmt: skip
    else:
        st.text("none since it began")
    st.subheader("Versions", anchor=False)
    st.text("\n".join(f"{name} {number}" for name, number in found.versions.items()))


def megabytes(count: int) -> str:
    return f"{count / 2**20:.0f} MB"


main()
