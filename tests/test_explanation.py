"""The front door: targets, settings, results and exports."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import cdam_core as cdam
from cdam_core.explanation import Explanation
from cdam_core.targets import top_classes
from tests.conftest import CLASSES, tiny_vit

NAMES = ["elephant", "zebra", "=SUM(A1)", "twin", "twin"]


@pytest.fixture
def named():
    """The tiny model with class names, some of them awkward."""
    return cdam.wrap(tiny_vit(), NAMES)


# ---- targets -------------------------------------------------------------------------------------


def test_every_way_to_name_a_target_gives_the_same_map(named, pixels):
    by_index = cdam.explain(named, pixels, 1)
    for target in ("zebra", [1], ("zebra",), np.int64(1)):
        e = cdam.explain(named, pixels, target)
        np.testing.assert_array_equal(e.scores, by_index.scores)
        assert e.labels == ("zebra",)
        assert e.targets == ({"kind": "class", "index": 1, "name": "zebra"},)


def test_a_target_is_the_same_alone_in_a_list_and_in_all(named, pixels):
    everything = cdam.explain(named, pixels, cdam.ALL)
    assert everything.scores.shape == (CLASSES, 4, 6)
    for index in range(CLASSES):
        alone = cdam.explain(named, pixels, index)
        np.testing.assert_allclose(everything.scores[index], alone.scores[0], rtol=1e-5, atol=1e-9)
        assert everything.values[index] == pytest.approx(alone.values[0], rel=1e-6)


def test_a_contrast_says_what_it_contrasts(named, pixels):
    e = cdam.explain(named, pixels, cdam.Contrast("zebra", 0))
    assert e.labels == ("zebra − elephant",)
    assert e.targets[0]["a"]["name"] == "zebra"
    assert e.targets[0]["b"]["index"] == 0
    logits = named.logits(named.encode(pixels))
    assert e.values[0] == pytest.approx(float(logits[1] - logits[0]), rel=1e-6)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("zebr", "unknown-class"),
        ("twin", "unknown-class"),
        ("", "unknown-class"),
        (CLASSES, "unknown-class"),
        (-1, "unknown-class"),
        (10**30, "unknown-class"),
        (True, "wrong-type"),
        (1.0, "wrong-type"),
        (None, "wrong-type"),
        ([], "wrong-type"),
        ([0, None], "wrong-type"),
        ([[0]], "wrong-type"),
        ({"zebra"}, "wrong-type"),
        (cdam.Contrast("zebra", None), "wrong-type"),
        (cdam.Contrast(0, 99), "unknown-class"),
    ],
)
def test_bad_targets(named, pixels, target, reason):
    with pytest.raises(cdam.BadTarget) as error:
        cdam.explain(named, pixels, target)
    assert error.value.reason == reason


def test_a_near_miss_gets_a_suggestion(named, pixels):
    with pytest.raises(cdam.BadTarget, match="Did you mean elephant"):
        cdam.explain(named, pixels, "elefant")


def test_top_classes_are_sorted_and_stable():
    logits = torch.tensor([1.0, 3.0, 3.0, -2.0, 0.0])
    assert top_classes(logits, 3) == [(1, 3.0), (2, 3.0), (0, 1.0)]


# ---- methods and settings ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "reason"),
    [
        ("cdamm", {}, "unknown-method"),
        ("cdam", {"n": 3}, "unknown-setting"),
        ("cdam", {"path": "sideways"}, "bad-setting"),
        ("cdam", {"heads": []}, "bad-setting"),
        ("cdam", {"heads": [3]}, "bad-setting"),
        ("cdam", {"heads": "all"}, "bad-setting"),
        ("cdam", {"heads": 1}, "bad-setting"),
        ("cdam", {"heads": [0, 0]}, "bad-setting"),
        ("cdam", {"heads": ["a"]}, "bad-setting"),
        ("cdam", {"heads": [None]}, "bad-setting"),
        ("attention", {"heads": [True]}, "bad-setting"),
        ("smooth_cdam", {"n": 0}, "bad-setting"),
        ("smooth_cdam", {"n": 2.5}, "bad-setting"),
        ("smooth_cdam", {"n": True}, "bad-setting"),
        ("smooth_cdam", {"sigma": -1.0}, "bad-setting"),
        ("smooth_cdam", {"sigma": float("nan")}, "bad-setting"),
        ("smooth_cdam", {"at": "pixels"}, "bad-setting"),
        ("integrated_cdam", {"steps": 1}, "bad-setting"),
        ("integrated_cdam", {"steps": None}, "bad-setting"),
    ],
)
def test_bad_methods_and_settings(named, pixels, method, settings, reason):
    with pytest.raises(cdam.BadTarget) as error:
        cdam.explain(named, pixels, 0, method, **settings)
    assert error.value.reason == reason


def test_all_is_refused_where_one_pass_does_not_serve_it(named, pixels):
    for name, method in cdam.METHODS.items():
        if not method.all_classes:
            with pytest.raises(cdam.BadTarget, match="give a list of classes"):
                cdam.explain(named, pixels, cdam.ALL, name)


def test_heads_of_an_unusual_block_are_refused_clearly(pixels):
    model = cdam.wrap(tiny_vit(qk_norm=True))
    for settings in ({"heads": [0]}, {"path": "key"}):
        with pytest.raises(cdam.BadTarget) as error:
            cdam.explain(model, pixels, 0, **settings)
        assert error.value.reason == "unsupported"


# ---- results -------------------------------------------------------------------------------------


def test_image_pixels_and_encoding_give_the_same(named):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    from_image = cdam.explain(named, image, 1)
    from_pixels = cdam.explain(named, named.preprocess(image), 1)
    from_encoding = cdam.explain(named, named.encode_image(image), 1)
    np.testing.assert_array_equal(from_image.scores, from_pixels.scores)
    np.testing.assert_array_equal(from_image.scores, from_encoding.scores)


def test_a_result_says_what_made_it_in_json(named, pixels):
    for method in cdam.METHODS:
        e = cdam.explain(named, pixels, [0, 1], method)
        assert e.method == method
        assert e.model_id == "custom"
        assert e.scores.dtype == np.float32
        assert np.isfinite(e.scores).all()
        assert set(cdam.METHODS[method].resolve_settings({})) <= set(e.settings)
        assert e.seconds > 0
        assert {"cdam_core", "torch", "timm"} == set(e.versions)
        assert json.loads(json.dumps(e.provenance())) == e.provenance()
    with pytest.raises(dataclasses.FrozenInstanceError):
        e.method = "other"


def test_settings_replay(named, pixels):
    """The resolved settings of a result give the result again."""
    for method in cdam.METHODS:
        first = cdam.explain(named, pixels, [0, 1], method)
        again = cdam.explain(named, pixels, [0, 1], method, **first.settings)
        np.testing.assert_array_equal(first.scores, again.scores)
        assert first.settings == again.settings


def test_npz_holds_the_raw_signed_scores(named, pixels):
    e = cdam.explain(named, pixels, ["zebra", cdam.Contrast(0, 1)], "integrated_cdam", steps=5)
    with np.load(io.BytesIO(e.to_npz()), allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["scores"], e.scores)
        np.testing.assert_array_equal(archive["values"], e.values)
        provenance = json.loads(str(archive["provenance"]))
    assert provenance["settings"] == {"steps": 5, "at": "tokens"}
    assert provenance["targets"][0]["name"] == "zebra"
    assert (e.scores < 0).any()


def test_csv_round_trips_every_score(named, pixels):
    e = cdam.explain(named, pixels, [1, 2])
    head, *lines = e.to_csv().splitlines()
    assert json.loads(head.removeprefix("# "))["method"] == "cdam"
    rows = list(csv.DictReader(lines))
    assert len(rows) == 2 * 24
    for row in rows:
        index = 0 if row["target"] == "zebra" else 1
        score = e.scores[index, int(row["row"]), int(row["col"])]
        assert np.float32(row["score"]) == score
        assert np.float32(row["value"]) == e.values[index]
    assert rows[-1]["target"] == "'=SUM(A1)"  # not a formula in a spreadsheet


def test_public_names_of_the_contract():
    fields = {field.name for field in dataclasses.fields(Explanation)}
    assert {"scores", "rest", "values", "targets", "method", "settings", "model_id", "seconds",
            "versions"} <= fields  # fmt: skip
    for name in ("MODELS", "METHODS", "ALL", "Contrast", "load_model", "wrap", "open_image",
                 "explain", "BadImage", "BadCheckpoint", "BadConcept", "BadTarget"):  # fmt: skip
        assert hasattr(cdam, name)


def test_errors_have_a_reason_from_a_fixed_list():
    with pytest.raises(KeyError):
        cdam.BadTarget("because", "no")
    assert issubclass(cdam.BadImage, cdam.CdamError)
