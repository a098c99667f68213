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


@pytest.fixture
def bank():
    return EmbeddingBank.build(familiar(200, 0), familiar(400, 1), neighbours=3, false_alarms=0.05)


def test_the_distance_is_the_stated_statistic(bank):
    entries = bank.codes.astype(np.float64) * bank.scale
    mean = entries.mean(0)
    point = np.random.default_rng(3).normal(size=DIM)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    cosines = sorted(cosine(point - mean, entry - mean) for entry in entries)[-3:]
    assert bank.distance(point) == pytest.approx(1 - np.mean(cosines), abs=1e-5)


def test_one_and_many_agree(bank):
    points = familiar(5, 4)
    together = bank.distance(points)
    assert together.shape == (5,)
    assert [bank.distance(point) for point in points] == pytest.approx(
        together.tolist(), rel=1e-4)
    assert bank.is_unfamiliar(points).tolist() == [bank.is_unfamiliar(point) for point in points]
    assert isinstance(bank.is_unfamiliar(points[0]), bool)


def test_tensors_are_welcome(bank):
    point = torch.from_numpy(familiar(1, 5)[0]).float()
    assert bank.distance(point) == pytest.approx(bank.distance(point.numpy()))


def test_the_threshold_flags_the_promised_share_and_strangers(bank):
    assert bank.is_unfamiliar(familiar(2000, 6)).mean() == pytest.approx(0.05, abs=0.03)
    strangers = np.random.default_rng(7).normal(size=(200, DIM)) - 4 * np.eye(4, DIM).sum(0)
    assert bank.is_unfamiliar(strangers).mean() > 0.95


def test_an_entry_of_the_bank_is_near(bank):
    entry = bank.codes[0] * bank.scale
    assert bank.distance(entry) < 0.5 * bank.threshold + 0.05


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
    assert measured["photographs_flagged"]["whole"] >= 0.90
