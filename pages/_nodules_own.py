"""A visitor's own CT on the page "Lung nodules": opened, a region chosen, forgotten.

Files are decoded in memory to HU and dropped at once; of a DICOM header nothing is kept that could
name anybody (``cdam_core.nodules.own``). What is kept lives in the visit and goes with it.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

import cdam_core as cdam
from cdam_core.errors import BadScan
from cdam_core.nodules.crops import CENTRAL, PIXEL_MM, SIDE
from cdam_core.nodules.own import MAX_SLICES, OwnScan, Place, open_own, reaches_beyond, take_volume
from pages import _state
from pages._concepts_viewer import crop
from pages._gate import slot
from pages._nodules_case import OWN, Case
from pages._nodules_slices import WINDOWS, with_ruler
from pages._panels import data_url
from pages._words import plain

KEYS = ("nodules.own", "nodules.own.case", "nodules.centre", "nodules.box", "nodules.own.problem",
        "nodules.case", "nodules.plane")  # fmt: skip
CROP_MM = SIDE * PIXEL_MM
USUAL_MM = 0.7  # per pixel: the median of LIDC-IDRI
LUNG = (-600, 1500)  # centre and width
SHOWN = 1024  # pixels of the picture that a box is drawn on, at most
RULER_MM = 50
HELP = (
    "A DICOM slice of CT, up to {count} slices of one series, or a PNG or JPEG picture of a slice. "
    "DICOM files may be uncompressed or packed as run lengths, JPEG, JPEG-LS or JPEG 2000. "
    "Files are decoded in memory and dropped at once; of a header only "
    "geometry and grey value scaling are read. Names that are burnt into the picture cannot be "
    "removed here."
)


def pick_case() -> Case | None:
    """Upload and region; None until there is both."""
    with st.sidebar:
        _upload()
    scan: OwnScan | None = st.session_state.get("nodules.own")
    if scan is None:
        st.info("Open a CT slice of your own in the menu on the left: a DICOM file, several of one "
                "series, or a PNG picture. Then drag a box around the nodule.")  # fmt: skip
        return None
    with st.sidebar:
        st.button("Forget my files", on_click=forget, key="nodules.forget", width="stretch",
                  icon=":material/delete_sweep:")  # fmt: skip
    place = _pick_place(scan)
    return None if place is None else case_of(scan, place)


def file_window(case: Case) -> tuple[float, float] | None:
    """(low, high) HU that the visitor's file asks for."""
    scan = st.session_state.get("nodules.own")
    return scan.window if case.source == OWN and scan is not None else None


# ---- files ---------------------------------------------------------------------------------------


def _upload() -> None:
    # No list of endings: DICOM files often have none. What a file is, its content says.
    uploaded = st.file_uploader(
        "Open your own slices", accept_multiple_files=True, help=HELP.format(count=MAX_SLICES),
        key=f"nodules.upload.{st.session_state.get('nodules.uploads', 0)}",
    )  # fmt: skip
    if uploaded:
        st.session_state["nodules.own.problem"] = take(uploaded)
        st.rerun()
    if problem := st.session_state.get("nodules.own.problem"):
        st.error(plain(problem))


def take(uploaded: Sequence[Any]) -> str:
    """Open files in place of those before; drops the server's copies whatever comes.

    Returns:
        Why they cannot be used, in a sentence; empty where they can. Then what was open stays.
    """
    try:
        with slot():
            scan = open_own([file.getvalue() for file in uploaded[: MAX_SLICES + 1]])
    except (BadScan, cdam.BadImage) as error:
        return str(error)
    finally:
        for file in uploaded:
            _state.drop_raw_file(file)
        st.session_state["nodules.uploads"] = st.session_state.get("nodules.uploads", 0) + 1
    forget()
    st.session_state["nodules.own"] = scan
    return ""


def forget() -> None:
    """Remove the files and everything computed from them."""
    for key in KEYS:
        st.session_state.pop(key, None)
    _state.forget_results("nodules")


# ---- region --------------------------------------------------------------------------------------


def _pick_place(scan: OwnScan) -> Place | None:
    """Draw the picture with its box and the same in numbers."""
    picture_side, numbers = st.columns([1.3, 1], gap="medium")
    with numbers:
        st.markdown("**Drag a box around the nodule**, or give the place in numbers. The models "
                    f"see {CROP_MM:.0f} mm around the middle of the box, shown dashed.")
        index = _pick_slice(scan)
        spacing = scan.spacing or _ask_spacing()
        window = (0.0, 0.0) if scan.is_hu else _ask_window()
        rows, cols = scan.values.shape[1:]
        size = (rows * spacing[0], cols * spacing[1])  # mm
        _numbers_of(size)
    with picture_side:
        picture = scan.picture(index, scan.window or WINDOWS["Lung"], spacing)
        picture.thumbnail((SHOWN, SHOWN))
        picture = with_ruler(picture, picture.width / size[1], RULER_MM)
        crop(data_url(picture), f"Your slice, {size[1]:.0f} × {size[0]:.0f} mm. Draw a box around "
             "the nodule, or use the numbers beside it.", "nodules.crop", _on_box,
             planned=planned(size), wide=True)  # fmt: skip
        st.caption(plain(f"{size[1]:.0f} × {size[0]:.0f} mm, {cols} × {rows} pixels, "
                         f"{len(scan.values)} {'slice' if len(scan.values) == 1 else 'slices'}."))
    centre = st.session_state.get("nodules.centre")
    if centre is None:
        return None
    return Place(index, centre[0] * rows, centre[1] * cols, spacing, window)


