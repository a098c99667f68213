"""One slice of CT out of the bytes of a DICOM file, without anything but pixels and geometry.

Files come from strangers and are about patients. Nothing is read but the tags of ``ALLOWED``, none
of which can name anybody; the transfer syntax is looked at before anything is parsed, the size
before any pixel is. Errors and notes are sentences of this module alone.
"""

import io
import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cdam_core.errors import BadScan
from cdam_core.images import MAX_PIXELS, MIN_SIDE
from cdam_core.nodules.packed import LOSSY, Coded, can_unpack, unpack

# All that is read of a header: geometry and the meaning of the numbers.
ALLOWED = (
    "Modality", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames", "PixelSpacing",
    "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "RescaleSlope",
    "RescaleIntercept", "WindowCenter", "WindowWidth",
)  # fmt: skip
MAX_HEADER = 2**20  # bytes; a slice's is a few thousand
PLAIN = {
    str(ImplicitVRLittleEndian): (True, "<"),
    str(ExplicitVRLittleEndian): (False, "<"),
    str(ExplicitVRBigEndian): (False, ">"),
}  # transfer syntax without compression -> (implicit, byte order)
LONG_LENGTHS = (b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN", b"OD", b"OL", b"OV", b"UC", b"UR")
UPRIGHT = (1, 0, 0, 0, 1, 0)  # rows to the left, columns to the back
STORED_HU = (-1024.0, 3071.0)  # padding is often -2000
EXPORT = "Export the slice from the viewer as an uncompressed DICOM file, or as PNG."


# pydicom's warnings quote what a header holds, which must reach no log.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom's warnings to itself while reading."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, eq=False)
class CtSlice:
    """One decoded file.

    Attributes:
        hu: (rows, cols) int16, inside ``STORED_HU``.
        spacing: mm between rows and between columns; None: not stated.
        orientation: direction cosines of rows and columns; None: not stated.
        height: position along the normal of the slice, mm; None: not stated.
        instance: InstanceNumber, else 0.
        window: (low, high) HU that the file asks to be shown, or None.
        notes: what was changed or is unusual, a short sentence each.
    """

    hu: np.ndarray
    spacing: tuple[float, float] | None
    orientation: tuple[float, ...] | None
    height: float | None
    instance: int
    window: tuple[float, float] | None
    notes: tuple[str, ...]


def read_slice(content: bytes) -> CtSlice:
    """The slice that a DICOM file holds.

    Args:
        content: the file's bytes.

    Raises:
        BadScan: says why the file cannot be used and what to do.
    """
    if not content:
        raise BadScan("empty", "A file is empty; expected a DICOM slice.")
    if not is_dicom(content):
        raise BadScan("unreadable", "A file does not begin as a DICOM file does; expected 128 "
                      f"bytes and the letters DICM. {EXPORT}")  # fmt: skip
    syntax = syntax_of(content)
    if not is_readable(syntax):
        raise BadScan("compressed", "The pixels of a DICOM file are deflated, or compressed in a "
                      "way that cannot be undone here; expected uncompressed ones, run lengths, "
                      f"JPEG, JPEG-LS or JPEG 2000. {EXPORT}")  # fmt: skip
    try:
        header, start = _header(content)
        return _decoded(header, content, start, syntax)
    except BadScan:
        raise
    except Exception:  # damaged headers raise whatever their first broken part leads to
        raise BadScan("damaged", "The header of a DICOM file is damaged; expected a whole CT "
                      f"slice. {EXPORT}") from None  # fmt: skip


def is_dicom(content: bytes) -> bool:
    """Whether it begins as every DICOM file does."""
    return content[128:132] == b"DICM"


def is_readable(syntax: str) -> bool:
    """Whether slices of a transfer syntax can be read; deflated ones never are.

    What a deflated file inflates to, nobody knows before, and its header is inside.
    """
    return syntax in PLAIN or can_unpack(syntax)


def syntax_of(content: bytes) -> str:
    """The transfer syntax, from the bytes of the file's meta group; nothing else is parsed.

    Args:
        content: the file, or its first ``MAX_HEADER`` bytes.

    Raises:
        BadScan: "unreadable" where there is none.
    """
    at = 132
    while content[at : at + 2] == b"\x02\x00" and at + 12 <= min(len(content), MAX_HEADER):
        number, vr = content[at + 2 : at + 4], content[at + 4 : at + 6]
        is_long = vr in LONG_LENGTHS
        length, = struct.unpack_from("<I" if is_long else "<H", content, at + (8 if is_long else 6))
        at += 12 if is_long else 8
        if number == b"\x10\x00":
            return content[at : at + min(length, 64)].rstrip(b"\0 ").decode("ascii", "replace")
        at += length
    raise BadScan("unreadable", "A DICOM file does not say how it is written; expected its "
                  f"transfer syntax in the first group. {EXPORT}")  # fmt: skip


def _header(content: bytes) -> tuple[pydicom.Dataset, int]:
    """The allowed tags, and where the element of the pixels begins."""
    head = io.BytesIO(content[:MAX_HEADER])
    with quietly():
        dataset = pydicom.dcmread(head, stop_before_pixels=True, specific_tags=list(ALLOWED))
    start = head.tell()
    if start >= min(len(content), MAX_HEADER):
        if len(content) > MAX_HEADER:
            raise BadScan("too-large", f"The header of a DICOM file has more than {MAX_HEADER} "
                          f"bytes; expected a plain CT slice. {EXPORT}")  # fmt: skip
        raise BadScan("truncated", "A DICOM file holds no pixels; expected a CT slice.")
    return dataset, start


def _pixel_bytes(content: bytes, start: int, implicit: bool, order: str) -> memoryview:
    """The bytes of the element (7FE0,0010), however many there really are."""
    group, element = struct.unpack_from(f"{order}HH", content, start)
    if (group, element) != (0x7FE0, 0x0010):
        raise BadScan("wrong-type", "The pixels of a DICOM file are stored in another way than "
                      f"those of CT slices; expected whole numbers. {EXPORT}")  # fmt: skip
    at = start + (4 if implicit else 8)
    length, = struct.unpack_from(f"{order}I", content, at)
    return memoryview(content)[at + 4 : at + 4 + length]


def _decoded(header: pydicom.Dataset, content: bytes, start: int, syntax: str) -> CtSlice:
    rows, cols = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    _check(header, rows, cols)
    allocated, stored = int(header.BitsAllocated), int(header.get("BitsStored") or 0)
    is_signed = int(header.get("PixelRepresentation") or 0) == 1
    if allocated not in (8, 16) or not 1 <= stored <= allocated \
            or int(header.get("HighBit", stored - 1)) != stored - 1:
        raise BadScan("wrong-type", "The numbers of a DICOM file are packed unusually; expected 8 "
                      f"or 16 bits for each. {EXPORT}")  # fmt: skip
    implicit, order = PLAIN.get(syntax, (False, "<"))
    pixels = _pixel_bytes(content, start, implicit, order)
    if syntax in PLAIN:
        raw = _plain(pixels, f"{order}u{allocated // 8}", rows, cols)
    else:
        coded = unpack(pixels, syntax, rows, cols, allocated)
        _check_bits(coded, stored, is_signed, syntax)
        raw = coded.values
    raw = _without_high_bits(raw, stored, is_signed)
    notes = []
    if syntax in LOSSY:
        notes.append("compressed in a way that may lose detail")
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        # shown as a viewer shows it: the smallest stored number is the brightest
        raw = (2**stored - 1) - raw if not is_signed else -1 - raw
        notes.append("stored inverted (MONOCHROME1), turned to air dark")
    hu = _rescaled(raw, header, notes)
    return CtSlice(hu, _spacing(header), _numbers(header, "ImageOrientationPatient", 6),
                  _height(header), int(header.get("InstanceNumber") or 0), _window(header),
                  tuple(notes))  # fmt: skip


def _plain(pixels: memoryview, kind: str, rows: int, cols: int) -> np.ndarray:
    """(rows, cols) int32 bit patterns of uncompressed pixels."""
    needed = rows * cols * np.dtype(kind).itemsize
    if len(pixels) < needed:
        raise BadScan("truncated", "A DICOM file ends too early, or its header states more pixels "
                      "than it holds; expected a whole slice. Copy or export it again.")
    return np.frombuffer(pixels[:needed], kind).reshape(rows, cols).astype(np.int32)


def _check_bits(coded: Coded, stored: int, is_signed: bool, syntax: str) -> None:
    """Whether what was compressed are the numbers that the header describes."""
    is_narrow = coded.precision < stored
    if coded.is_signed > is_signed or (is_narrow and (
            is_signed > coded.is_signed or syntax in LOSSY)):
        raise BadScan("wrong-type", f"A DICOM file holds compressed numbers of {coded.precision} "
                      f"bits where its header states {stored}, or signs where it states none; "
                      f"expected the same. {EXPORT}")  # fmt: skip


def _check(header: pydicom.Dataset, rows: int, cols: int) -> None:
    if header.get("Modality") != "CT":
        raise BadScan("wrong-type", "A DICOM file is not of a CT scan; expected slices in "
                      "Hounsfield units, of which the models know something.")  # fmt: skip
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise BadScan("wrong-type", "A DICOM file holds several frames; expected one slice per "
                      f"file. {EXPORT}")  # fmt: skip
    if int(header.get("SamplesPerPixel") or 1) != 1 or header.get(
            "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise BadScan("wrong-type", "A DICOM file is a coloured picture; expected a CT slice in "
                      f"grey values. {EXPORT}")  # fmt: skip
    if min(rows, cols) < MIN_SIDE:
        raise BadScan("wrong-type", f"A DICOM file states {rows} × {cols} pixels; expected at "
                      f"least {MIN_SIDE} a side.")  # fmt: skip
    if rows * cols > MAX_PIXELS:
        raise BadScan("too-large", f"A DICOM file states more than {MAX_PIXELS // 10**6} million "
                      "pixels; a CT slice has a quarter of a million.")  # fmt: skip


def _without_high_bits(raw: np.ndarray, stored: int, is_signed: bool) -> np.ndarray:
    """Only the stored bits count; others may hold overlays."""
    raw = raw & (2**stored - 1)
    return np.where(raw >= 2 ** (stored - 1), raw - 2**stored, raw) if is_signed else raw


def _rescaled(raw: np.ndarray, header: pydicom.Dataset, notes: list[str]) -> np.ndarray:
    """(rows, cols) int16 HU."""
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    if slope is None or intercept is None:
        notes.append("the header does not say how its numbers become HU; taken as they are")
    slope = 1.0 if slope is None else float(slope)
    intercept = 0.0 if intercept is None else float(intercept)
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise BadScan("damaged", "The header of a DICOM file gives no usable rescale slope and "
                      f"intercept; expected numbers. {EXPORT}")  # fmt: skip
    return np.rint((raw * slope + intercept).clip(*STORED_HU)).astype(np.int16)


def _numbers(header: pydicom.Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """A tag of several numbers; None where it is missing or is none."""
    value = header.get(name)
    try:
        found = tuple(float(each) for each in value)
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and np.isfinite(found).all() else None


def _spacing(header: pydicom.Dataset) -> tuple[float, float] | None:
    found = _numbers(header, "PixelSpacing", 2)
    return found if found and all(0.05 <= mm <= 10 for mm in found) else None


def _height(header: pydicom.Dataset) -> float | None:
    """Position along the normal of the slices, mm."""
    position = _numbers(header, "ImagePositionPatient", 3)
    orientation = _numbers(header, "ImageOrientationPatient", 6) or UPRIGHT
    if position is None:
        return None
    return float(np.dot(position, np.cross(orientation[:3], orientation[3:])))


def _window(header: pydicom.Dataset) -> tuple[float, float] | None:
    """(low, high) HU of the file's first window; None where it has none that makes sense."""
    values = [header.get(name) for name in ("WindowCenter", "WindowWidth")]
    values = [v[0] if isinstance(v, pydicom.multival.MultiValue) and len(v) else v for v in values]
    try:
        centre, width = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    if not np.isfinite([centre, width]).all() or width < 1 or max(abs(centre), width) > 10_000:
        return None
    return centre - width / 2, centre + width / 2
