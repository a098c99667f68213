"""Crops of real scans: a download of LIDC-IDRI from The Cancer Imaging Archive, in any layout.

Nothing is trusted but headers: folders and file names may be anything. A series is recognised by
its SeriesInstanceUID, slices are sorted by their real positions, values become HU, and the crop is
resampled to the geometry of ``crops``. What does not fit is left out and reported in one line that
names nothing from a header: patients are called as the bundled annotations call them.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.uid import UID
from scipy import ndimage

from cdam_core.errors import BadScan
from cdam_core.images import MAX_BYTES
from cdam_core.nodules.crops import AXIS_MM, MIDDLE, WINDOW_HU, Plane, take_plane
from cdam_core.nodules.pack import Nodule, Scan, load_nodules
from cdam_core.nodules.slices import (
    MAX_HEADER,
    UPRIGHT,
    is_dicom,
    is_readable,
    quietly,
    read_slice,
    syntax_of,
)

HEADERS = ["SOPClassUID", "SeriesInstanceUID", "Modality", "ImagePositionPatient",
           "ImageOrientationPatient", "PixelSpacing", "InstanceNumber"]  # fmt: skip
NO_DICOM = (".xml", ".csv", ".txt", ".json", ".tsv", ".md", ".html", ".pdf", ".xls", ".xlsx",
            ".zip")  # fmt: skip
TOLERANCE = 1e-3  # mm of spacing, and of the direction cosines
SAME_Z = 0.01  # mm
MARGIN_MM = 3.0  # read beyond the crop, for interpolation


class Slice(NamedTuple):
    """The header of one file of a series.

    Attributes:
        z: mm.
        instance: InstanceNumber; where two slices have the same z, the lower one counts.
        path: the file.
        upright: whether rows and columns run as the outlines expect.
        spacing: (rows, cols) mm.
        readable: whether its compression, if any, can be undone here.
    """

    z: float
    instance: int
    path: Path
    upright: bool
    spacing: tuple[float, float]
    readable: bool


class DicomArchive:
    """A source of crops of real scans.

    Reading the headers takes about a millisecond a file; pixels are read when a crop is asked for.

    Args:
        folder: searched with all its sub-folders.
        nodules: which to look for; None: all bundled ones.

    Attributes:
        nodules: those whose crops can be taken.
        report: one line for every odd thing that was found.
        summary: one line: how many files, series, patients, nodules.

    Raises:
        BadScan: "not-found" if there is no such folder.
    """

    source = "dicom"

    def __init__(self, folder: Path | str, nodules: Sequence[Nodule] | None = None):
        folder = Path(folder)
        if not folder.is_dir():
            raise BadScan("not-found", "There is no such folder of scans; expected the folder that "
                          "a download of LIDC-IDRI was put into.")  # fmt: skip
        wanted = load_nodules() if nodules is None else tuple(nodules)
        headers = _Headers(folder)
        by_series = defaultdict(list)
        for nodule in wanted:
            by_series[nodule.scan.series_uid].append(nodule)
        self._slices: dict[str, tuple[Slice, ...]] = {}
        self._notes = headers.notes()
        self._refused: dict[int, BadScan] = {}
        for uid, members in by_series.items():
            if uid in headers.series:
                self._admit(members, headers.series[uid])
        self.nodules = tuple(n for n in wanted if n.scan.series_uid in self._slices
                             and n.id not in self._refused)  # fmt: skip
        self._note_strangers(headers, by_series)
        self.report = tuple(self._notes)
        self.summary = (
            f"{headers.files} files, {len(headers.series)} CT series; {len(self.nodules)} of "
            f"{len(wanted)} nodules of {len({n.patient_id for n in self.nodules})} patients can be "
            f"shown; {len(self.report)} remarks"
        )

    def crop(self, nodule: Nodule, plane: Plane = MIDDLE) -> np.ndarray:
        """(64, 64) float32 HU inside ``WINDOW_HU``; axial, coronal or sagittal.

        Raises:
            BadScan: with the reason why this nodule has no crop.
        """
        return take_plane(self.volume(nodule), plane)

    def volume(self, nodule: Nodule) -> np.ndarray:
        """(64, 64, 64) float32 HU (z, row, col) around the nodule.

        Raises:
            BadScan: with the reason why this nodule has no crop.
        """
        if nodule.id in self._refused:
            raise self._refused[nodule.id]
        if nodule.scan.series_uid not in self._slices:
            raise BadScan("not-found", f"The scan of {nodule.patient_id} is not in the folder or "
                          "does not fit; the folder's report says what was found.")  # fmt: skip
        return _volume(self._slices[nodule.scan.series_uid], nodule)

    # ---- what fits -------------------------------------------------------------------------------

    def _admit(self, members: list[Nodule], found: list[Slice]) -> None:
        scan = members[0].scan
        slices, doubles = _without_doubles(found)
        if doubles:
            self._notes.append(f"{scan.patient_id}: {doubles} slices lie where another one does; "
                               "those with the lowest instance number are used")  # fmt: skip
        reason = _misfit(slices, scan)
        if reason is not None:
            for nodule in members:
                self._refused[nodule.id] = reason
            self._notes.append(f"{scan.patient_id}: left out: {reason}")
            return
        self._slices[scan.series_uid] = slices
        for nodule in members:
            missing = _missing(slices, nodule)
            if missing:
                error = BadScan("missing-slices", f"{missing} slices at nodule {nodule.id} are not "
                                "there; expected the whole series. Download it.")  # fmt: skip
                self._refused[nodule.id] = error
                self._notes.append(f"{scan.patient_id}: left out: {error}")
            elif _reaches_beyond(nodule):
                self._notes.append(f"{scan.patient_id}: nodule {nodule.id} lies at the end of the "
                                   "scan; its last slice is repeated")  # fmt: skip

    def _note_strangers(self, headers: "_Headers", by_series: dict) -> None:
        strangers = len(set(headers.series) - set(by_series))
        if strangers:
            self._notes.append(f"{strangers} CT series are of no nodule that was looked for")


class _Headers:
    """All files of a folder, by series; what is no CT slice is counted."""

    def __init__(self, folder: Path):
        self.files, self.odd = 0, Counter()
        self.series: dict[str, list[Slice]] = defaultdict(list)
        for parent, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                if not name.startswith(".") and not name.lower().endswith(NO_DICOM):
                    self.files += 1
                    self._read(Path(parent) / name)

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                start = file.read(MAX_HEADER)
            if not is_dicom(start):
                self.odd["are no DICOM files"] += 1
                return
            syntax = syntax_of(start)
            if UID(syntax).is_deflated:  # nobody knows what it inflates to
                self.odd["are deflated, which is not read"] += 1
                return
            with quietly():
                dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=HEADERS)
                modality = dataset.get("Modality")
        except Exception:  # damaged headers raise whatever their first broken part leads to
            self.odd["cannot be read"] += 1
            return
        if modality != "CT":
            self.odd["are of another modality than CT"] += 1
            return
        try:
            with quietly():
                self.series[str(dataset.SeriesInstanceUID)].append(
                    _slice(dataset, path, is_readable(syntax)))
        except Exception:  # values of the wrong type or number, missing ones, unknown syntaxes
            self.odd["are CT without a usable position, orientation or spacing"] += 1

    def notes(self) -> list[str]:
        return [f"{count} files {what}" for what, count in self.odd.items()]


def _slice(dataset: pydicom.Dataset, path: Path, readable: bool) -> Slice:
    position, spacing = dataset.ImagePositionPatient, dataset.PixelSpacing
    orientation = np.array(dataset.ImageOrientationPatient, float)
    z, rows, cols = float(position[2]), float(spacing[0]), float(spacing[1])
    if not np.isfinite([z, rows, cols]).all():
        raise ValueError("not finite")
    upright = orientation.shape == (6,) and bool(np.abs(orientation - UPRIGHT).max() <= TOLERANCE)
    instance = int(dataset.get("InstanceNumber") or 0)
    return Slice(z, instance, path, upright, (rows, cols), readable)


def _without_doubles(found: list[Slice]) -> tuple[tuple[Slice, ...], int]:
    kept: list[Slice] = []
    for each in sorted(found, key=lambda slice_: (slice_.z, slice_.instance)):
        if not kept or each.z - kept[-1].z > SAME_Z:
            kept.append(each)
    return tuple(kept), len(found) - len(kept)


def _misfit(slices: Sequence[Slice], scan: Scan) -> BadScan | None:
    """Why a series cannot be the one that was outlined."""
    if not all(each.readable for each in slices):
        return BadScan("compressed", "its pixels are compressed in a way that cannot be undone "
                       "here; expected uncompressed files. Export them uncompressed.")  # fmt: skip
    if not all(each.upright for each in slices):
        return BadScan("geometry", "its slices are turned; expected axial slices, patient upright "
                       "in the picture. Download the original series.")  # fmt: skip
    if any(abs(mm - scan.pixel_spacing) > TOLERANCE for each in slices for mm in each.spacing):
        return BadScan("geometry", "its pixel spacing differs from that of the outlines; expected "
                       f"{scan.pixel_spacing:g} mm. Download the original series.")  # fmt: skip
    return None


def _needed(nodule: Nodule) -> np.ndarray:
    """Positions of the slices that a crop is made of."""
    z = nodule.scan.slice_z
    return z[np.abs(z - nodule.centre[0]) <= AXIS_MM[-1] + MARGIN_MM]


def _missing(slices: Sequence[Slice], nodule: Nodule) -> int:
    drawn = [outline.z for reader in nodule.readers for outline in reader.outlines]
    expected = np.union1d(_needed(nodule), drawn)
    there = np.array([each.z for each in slices])
    return int((np.abs(expected[:, None] - there).min(1) > SAME_Z).sum())


def _reaches_beyond(nodule: Nodule) -> bool:
    z, middle = nodule.scan.slice_z, nodule.centre[0]
    return bool(z[0] > middle + AXIS_MM[0] or z[-1] < middle + AXIS_MM[-1])


# ---- pixels --------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _volume(slices: tuple[Slice, ...], nodule: Nodule) -> np.ndarray:
    needed = _needed(nodule)
    chosen = [each for each in slices if np.abs(needed - each.z).min() <= SAME_Z]
    stack = np.stack([_hounsfield(each.path) for each in chosen])
    middle, row, col = nodule.centre
    steps = AXIS_MM / nodule.scan.pixel_spacing
    # real positions, so that unevenly spaced scans come out right
    depth = np.interp(middle + AXIS_MM, [each.z for each in chosen], np.arange(len(chosen)))
    places = np.meshgrid(depth, row + steps, col + steps, indexing="ij")
    volume = ndimage.map_coordinates(stack, places, order=1, mode="nearest").clip(*WINDOW_HU)
    volume.setflags(write=False)
    return volume


def _hounsfield(path: Path) -> np.ndarray:
    """(rows, cols) float32 HU of one slice.

    Raises:
        BadScan: "unreadable", or "compressed".
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadScan("too-large", "no plain slice")
        return read_slice(path.read_bytes()).hu.astype(np.float32)
    except (OSError, BadScan) as error:
        if isinstance(error, BadScan) and error.reason == "compressed":
            raise
        raise BadScan("unreadable", "The pixels of a slice cannot be read; expected a whole CT "
                      "slice. Download the series again.") from None  # fmt: skip
