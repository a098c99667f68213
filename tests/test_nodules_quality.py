"""The bundled nodule models: their cards, and their numbers computed again from the pixels."""

import numpy as np
import pytest

import cdam_core as cdam
from cdam_core.assets import assets_dir
from cdam_core.nodules import quality
from cdam_core.nodules.browse import load_browse, read_browse, sheet_of, stored_path, to_bytes
from cdam_core.nodules.card import BANNER, PROVENANCE_OF, aims, side_words
from cdam_core.nodules.crops import to_image
from cdam_core.nodules.pack import BIOMARKERS, load_nodules
from cdam_core.nodules.phantom import Phantom
from cdam_core.nodules.splits import load_split

MODELS = {"nodules-malignancy": ("benign", "malignant"), "nodules-biomarkers": BIOMARKERS}


@pytest.mark.parametrize("name", MODELS)
def test_the_card_says_what_is_real_and_what_is_not(name):
    card = cdam.MODELS[name]
    assert card["simulated"] is True
    assert card["banner"] == BANNER
    assert tuple(card["class_names"]) == MODELS[name]
    assert "cannot be compared" in card["not_the_papers"]
    assert set(card["made_of"].items()) <= set(PROVENANCE_OF.items())
    assert card["settings"]["split"] == "patient"
    assert (assets_dir().parent / card["notices"]).is_file()
    assert (assets_dir() / "models" / card["weights"]).stat().st_size < 5 * 2**20


@pytest.mark.parametrize("name", MODELS)
def test_every_number_has_its_rivals_and_an_interval(name):
    found = cdam.MODELS[name]["quality"]
    for target, rows in found["test"].items():
        assert set(rows) == {"model", "log(area)", "shape", "shape and density"}, target
        for measures in rows.values():
            for number in measures.values():
                low, high = number["interval"]
                assert low <= number["value"] <= high
    for shares in found["maps"].values():
        assert {"mass", "strongest", "patches"} == set(shares)


@pytest.mark.parametrize("name", MODELS)
def test_the_card_says_which_aims_are_met(name):
    found = cdam.MODELS[name]["quality"]
    assert found["aims"] == aims(name.removeprefix("nodules-"), found)
    assert {each["what"]: each["aim"] for each in found["aims"]} == (
        {"strongest patch on the nodule": 0.85} if name == "nodules-malignancy" else
        {"strongest patch on the nodule, mean of eight": 0.7, "R² sphericity": 0.45,
         "R² margin": 0.45, "R² calcification": 0.45, "R² diameter": 0.9})
    for each in found["aims"]:
        assert each["met"] == (each["measured"] >= each["aim"])
    # where the evidence lies is not to be lost again
    assert found["aims"][0]["measured"] > 0.9


def test_what_was_learnt_besides_is_on_the_card():
    words = {name: cdam.MODELS[name]["learnt_besides"] for name in MODELS}
    assert all("never taught" in text and "outline" in text for text in words.values())
    assert "biomarkers" in words["nodules-malignancy"]
    assert "biomarkers" not in words["nodules-biomarkers"]
    assert side_words("none") == "nothing"


def test_other_embeddings_leave_the_thumbnails_as_they_are(tmp_path):
    with np.load(stored_path()) as file:
        sheet, ids = file["sheet"].tobytes(), file["ids"].tolist()
    rows = {ids[0]: np.array([3.0, 4.0]), ids[5]: np.array([0.0, -2.0])}
    (tmp_path / "browse.npz").write_bytes(to_bytes(ids, sheet, rows, "other"))
    found, before = read_browse(tmp_path / "browse.npz"), load_browse()
    assert found.ids == before.ids
    assert found.sheet.tobytes() == before.sheet.tobytes()
    assert (found.trained, found.weights_sha256) == ((ids[0], ids[5]), "other")
    np.testing.assert_allclose(found.embeddings, [[0.6, 0.8], [0, -1]], atol=1e-3)
    small = np.arange(48 * 48, dtype=np.uint8).reshape(48, 48)
    sheet = np.asarray(sheet_of(dict.fromkeys(range(33), small)))
    assert sheet.shape == (2 * 48, 32 * 48)
    np.testing.assert_array_equal(sheet[48:, :48], small)
    assert not sheet[48:, 48:].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_predictions_and_maps_are_as_good_as_the_card_says(name):
    model, stated = cdam.load_model(name), cdam.MODELS[name]["quality"]
    ids = load_split().test
    nodules = [nodule for nodule in load_nodules() if nodule.id in ids]
    encodings = [model.encode_image(to_image(Phantom().crop(nodule))) for nodule in nodules]
    outputs = np.stack([model.logits(encoding).numpy() for encoding in encodings])
    if name == "nodules-malignancy":
        labels = np.array([float(nodule.malignant) for nodule in nodules])
        assert quality.accuracy(outputs[:, 1], labels) == pytest.approx(
            stated["test"]["malignant"]["model"]["accuracy"]["value"], abs=0.01)
        assert quality.auc(outputs[:, 1], labels) == pytest.approx(
            stated["test"]["malignant"]["model"]["auc"]["value"], abs=0.005)
    else:
        truth = np.array([list(nodule.biomarkers.values()) for nodule in nodules])
        for column, marker in enumerate(BIOMARKERS):
            assert quality.r_squared(outputs[:, column], truth[:, column]) == pytest.approx(
                stated["test"][marker]["model"]["r2"]["value"], abs=0.01)
    target = "malignant" if name == "nodules-malignancy" else "diameter"
    shares = quality.measure_maps(model, encodings, nodules, [target])[target]
    for measure in ("mass", "strongest"):
        assert shares[measure]["value"] == pytest.approx(
            stated["maps"][target][measure]["value"], abs=0.02)
