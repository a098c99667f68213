"""The bundled annotations: which nodules there are, who outlined and rated them, and how.

``load_nodules`` reads one file of half a megabyte, which ``scripts/build_nodules_pack.py`` makes
from the public annotation database of LIDC-IDRI (Armato et al. 2011, Medical Physics 38:915; the
texts of licence and citation lie beside the file). How the file is laid out is known here alone.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
from scipy.spatial.distance import pdist

from cdam_core.assets import assets_dir
from cdam_core.errors import BadScan

# The readers' ratings as the database names them; 1 is the low end, calcification is a code.
RATINGS = ("subtlety", "internal_structure", "calcification", "sphericity", "margin",
           "lobulation", "spiculation", "texture", "malignancy")  # fmt: skip
# The eight outputs of the CDAM paper (section 5.2).
BIOMARKERS = ("subtlety", "calcification", "sphericity", "margin", "lobulation", "spiculation",
              "texture", "diameter")  # fmt: skip
UID_ROOT = "1.3.6.1.4.1.14519.5.2.1.6279.6001."  # all UIDs of the collection begin so
MICROMETRES = 1000  # in a millimetre; slice positions are stored as whole micrometres
# The published table of the paper's group lacks eight of our nodules (docs/nodules.md).
NOT_PUBLISHED = frozenset((797, 1262, 2056, 3383, 3606, 4056, 5607, 6608))


@dataclass(frozen=True, eq=False)
class Outline:
    """One closed curve that a reader drew in one slice.

    Attributes:
        z: position of the slice in mm, as the scan's headers give it.
        points: (n, 2) int16 (row, col) in the 512 x 512 slice; the curve lies on the first pixels
            outside the nodule.
        inclusion: False for a hole.
    """

    z: float
    points: np.ndarray
    inclusion: bool = True


@dataclass(frozen=True, eq=False)
class Reader:
    """One radiologist's view of a nodule.

    Attributes:
        ratings: name in ``RATINGS`` -> 1 to 5 (calcification 1 to 6, where 6 is absent).
        outlines: what was drawn, slice by slice.
        annotation: number in the database; readers have no identity across nodules.
    """

    ratings: Mapping[str, int]
    outlines: tuple[Outline, ...]
    annotation: int = 0


@dataclass(frozen=True, eq=False)
class Scan:
    """The geometry of a CT scan.

    Attributes:
        patient_id, study_uid, series_uid: as the collection names them.
        pixel_spacing: mm between rows and between columns.
        slice_thickness: mm.
        slice_z: (n,) positions of all slices in mm, ascending; not always evenly spaced.
    """

    patient_id: str
    study_uid: str
    series_uid: str
    pixel_spacing: float
    slice_thickness: float
    slice_z: np.ndarray


@dataclass(frozen=True, eq=False)
class Nodule:
    """One nodule, outlined by three or four readers.

    Attributes:
        id: the lowest of its annotations' numbers in the database.
        scan: where it lies.
        readers: who saw it.
    """

    id: int
    scan: Scan
    readers: tuple[Reader, ...]

    @property
    def patient_id(self) -> str:
        """Patient of the collection, already without any real identity."""
        return self.scan.patient_id

    @property
    def malignancy(self) -> float:
        """Median of the readers' malignancy, 1 to 5: an opinion, not pathology."""
        return float(np.median([reader.ratings["malignancy"] for reader in self.readers]))

    @property
    def malignant(self) -> bool:
        """The label: median malignancy above 3; a median of 3 is not among the nodules."""
        return self.malignancy > 3

    @cached_property
    def diameters(self) -> np.ndarray:
        """(readers,) mm: the largest distance within an outline, per reader."""
        spacing = self.scan.pixel_spacing
        return np.array([max((_widest(o.points) for o in reader.outlines), default=0.0) * spacing
                         for reader in self.readers])  # fmt: skip

    def by_reader(self, name: str) -> np.ndarray:
        """(readers,) values of a rating, or of "diameter" in mm."""
        if name == "diameter":
            return self.diameters
        return np.array([reader.ratings[name] for reader in self.readers], float)

    @cached_property
    def biomarkers(self) -> Mapping[str, float]:
        """Mean over the readers of each of ``BIOMARKERS``."""
        return MappingProxyType({name: float(self.by_reader(name).mean()) for name in BIOMARKERS})

    @cached_property
    def centre(self) -> tuple[float, float, float]:
        """(z mm, row, col) of the middle of the box around all readers' inclusions."""
        drawn = [o for reader in self.readers for o in reader.outlines]
        points = np.concatenate([outline.points for outline in drawn if outline.inclusion])
        row, col = (points.min(0).astype(float) + points.max(0)) / 2
        heights = [outline.z for outline in drawn]
        return (min(heights) + max(heights)) / 2, float(row), float(col)


