"""Slices of a case as the browser scrolls through them, and pictures of one of them."""

import base64
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image, ImageDraw

import cdam_core as cdam
from cdam_core.nodules import Plane
from cdam_core.nodules.crops import CENTRAL, MIDDLE, PIXEL_MM, SIDE, WINDOW_HU, to_image
from cdam_core.nodules.curves import Curve, Drawn
from cdam_core.pictures import outline_layer, view_zoom
from pages import _state
from pages._nodules_case import OWN, Answer, Case, plane_of
from pages._nodules_words import stamp
from pages._state import Prepared

# Name -> (low, high) HU; for the eye only, the models always get WINDOW_HU.
WINDOWS = {
    "Lung": (-1350.0, 150.0),  # centre -600, width 1500
    "Mediastinum": (-160.0, 240.0),  # centre 40, width 400
    "As the models see it": WINDOW_HU,
}
NAMES = {"Lung": "Lung −600/1500", "Mediastinum": "Mediastinum 40/400"}
AS_IN_THE_FILE = "As in the file"


def current_plane(case: Case) -> Plane:
    """The slice that is explained; at first the middle one."""
    key, plane = st.session_state.get("nodules.plane", ("", MIDDLE))
    return plane if key == case.key else MIDDLE


def take_plane(case: Case, sent: object) -> None:
    """Explain the slice that the viewer sent; what is no slice of the case changes nothing."""
    if isinstance(sent, list) and len(sent) == 2 and sent[0] in case.axes \
            and isinstance(sent[1], int) and sent[1] in case.numbers(sent[0]):  # fmt: skip
        st.session_state["nodules.plane"] = (case.key, plane_of(*sent))


