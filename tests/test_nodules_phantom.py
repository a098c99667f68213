"""Simulated crops: what is read and what never is, geometry against slow versions, refusals."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cdam_core.errors import BadScan
from cdam_core.nodules.crops import AXIS_MM, MIDDLE, PIXEL_MM, SIDE, Plane, take_plane, to_image
from cdam_core.nodules.outlines import agreement, signed_distances
from cdam_core.nodules.pack import RATINGS, UID_ROOT, Nodule, Outline, Reader, Scan, load_nodules
from cdam_core.nodules.phantom import LARGEST_OFFSET, Phantom

NEVER_READ = set(RATINGS) - {"texture", "calcification"}
OPPOSITE = {"malignancy": 1, "subtlety": 1, "margin": 1, "lobulation": 5, "spiculation": 5,
            "sphericity": 1, "internal_structure": 4}  # fmt: skip


def rated(nodule: Nodule, **ratings: int) -> Nodule:
    """The same nodule with other ratings by every reader."""
    readers = (replace(reader, ratings=dict(reader.ratings) | ratings)
               for reader in nodule.readers)
    return replace(nodule, readers=tuple(readers))


def circle(z: float, centre: float, radius: float, **options) -> Outline:
    angles = np.linspace(0, 2 * np.pi, 400)
    points = centre + radius * np.stack([np.sin(angles), np.cos(angles)], 1)
    return Outline(z, np.rint(points).astype(np.int16), **options)


def ball(radius_mm: float = 6.0, spacing: float = 0.5, hole: float = 0.0) -> Nodule:
    """A ball whose curves lie, as in the database, on the first pixels outside."""
    z = np.arange(-20, 20.5, 1.0)
    outlines = []
    for height in z[np.abs(z) < radius_mm]:
        radius = np.sqrt(radius_mm**2 - height**2) / spacing + 0.5
        outlines.append(circle(height, 256, radius))
        if hole:
            outlines.append(circle(height, 256, hole / spacing, inclusion=False))
    scan = Scan("LIDC-IDRI-9999", UID_ROOT + "1", UID_ROOT + "2", spacing, 1.0, z)
    ratings = dict.fromkeys(RATINGS, 3) | {"texture": 5, "calcification": 6}
    return Nodule(1, scan, tuple(Reader(ratings, tuple(outlines), i) for i in (1, 2, 3)))


# ---- what is read --------------------------------------------------------------------------------

@pytest.mark.parametrize("index", [3, 77, 400])
def test_malignancy_and_six_ratings_are_never_read(index):
    nodule = load_nodules()[index]
    assert set(OPPOSITE) == NEVER_READ
    for variant in ("ratings", "solid"):
        source = Phantom(variant, seed=5)
        np.testing.assert_array_equal(source.crop(rated(nodule, **OPPOSITE)), source.crop(nodule))


def test_the_source_code_asks_for_no_other_rating():
    asked = Counter()

    class Watched(dict):
        def __getitem__(self, name):
            asked[name] += 1
            return super().__getitem__(name)

    nodule = load_nodules()[12]
    readers = tuple(replace(r, ratings=Watched(r.ratings)) for r in nodule.readers)
    Phantom("ratings").crop(replace(nodule, readers=readers))
    assert asked == {"texture": 1, "calcification": 1}  # of one reader
    asked.clear()
    Phantom("solid").crop(replace(nodule, readers=readers))
    assert not asked


def test_calcium_changes_the_inside_and_nothing_else():
    nodule = ball()
    plain, calcified = (Phantom(seed=2).crop(rated(nodule, calcification=c)) for c in (6, 5))
    change = np.abs(calcified - plain)
    distance = np.hypot(*np.meshgrid(AXIS_MM, AXIS_MM))
    assert change[distance < 1].min() > 150
    assert change[distance > 9].max() < 0.1  # HU; the soft edge has a far tail


def test_ground_glass_is_darker_inside_and_nothing_else_moves():
    nodule = ball()
    solid, haze = (Phantom(seed=2).crop(rated(nodule, texture=t)) for t in (5, 1))
    distance = np.hypot(*np.meshgrid(AXIS_MM, AXIS_MM))
    assert (solid - haze)[distance < 4].mean() > 400
    assert np.abs(solid - haze)[distance > 9].max() < 0.1


def test_solid_looks_at_no_density():
    nodule = load_nodules()[40]
    source = Phantom("solid")
    other = rated(nodule, texture=1, calcification=3)
    np.testing.assert_array_equal(source.crop(other), source.crop(nodule))


def test_the_seed_decides_and_planes_belong_together():
    nodule = load_nodules()[5]
    again = Phantom(seed=3).crop(replace(nodule))  # equal, yet not the same object: no cache
    np.testing.assert_array_equal(again, Phantom(seed=3).crop(nodule))
    assert np.abs(Phantom(seed=4).crop(nodule) - again).mean() > 5
    near, far = (Phantom(seed=3).crop(nodule, Plane(offset)) for offset in (0.5, 4.0))
    assert np.abs(near - again).mean() < np.abs(far - again).mean()


# ---- geometry ------------------------------------------------------------------------------------

def test_distances_to_a_ball_are_those_of_the_formula():
    nodule = ball(6.0)
    found = signed_distances(nodule)
    assert found.shape == (3, SIDE, SIDE, SIDE)
    y, x = np.meshgrid(AXIS_MM, AXIS_MM, indexing="ij")
    for plane in (SIDE // 2, SIDE // 2 + 7):  # in-plane distance to the circle of that height
        radius = np.sqrt(36 - AXIS_MM[plane] ** 2)
        near = np.abs(np.hypot(y, x) - radius) < 3
        error = found[0, plane] - (np.hypot(y, x) - radius)
        assert np.abs(error[near]).max() < 0.45
        assert abs(error[near].mean()) < 0.15
    volume = (found[0] < 0).sum() * PIXEL_MM**3
    assert volume == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.06)


def test_the_nodule_lies_in_the_middle_of_its_crop():
    for index in (0, 100, 500):
        inside = (signed_distances(load_nodules()[index]) < 0).any((0, 1))
        for axis in (0, 1):
            found = np.flatnonzero(inside.any(1 - axis))
            assert abs(AXIS_MM[found[0]] + AXIS_MM[found[-1]]) / 2 <= 0.5
    inside = agreement(ball())
    for axis in (0, 1):
        weight = inside.sum(1 - axis)
        assert (weight * AXIS_MM).sum() / weight.sum() == pytest.approx(0, abs=0.1)


def test_holes_are_cut_out():
    inside = agreement(ball(hole=2.0)) >= 0.5
    distance = np.hypot(*np.meshgrid(AXIS_MM, AXIS_MM))
    assert not inside[distance < 1].any()
    assert inside[(distance > 3) & (distance < 5)].all()


def test_agreement_is_the_share_of_readers():
    nodule = ball()
    small = ball(3.0).readers[0]
    nodule = replace(nodule, readers=(*nodule.readers[:2], small, nodule.readers[2]))
    distance = np.hypot(*np.meshgrid(AXIS_MM, AXIS_MM))
    share = agreement(nodule)
    assert (share[distance < 2] == 1).all()
    assert (share[(distance > 4) & (distance < 5)] == 0.75).all()
    assert (share[distance > 7] == 0).all()
    for plane in (Plane(0, "coronal"), Plane(1.0, "sagittal")):
        assert (agreement(nodule, plane) >= 0.75).sum() * PIXEL_MM**2 == pytest.approx(
            np.pi * (36 - plane.offset**2), rel=0.08)


def test_the_bright_inside_is_where_the_readers_drew():
    distance = np.hypot(*np.meshgrid(AXIS_MM, AXIS_MM))
    hu = Phantom("solid", seed=1).crop(ball())
    assert hu[distance < 4].mean() == pytest.approx(35, abs=70)
    assert hu[distance < 4].mean() - np.median(hu) > 500


def test_every_nodule_can_be_rendered_inside_the_window():
    for nodule in load_nodules()[::60]:
        hu = Phantom().crop(nodule)
        assert hu.shape == (SIDE, SIDE)
        assert hu.dtype == np.float32
        assert hu.min() >= -1000
        assert hu.max() <= 400
        assert np.isfinite(hu).all()


# ---- planes and pictures -------------------------------------------------------------------------

def test_planes_are_cut_along_their_axis():
    volume = np.arange(SIDE**3).reshape(SIDE, SIDE, SIDE)
    np.testing.assert_array_equal(take_plane(volume, MIDDLE), volume[32])
    np.testing.assert_array_equal(take_plane(volume, Plane(2.0, "coronal")), volume[::-1, 36])
    np.testing.assert_array_equal(take_plane(volume, Plane(-3, "sagittal")), volume[::-1, :, 26])


def test_window_ends_are_black_and_white():
    picture = to_image(np.array([[-2000.0, -1000.0], [400.0, 3000.0]]))
    assert isinstance(picture, Image.Image)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture)[..., 0], [[0, 0], [255, 255]])
    assert np.asarray(to_image(np.array([[-600.0]]), -1350, 150))[0, 0, 0] == 128


@pytest.mark.parametrize("plane", [Plane(40.0), Plane(0.0, "oblique"), Plane(0.0, "coronal"),
                                   Plane(LARGEST_OFFSET + 0.5)])
def test_planes_that_the_phantom_has_not_are_refused(plane):
    with pytest.raises(BadScan, match="expected one") as caught:
        Phantom().crop(ball(), plane)
    assert caught.value.reason == "wrong-type"


def test_other_variants_are_refused():
    with pytest.raises(BadScan, match="ratings, solid"):
        Phantom("gas")
