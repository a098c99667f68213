"""The sidebar of the page "Lung nodules": which source, which nodules, and which of them."""

from collections.abc import Sequence

import streamlit as st

from cdam_core.errors import BadScan
from cdam_core.nodules import Nodule, load_nodules, load_split
from cdam_core.nodules.browse import load_browse
from cdam_core.nodules.pack import RATINGS
from pages import _nodules_case as cases
from pages._concepts_viewer import Thumb, thumbs
from pages._nodules_case import ARCHIVE, OWN, PHANTOMS
from pages._panels import data_url
from pages._words import plain

LIST = "Nodules to choose from"
PAGE = 12  # thumbnails shown at a time
EVERY = "any"
FILTERED = ("subtlety", "calcification", "sphericity", "margin", "lobulation", "spiculation",
            "texture", "malignancy")  # fmt: skip
PARTS = {"test": "not trained on", "all": "all"}
SIZES = (3, 60)  # mm; what lies beyond counts as the end
DEFAULTS = {"nodules.part": "test", "nodules.label": EVERY, "nodules.size": SIZES,
            "nodules.rating": EVERY}  # fmt: skip


def pick_source() -> str:
    """Where crops come from."""
    labels = dict(PHANTOMS)
    if cases.archive_folder() is not None:
        labels[ARCHIVE] = "Real CT (LIDC-IDRI, this server's folder)"
    labels[OWN] = "Open your own"
    # The widget on another visit to the page would start anew, whatever was chosen here.
    kept = st.session_state.get("nodules.source.kept")
    if "nodules.source" not in st.session_state and kept in labels:
        st.session_state["nodules.source"] = kept
    chosen = st.selectbox(
        "Pictures", list(labels), format_func=labels.get, key="nodules.source",
        help="Simulated CT: real outlines and ratings, computed grey values. “All solid” reads no "
        "rating at all, so only shape is left. Real scans are offered where the administrator of "
        "this server has named a folder of them.",
    )  # fmt: skip
    st.session_state["nodules.source.kept"] = chosen
    return chosen


def pick_nodule(source: str) -> Nodule | None:
    """Filters and thumbnails; None: nothing fits, which is said."""
    try:
        nodules = _of_source(source)
    except BadScan as error:
        st.error(plain(str(error)))
        return None
    kept = filtered(nodules)
    st.caption(f"{len(kept)} of {len(nodules)} nodules")
    if not kept:
        st.info("No nodule fits; widen the filters.")
        return None
    return _choose(kept)


def _of_source(source: str) -> Sequence[Nodule]:
    if source != ARCHIVE:
        return load_nodules()
    with st.spinner("Reading the headers of the folder, once for everybody …"):
        found = cases.archive()
    with st.expander(f"What the folder holds: {len(found.nodules)} nodules"):
        st.caption(plain(found.summary))
        for line in found.report[:50]:
            st.caption(plain(line))
    return found.nodules


# ---- filters -------------------------------------------------------------------------------------


def filtered(nodules: Sequence[Nodule]) -> list[Nodule]:
    """Draw the filters, and return what passes them."""
    for key, value in (DEFAULTS | st.session_state.get("nodules.kept", {})).items():
        st.session_state.setdefault(key, value)
    part = st.segmented_control(
        "Nodules", list(PARTS), format_func=PARTS.get, required=True,
        key="nodules.part",
        help="Of nodules that the models were trained on they say too much. Not trained on: the "
        "130 nodules of patients kept apart.",
    )  # fmt: skip
    label = st.segmented_control(
        "Called by their readers", [EVERY, "malignant", "benign"], required=True,
        key="nodules.label",
    )  # fmt: skip
    low, high = st.slider("Diameter, mm", *SIZES, key="nodules.size")
    rating = st.selectbox(
        "Rating", [EVERY, *FILTERED], key="nodules.rating",
        help="Mean of the readers, from 1 to 5; of calcification to 6, where 6 is absent.",
    )  # fmt: skip
    span = None
    if rating != EVERY:
        top = 6 if rating == "calcification" else 5
        span = st.slider(f"Mean {rating}", 1.0, float(top), (1.0, float(top)), step=0.5,
                         key=f"nodules.span.{rating}")  # fmt: skip
    st.session_state["nodules.kept"] = {key: st.session_state[key] for key in DEFAULTS}
    return [nodule for nodule in nodules
            if (part == "all" or nodule.id in _test())
            and label in (EVERY, "malignant" if nodule.malignant else "benign")
            and low <= min(max(nodule.biomarkers["diameter"], SIZES[0]), SIZES[1]) <= high
            and (span is None or span[0] <= mean_of(nodule, rating) <= span[1])]  # fmt: skip


