"""Two models, one image: matched classes, own scales, own grids, one place, files and links."""

import copy
import csv
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from streamlit.runtime.scriptrunner_utils.exceptions import StopException
from streamlit.testing.v1 import AppTest

import cdam_core as cdam
from cdam_core import hub
from cdam_core.head import save_model
from cdam_core.maps import lattice, map_correlation, positive_share
from cdam_core.methods import METHODS
from cdam_core.pictures import shared_scale
from cdam_core.replaying import replay
from pages import (
    _cache,
    _compare_files,
    _compare_pair,
    _compare_second,
    _compare_words,
    _methods_jobs,
    _panels,
    _pickers,
    _state,
    _words,
)
from pages._samples import samples
from tests.test_checkpoints import save_with_metadata, vit
from tests.test_pages import opened, own_picture, png, upload, widget

TUNED, OTHER, HEADLESS, BROKEN = "tuned.json", "other.safetensors", "bare.safetensors", "bad.pth"
OTHER_NAMES = ["ant", "Zebra", "bee", "tabby", "bell pepper"]
SAMPLE = "elephant-zebra"
PAIR = ["zebra", "elephant"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes after some more training, a small ViT with names of its own, and two bad files."""
    place = tmp_path_factory.mktemp("models")
    tuned = copy.deepcopy(cdam.load_model("scenes"))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in tuned.module.trained_state().items():
            if weight.ndim > 1:
                noise = torch.randn(weight.shape, generator=draw)
                tuned.module.state_dict()[name].add_(0.2 * weight.std() * noise)
    save_model(place / TUNED, tuned, {"label": "Scenes, tuned"})
    save_with_metadata(vit(num_classes=5), place / OTHER, class_names=OTHER_NAMES)
    save_with_metadata(vit(num_classes=0), place / HEADLESS)
    (place / BROKEN).write_bytes(b"no model")
    return place


@pytest.fixture(autouse=True)
def local_models(folder, monkeypatch):
    """These models are offered, and there is no hub; noise is to be explained, not warned of."""
    monkeypatch.setattr(cdam.VisionModel, "is_unfamiliar", lambda *_: False)
    monkeypatch.setattr(hub, "status", lambda *_: ("silent", "the model hub cannot be reached"))
    monkeypatch.setattr(hub, "cached_weights", lambda _: None)
    monkeypatch.delenv("CDAM_ONLY_MODELS", raising=False)
    monkeypatch.setenv("CDAM_MODELS", str(folder))
    _pickers._offered_at.cache_clear()
    yield
    _pickers._offered_at.cache_clear()


def page(second: str = TUNED, classes=PAIR, **address) -> AppTest:
    return opened(**({"sample": SAMPLE, "class": list(classes), "second": second} | address))


def cells(at: AppTest) -> list[dict]:
    """The maps of the page, row by row, the first model's before the second's."""
    assert not at.exception
    return [json.loads(element.proto.json) for element in at.get("bidi_component")
            if element.proto.component_name == "cdam_maps"]


def words(elements) -> str:
    return " ".join(element.value.replace("\\", "") for element in elements)


def grid() -> list[int]:
    """Of the bundled model: [rows, cols], multiples of the small one's."""
    return list(_state.get_model("scenes").grid)


def image() -> Image.Image:
    return cdam.open_image(samples()[SAMPLE].file)


def second_box(at):
    return at.selectbox(key=_compare_second.KEY)


# ---- maps ----------------------------------------------------------------------------------------


def test_the_same_targets_side_by_side_each_model_on_its_own_scale():
    at = page()
    data = cells(at)
    assert second_box(at).value == TUNED
    titles = [each["panels"][0]["title"] for each in data]
    assert titles == ["Everyday objects", TUNED] * 3
    targets = ["zebra", "elephant", cdam.Contrast("zebra", "elephant")]
    for which, source in enumerate(("scenes", TUNED)):
        wanted = cdam.explain(_state.get_model(source), image(), targets)
        scale = shared_scale(wanted)
        for one, scores, label, value in zip(
            data[which::2], wanted.scores, wanted.labels, wanted.values, strict=True
        ):
            np.testing.assert_allclose(one["shown"][0]["values"], scores.ravel(),
                                       atol=0.51 * 10.0 ** -one["decimals"], rtol=1e-3)  # fmt: skip
            assert one["scale"]["low"] == f"−{_panels.number_text(scale, scale, False)}"
            assert one["scale"]["high"] == f"+{_panels.number_text(scale, scale, False)}"
            assert one["scale"]["zero"] == "0"
            assert one["panels"][0]["note"].startswith(f"{label}: ")
            assert one["panels"][0]["note"].endswith(_words.signed(value))
    assert data[0]["scale"] != data[1]["scale"]
    assert "not comparable in size" in words(at.caption)
    assert "subtract numbers in different units" in words(at.markdown)
    assert "All maps share the printed scale" not in words(at.markdown)
    assert words(at.markdown).count("logits: zebra") == 2


def test_the_printed_correlation_is_that_of_the_two_maps():
    at = page()
    maps = [cdam.explain(_state.get_model(source), image(), "zebra").scores[0].ravel()
            for source in ("scenes", TUNED)]  # fmt: skip
    printed = f"**{_words.signed(np.corrcoef(maps)[0, 1])}**, over the {len(maps[0])} patches"
    assert printed in words(at.caption)


def test_one_model_only_is_as_before():
    at = opened(sample=SAMPLE)
    assert second_box(at).value is None
    assert [len(each["panels"]) for each in cells(at)] == [4]
    second_box(at).select(TUNED).run()
    assert len(cells(at)) == 6
    second_box(at).set_value(None).run()
    assert [len(each["panels"]) for each in cells(at)] == [4]


def test_names_match_whatever_their_capitals_and_hyphens_and_others_are_said():
    at = page(OTHER, ["zebra", "elephant", "bell-pepper"])
    grids = [each["grid"] for each in cells(at)]
    assert grids == [grid(), [4, 4], grid(), grid(), grid(), [4, 4]]
    own = widget(at.selectbox, "own.")
    assert own.label.replace("\\", "") == f"{OTHER} has no class that is called elephant."
    assert own.value is None
    assert "A − B needs its own map of A and of B" in words(at.caption)
    own.select(OTHER_NAMES.index("tabby")).run()
    data = cells(at)
    assert [each["grid"] for each in data] == [grid(), [4, 4]] * 4
    wanted = cdam.explain(_state.get_model(OTHER), image(),
                          ["Zebra", "tabby", cdam.Contrast("Zebra", "tabby"), "bell pepper"])
    for one, scores, label in zip(data[1::2], wanted.scores, wanted.labels, strict=True):
        assert one["shown"][0]["name"] == label
        np.testing.assert_allclose(one["shown"][0]["values"], scores.ravel(), rtol=1e-3,
                                   atol=0.51 * 10.0 ** -one["decimals"])  # fmt: skip
    widget(at.selectbox, "own.").select(1).run()  # the class that stands for A already
    assert len(cells(at)) == 7
    assert "of two different classes" in words(at.caption)


def test_where_evidence_lies_is_said_of_both_models_under_the_first_ones_names():
    at = page(OTHER, ["zebra", "bell-pepper"])
    prepared = _state.prepare(OTHER, _state._sample_picture(SAMPLE))
    scores = cdam.explain(_state.get_model(OTHER), image(), "Zebra").scores[0]
    share = _words.percent(positive_share(scores, prepared.regions["zebra"]))
    said = words(at.markdown)
    assert f"**{share}** of the positive evidence for zebra lies on the zebra" in said
    assert said.count("evidence for zebra lies on the zebra") == 2
    assert "ebra is not in this picture" not in said


def test_another_grid_is_compared_on_the_coarser_one():
    at = page(OTHER, ["zebra", "bell-pepper"])
    one, two = (cdam.explain(_state.get_model(source), image(), name).scores[0]
                for source, name in (("scenes", "zebra"), (OTHER, "Zebra")))  # fmt: skip
    rows, cols = grid()
    coarse = one.reshape(4, rows // 4, 4, cols // 4).mean((1, 3))
    printed = _words.signed(np.corrcoef(coarse.ravel(), two.ravel())[0, 1])
    assert f"**{printed}**, over the 16 patches that both show (grid 4 × 4)" in words(at.caption)


def test_a_method_without_classes_needs_none_and_has_one_row():
    at = page(OTHER, ["owl", "elephant"], method="attention")
    assert [each["grid"] for each in cells(at)] == [grid(), [4, 4]]
    assert at.title[0].value == "Where does the model look?"
    assert all(each["panels"][0]["note"] == "the same for every class" for each in cells(at))
    assert not [box for box in at.selectbox if (box.key or "").startswith("own.")]


def test_slow_methods_are_answered_by_both_and_asked_once(monkeypatch):
    at = page(OTHER, ["zebra", "bell-pepper"], method="input_x_gradient")
    data = cells(at)
    assert len(data) == 6
    wanted = cdam.explain(_state.get_model(OTHER), image(),
                          ["Zebra", "bell pepper"], "input_x_gradient")  # fmt: skip
    sums = wanted.scores[0].reshape(4, 8, 4, 8).sum((1, 3))
    np.testing.assert_allclose(data[1]["shown"][0]["values"], sums.ravel(), rtol=1e-2,
                               atol=0.51 * 10.0 ** -data[1]["decimals"])  # fmt: skip

    def again(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(cdam, "explain", again)
    at.slider(key="opacity").set_value(40).run()
    assert len(cells(at)) == 6


def test_while_the_second_model_computes_the_first_ones_maps_stand(monkeypatch):
    def interrupted(_):
        raise StopException  # what a click does at the next look

    at = opened(sample=SAMPLE, method="input_x_gradient", **{"class": ["zebra", "bell-pepper"]})
    with monkeypatch.context() as patch:
        patch.setattr(_methods_jobs.Job, "wait", interrupted)
        second_box(at).select(OTHER).run()
        assert [each["grid"] for each in cells(at)] == [grid()] * 3
        assert words(at.caption).count(f"{OTHER}: not computed yet.") == 3
    at.button(key="stop.compare").click().run()
    assert "left out: Input × Gradient" in words(at.info)
    at.button(key="go-on.compare").click().run()
    assert [each["grid"] for each in cells(at)] == [grid(), [4, 4]] * 3


def test_a_redraw_encodes_nothing(monkeypatch):
    at = page()

    def again(*_, **__):
        raise AssertionError("encoded again")

    monkeypatch.setattr(cdam.VisionModel, "encode", again)
    before = cells(at)
    at.slider(key="opacity").set_value(40)
    at.selectbox(key="palette").select("paper").run()
    at.selectbox(key="method").select("integrated_cdam").run()
    assert len(cells(at)) == 6
    at.selectbox(key="method").select("cdam").run()
    assert [each["shown"] for each in cells(at)] == [each["shown"] for each in before]
    assert [each["panels"] for each in cells(at)] != [each["panels"] for each in before]


# ---- what cannot be shown ------------------------------------------------------------------------


def test_a_method_that_one_model_refuses_is_said_in_one_sentence(monkeypatch):
    explain = cdam.explain

    def failing(model, x, targets, method="cdam", **settings):
        if model.module is _state.get_model(OTHER).module and method == "integrated_cdam":
            raise cdam.BadTarget("unsupported", "This model has no such thing.")
        return explain(model, x, targets, method, **settings)

    monkeypatch.setattr(cdam, "explain", failing)
    at = page(OTHER, ["zebra", "bell-pepper"], method="integrated_cdam")
    assert words(at.warning) == f"{OTHER}: This model has no such thing."
    assert [each["grid"] for each in cells(at)] == [grid()] * 3


def test_a_head_that_only_one_model_has_is_refused_for_the_other():
    at = page(OTHER, ["zebra", "bell-pepper"])
    count = _state.n_heads(_state.get_model("scenes"))
    assert count > _state.n_heads(_state.get_model(OTHER))
    widget(at.selectbox, "head.").select(f"Head {count}").run()
    assert len(at.warning) == 1
    assert words(at.warning).startswith(f"{OTHER}: ")
    assert [each["grid"] for each in cells(at)] == [grid()] * 3


def test_two_local_models_have_room_beside_each_other(monkeypatch):
    at = page(OTHER, ["zebra", "bell-pepper"], model=TUNED)
    assert [each["panels"][0]["title"] for each in cells(at)] == [TUNED, OTHER] * 3

    def again(*_):
        raise AssertionError("loaded again")

    monkeypatch.setattr(cdam, "load_model", again)
    at.slider(key="opacity").set_value(40).run()
    assert len(cells(at)) == 6


@pytest.mark.parametrize(("source", "sentence"), [
    (HEADLESS, "head"),
    (_state.PHOTO_MODEL, "the model hub cannot be reached"),
    ("timm:vit_small_patch8_224.dino", "vit_small_patch8_224.dino.ckpt"),
])  # fmt: skip
def test_a_second_model_that_cannot_be_had_is_one_sentence_and_the_page_stays(source, sentence):
    at = opened(sample=SAMPLE)
    second_box(at).select(source).run()
    assert sentence in words(at.warning)
    assert words(at.warning).count(". ") <= 1
    assert second_box(at).value is None
    assert [len(each["panels"]) for each in cells(at)] == [4]
    second_box(at).select(TUNED).run()
    assert not at.warning
    assert len(cells(at)) == 6


def test_a_file_that_is_gone_by_now_is_one_sentence(folder, monkeypatch):
    at = opened(sample=SAMPLE)
    _state._large_model.clear()
    hidden = (folder / OTHER).rename(folder / "hidden")
    try:
        second_box(at).select(OTHER).run()
    finally:
        hidden.rename(folder / OTHER)
    assert len(at.warning) == 1
    assert second_box(at).value is None
    assert [len(each["panels"]) for each in cells(at)] == [4]


def test_a_picture_unlike_the_second_models_data_is_warned_of(monkeypatch):
    monkeypatch.setattr(cdam.VisionModel, "is_unfamiliar",
                        lambda model, _: model.input_size == (32, 32))  # fmt: skip
    _cache.shelf.clear()
    try:
        at = page(OTHER, ["zebra", "bell-pepper"])
        assert "that the second model was trained on" in words(at.warning)
        assert [len(each["panels"]) for each in cells(at)] == [4]
        widget(at.toggle, f"anyway.{OTHER}").set_value(True).run()
        assert "that the second model was trained on" in words(at.warning)
        assert len(cells(at)) == 6
    finally:
        _cache.shelf.clear()


# ---- one place -----------------------------------------------------------------------------------


def test_the_second_models_patch_is_the_one_at_the_same_place():
    at = page(OTHER, ["zebra", "bell-pepper"])
    rows, cols = grid()
    at.number_input(key="patch.row").set_value(rows)
    at.number_input(key="patch.col").set_value(cols // 2).run()
    assert [each["selected"] for each in cells(at)[:2]] == [[rows - 1, cols // 2 - 1], [3, 1]]
    assert f"**Everyday objects**, row {rows}, column {cols // 2}" in words(at.markdown)
    assert f"**{OTHER}**, row 4, column 2" in words(at.markdown)
    bars = [json.loads(element.proto.json) for element in at.get("bidi_component")
            if element.proto.component_name == "cdam_bars"]  # fmt: skip
    most = [each["items"][0]["name"] for each in bars if each["title"] == "Speaks most for"]
    every = cdam.explain(_state.get_model(OTHER), image(), cdam.ALL)
    assert most[1] == OTHER_NAMES[int(every.scores[:, 3, 1].argmax())]


def test_a_click_in_the_finer_map_stays_on_the_clicked_patch(monkeypatch):
    """Of a finer second model, its own patch is kept, not the one in the middle of the first's."""
    import streamlit as st

    state = {"pair.1.0": {"patch": [13, 2]}}
    monkeypatch.setattr(st, "session_state", state)
    fine, coarse = (
        _side(lattice((64, 64), (side * 8,) * 2, (8, 8), (side, side)), side) for side in (16, 4)
    )
    _compare_pair._on_patch("pair.1.0", 1, (coarse, fine), "token")
    assert (state["patch.row"], state["patch.col"]) == (4, 1)
    assert _compare_pair.places((coarse, fine), "token") == ((3, 0), (13, 2))
    state["patch.row"] = 1  # the numbers beside the inspector move both
    assert _compare_pair.places((coarse, fine), "token") == ((0, 0), (2, 2))
    state["pair.1.0"] = {"patch": [99, -5]}  # the browser may send anything
    _compare_pair._on_patch("pair.1.0", 1, (coarse, fine), "token")
    assert _compare_pair.places((coarse, fine), "token") == ((3, 0), (15, 0))


class _side:  # noqa: N801 - stands for a Side
    """A model of which only the patches matter."""

    def __init__(self, where, side):
        self.lattice, self.model_id = where, str(side)
        encoding = type("Encoding", (), {"grid": (side, side)})
        self.prepared = type("Prepared", (), {"encoding": encoding})
        self.explanation = None


# ---- addresses -----------------------------------------------------------------------------------


def test_an_address_brings_both_models_and_chosen_classes_back():
    at = page(OTHER, ["zebra", "owl"])
    widget(at.selectbox, "own.").select(OTHER_NAMES.index("bee")).run()
    address = dict(at.query_params)
    assert address["second"] in (OTHER, [OTHER])
    assert address["own"] in ("owl=bee", ["owl=bee"])
    again = opened(**address)
    assert [each["shown"] for each in cells(again)] == [each["shown"] for each in cells(at)]
    assert len(cells(again)) == 6


@pytest.mark.parametrize("second", [
    "", "scenes", "../scenes", "/etc/passwd", "x" * 100_000, "tuned", "TUNED.json", BROKEN, "\0",
    "timm:resnet50", "https://example.org/m.pth",
])  # fmt: skip
def test_a_second_model_that_is_not_offered_is_passed_over(second):
    at = page(second)
    assert second_box(at).value is None
    assert [len(each["panels"]) for each in cells(at)] == [4]
    assert "second" not in at.query_params
    assert not at.warning


def test_an_address_never_fetches_a_second_model(monkeypatch):
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("fetched"))
    at = page(_state.PHOTO_MODEL)
    assert "not on this server yet" in words(at.warning)
    assert [len(each["panels"]) for each in cells(at)] == [4]


@pytest.mark.parametrize("own", [
    "", "=", "owl", "owl=", "owl=zebra", "lion=nobody", "=bee", "a=b=c",
])  # fmt: skip
def test_classes_of_ones_own_in_an_address_are_checked(own):
    at = page(OTHER, ["zebra", "owl"], own=own)
    assert widget(at.selectbox, "own.").value is None


def test_no_address_tells_of_a_picture_of_ones_own():
    at = page()
    upload(at, png(own_picture()))
    assert len(cells(at)) == 6
    assert dict(at.query_params) == {}


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(folder):
    """The two models' sides and what of them goes into files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDAM_MODELS", str(folder))
        picture = _state._sample_picture(SAMPLE)
        sides = []
        asked = {"scenes": ["zebra", "bell-pepper"], OTHER: ["Zebra", "bell pepper"]}
        for source, names in asked.items():
            model = _state.get_model(source)
            targets = [model.class_names.index(name) for name in names]
            prepared = _state._prepare(model, picture)
            made = cdam.explain(model, prepared.encoding, [*targets, cdam.Contrast(*targets)])
            where = lattice(picture.image.size[::-1], model.input_size, model.patch_size, made.grid)
            sides.append(_compare_pair.Side(source, source, model, prepared, where, tuple(targets),
                                            frozenset(), made, False))  # fmt: skip
        shown = [_panels.Shown("compare", s.model, picture, s.prepared, s.explanation, s.drawn,
                               _panels.Look(), s.scale) for s in sides]  # fmt: skip
        yield sides, shown, _compare_files.stems([side.model_id for side in sides])


def test_scores_of_both_are_in_each_file_under_their_names(packed):
    sides, shown, names = packed
    assert names == ["scenes", "other-safetensors"]
    with np.load(io.BytesIO(_compare_files.npz(shown, names)), allow_pickle=False) as arrays:
        for side, name in zip(sides, names, strict=True):
            np.testing.assert_array_equal(arrays[f"{name}.scores"], side.explanation.scores)
            made = json.loads(str(arrays[f"{name}.provenance"]))
            assert made["grid"] == list(side.explanation.grid)
    lines = _compare_files.csv(shown, names).splitlines()
    assert [json.loads(line[2:])["model"] for line in lines[:2]] == names
    table = list(csv.DictReader(lines[2:]))
    assert len(table) == sum(side.explanation.scores.size for side in sides)
    theirs = [float(line["score"]) for line in table if line["model"] == names[1]]
    np.testing.assert_allclose(theirs, sides[1].explanation.scores.ravel(), rtol=1e-6)


def test_the_zip_holds_one_that_replays_for_each_model(packed):
    sides, shown, names = packed
    parcels = [_compare_files._exports.parcel_of(each) for each in shown]
    content = _compare_files.zip_of_both(parcels, names)
    assert content == _compare_files.zip_of_both(parcels, names)
    with zipfile.ZipFile(io.BytesIO(content)) as both:
        assert sorted(both.namelist()) == sorted(f"{name}.zip" for name in names)
        for side, name in zip(sides, names, strict=True):
            found = replay(both.read(f"{name}.zip"), image(), model=side.model)
            assert found.is_identical


def test_the_picture_has_a_line_per_model_and_the_stamp_of_simulated_data(packed):
    sides, shown, names = packed
    picture = Image.open(io.BytesIO(_compare_files.png(sides, shown)))
    assert picture.width > 1000
    assert 0.4 < picture.height / picture.width < 0.8  # two lines of four
    parts = _compare_files.name_parts(shown, names)
    assert parts == ["cdam", "scenes", "other-safetensors", "zebra", "bell-pepper", "simulated"]


def test_names_of_files_tell_equal_models_apart():
    assert _compare_files.stems(["timm:a/b", "a b", "a-b"][:2]) == ["a-b", "a-b-2"]


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "said"), [
    (0.95, "Much the same"), (0.6, "Partly"), (0.3, "Little"), (0.0, "Nothing in common"),
    (-0.5, "Opposite"), (float("nan"), "no correlation to print"),
])  # fmt: skip
def test_a_correlation_is_put_into_words(value, said):
    assert said in _compare_words.alike(value, 16, (4, 4))


@pytest.mark.parametrize("method", list(METHODS))
def test_no_words_for_two_models_speak_of_one_scale_for_all(method):
    text = _compare_words.how_to_read(method, two_models=True)
    assert "All maps share" not in text
    assert "not comparable in size" in text.replace("\n", " ")
    assert "**What the maps do not tell**" in text


def test_a_flat_map_has_no_correlation():
    here, whole = lattice((8, 8), (8, 8), (1, 1), (8, 8)), np.ones((8, 8), bool)
    value, _ = map_correlation(np.eye(8), np.zeros((8, 8)), (whole, whole), (here, here))
    assert "no correlation" in _compare_words.alike(value, 64, (8, 8))
