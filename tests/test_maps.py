"""Scores to maps: positions, signs and zero survive."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdam_core.maps import MODES, coverage, positive_share, symmetric_scale, to_map


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