def _widest(points: np.ndarray) -> float:
    return float(pdist(points.astype(float)).max()) if len(points) > 1 else 0.0


def load_nodules(published: bool = False) -> tuple[Nodule, ...]:
    """All nodules by the rule of the paper's group: 862 of them, 447 benign and 415 malignant.

    First scan of each patient, outlined by three or four readers, median malignancy other than 3.

    Args:
        published: only the 854 (442 + 412) that the group's published table holds as well.

    Raises:
        BadScan: "damaged" or "not-found" if the bundled file is.
    """
    nodules = _bundled()
    return tuple(n for n in nodules if n.id not in NOT_PUBLISHED) if published else nodules


@cache
def _bundled() -> tuple[Nodule, ...]:
    return read_pack(assets_dir() / "nodules" / "nodules.npz")


# ---- the file ------------------------------------------------------------------------------------


def pack(nodules: Sequence[Nodule]) -> bytes:
    """The file that holds these nodules; equal nodules give equal bytes.

    Slice positions are kept to a micrometre, everything else exactly. Curves are kept as a first
    point and steps.
    """
    scans = {nodule.scan.series_uid: nodule.scan for nodule in nodules}
    rows = {uid: index for index, uid in enumerate(scans)}
    readers = [(i, reader) for i, nodule in enumerate(nodules) for reader in nodule.readers]
    outlines = [(i, nodules[owner], outline) for i, (owner, reader) in enumerate(readers)
                for outline in reader.outlines]  # fmt: skip
    heights = [np.rint(scan.slice_z * MICROMETRES).astype(np.int32) for scan in scans.values()]
    points = [outline.points for _, _, outline in outlines]
    steps = np.concatenate([np.diff(curve, axis=0) for curve in points])
    if np.abs(steps).max() > np.iinfo(np.int8).max:
        raise ValueError("a step of an outline is longer than the file can hold")
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        patient=_texts(scan.patient_id for scan in scans.values()),
        study=_texts(_without_root(scan.study_uid) for scan in scans.values()),
        series=_texts(_without_root(scan.series_uid) for scan in scans.values()),
        spacing=np.array([scan.pixel_spacing for scan in scans.values()]),
        thickness=np.array([scan.slice_thickness for scan in scans.values()]),
        slices=np.array([len(z) for z in heights], np.int16),
        z_first=np.array([z[0] for z in heights], np.int32),
        z_steps=np.concatenate([np.diff(z) for z in heights]),
        nodule=np.array([(nodule.id, rows[nodule.scan.series_uid]) for nodule in nodules],
                        np.int16),
        reader=np.array([(owner, reader.annotation) for owner, reader in readers], np.int16),
        ratings=np.array([[reader.ratings[name] for name in RATINGS] for _, reader in readers],
                         np.int8),
        outline=np.array([(owner, _slice_of(nodule.scan, outline.z), len(outline.points))
                          for owner, nodule, outline in outlines], np.int16),
        inclusion=np.array([outline.inclusion for _, _, outline in outlines]),
        first=np.array([curve[0] for curve in points], np.int16),
        steps=steps.astype(np.int8),
    )  # fmt: skip
    return buffer.getvalue()


