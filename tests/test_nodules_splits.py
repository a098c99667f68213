"""Splits: disjoint, stratified, by patient, seeded; what leaks is counted."""

import numpy as np
import pytest

from cdam_core.errors import BadScan
from cdam_core.nodules import splits
from cdam_core.nodules.pack import load_nodules
from cdam_core.nodules.splits import SHARES, as_json, load_split, make_split


def parts(split):
    by_id = {nodule.id: nodule for nodule in load_nodules()}
    return {part: [by_id[i] for i in getattr(split, part)] for part in SHARES}


@pytest.mark.parametrize("kind", ["patient", "nodule"])
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_every_nodule_once_in_the_papers_shares_and_balanced(kind, seed):
    found = parts(make_split(load_nodules(), kind, seed))
    ids = [nodule.id for members in found.values() for nodule in members]
    assert sorted(ids) == sorted(nodule.id for nodule in load_nodules())
    for part, share in SHARES.items():
        assert len(found[part]) / 862 == pytest.approx(share, abs=0.005)
        malignant = np.mean([nodule.malignant for nodule in found[part]])
        assert malignant == pytest.approx(415 / 862, abs=0.02)


def test_by_patient_nobody_is_on_two_sides():
    split = make_split(load_nodules(), "patient", 3)
    patients = [{nodule.patient_id for nodule in members} for members in parts(split).values()]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert split.leaked == 0
    assert "nobody" in split.words


def test_by_nodule_what_leaks_is_counted_and_said():
    split = make_split(load_nodules(), "nodule", 0)
    found = parts(split)
    trained = [nodule.patient_id for nodule in found["train"]]
    leaked = sum(nodule.patient_id in trained for nodule in found["test"])
    assert split.leaked == leaked > 20
    assert f"{leaked} of {len(split.test)} nodules" in split.words


def test_the_seed_alone_decides():
    nodules = load_nodules()
    assert make_split(nodules, seed=1) == make_split(nodules, seed=1)
    assert make_split(nodules, seed=1).test != make_split(nodules, seed=2).test


def test_the_stored_split_is_that_of_seed_0():
    assert load_split() == make_split(load_nodules(), "patient", 0)
    assert splits.stored_path().read_text("utf-8") == as_json(load_split())


def test_rows_are_positions_and_skip_what_is_absent():
    nodules = load_nodules()
    rows = load_split().rows(nodules, "test")
    assert [nodules[i].id for i in rows] == [n.id for n in nodules if n.id in load_split().test]
    assert len(load_split().rows(nodules[:10], "train")) < 10


def test_wrong_kinds_and_damaged_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(BadScan, match="patient, nodule"):
        make_split(load_nodules(), "scan")
    for text in ("{}", "no json", as_json(make_split(load_nodules()[:50]))):
        (tmp_path / "split.json").write_text(text)
        monkeypatch.setattr(splits, "stored_path", lambda: tmp_path / "split.json")
        splits.load_split.cache_clear()
        with pytest.raises(BadScan, match="Install again"):
            load_split()
    splits.load_split.cache_clear()
