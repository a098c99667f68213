"""Scores to maps: positions, signs and zero survive."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdam_core.images import place
from cdam_core.maps import (
    MODES,
    coverage,
    lattice,
    map_correlation,
    positive_share,
    resample,
    symmetric_scale,
    to_map,
)


@pytest.mark.parametrize("mode", MODES)
def test_a_bright_patch_stays_where_it_is(mode):
    scores = np.zeros((4, 6), np.float32)
    scores[1, 4] = 2
    score_map = to_map(scores, (32, 48), mode)
    assert score_map.shape == (32, 48)
    row, col = np.unravel_index(score_map.argmax(), score_map.shape)
    assert (row // 8, col // 8) == (1, 4)


def test_nearest_is_exact():
    scores = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    score_map = to_map(scores, (32, 48))
    assert np.array_equal(score_map[:, 4::8, 4::8], scores)
    assert np.array_equal(score_map, np.kron(scores, np.ones((1, 8, 8), np.float32)))


def test_sizes_that_are_no_multiple_of_the_grid():
    scores = np.arange(6, dtype=np.float32).reshape(2, 3)
    score_map = to_map(scores, (5, 7))
    assert set(np.unique(score_map)) == set(range(6))
    assert score_map[0, 0] == 0
    assert score_map[-1, -1] == 5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(MODES))
def test_no_peak_is_invented_and_negation_is_kept(seed, mode):
    scores = np.random.default_rng(seed).normal(size=(5, 3)).astype(np.float32)
    score_map = to_map(scores, (40, 24), mode)
    assert score_map.max() <= scores.max()
    assert score_map.min() >= scores.min()
    np.testing.assert_allclose(to_map(-scores, (40, 24), mode), -score_map, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_no_sign_is_invented_between_patches(mode):
    scores = np.zeros((4, 6), np.float32)
    scores[1, 4], scores[2, 1] = 2, 1
    assert to_map(scores, (32, 48), mode).min() == 0


@pytest.mark.parametrize("mode", MODES)
def test_zero_stays_zero(mode):
    assert not to_map(np.zeros((4, 6)), (32, 48), mode).any()


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="expected one of nearest, smooth"):
        to_map(np.zeros((2, 2)), (4, 4), "blurry")


def test_the_scale_is_shared_and_symmetric():
    maps = [np.array([[-3.0, 1.0]]), np.array([[2.0, np.nan]])]
    assert symmetric_scale(maps) == 3
    assert symmetric_scale([np.zeros((2, 2))]) == 1
    assert symmetric_scale([np.arange(101.0)], quantile=0.9) == 90
    # Nearly everything is zero: the quantile would be zero, the largest score is not.
    assert symmetric_scale([np.array([0.0] * 99 + [5.0])], quantile=0.5) == 5


def test_coverage_counts_pixels():
    mask = np.zeros((8, 12), bool)
    mask[0:4, 0:6] = True
    mask[4:6, 6:12] = True
    np.testing.assert_allclose(coverage(mask, (2, 2)), [[1, 0], [0, 0.5]], atol=1e-6)


def test_positive_share_ignores_what_speaks_against():
    scores = np.array([[3.0, -100.0], [1.0, 0.0]])
    covered = np.array([[1.0, 1.0], [0.5, 0.0]])
    assert positive_share(scores, covered) == pytest.approx(3.5 / 4)
    assert np.isnan(positive_share(-np.abs(scores), covered))


# ---- maps of different grids ---------------------------------------------------------------------


def test_a_finer_map_is_averaged_block_by_block():
    draw = np.random.default_rng(0)
    fine, coarse = draw.normal(size=(8, 12)), draw.normal(size=(4, 6))
    eight = lattice((64, 96), (64, 96), (8, 8), (8, 12))
    four = lattice((64, 96), (64, 96), (16, 16), (4, 6))
    means = fine.reshape(4, 2, 6, 2).mean((1, 3))
    everywhere = np.ones(fine.shape, bool)
    np.testing.assert_allclose(resample(fine, everywhere, eight, four), means)
    contents = (everywhere, np.ones(coarse.shape, bool))
    wanted = np.corrcoef(means.ravel(), coarse.ravel())[0, 1]
    for one, two, kept, where in ((fine, coarse, contents, (eight, four)),
                                  (coarse, fine, contents[::-1], (four, eight))):
        found, count = map_correlation(one, two, kept, where)
        assert (found, count) == (pytest.approx(wanted), 24)


def test_other_fits_and_shapes_agree_with_counting_points_of_the_picture():
    original, models = (60, 120), (((32, 48), 8, "pad"), ((40, 40), 10, "crop"))
    draw = np.random.default_rng(1)
    lattices, patches, contents = [], [], []
    rows, cols = np.meshgrid((np.arange(960) + 0.5) / 16, (np.arange(1920) + 0.5) / 16,
                             indexing="ij")  # points of the picture
    for size, side, fit in models:
        grid = (size[0] // side, size[1] // side)
        lattices.append(lattice(original, size, (side, side), grid, fit))
        (height, width), (top, left) = (placed := place(original, size, fit)).resized, placed.offset
        at = [(rows * height / 60 + top) // side, (cols * width / 120 + left) // side]
        inside = (at[0] >= 0) & (at[0] < grid[0]) & (at[1] >= 0) & (at[1] < grid[1])
        patches.append(np.where(inside, at[0] * grid[1] + at[1], -1).astype(int))
        contents.append(np.bincount(patches[-1][inside], minlength=grid[0] * grid[1]) > 0)
    scores = draw.normal(size=(4, 6))
    found = resample(scores, contents[0].reshape(4, 6), *lattices)
    for patch in range(16):
        under = patches[0][patches[1] == patch]
        assert found.flat[patch] == pytest.approx(scores.flat[under].mean(), abs=0.02)


def test_a_place_of_the_picture_is_in_one_patch_of_each_model():
    wide = lattice((60, 120), (32, 48), (8, 8), (4, 6))  # 4 px of padding above and below
    assert wide.rows[0] == pytest.approx(-4 / 24)
    assert wide.rows[-1] == pytest.approx(28 / 24)
    assert wide.patch_at(0.5, 0.5) == (2, 3)
    assert wide.patch_at(-9, 9) == (0, 5)  # the nearest
    for patch in np.ndindex(4, 6):
        assert wide.patch_at(*wide.centre_of(patch)) == patch


def test_correlations_of_opposite_flat_and_apart_maps():
    one, whole = np.random.default_rng(2).normal(size=(4, 6)), np.ones((4, 6), bool)
    here = lattice((32, 48), (32, 48), (8, 8), (4, 6))
    for other, wanted in ((3 * one, 1), (-0.1 * one, -1)):
        found, _ = map_correlation(one, other, (whole, whole), (here, here))
        assert found == pytest.approx(wanted)
    for flat in (np.zeros((4, 6)), np.full((4, 6), 7.0)):
        assert np.isnan(map_correlation(one, flat, (whole, whole), (here, here))[0])
    left, right = whole.copy(), whole.copy()
    left[:, 3:], right[:, :3] = False, False
    assert map_correlation(one, one, (left, right), (here, here))[1] == 0
    assert np.isnan(map_correlation(one, one, (left, right), (here, here))[0])
