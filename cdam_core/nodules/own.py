"""A CT slice or small series of somebody's own, or a picture of one, without anything but pixels.

Files come from strangers and are about patients. Of a DICOM file nothing is read but the tags of
``ALLOWED``, none of which can name anybody; its transfer syntax is looked at before anything is
parsed, its size before any pixel is. What leaves this module are numbers and sentences of its own.
"""

import hashlib
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from scipy import ndimage

from cdam_core.errors import BadScan
from cdam_core.images import MAX_BYTES, MAX_PIXELS, MIN_SIDE, open_image
from cdam_core.nodules.crops import AXIS_MM, CENTRAL, PIXEL_MM, SIDE, WINDOW_HU, windowed
from cdam_core.nodules.dicom import STORED_HU, UPRIGHT, quietly

# All that is read of a header: geometry and the meaning of the numbers.
ALLOWED = (
    "Modality", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames", "PixelSpacing",
    "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "RescaleSlope",
    "RescaleIntercept", "WindowCenter", "WindowWidth",
)  # fmt: skip
MAX_SLICES = 40
MAX_VOXELS = 12_000_000  # of a series
MAX_HEADER = 2**20  # bytes; a slice's is a few thousand
READABLE = {
    str(ImplicitVRLittleEndian): (True, "<"),
    str(ExplicitVRLittleEndian): (False, "<"),
    str(ExplicitVRBigEndian): (False, ">"),
}  # transfer syntax -> (implicit, byte order)
LONG_LENGTHS = (b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN", b"OD", b"OL", b"OV", b"UC", b"UR")
GREY_LEVELS = 255
SAME_PLACE = 0.01  # mm
TURNED = 0.05  # of a direction cosine, from which slices do not count as upright
EXPORT = "Export the slice from the viewer as an uncompressed DICOM file, or as PNG."


@dataclass(frozen=True, eq=False)
class OwnScan:
    """Slices, and what is known of them.

    Attributes:
        values: (slices, rows, cols): int16 HU, or uint8 grey values of a picture.
        is_hu: which of the two.
        heights: (slices,) mm, ascending; 0 for a single slice.
        spacing: mm between rows and between columns; None: not known.
        window: (low, high) HU that the file asks to be shown, or None.
        notes: what was changed or is unusual, a short sentence each.
    """

    values: np.ndarray
    is_hu: bool
    heights: np.ndarray
    spacing: tuple[float, float] | None
    window: tuple[float, float] | None
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of shape and values."""
        header = f"{self.values.dtype} {self.values.shape} ".encode()
        return hashlib.sha256(header + self.values.tobytes()).hexdigest()

    def hu(self, index: int, grey_window: tuple[float, float]) -> np.ndarray:
        """(rows, cols) float32 HU of one slice.

        Args:
            index: which slice.
            grey_window: HU of black and of white, for a picture's grey values.
        """
        return self._as_hu(self.values[index], grey_window)

    def _as_hu(self, values: np.ndarray, grey_window: tuple[float, float]) -> np.ndarray:
        values = values.astype(np.float32)
        if self.is_hu:
            return values
        low, high = grey_window
        return low + values / GREY_LEVELS * (high - low)

    def picture(
        self, index: int, window: tuple[float, float], spacing: tuple[float, float]
    ) -> Image.Image:
        """PIL RGB of one slice with square pixels; a picture is shown as it came.

        Args:
            index: which slice.
            window: (low, high) HU.
            spacing: mm between rows and between columns.
        """
        values = self.values[index]
        grey = np.rint(GREY_LEVELS * windowed(values.astype(np.float32), *window)) \
            if self.is_hu else values  # fmt: skip
        shown, (rows, cols) = Image.fromarray(grey.astype(np.uint8)), values.shape
        high = max(1, round(rows * spacing[0] / spacing[1]))
        return (shown if high == rows else shown.resize((cols, high))).convert("RGB")


# ---- the crop ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Which part of a scan is looked at.

    Attributes:
        index: of the slice.
        row, col: of the middle, in pixels; pixel (0, 0) covers 0 to 1.
        spacing: mm between rows and between columns.
        grey_window: HU of black and of white, for a picture's grey values.
    """

    index: int
    row: float
    col: float
    spacing: tuple[float, float]
    grey_window: tuple[float, float] = WINDOW_HU


def take_volume(scan: OwnScan, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """32 mm around a place, as models see a nodule.

    Args:
        scan: a slice, or a series.
        place: its middle.

    Returns:
        (planes, 64, 64) float32 HU inside ``WINDOW_HU``, and (planes,) mm of each from the chosen
        slice: one plane of a single slice, else 64, of which ``CENTRAL`` is the slice itself. What
        lies outside the pictures is air.
    """
    steps = [AXIS_MM / mm for mm in place.spacing]
    rows, cols = place.row - 0.5 + steps[0], place.col - 0.5 + steps[1]
    offsets, depth = np.zeros(1), np.array([float(place.index)])
    if len(scan.values) > 1:
        offsets = (np.arange(SIDE) - CENTRAL) * PIXEL_MM
        heights = scan.heights[place.index] + offsets
        depth = np.interp(heights, scan.heights, np.arange(len(scan.heights)), left=-9, right=-9)
    there = depth[depth >= 0]
    first, last = int(there.min()), int(np.ceil(there.max()))
    stack = scan._as_hu(scan.values[first : last + 1], place.grey_window)
    places = np.meshgrid(depth - first, rows, cols, indexing="ij")
    volume = ndimage.map_coordinates(stack, places, order=1, mode="constant", cval=WINDOW_HU[0])
    volume[depth < 0] = WINDOW_HU[0]
    volume = np.clip(volume, *WINDOW_HU).astype(np.float32)
    volume.setflags(write=False)
    return volume, offsets


def reaches_beyond(scan: OwnScan, place: Place) -> bool:
    """Whether part of the crop lies outside the slice."""
    half = [SIDE / 2 * PIXEL_MM / mm for mm in place.spacing]
    middle, size = (place.row, place.col), scan.values.shape[1:]
    return any(at - h < 0 or at + h > n for at, h, n in zip(middle, half, size, strict=True))


# ---- opening -------------------------------------------------------------------------------------


def open_own(files: Sequence[bytes]) -> OwnScan:
    """A DICOM slice, the slices of one series in any order, or one picture.

    Args:
        files: their bytes; names are of no interest.

    Raises:
        BadScan: for DICOM files that cannot be used; says why and what to do.
        BadImage: for pictures.
    """
    if not files:
        raise BadScan("empty", "No file arrived; expected a DICOM slice, or a PNG picture of one.")
    for content in files:
        if len(content) > MAX_BYTES:
            raise BadScan("too-large", f"A file has more than the {MAX_BYTES // 2**20} MB allowed; "
                          "a CT slice has about half a MB. Open single slices.")  # fmt: skip
    if len(files) > MAX_SLICES:
        raise BadScan("too-large", f"{len(files)} files arrived; expected at most {MAX_SLICES} "
                      "slices. Open those around the nodule.")  # fmt: skip
    if len(files) == 1 and not _is_dicom(files[0]) and not _says_dicom(files[0]):
        return _picture(files[0])
    return _joined([_slice(content) for content in files])


def _picture(content: bytes) -> OwnScan:
    image = open_image(content)
    notes = list(image.info["notes"])
    channels = np.asarray(image)
    if np.ptp(channels, axis=2).any():
        notes.append("colours turned into grey values")
    return OwnScan(np.asarray(image.convert("L"))[None], False, np.zeros(1), None, None,
                   tuple(notes))  # fmt: skip


def _is_dicom(content: bytes) -> bool:
    return content[128:132] == b"DICM"


def _says_dicom(content: bytes) -> bool:
    """Whether it begins as a DICOM file would without its preamble."""
    return content[:2] in (b"\x08\x00", b"\x02\x00") and content[2:4] in (
        b"\x00\x00", b"\x01\x00", b"\x05\x00", b"\x08\x00", b"\x16\x00")  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Slice:
    """One decoded file."""

    hu: np.ndarray
    spacing: tuple[float, float] | None
    orientation: tuple[float, ...] | None
    height: float | None
    instance: int
    window: tuple[float, float] | None
    notes: tuple[str, ...]


def _slice(content: bytes) -> _Slice:
    if not content:
        raise BadScan("empty", "A file is empty; expected a DICOM slice.")
    if not _is_dicom(content):
        raise BadScan("unreadable", "A file does not begin as a DICOM file does; expected 128 "
                      f"bytes and the letters DICM. {EXPORT}")  # fmt: skip
    implicit, order = _transfer_syntax(content)
    try:
        header, start = _header(content)
        return _decoded(header, _pixel_bytes(content, start, implicit, order), order)
    except BadScan:
        raise
    except Exception:  # damaged headers raise whatever their first broken part leads to
        raise BadScan("damaged", "The header of a DICOM file is damaged; expected a whole CT "
                      f"slice. {EXPORT}") from None  # fmt: skip


def _transfer_syntax(content: bytes) -> tuple[bool, str]:
    """(implicit, byte order) from the bytes of the file's meta group; nothing else is parsed."""
    at = 132
    while content[at : at + 2] == b"\x02\x00" and at + 12 <= min(len(content), MAX_HEADER):
        number, vr = content[at + 2 : at + 4], content[at + 4 : at + 6]
        is_long = vr in LONG_LENGTHS
        length, = struct.unpack_from("<I" if is_long else "<H", content, at + (8 if is_long else 6))
        at += 12 if is_long else 8
        if number == b"\x10\x00":
            syntax = content[at : at + min(length, 64)].rstrip(b"\0 ").decode("ascii", "replace")
            if syntax in READABLE:
                return READABLE[syntax]
            raise BadScan("compressed", "The pixels of a DICOM file are compressed or deflated; "
                          f"expected an uncompressed one. {EXPORT}")  # fmt: skip
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


def _decoded(header: pydicom.Dataset, pixels: memoryview, order: str) -> _Slice:
    rows, cols = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    _check(header, rows, cols)
    allocated, stored = int(header.BitsAllocated), int(header.get("BitsStored") or 0)
    is_signed = int(header.get("PixelRepresentation") or 0) == 1
    if allocated not in (8, 16) or not 1 <= stored <= allocated \
            or int(header.get("HighBit", stored - 1)) != stored - 1:
        raise BadScan("wrong-type", "The numbers of a DICOM file are packed unusually; expected 8 "
                      f"or 16 bits for each. {EXPORT}")  # fmt: skip
    needed = rows * cols * allocated // 8
    if len(pixels) < needed:
        raise BadScan("truncated", "A DICOM file ends too early, or its header states more pixels "
                      "than it holds; expected a whole slice. Copy or export it again.")
    kind = np.dtype(f"{'i' if is_signed else 'u'}{allocated // 8}").newbyteorder(order)
    raw = np.frombuffer(pixels[:needed], kind).reshape(rows, cols).astype(np.int32)
    raw = _without_high_bits(raw, stored, is_signed)
    notes = []
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        # shown as a viewer shows it: the smallest stored number is the brightest
        raw = (2**stored - 1) - raw if not is_signed else -1 - raw
        notes.append("stored inverted (MONOCHROME1), turned to air dark")
    hu = _rescaled(raw, header, notes)
    return _Slice(hu, _spacing(header), _numbers(header, "ImageOrientationPatient", 6),
                  _height(header), int(header.get("InstanceNumber") or 0), _window(header),
                  tuple(notes))  # fmt: skip


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


def _joined(slices: list[_Slice]) -> OwnScan:
    """The slices of one series, sorted by their real positions."""
    first = slices[0]
    for each in slices[1:]:
        if each.hu.shape != first.hu.shape or not _close(each.spacing, first.spacing) \
                or not _close(each.orientation, first.orientation):
            raise BadScan("geometry", "The files differ in size, spacing or direction; expected "
                          "slices of one series. Open fewer, or one alone.")  # fmt: skip
    if len(slices) * first.hu.size > MAX_VOXELS:
        raise BadScan("too-large", f"The slices have more than {MAX_VOXELS // 10**6} million "
                      "pixels together. Open those around the nodule.")  # fmt: skip
    notes = list(dict.fromkeys(note for each in slices for note in each.notes))
    heights = np.zeros(1)
    if len(slices) > 1:
        if any(each.height is None for each in slices):
            raise BadScan("geometry", "The files do not say where their slices lie; expected "
                          "positions. Open one slice alone.")  # fmt: skip
        slices = sorted(slices, key=lambda each: (each.height, each.instance))
        heights = np.array([each.height for each in slices])
        if (np.diff(heights) <= SAME_PLACE).any():
            raise BadScan("geometry", "Two slices lie in the same place; expected one series. "
                          "Open fewer, or one alone.")  # fmt: skip
        notes += _gaps(heights)
    if first.orientation is None or np.abs(np.subtract(first.orientation, UPRIGHT)).max() > TURNED:
        notes.append("not upright axial slices, as the header tells; the models know no others")
    if first.spacing is None:
        notes.append("the header does not say how large a pixel is")
    return OwnScan(np.stack([each.hu for each in slices]), True, heights, first.spacing,
                   first.window, tuple(notes))  # fmt: skip


def _gaps(heights: np.ndarray) -> list[str]:
    steps = np.diff(heights)
    if steps.max() <= 1.5 * np.median(steps):
        return []
    return [f"slices are missing: steps of {steps.min():.2g} to {steps.max():.2g} mm"]


def _close(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.abs(np.subtract(one, other)).max() <= 1e-3)
