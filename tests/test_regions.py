"""Regions and shares: exact numbers on maps made by hand, and a slow search for the box."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdam_core.errors import BadRegion
from cdam_core.regions import Region, shares, shares_words, smallest_box, summary_words

GRID = (4, 6)


def box(top, left, bottom, right):
    return Region("box", ((top, left), (bottom, right)))


# ---- coverage ------------------------------------------------------------------------------------


def test_a_box_covers_exactly_its_part_of_every_patch():
    covered = box(0.25, 1 / 6, 0.625, 0.75).coverage(GRID)
    expected = np.outer([0, 1, 0.5, 0], [0, 1, 1, 1, 0.5, 0])
    np.testing.assert_allclose(covered, expected, atol=1e-12)


def test_the_corners_of_a_box_may_come_in_any_order_and_beyond_the_picture():
    assert box(0.9, 0.8, 0.1, 0.2).points == ((0.1, 0.2), (0.9, 0.8))
    np.testing.assert_allclose(box(-3, -1, 2, 5).coverage(GRID), np.ones(GRID))


def test_a_lasso_around_a_box_covers_what_the_box_covers():
    corners = ((0.25, 0.1), (0.25, 0.73), (0.75, 0.73), (0.75, 0.1))
    lasso = Region("lasso", corners).coverage(GRID)
    np.testing.assert_allclose(lasso, box(0.25, 0.1, 0.75, 0.73).coverage(GRID), atol=1e-12)


def test_a_triangle_covers_half_of_what_surrounds_it():
    covered = Region("lasso", ((0, 0), (0, 1), (1, 0))).coverage((5, 5))
    assert covered.sum() == pytest.approx(12.5)
    np.testing.assert_allclose(np.diag(covered[:, ::-1]), 0.5)
    assert covered[0, 0] == 1
    assert covered[4, 4] == 0


def test_what_a_lasso_surrounds_twice_is_outside_and_both_ends_of_an_eight_are_inside():
    eight = Region("lasso", ((0, 0), (1, 1), (0, 1), (1, 0)))
    covered = eight.coverage((2, 4))
    np.testing.assert_allclose(covered, [[0.75, 0.25, 0.25, 0.75]] * 2, atol=1e-9)


polygons = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8, unique=True
)


@settings(deadline=None, max_examples=40)
@given(polygons)
def test_a_lasso_agrees_with_asking_many_points_whether_they_are_inside(points):
    try:
        covered = Region("lasso", tuple(points)).coverage((3, 3))
    except BadRegion:
        return  # no area
    side = np.linspace(0, 1, 181)[:-1] + 1 / 360
    rows, cols = np.meshgrid(side, side, indexing="ij")
    inside = np.zeros(rows.shape, bool)
    for (r0, c0), (r1, c1) in zip(points, [*points[1:], points[0]], strict=True):
        if r0 != r1:
            hit = ((r0 <= rows) != (r1 <= rows)) & (
                cols > c0 + (rows - r0) * (c1 - c0) / (r1 - r0)
            )
            inside ^= hit
    slow = inside.reshape(3, 60, 3, 60).mean((1, 3))
    np.testing.assert_allclose(covered, slow, atol=0.05)


@pytest.mark.parametrize(
    ("kind", "points", "reason"),
    [
        ("circle", ((0, 0), (1, 1)), "wrong-type"),
        (["box"], ((0, 0), (1, 1)), "wrong-type"),
        ("box", ((0, 0), (1, 1), (0, 1)), "wrong-type"),
        ("lasso", ((0, 0), (1, 1)), "wrong-type"),
        ("lasso", ((0.5, 0.5),) * 501, "wrong-type"),
        ("box", ((0, 0), (math.nan, 1)), "wrong-type"),
        ("box", ((0, 0), (math.inf, 1)), "wrong-type"),
        ("box", "ab", "wrong-type"),
        ("box", None, "wrong-type"),
        ("box", ((0, 0), ("x", 1)), "wrong-type"),
        ("box", ((0.5, 0), (0.5, 1)), "empty"),
        ("box", ((2, 2), (3, 3)), "empty"),
        ("lasso", ((0, 0), (0.5, 0.5), (1, 1)), "empty"),
    ],
)
def test_what_is_no_region_is_refused(kind, points, reason):
    with pytest.raises(BadRegion) as caught:
        Region.from_description({"kind": kind, "points": points})
    assert caught.value.reason == reason
    with pytest.raises(BadRegion):
        Region.from_description([kind, points])


def test_a_description_gives_the_same_region_again():
    region = Region("lasso", ((0, 0), (0.1, 0.9), (0.7, 0.3)))
    assert Region.from_description(region.description()) == region


# ---- shares --------------------------------------------------------------------------------------

MAP = np.array([[4.0, -1.0, 0.0], [2.0, 2.0, -3.0]])


def test_shares_are_counted_by_sign():
    covered = np.array([[1.0, 1.0, 0.0], [0.5, 0.0, 1.0]])
    found = shares(MAP, covered)
    assert found.area == pytest.approx(3.5 / 6)
    assert found.positive == pytest.approx(5 / 8)
    assert found.negative == 1
    assert (found.sum_positive, found.sum_negative) == (5, -4)


def test_padding_is_not_counted():
    content = np.array([[True, True, True], [False, False, False]])
    found = shares(MAP, np.ones((2, 3)) * 0.5, content)
    assert (found.area, found.positive, found.negative) == (0.5, 0.5, 0.5)
    assert found.sum_positive == 2


def test_without_evidence_there_is_no_share():
    found = shares(-np.abs(MAP), np.ones((2, 3)))
    assert math.isnan(found.positive)
    assert "Nothing speaks for zebra; 100 % of the evidence against" in shares_words("zebra", found)
    nothing = shares(np.zeros((2, 3)), np.ones((2, 3)))
    assert shares_words("zebra", nothing) == "No patch of the map of zebra has a score."


def test_shares_in_words():
    covered = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert shares_words("zebra", shares(MAP, covered)) == (
        "50 % of the evidence for zebra and 75 % of that against it lie inside the region, which "
        "is 33 % of the picture."
    )
    assert shares_words("zebra", shares(abs(MAP), covered), is_signed=False) == (
        "58 % of the map of zebra lies inside the region, which is 33 % of the picture."
    )


# ---- the smallest box ----------------------------------------------------------------------------


def slow_smallest_box(scores, share):
    positive, best = np.clip(scores, 0, None), None
    for (top, bottom), (left, right) in itertools.product(
        itertools.combinations(range(scores.shape[0] + 1), 2),
        itertools.combinations(range(scores.shape[1] + 1), 2),
    ):
        held = positive[top:bottom, left:right].sum() / positive.sum()
        if held >= share * (1 - 1e-9):
            area = (bottom - top) * (right - left)
            key = (area, -round(held, 9), top, left, bottom, right)
            best = key if best is None else min(best, key)
    return best[2:]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_the_smallest_box_is_the_one_that_trying_all_finds(seed, share):
    draw = np.random.default_rng(seed)
    scores = draw.integers(-6, 5, (5, 7)).astype(float)
    assert smallest_box(scores, share) == slow_smallest_box(scores, share)


def test_the_summary_of_a_map_made_by_hand():
    scores = np.zeros((10, 10))
    scores[3:9, 1:7] = 1.0  # rows 4-9, columns 2-7: 36 of 58
    scores[0, :] = 2.2
    scores[5, 8] = -5
    assert summary_words("zebra", scores) == (
        "62 % of the positive evidence for zebra lies in rows 4–9, columns 2–7 (36 % of the "
        "picture)."
    )


def test_summaries_of_a_point_of_nothing_and_of_everything():
    point = np.zeros((4, 4))
    point[2, 1] = 0.3
    assert summary_words("owl", point) == (
        "100 % of the positive evidence for owl lies in row 3, column 2 (6 % of the picture)."
    )
    assert summary_words("owl", -point) == "No patch speaks for owl."
    assert summary_words("owl", np.ones((10, 10))) == (
        "The positive evidence for owl is spread out: no box smaller than 60 % of the picture "
        "holds 60 % of it."
    )
    content = np.zeros((4, 4), bool)
    content[2:] = True
    assert "row 3, column 2 (12 % of the picture)" in summary_words("owl", point, content)
    assert summary_words("owl", point, is_signed=False).startswith("100 % of the map of owl lies")


def test_where_a_region_is_in_words():
    assert box(0.3, 0.2, 0.6, 0.4).words((10, 10)) == "box over rows 4–6, columns 3–4"
