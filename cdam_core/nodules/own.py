"""A CT slice or small series of somebody's own, or a picture of one, without anything but pixels.

What of a file is read, and what is refused, ``slices`` decides. What leaves this module are numbers
and sentences of its own.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from cdam_core.errors import BadScan
from cdam_core.images import MAX_BYTES, open_image
from cdam_core.nodules.crops import AXIS_MM, CENTRAL, PIXEL_MM, SIDE, WINDOW_HU, windowed
from cdam_core.nodules.slices import UPRIGHT, CtSlice, is_dicom, read_slice

MAX_SLICES = 40
MAX_VOXELS = 12_000_000  # of a series
GREY_LEVELS = 255
SAME_PLACE = 0.01  # mm
TURNED = 0.05  # of a direction cosine, from which slices do not count as upright


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
    if len(files) == 1 and not is_dicom(files[0]) and not _says_dicom(files[0]):
        return _picture(files[0])
    return _joined(_read(files))


def _read(files: Sequence[bytes]) -> list[CtSlice]:
    """The slices; stops where they become too many pixels, as compressed files are small."""
    slices: list[CtSlice] = []
    for content in files:
        slices.append(read_slice(content))
        if sum(each.hu.size for each in slices) > MAX_VOXELS:
            raise BadScan("too-large", f"The slices have more than {MAX_VOXELS // 10**6} million "
                          "pixels together. Open those around the nodule.")  # fmt: skip
    return slices


def _picture(content: bytes) -> OwnScan:
    image = open_image(content)
    notes = list(image.info["notes"])
    channels = np.asarray(image)
    if np.ptp(channels, axis=2).any():
        notes.append("colours turned into grey values")
    return OwnScan(np.asarray(image.convert("L"))[None], False, np.zeros(1), None, None,
                   tuple(notes))  # fmt: skip


def _says_dicom(content: bytes) -> bool:
    """Whether it begins as a DICOM file would without its preamble."""
    return content[:2] in (b"\x08\x00", b"\x02\x00") and content[2:4] in (
        b"\x00\x00", b"\x01\x00", b"\x05\x00", b"\x08\x00", b"\x16\x00")  # fmt: skip


def _joined(slices: list[CtSlice]) -> OwnScan:
    """The slices of one series, sorted by their real positions."""
    first = slices[0]
    for each in slices[1:]:
        if each.hu.shape != first.hu.shape or not _close(each.spacing, first.spacing) \
                or not _close(each.orientation, first.orientation):
            raise BadScan("geometry", "The files differ in size, spacing or direction; expected "
                          "slices of one series. Open fewer, or one alone.")  # fmt: skip
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
