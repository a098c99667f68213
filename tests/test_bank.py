"""The bank of embeddings: its distance, its threshold, its files, and the committed one."""

import json

import numpy as np
import pytest
import torch

from cdam_core.assets import assets_dir
from cdam_core.bank import EmbeddingBank
from cdam_core.errors import BadCheckpoint

DIM = 16


def familiar(count, seed):
    """Points near four directions."""
    rng = np.random.default_rng(seed)
    centres = np.eye(4, DIM) * 5
    return centres[rng.integers(0, 4, count)] + rng.normal(0, 0.3, (count, DIM))


def strangers(count, seed):
    """Points on the other side of the origin."""
    return np.random.default_rng(seed).normal(size=(count, DIM)) - 3 * np.eye(4, DIM).sum(0)


@pytest.fixture
def bank():
    return EmbeddingBank.build(familiar(200, 0), strangers(60, 9), familiar(400, 1),
                               false_alarms=0.05)


def test_the_distance_is_the_stated_statistic():
    known, foreign, fresh = familiar(200, 0), strangers(60, 9), familiar(400, 1)
    bank = EmbeddingBank.build(known, foreign, fresh, ridge=0.0)
    # Fisher's discriminant is half the difference of two squared Mahalanobis distances, plus a
    # constant; so differences of the statistic are proportional to differences of that.
    inverse = np.linalg.inv((np.cov(known.T) + np.cov(foreign.T)) / 2)

    def nearer_to_foreign(x):
        to_known, to_foreign = x - known.mean(0), x - foreign.mean(0)
        return (to_known @ inverse @ to_known - to_foreign @ inverse @ to_foreign) / 2

    points = strangers(6, 3)
    expected = np.diff([nearer_to_foreign(point) for point in points])
    ratio = np.diff(bank.distance(points)) / expected
    assert ratio == pytest.approx(ratio[0], rel=1e-3)
    assert ratio[0] > 0
    assert bank.distance(fresh).std() == pytest.approx(1, rel=1e-3)


def test_one_and_many_agree(bank):
    points = familiar(5, 4)
    together = bank.distance(points)
    assert together.shape == (5,)
    assert [bank.distance(point) for point in points] == pytest.approx(
        together.tolist(), rel=1e-4, abs=1e-5)
    assert bank.is_unfamiliar(points).tolist() == [bank.is_unfamiliar(point) for point in points]
    assert isinstance(bank.is_unfamiliar(points[0]), bool)


def test_tensors_are_welcome(bank):
    point = torch.from_numpy(familiar(1, 5)[0]).float()
    assert bank.distance(point) == pytest.approx(bank.distance(point.numpy()))


def test_the_threshold_flags_the_promised_share_and_strangers(bank):
    assert bank.is_unfamiliar(familiar(2000, 6)).mean() == pytest.approx(0.05, abs=0.03)
    assert bank.is_unfamiliar(strangers(200, 7)).mean() > 0.95


def test_the_bank_itself_is_typical(bank):
    entries = bank.codes * bank.scale
    assert bank.distance(entries).mean() == pytest.approx(0, abs=1e-4)
    assert bank.is_unfamiliar(entries).mean() < 0.15


def test_saving_and_loading_change_nothing(bank, tmp_path):
    bank.save(tmp_path / "bank.safetensors")
    again = EmbeddingBank.load(tmp_path / "bank.safetensors")
    points = familiar(20, 8)
    np.testing.assert_array_equal(again.distance(points), bank.distance(points))
    assert (again.threshold, len(again)) == (bank.threshold, 200)


def test_a_missing_or_damaged_file_is_a_typed_error(tmp_path):
    with pytest.raises(BadCheckpoint) as missing:
        EmbeddingBank.load(tmp_path / "none.safetensors")
    assert missing.value.reason == "unreadable"
    (tmp_path / "bad.safetensors").write_bytes(b"no bank")
    with pytest.raises(BadCheckpoint) as damaged:
        EmbeddingBank.load(tmp_path / "bad.safetensors")
    assert damaged.value.reason == "damaged"


def test_the_committed_bank_keeps_its_promises():
    folder = assets_dir() / "models"
    card = json.loads((folder / "scenes.json").read_text("utf-8"))
    path = folder / card["bank"]
    assert path.stat().st_size <= 2**19
    bank = EmbeddingBank.load(path)
    assert len(bank) >= 1000
    measured = card["bank_calibration"]
    assert measured["photographs"] >= 50
    assert measured["fresh_scenes_flagged"] <= 0.05
    assert measured["held_out_photographs_flagged"]["whole"] >= 0.90
    # A middle square shows less of the scene; it is stated beside, and harder.
    assert measured["held_out_photographs_flagged"]["crop"] >= 0.85