def _pick_slice(scan: OwnScan) -> int:
    if len(scan.values) == 1:
        return 0
    count = len(scan.values)
    return st.slider("Slice", 1, count, (count + 1) // 2, key=f"nodules.slice.{count}") - 1


def _ask_spacing() -> tuple[float, float]:
    mm = st.number_input(
        "Millimetres per pixel", 0.05, 10.0, USUAL_MM, step=0.05, key="nodules.mm",
        help="The file does not say it. The models know sizes only through it; a wrong number "
        "makes every answer wrong.",
    )  # fmt: skip
    return mm, mm


def _ask_window() -> tuple[float, float]:
    st.caption("A picture holds grey values, no HU. With which window was it saved?")
    with st.container(horizontal=True):
        centre = st.number_input("Centre, HU", -1000, 3000, LUNG[0], step=10, width=140,
                                 key="nodules.png.centre")  # fmt: skip
        width = st.number_input("Width, HU", 1, 5000, LUNG[1], step=10, width=140,
                                key="nodules.png.width")  # fmt: skip
    return centre - width / 2, centre + width / 2


def _numbers_of(size: tuple[float, float]) -> None:
    """The middle of the region in mm, for the keyboard and for exact places."""
    centre = st.session_state.get("nodules.centre")
    row, col = centre or (0.5, 0.5)
    # Shown is what holds, wherever it was chosen.
    st.session_state["nodules.x"] = round(col * size[1], 1)
    st.session_state["nodules.y"] = round(row * size[0], 1)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.number_input("From the left, mm", 0.0, round(size[1], 1), step=1.0, key="nodules.x",
                        width=150, on_change=_on_numbers, args=(size,))  # fmt: skip
        st.number_input("From the top, mm", 0.0, round(size[0], 1), step=1.0, key="nodules.y",
                        width=150, on_change=_on_numbers, args=(size,))  # fmt: skip
        if centre is None:
            st.button("Use this place", key="nodules.here", on_click=_on_numbers, args=(size,))
    box = st.session_state.get("nodules.box")
    if box is not None:
        high, wide = (box[3] - box[1]) * size[0], (box[2] - box[0]) * size[1]
        st.caption(f"Your box: {wide:.0f} × {high:.0f} mm.")
        if max(high, wide) > CROP_MM:
            st.warning(f"The box is larger than the {CROP_MM:.0f} mm that the models see; what is "
                       "beyond is cut off.")  # fmt: skip


def planned(size: tuple[float, float]) -> tuple[float, float, float, float] | None:
    """The part that the models see, (left, top, right, bottom) fractions; None: not chosen yet.

    Args:
        size: (height, width) of the slice in mm.
    """
    centre = st.session_state.get("nodules.centre")
    if centre is None:
        return None
    half = [CROP_MM / 2 / mm for mm in size]
    return (centre[1] - half[1], centre[0] - half[0], centre[1] + half[1], centre[0] + half[0])


def _on_numbers(size: tuple[float, float]) -> None:
    row, col = (st.session_state[key] / mm for key, mm in zip(("nodules.y", "nodules.x"), size,
                                                              strict=True))  # fmt: skip
    st.session_state["nodules.centre"] = (min(row, 1.0), min(col, 1.0))
    st.session_state.pop("nodules.box", None)


def _on_box() -> None:
    take_box(st.session_state["nodules.crop"]["box"])


def take_box(box: object) -> None:
    """Look at the middle of a box that the browser sent; what is no box changes nothing."""
    if not isinstance(box, list) or len(box) != 4 or not all(
            isinstance(x, int | float) and 0 <= x <= 1 for x in box):  # fmt: skip
        return
    left, top, right, bottom = box
    if left < right and top < bottom:
        st.session_state["nodules.centre"] = ((top + bottom) / 2, (left + right) / 2)
        st.session_state["nodules.box"] = tuple(box)


def case_of(scan: OwnScan, place: Place) -> Case:
    """The crop; only the last one is kept."""
    known, case = st.session_state.get("nodules.own.case", (None, None))
    if known == place:
        return case
    values, _ = take_volume(scan, place)
    notes = list(scan.notes)
    if reaches_beyond(scan, place):
        notes.append("the crop reaches beyond the slice; what lies there is taken as air")
    if not scan.is_hu:
        notes.append("HU follow from the stated window")
    key = f"{OWN}.{scan.digest[:16]}.{place.index}.{place.row:.3f}.{place.col:.3f}." \
        f"{place.spacing}.{place.grey_window}"  # fmt: skip
    case = Case(key, OWN, values, 0 if len(values) > 1 else CENTRAL, notes=tuple(notes))
    st.session_state["nodules.own.case"] = (place, case)
    return case