def _texts(values) -> np.ndarray:
    return np.array([value.encode("ascii") for value in values])


def _without_root(uid: str) -> str:
    if not uid.startswith(UID_ROOT):
        raise ValueError("a UID is not of the LIDC-IDRI collection")
    return uid.removeprefix(UID_ROOT)


def _slice_of(scan: Scan, z: float) -> int:
    index = int(np.abs(scan.slice_z - z).argmin())
    if abs(scan.slice_z[index] - z) > 1 / MICROMETRES:
        raise ValueError("an outline lies in no slice of its scan")
    return index


def read_pack(path: Path) -> tuple[Nodule, ...]:
    """Read a file as ``pack`` makes it.

    Raises:
        BadScan: "not-found" or "damaged".
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return _unpack({name: file[name] for name in file.files})
    except FileNotFoundError:
        raise BadScan("not-found", "The bundled nodules are missing; expected the file "
                      "assets/nodules/nodules.npz. Install again.") from None  # fmt: skip
    except Exception:  # a damaged archive raises whatever its first broken part leads to
        raise BadScan("damaged", "The file of nodules is damaged; expected one that scripts/"
                      "build_nodules_pack.py has written. Install again.") from None  # fmt: skip


def _unpack(arrays: dict[str, np.ndarray]) -> tuple[Nodule, ...]:
    scans = _unpack_scans(arrays)
    owners, slices, lengths = arrays["outline"].T.astype(int)
    scan_of_reader = arrays["nodule"][arrays["reader"][:, 0], 1]
    curves = _unpack_curves(arrays["first"], arrays["steps"], lengths)
    drawn: list[list[Outline]] = [[] for _ in arrays["reader"]]
    for owner, index, inclusion, points in zip(
        owners, slices, arrays["inclusion"], curves, strict=True
    ):
        z = float(scans[scan_of_reader[owner]].slice_z[index])
        drawn[owner].append(Outline(z, points, bool(inclusion)))
    readers: list[list[Reader]] = [[] for _ in arrays["nodule"]]
    for (owner, annotation), ratings, outlines in zip(
        arrays["reader"].tolist(), arrays["ratings"].tolist(), drawn, strict=True
    ):
        named = MappingProxyType(dict(zip(RATINGS, ratings, strict=True)))
        readers[owner].append(Reader(named, tuple(outlines), annotation))
    return tuple(
        Nodule(number, scans[scan], tuple(seen))
        for (number, scan), seen in zip(arrays["nodule"].tolist(), readers, strict=True)
    )


def _unpack_scans(arrays: dict[str, np.ndarray]) -> list[Scan]:
    ends = np.cumsum(arrays["slices"].astype(int) - 1)[:-1]
    heights = [
        _frozen(np.r_[first, first + np.cumsum(steps)] / MICROMETRES)
        for first, steps in zip(
            arrays["z_first"], np.split(arrays["z_steps"], ends), strict=True
        )
    ]
    named = (arrays[name].tolist() for name in ("patient", "study", "series"))
    return [
        Scan(patient.decode(), UID_ROOT + study.decode(), UID_ROOT + series.decode(), spacing,
             thickness, z)
        for patient, study, series, spacing, thickness, z in zip(
            *named, arrays["spacing"].tolist(), arrays["thickness"].tolist(), heights, strict=True
        )
    ]  # fmt: skip


def _unpack_curves(first: np.ndarray, steps: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    parts = np.split(steps.astype(np.int16), np.cumsum(lengths - 1)[:-1])
    return [
        _frozen(np.concatenate([[start], start + np.cumsum(part, 0)]).astype(np.int16))
        for start, part in zip(first, parts, strict=True)
    ]


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