def mean_of(nodule: Nodule, rating: str) -> float:
    """Mean of the readers' ratings."""
    if rating in nodule.biomarkers:
        return nodule.biomarkers[rating]
    assert rating in RATINGS
    return float(nodule.by_reader(rating).mean())


def nodule(nodule_id: int) -> Nodule:
    """A bundled nodule."""
    return cases.by_id()[nodule_id]


def part_words(nodule: Nodule) -> str:
    """Whether the models were trained on a nodule."""
    split = load_split()
    if nodule.id in split.train:
        return "**trained on**, so the models say too much of it"
    return "not trained on" if nodule.id in split.test else "used to choose between models"


def _test() -> frozenset[int]:
    return frozenset(load_split().test)


# ---- thumbnails ----------------------------------------------------------------------------------


def _choose(kept: Sequence[Nodule]) -> Nodule:
    """Thumbnails, a page at a time; the chosen nodule stays chosen while it passes the filters."""
    ids = [nodule.id for nodule in kept]
    chosen = st.session_state.get("nodules.id")
    if chosen not in ids:
        chosen = st.session_state["nodules.id"] = ids[0]
        st.session_state["nodules.page"] = 0
    pages = -(-len(ids) // PAGE)
    page = min(st.session_state.get("nodules.page", 0), pages - 1)
    shown = kept[page * PAGE : (page + 1) * PAGE]
    thumbs(
        [_thumb(nodule) for nodule in shown], LIST, "nodules.thumbs", "choice", "medium",
        chosen=str(chosen), on_choose=_on_choose,
    )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Previous", key="nodules.back", disabled=page == 0, on_click=_turn,
                  args=(page - 1,))  # fmt: skip
        st.caption(f"{page + 1} of {pages}")
        st.button("Next", key="nodules.on", disabled=page + 1 >= pages, on_click=_turn,
                  args=(page + 1,))  # fmt: skip
    return next(nodule for nodule in kept if nodule.id == chosen)


def _thumb(nodule: Nodule) -> Thumb:
    called = "malignant" if nodule.malignant else "benign"
    size = f"{nodule.biomarkers['diameter']:.0f} mm"
    return Thumb(str(nodule.id), f"Nodule {nodule.id}, {size}, called {called}",
                 _picture(nodule.id), size, called)  # fmt: skip


def _picture(nodule_id: int) -> tuple[str, ...]:
    picture = load_browse().thumbnail(nodule_id)
    return (data_url(picture),) if picture is not None else ()


def _turn(page: int) -> None:
    st.session_state["nodules.page"] = page


def _on_choose() -> None:
    choose(str(st.session_state["nodules.thumbs"]["choose"]))


def choose(text: str) -> None:
    """Look at a nodule; what is no id changes nothing."""
    if text.isdigit() and int(text) in cases.by_id():
        st.session_state["nodules.id"] = int(text)


def open_nodule(text: str) -> None:
    """Look at a nodule wherever it is: filters that would hide it are opened."""
    choose(text)
    nodule = cases.by_id().get(st.session_state.get("nodules.id"))
    if nodule is None:
        return
    for key, value in (DEFAULTS | {"nodules.part": "all"}).items():
        st.session_state[key] = value
    if st.session_state.get("nodules.source.kept") == OWN:
        st.session_state["nodules.source"] = next(iter(PHANTOMS))
    source = st.session_state.get("nodules.source")
    every = [each.id for each in (cases.archive().nodules if source == ARCHIVE
                                  else load_nodules())]  # fmt: skip
    if nodule.id in every:
        st.session_state["nodules.page"] = every.index(nodule.id) // PAGE
