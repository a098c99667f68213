"""Pairs of crops that differ in one thing, and what is measured on them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import cdam_core as cdam
from cdam_core.nodules import counterfactuals, quality
from cdam_core.nodules.counterfactuals import KINDS, LEAST_CHANGE_HU, Pair, compare, measure, pair
from cdam_core.nodules.crops import AXIS_MM, SIDE
from cdam_core.nodules.outlines import agreement
from cdam_core.nodules.pack import load_nodules
from cdam_core.nodules.phantom import Phantom
from cdam_core.nodules.splits import load_split
from tests.test_nodules_phantom import OPPOSITE, ball, rated

DISTANCE = np.hypot(*np.meshgrid(AXIS_MM, AXIS_MM))
OTHER = OPPOSITE | {"texture": 1, "calcification": 3}  # every rating there is


def linear(weight):
    """Output: the weighted sum of patch means; its map: the addends, which is exact."""
    def ask(model, hu, target):
        (rows, cols), (p, q) = model.grid, model.patch_size
        scores = weight * hu.reshape(rows, p, cols, q).mean((1, 3))
        return float(scores.sum()), scores

    return ask


def looking(side):
    return SimpleNamespace(input_size=(SIDE, SIDE), grid=(SIDE // side,) * 2,
                           patch_size=(side, side))


# ---- pairs ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_the_same_bit_by_bit_where_nothing_changed(kind):
    for nodule in (load_nodules()[30], load_nodules()[301]):
        before, after, changed = pair(nodule, kind, seed=4)
        assert before.dtype == after.dtype == np.float32
        assert before.shape == after.shape == changed.shape == (SIDE, SIDE)
        assert before.min() >= -1000
        assert after.max() <= 400
        assert changed.any()
        assert before[~changed].tobytes() == after[~changed].tobytes()
        assert (np.abs(after - before)[changed] >= LEAST_CHANGE_HU).all()
        again = pair(replace(nodule), kind, seed=4)
        assert all(np.array_equal(*both) for both in zip(again, (before, after, changed),
                                                         strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_no_rating_is_read(kind):
    nodule = load_nodules()[77]
    for one, other in zip(pair(nodule, kind), pair(rated(nodule, **OTHER), kind), strict=True):
        np.testing.assert_array_equal(one, other)


def test_density_changes_inside_the_nodule_of_the_solid_phantom():
    nodule, inside = ball(), DISTANCE < 4
    for kind, least in (("calcification", 100), ("texture", 400)):
        before, after, changed = pair(nodule, kind, seed=2)
        np.testing.assert_array_equal(before, Phantom("solid", 2).crop(nodule))
        assert (after - before)[inside].mean() * (1 if kind == "calcification" else -1) > least
        assert changed[inside].all()
        assert not changed[DISTANCE > 8.5].any()


def test_a_resized_nodule_has_the_diameter_asked_for():
    for nodule in (load_nodules()[7], load_nodules()[500]):
        for wanted in (5.0, 15.0):
            assert counterfactuals.resized(nodule, wanted).biomarkers["diameter"] == pytest.approx(
                wanted)
    small, large = ((agreement(counterfactuals.resized(ball(), mm)) >= 0.5).sum()
                    for mm in (6.0, 18.0))
    assert large / small == pytest.approx(9, rel=0.15)
    before, after, changed = pair(ball(), "diameter", seed=1)
    assert (after - before)[(DISTANCE > 3.5) & (DISTANCE < 6)].mean() > 500
    assert not changed[DISTANCE > 10].any()


def test_spicules_leave_a_smooth_ball_in_many_directions():
    before, after, changed = pair(ball(), "spiculation", seed=3)
    assert not changed[DISTANCE < 4.5].any()
    grown = (after - before > 150) & (DISTANCE > 6.6)
    angles = np.arctan2(*np.meshgrid(AXIS_MM, AXIS_MM))[grown]
    assert len(np.unique(np.floor(angles / (np.pi / 4)))) >= 5  # of eight directions
    assert 0.03 < grown[(DISTANCE > 6.6) & (DISTANCE < 9)].mean() < 0.5  # rays, no ring
    assert not changed[DISTANCE > 6 + 1.5 + 0.75 * 6 + 3].any()


def test_distance_to_a_cone_is_that_of_a_search_along_it():
    rng = np.random.default_rng(0)
    places, along = rng.normal(0, 6, (40, 3)), np.array([0.6, 0.0, 0.8])
    wide, narrow = counterfactuals.SPICULE_RADII_MM
    found = counterfactuals._cone(places, along, 2.0, 7.0)
    shares = np.linspace(0, 1, 4001)
    for place, distance in zip(places, found, strict=True):
        away = np.linalg.norm(place - (2 + 5 * shares)[:, None] * along, axis=1)
        nearest = away.argmin()
        expected = away[nearest] - (wide + shares[nearest] * (narrow - wide))
        assert distance == pytest.approx(expected, abs=2e-3)


def test_the_edge_along_a_ray_is_the_radius():
    z, y, x = np.meshgrid(counterfactuals.HEIGHTS_MM, AXIS_MM, AXIS_MM, indexing="ij")
    surface = np.sqrt(z * z + y * y + x * x) - 5
    middle = np.unravel_index(surface.argmin(), surface.shape)
    for along in ([0, 1, 0], [0, 0.6, -0.8], [0.28, 0.96, 0]):
        edge = counterfactuals._edge(surface, middle, np.array(along))
        assert edge == pytest.approx(5, abs=0.75)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="expected one of calcification"):
        pair(ball(), "colour")


# ---- measuring -----------------------------------------------------------------------------------

def test_shares_of_a_linear_model_known_by_hand():
    before, changed = np.zeros((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), bool)
    changed[:4, :4] = True  # a whole patch of 4 x 4
    changed[8, 9:11] = True  # two pixels of another
    after = np.where(changed, np.float32(10), before)
    weight = np.ones((16, 16))
    weight[2, 2] = -2
    found = compare(looking(4), Pair(before, after, changed), "any", linear(weight))
    # changes of the map: 10 on the first, -2 * 10 * 2 / 16 on the second
    assert found["share"] == pytest.approx((10 * 1 + 2.5 * 2 / 16) / 12.5)
    assert found["pixels"] == pytest.approx(18 / SIDE**2)
    assert found["mass"] == 1
    assert found["strongest"] == 1
    assert found["patches"] == pytest.approx(2 / 256)
    assert found["after"] - found["before"] == pytest.approx(7.5)


def test_a_map_of_single_pixels_changes_nowhere_else_and_the_sign_is_judged():
    nodules = [load_nodules()[row] for row in (3, 40, 222)]
    for weight in (1.0, -1.0):
        found = measure(looking(1), nodules, "calcification", ask=linear(weight))
        assert found["pairs"] == 3
        assert found["share"]["value"] == found["mass"]["value"] == 1
        changed = [pair(nodule, "calcification").changed.mean() for nodule in nodules]
        assert found["pixels"]["value"] == pytest.approx(np.mean(changed), abs=1e-4)
        assert found["moves"]["value"] == (weight < 0)  # calcium lowers the code
        assert (found["by"]["value"] > 0) == (weight < 0)


def test_a_map_that_ignores_the_change_reaches_the_share_of_pixels():
    rng = np.random.default_rng(1)

    def ask(model, hu, target):
        return 0.0, rng.normal(size=model.grid)

    found = measure(looking(1), [load_nodules()[40]], "diameter", ask=ask)
    assert found["share"]["value"] == pytest.approx(found["pixels"]["value"], rel=0.15)


# ---- the bundled model ---------------------------------------------------------------------------

@pytest.fixture(scope="module")
def stated():
    return cdam.MODELS["nodules-biomarkers"]["quality"]["counterfactuals"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_states_a_hundred_pairs_or_more_and_maps_that_follow_the_change(kind, stated):
    found = stated[kind]
    assert found["pairs"] >= 100
    assert found["moves"]["interval"][0] > 0.5
    assert found["by"]["interval"][0] > 0
    assert found["share"]["interval"][0] > found["pixels"]["interval"][1]
    assert found["mass"]["interval"][0] > found["patches"]["interval"][1]


@pytest.mark.slow
def test_some_of_the_pairs_again(stated):
    model, ids = cdam.load_model("nodules-biomarkers"), load_split().test
    nodules = [nodule for nodule in load_nodules() if nodule.id in ids][::8]
    for kind in ("texture", "diameter"):
        found = measure(model, nodules, kind)
        spread = 3 / np.sqrt(len(nodules))  # three times the largest standard error of a share
        assert found["share"]["value"] == pytest.approx(stated[kind]["share"]["value"],
                                                        abs=spread * 0.3)
        assert found["moves"]["value"] == pytest.approx(stated[kind]["moves"]["value"],
                                                        abs=spread * 0.5)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_pairs_again(kind, stated):
    model, ids = cdam.load_model("nodules-biomarkers"), load_split().test
    found = measure(model, [nodule for nodule in load_nodules() if nodule.id in ids], kind)
    for name in ("share", "mass", "strongest", "moves", "by"):
        assert found[name]["value"] == pytest.approx(stated[kind][name]["value"], abs=0.02), name
    assert quality.ON_NODULE == 0.08  # from which a patch counts as changed
