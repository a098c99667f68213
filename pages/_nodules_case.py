"""What the page "Lung nodules" looks at, and what the two models say of a slice of it.

A case is 32 mm of CT around a nodule: simulated, of a real scan in the administrator's folder, or
the visitor's own. Answers about bundled nodules are shared by all visitors; those about a visitor's
own files stay in the visit and go with them.
"""

import os
import threading
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

import cdam_core as cdam
from cdam_core.errors import BadScan
from cdam_core.images import digest
from cdam_core.nodules import BIOMARKERS, DicomArchive, Nodule, Phantom, Plane, load_nodules
from cdam_core.nodules.crops import CENTRAL, MIDDLE, PIXEL_MM, to_image
from cdam_core.nodules.curves import Curves
from cdam_core.nodules.phantom import REACH
from pages import _state
from pages._gate import slot

MALIGNANCY, MARKERS = "nodules-malignancy", "nodules-biomarkers"  # the models
TARGETS = ("malignant", "benign")
VARIABLE = "CDAM_LIDC"  # names the folder that a download of LIDC-IDRI was put into
# Sources of crops of bundled nodules, and how they are called.
PHANTOMS = {"ratings": "Simulated CT", "solid": "Simulated CT, all solid (shape only)"}
ARCHIVE, OWN = "dicom", "own"


@dataclass(frozen=True, eq=False)
class Case:
    """What is looked at.

    Attributes:
        key: tells it from other cases, pixels included.
        source: "phantom" | "dicom" | "own".
        values: (planes, 64, 64) float32 HU inside the models' window.
        first: number of the first plane along z, as ``Plane.index`` counts.
        nodule: whose readers and ratings; None: not known.
        notes: what was changed on opening.
        variant: of a phantom.
    """

    key: str
    source: str
    values: np.ndarray = field(repr=False)
    first: int
    nodule: Nodule | None = None
    notes: tuple[str, ...] = ()
    variant: str = ""

    @property
    def axes(self) -> tuple[str, ...]:
        """Directions in which it can be cut."""
        whole = self.values.shape[0] == self.values.shape[1]
        return ("axial", "coronal", "sagittal") if whole else ("axial",)

    def numbers(self, axis: str) -> range:
        """Numbers of the planes along an axis."""
        if axis == "axial":
            return range(self.first, self.first + len(self.values))
        return range(self.values.shape[1])

    def hu(self, plane: Plane) -> np.ndarray:
        """(64, 64) of a plane; coronal and sagittal ones have z upwards."""
        if plane.axis == "axial":
            return self.values[plane.index - self.first]
        cut = self.values[::-1, plane.index] if plane.axis == "coronal" \
            else self.values[::-1, :, plane.index]  # fmt: skip
        return np.ascontiguousarray(cut)

    @cached_property
    def curves(self) -> Curves | None:
        """What the readers drew."""
        if self.nodule is None:
            return None
        return Curves(self.nodule, self.first, self.first + len(self.values) - 1)


def plane_of(axis: str, number: int) -> Plane:
    """The plane with a number."""
    return Plane((number - CENTRAL) * PIXEL_MM, axis)


# ---- bundled nodules -----------------------------------------------------------------------------


@lru_cache(maxsize=1)
def by_id() -> dict[int, Nodule]:
    """All bundled nodules."""
    return {nodule.id: nodule for nodule in load_nodules()}


def bundled_case(source: str, nodule_id: int) -> Case:
    """A nodule as a source shows it.

    Args:
        source: a key of ``PHANTOMS``, or ``ARCHIVE``.
        nodule_id: of the nodule.

    Raises:
        BadScan: the source has no such crop.
    """
    if source == ARCHIVE:
        return _archive_case(archive(), nodule_id)
    return _phantom_case(source, nodule_id)


@lru_cache(maxsize=64)
def _phantom_case(variant: str, nodule_id: int) -> Case:
    nodule, phantom = by_id()[nodule_id], Phantom(variant)
    numbers = range(CENTRAL - REACH, CENTRAL + REACH + 1)
    with slot():
        planes = [phantom.crop(nodule, plane_of("axial", number)) for number in numbers]
    return Case(f"{variant}.{nodule_id}", "phantom", np.stack(planes), numbers[0], nodule,
                variant=variant)  # fmt: skip


@lru_cache(maxsize=16)
def _archive_case(found: DicomArchive, nodule_id: int) -> Case:
    nodule = by_id()[nodule_id]
    with slot():
        volume = found.volume(nodule)
    return Case(f"{ARCHIVE}.{nodule_id}", "dicom", volume, 0, nodule)


# ---- the administrator's folder ------------------------------------------------------------------

_reading = threading.Lock()


def archive_folder() -> Path | None:
    """The folder that ``CDAM_LIDC`` names, if it is there."""
    stated = os.environ.get(VARIABLE, "").strip()
    path = Path(stated).expanduser() if stated else None
    return path if path is not None and path.is_dir() else None


def archive() -> DicomArchive:
    """What the administrator's folder holds; its headers are read once for all visitors.

    Raises:
        BadScan: there is no such folder any more.
    """
    folder = archive_folder()
    if folder is None:
        raise BadScan("not-found", f"The folder of scans is not there; the administrator names it "
                      f"in the environment variable {VARIABLE}.")  # fmt: skip
    with _reading:  # the second visitor waits for what the first one reads
        return _read_archive(folder)


@lru_cache(maxsize=1)
def _read_archive(folder: Path) -> DicomArchive:
    return DicomArchive(folder)


# ---- what the models say -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Answer:
    """Both models' outputs and maps of one slice.

    Attributes:
        image: PIL RGB, 64 x 64: the slice as every model gets it, in the models' window.
        digest: SHA-256 of its pixels.
        malignancy: maps of ``TARGETS``.
        markers: maps of ``BIOMARKERS``.
        latent: (d,) embedding by the malignancy model.
    """

    image: Image.Image
    digest: str
    malignancy: cdam.Explanation
    markers: cdam.Explanation
    latent: np.ndarray

    def explanation(self, model_id: str) -> cdam.Explanation:
        """The maps by one of the models."""
        return self.malignancy if model_id == MALIGNANCY else self.markers


def answer(case: Case, plane: Plane = MIDDLE) -> Answer:
    """What the models say of a slice, computed once.

    Raises:
        BadCheckpoint: a bundled model is missing.
    """
    if case.source != OWN:
        return _shared_answer(case, plane)
    key = ("nodules", case.key, plane)
    found = _state.recall(key)
    if found is None:
        found = _answer(case, plane)
        _state.keep(key, found)
    return found


@lru_cache(maxsize=256)
def _shared_answer(case: Case, plane: Plane) -> Answer:
    return _answer(case, plane)


def _answer(case: Case, plane: Plane) -> Answer:
    image = to_image(case.hu(plane))
    malignancy, markers = _state.get_model(MALIGNANCY), _state.get_model(MARKERS)
    with slot():
        one, other = malignancy.encode_image(image), markers.encode_image(image)
        return Answer(
            image, digest(image),
            cdam.explain(malignancy, one, list(TARGETS)),
            cdam.explain(markers, other, list(BIOMARKERS)),
            malignancy.latent(one).float().cpu().numpy(),
        )  # fmt: skip
