"""Whether an opened crop is unlike the training nodules: what is flagged, and what is not."""

import numpy as np
import pytest

import cdam_core as cdam
from cdam_core.nodules import Phantom, load_nodules, load_split, to_image
from cdam_core.nodules.browse import ALIKE, USUAL, load_browse
from cdam_core.nodules.crops import CENTRAL, MIDDLE
from pages import _nodules_case, _nodules_maps
from pages._nodules_case import Case

BY_ID = {nodule.id: nodule for nodule in load_nodules()}


@pytest.fixture(scope="module")
def browse():
    return load_browse()


def distances(browse, crops):
    model = cdam.load_model("nodules-malignancy")
    assert browse.weights_sha256 == model.weights_sha256
    return np.array([browse.distance(model.latent(model.encode_image(to_image(hu))).float().numpy())
                     for hu in crops])  # fmt: skip


def strange(rng):
    """Crops without a nodule, in HU: what a box beside a nodule, or a photograph, gives."""
    row, col = np.mgrid[:64, :64] - 31.5
    lung = rng.normal(-860, 25, (64, 64))
    yield np.full((64, 64), -1000.0)  # air
    yield lung
    yield rng.normal(40, 20, (64, 64))  # inside an organ
    yield rng.normal(-300, 400, (64, 64)).clip(-1000, 400)
    yield np.where(col > 0, 40.0, lung)  # chest wall
    yield -1000 + 1400 * (np.sin(row / 4) * np.cos(col / 7) > 0)  # a pattern
    yield -1000 + 10.0 * (row + col + 63)  # a slope


def test_crops_without_a_nodule_are_flagged_and_nodules_are_not(browse):
    flagged = distances(browse, strange(np.random.default_rng(0))) > browse.usual_distance
    assert flagged.sum() >= 6, flagged
    split, phantom = load_split(), Phantom()
    fresh = [phantom.crop(BY_ID[number]) for number in [*split.val[:12], *split.test[:12]]]
    assert (distances(browse, fresh) > browse.usual_distance).sum() <= 3


def test_the_usual_distance_is_that_of_nodules_among_other_patients(browse):
    """One training nodule after the other, its patient's left out."""
    found = []
    for number, row in zip(browse.trained, browse.embeddings, strict=True):
        same = [n for n in browse.trained if BY_ID[n].patient_id == BY_ID[number].patient_id]
        nearest = browse.nearest(row, ALIKE, same)
        found.append(1 - np.mean([cosine for _, cosine in nearest]))
    assert browse.usual_distance == pytest.approx(np.quantile(found, USUAL), abs=1e-5)
    assert browse.distance(browse.embeddings[0]) < browse.usual_distance


def seen_of(hu, source):
    case = Case(f"test.{source}.{float(hu.sum())}", source, hu[None].astype(np.float32), CENTRAL)
    found = _nodules_case._answer(case, MIDDLE)
    return _nodules_maps.Seen(case, MIDDLE, found, _nodules_maps.Look())


def test_the_sentence_says_what_was_measured_and_its_limit():
    tissue = np.full((64, 64), 40.0)
    is_unlike, words = _nodules_maps.familiarity(seen_of(tissue, "own"))
    assert is_unlike
    assert "unlike the simulated nodules" in words
    known = Phantom().crop(BY_ID[load_split().train[0]])
    is_unlike, words = _nodules_maps.familiarity(seen_of(known, "own"))
    assert not is_unlike
    assert "learnt from simulated density only" in words
    assert _nodules_maps.familiarity(seen_of(tissue, "phantom")) is None