def viewer_data(
    case: Case, plane: Plane, file_window: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Everything that the slice viewer needs; JSON-able.

    Args:
        case: what is looked at.
        plane: the one that is explained.
        file_window: (low, high) HU that the visitor's file asks for.
    """
    windows = dict(WINDOWS) | ({AS_IN_THE_FILE: file_window} if file_window else {})
    return {
        "key": case.key,
        "values": _encoded(case),
        "planes": len(case.values),
        "side": SIDE,
        "mm": PIXEL_MM,
        "axes": _axes(case),
        "explained": [plane.axis, plane.index],
        "windows": [{"name": NAMES.get(name, name), "range": list(ends)}
                    for name, ends in windows.items()],
        "readers": len(case.nodule.readers) if case.nodule else 0,
        "stamp": stamp(case.source),
        "label": "CT slices. Arrow keys, Page Up and Page Down or the mouse wheel change the "
        "slice, M goes to the middle one, Enter explains the slice that is shown.",
    }  # fmt: skip


def _encoded(case: Case) -> str:
    """HU as base64 of little-endian int16; of a bundled nodule made once."""
    return _encode(case) if case.source == OWN else _remembered_values(case)


@lru_cache(maxsize=32)
def _remembered_values(case: Case) -> str:
    return _encode(case)


def _encode(case: Case) -> str:
    return base64.b64encode(np.rint(case.values).astype("<i2").tobytes()).decode()


@lru_cache(maxsize=32)
def _remembered_axes(case: Case) -> dict[str, Any]:
    return {axis: _axis(case, axis) for axis in case.axes}


def _axes(case: Case) -> dict[str, Any]:
    if case.source == OWN:
        return {axis: _axis(case, axis) for axis in case.axes}
    return _remembered_axes(case)


def _axis(case: Case, axis: str) -> dict[str, Any]:
    numbers = case.numbers(axis)
    curves = [case.curves.at(plane_of(axis, n)) for n in numbers] if case.curves else None
    return {
        "first": numbers[0],
        "last": numbers[-1],
        "middle": CENTRAL,
        "offsets": [(number - CENTRAL) * PIXEL_MM for number in numbers],
        "curves": curves and [_drawn(each) for each in curves],
    }


def _drawn(drawn: Drawn) -> dict[str, list] | None:
    if not any(drawn.readers):
        return None
    return {"readers": [[_points(curve) for curve in curves] for curves in drawn.readers],
            "consensus": [_points(curve) for curve in drawn.consensus]}  # fmt: skip


def _points(curve: Curve) -> list[str]:
    """Corners as the browser wants them, "x,y"."""
    return [f"{col:.1f},{row:.1f}" for row, col in curve]


# ---- pictures ------------------------------------------------------------------------------------


def prepared_of(
    model: cdam.VisionModel, case: Case, plane: Plane, found: Answer
) -> Prepared:
    """A slice as pages draw maps on it, with the outline of the 50 % consensus where it is known.

    The view is exactly what the model saw, in the models' window. Of a bundled nodule made once.
    """
    make = _prepare if case.source == OWN else _remembered_prepared
    return make(model, case, plane, found)


@lru_cache(maxsize=32)
def _remembered_prepared(
    model: cdam.VisionModel, case: Case, plane: Plane, found: Answer
) -> Prepared:
    return _prepare(model, case, plane, found)


def _prepare(model: cdam.VisionModel, case: Case, plane: Plane, found: Answer) -> Prepared:
    view = model.fit(found.image, zoom=view_zoom(model.input_size)).image
    outlines = None
    if case.curves is not None:
        mask = case.curves.mask(plane, view.height)
        outlines = outline_layer([mask]) if mask.any() else None
    values = found.explanation(model.id).values
    return Prepared(None, view, values, None, {}, outlines)


def stamped(prepared: Prepared, source: str, with_outlines: bool) -> Prepared:
    """The same with a layer to be pasted on every picture: the stamp, and outlines if wanted."""
    layer = stamp_layer(prepared.view.width, stamp(source).partition(" ·")[0])
    if with_outlines and prepared.outlines is not None:
        layer = Image.alpha_composite(prepared.outlines, layer)
    return replace(prepared, outlines=layer)


@lru_cache(maxsize=16)
def stamp_layer(side: int, text: str) -> Image.Image:
    """RGBA of (side, side): words in the upper left corner, clear elsewhere."""
    layer = Image.new("RGBA", (side, side))
    ImageDraw.Draw(layer).text((0.03 * side, 0.025 * side), text, (255, 255, 255, 255),
                               font_size=side / 18, stroke_width=max(1, side // 200),
                               stroke_fill=(20, 20, 20, 255))  # fmt: skip
    return layer


def slice_picture(
    case: Case, plane: Plane, window: tuple[float, float], side: int = 512
) -> Image.Image:
    """PIL RGB of a slice with a bar of 10 mm, and the consensus where it is known."""
    picture = to_image(case.hu(plane), *window).resize((side, side), Image.Resampling.BICUBIC)
    if case.curves is not None:
        mask = case.curves.mask(plane, side)
        if mask.any():
            layer = outline_layer([mask], 1)
            picture.paste(layer, mask=layer)
    return with_ruler(picture, side / (SIDE * PIXEL_MM))


def with_ruler(picture: Image.Image, pixels_per_mm: float, mm: float = 10) -> Image.Image:
    """A copy with a bar of so many millimetres in the lower right corner, labelled."""
    picture = picture.copy()
    draw, (wide, high) = ImageDraw.Draw(picture), picture.size
    length, right, bottom = mm * pixels_per_mm, 0.96 * wide, 0.95 * high
    thick = max(2, round(high / 150))
    for colour, more in (((0, 0, 0), 2), ((255, 255, 255), 0)):
        draw.rectangle((right - length - more, bottom - thick - more, right + more, bottom + more),
                       fill=colour)  # fmt: skip
    draw.text((right - length / 2, bottom - thick - 4), f"{mm:g} mm", (255, 255, 255),
              anchor="mb", font_size=max(10, round(high / 26)), stroke_width=2,
              stroke_fill=(0, 0, 0))  # fmt: skip
    return picture


def model_of(model_id: str) -> cdam.VisionModel:
    """One of the two models."""
    return _state.get_model(model_id)
