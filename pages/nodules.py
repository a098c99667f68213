"""Lung nodules: malignancy and eight biomarkers of a nodule on CT, each with its map."""

import streamlit as st

import cdam_core as cdam
from cdam_core.errors import BadScan
from cdam_core.nodules import BIOMARKERS, Plane
from cdam_core.nodules.crops import MIDDLE
from pages import (
    _controls,
    _nodules_case,
    _nodules_files,
    _nodules_maps,
    _nodules_own,
    _nodules_pairs,
    _nodules_pick,
    _nodules_slices,
    _nodules_viewer,
    _nodules_words,
)
from pages._frame import guard
from pages._nodules_case import MALIGNANCY, MARKERS, OWN, Case
from pages._nodules_maps import Seen
from pages._words import plain

PURPOSE = ("What in a lung nodule speaks for malignant, and what do eight biomarkers of it rest "
           "on?")  # fmt: skip


def main() -> None:
    guard()
    with st.sidebar:
        source = _nodules_pick.pick_source()
    st.title("Lung nodules", anchor=False)
    if source == OWN:
        st.warning(plain(_nodules_words.banner(OWN)), icon=":material/science:")
        case = _nodules_own.pick_case()
    else:
        with st.sidebar:
            nodule = _nodules_pick.pick_nodule(source)
        if nodule is None:
            st.markdown(PURPOSE)
            return
        kind = "dicom" if source == _nodules_case.ARCHIVE else "phantom"
        st.warning(plain(_nodules_words.banner(kind)), icon=":material/science:")
        try:
            case = _nodules_case.bundled_case(source, nodule.id)
        except BadScan as error:
            st.error(plain(str(error)))
            return
    if case is None:
        return
    try:
        for model_id in (MALIGNANCY, MARKERS):
            _nodules_slices.model_of(model_id)
    except cdam.BadCheckpoint as error:
        st.error(plain(str(error)))
        return
    st.session_state["nodules.case"] = case
    redraw()


@st.fragment
def redraw() -> None:
    """Everything that is redrawn without choosing another nodule."""
    if st.session_state.pop("nodules.reopen", False):
        st.rerun()  # the menu, too: another nodule was chosen below
    case: Case = st.session_state["nodules.case"]
    plane = _nodules_slices.current_plane(case)
    heading(case, plane)
    left, right = st.columns([1, 1.55], gap="medium")
    with left:
        _nodules_viewer.ct(
            _nodules_slices.viewer_data(case, plane, _nodules_own.file_window(case)),
            key="nodules.ct", on_plane=_on_plane,
        )  # fmt: skip
    with right:
        answers = st.container()
        look = pick_look()
    found = _nodules_case.answer(case, plane)
    seen = Seen(case, plane, found, look)
    with answers:
        if known := _nodules_maps.familiarity(seen):
            is_unlike, sentence = known
            (st.warning if is_unlike else st.caption)(plain(sentence))
        st.markdown(_nodules_words.malignancy_sentence(found.malignancy, case.nodule))
        _nodules_maps.malignancy(seen)
        st.caption(plain(f"Learnt from: {_nodules_words.tag('malignant')}. "
                         f"{_nodules_words.quality_sentence()}"))
    st.subheader("Eight biomarkers", anchor=False)
    _nodules_maps.markers(seen)
    with st.expander("Values, and how to read each map", icon=":material/table:",
                     expanded=True):  # fmt: skip
        st.markdown(_nodules_words.table(found.markers, case.nodule))
        st.markdown(_nodules_words.reading())
        st.caption("R²: how much of the differences between nodules the model explains on 130 that "
                   "it was not trained on (0: nothing); beside it, of ridge regression on shape "
                   "and density inside the true outline.")  # fmt: skip
    st.subheader("Two biomarkers compared", anchor=False)
    pair = pick_pair()
    _nodules_maps.compared(seen, *pair)
    _nodules_pairs.show(seen)
    st.subheader("The nearest training nodules", anchor=False)
    _nodules_maps.nearest(seen)
    _nodules_files.offer(seen, pair)
    with st.expander("How to read this page, and what it does not tell",
                     icon=":material/help:"):  # fmt: skip
        st.markdown(_nodules_words.GENERAL)


# ---- what is asked -------------------------------------------------------------------------------


def _on_plane() -> None:
    _nodules_slices.take_plane(st.session_state["nodules.case"],
                               st.session_state["nodules.ct"]["plane"])


def heading(case: Case, plane: Plane) -> None:
    """Whose crop, which slice."""
    parts = []
    if case.nodule is not None:
        nodule = case.nodule
        parts.append(f"**Nodule {nodule.id}** of {plain(nodule.patient_id)}, "
                     f"{nodule.biomarkers['diameter']:.1f} mm, {len(nodule.readers)} readers")
        parts.append(_nodules_pick.part_words(nodule))
    else:
        parts.append("**Your own crop**")
    if plane != MIDDLE:
        parts.append(f"explained: {plane.axis} slice at {plane.offset:+.1f} mm".replace("-", "−"))
    parts += [plain(note) for note in case.notes]
    st.markdown(" · ".join(parts))


def pick_look() -> _nodules_maps.Look:
    """How maps are drawn."""
    _controls.restore()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        target = st.segmented_control(
            "Map of", list(_nodules_case.TARGETS), default="malignant", required=True,
            key="nodules.target",
            help="Benign is the negative of malignant, and so is its map: orange speaks for the "
            "one that is chosen.",
        )  # fmt: skip
        palette = _controls.pick_palette(155)
        opacity = _controls.pick_opacity(120)
        with st.container(width=130, gap="xsmall"):
            smooth = st.toggle("Smooth", key="smooth", help="Blend neighbouring patches. For the "
                               "eye only: the scores stay the same.")  # fmt: skip
            outlines = st.toggle("Outlines", key="outlines", help="Draw the 50 % consensus of the "
                                 "readers, where it is known.")  # fmt: skip
    _controls.remember()
    return _nodules_maps.Look(palette, opacity, smooth, outlines, target)


def pick_pair() -> tuple[str, str]:
    """Two biomarkers."""
    for key, name in (("nodules.a", "margin"), ("nodules.b", "spiculation")):
        st.session_state.setdefault(key, st.session_state.get(f"{key}.kept", name))
    with st.container(horizontal=True):
        a = st.selectbox("A", BIOMARKERS, key="nodules.a", width=220)
        b = st.selectbox("B", BIOMARKERS, key="nodules.b", width=220)
    st.session_state["nodules.a.kept"], st.session_state["nodules.b.kept"] = a, b
    return a, b


main()
