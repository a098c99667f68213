"""The frame around every page: configuration, navigation, brand and footer."""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from pages import _account, _limits, _links, _operations, _visits

FOLDER = Path(__file__).parent
LOGO = FOLDER / "_viewer" / "logo.svg"
ICON = FOLDER / "_viewer" / "icon.png"


@dataclass(frozen=True)
class Row:
    """One page of the navigation.

    Attributes:
        file: in this folder.
        title: shown in the navigation.
        url_path: its address.
        icon: of Streamlit's own icon font.
    """

    file: str
    title: str
    url_path: str
    icon: str


# The first page is also what the bare address opens.
PAGES = (
    Row("compare.py", "Compare classes", "compare", ":material/compare:"),
    Row("methods.py", "Methods", "methods", ":material/balance:"),
    Row("benchmark.py", "Benchmark", "benchmark", ":material/leaderboard:"),
    Row("nodules.py", "Lung nodules", "nodules", ":material/pulmonology:"),
    Row("attention.py", "Attention vs CDAM", "attention", ":material/scatter_plot:"),
    Row("concepts.py", "Concepts", "concepts", ":material/category:"),
    Row("teach.py", "Teach it", "teach", ":material/school:"),
    Row("several.py", "Several pictures", "several", ":material/photo_library:"),
)
SERVER = Row("server.py", "Server", "server", ":material/monitor_heart:")  # for administrators

FOOTER = (
    "CDAM Explorer shows what a model read from a picture, not what is true. "
    "It is no medical device and not meant for diagnosis. Your pictures stay in memory, for this "
    "visit only."
)


def main() -> None:
    """Draw the frame and run the chosen page inside it."""
    st.set_page_config(
        page_title="CDAM Explorer", page_icon=str(ICON), layout="wide",
        initial_sidebar_state="auto",
    )
    st.logo(str(LOGO), size="large")
    st.session_state["frame"] = True
    _links.follow()
    page = st.navigation(navigation_pages(), position="top")
    _visits.begin()
    _limits.show()
    page.run()
    st.divider()
    st.caption(FOOTER)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        _visits.offer_to_forget()
        if _operations.is_for_visitor():
            st.page_link(server_page(), width="content")
    _account.show()


def navigation_pages() -> list[st.Page]:
    """The default page under the bare address, and every page under its own."""
    first = PAGES[0]
    home = st.Page(FOLDER / first.file, title=first.title, icon=first.icon, default=True,
                   url_path="home")
    named = [
        st.Page(FOLDER / row.file, title=row.title, url_path=row.url_path, icon=row.icon,
                visibility="hidden" if row is first else "visible")
        for row in PAGES
    ]
    return [home, *named, *([server_page()] if _operations.is_for_visitor() else [])]


def server_page() -> st.Page:
    """How the server is doing; reached from the footer."""
    return st.Page(FOLDER / SERVER.file, title=SERVER.title, url_path=SERVER.url_path,
                   icon=SERVER.icon, visibility="hidden")  # fmt: skip


def guard() -> None:
    """First line of every page: a page outside the frame shows nothing but a hint."""
    if not st.session_state.get("frame"):
        st.error("Please start the app with: streamlit run app.py")
        st.stop()


if __name__ == "__main__":
    main()
