"""The choice of model and input size, for visitors and for an administrator."""

import json

import numpy as np
import pytest
import torch

import cdam_core as cdam
from cdam_core import catalogue, hub
from pages import _pickers, _state
from tests.test_checkpoints import NAMES, save_with_metadata, vit
from tests.test_pages import opened, viewer

PAPER = "timm:vit_small_patch8_224.dino"


@pytest.fixture(autouse=True)
def _fresh_list(monkeypatch, tmp_path):
    """No hub, and nothing remembered from another test."""
    monkeypatch.setattr(cdam.VisionModel, "is_unfamiliar", lambda *_: False)
    monkeypatch.setattr(hub, "status", lambda *_: ("silent", "the model hub cannot be reached"))
    monkeypatch.setattr(hub, "cached_weights", lambda _: None)
    for name in ("CDAM_MODELS", "CDAM_ONLY_MODELS"):
        monkeypatch.delenv(name, raising=False)
    _pickers._offered_at.cache_clear()
    yield
    _pickers._offered_at.cache_clear()


def model_box(at):
    return at.selectbox(key="model.choice")


def error_of(at):
    return at.error[0].value.replace("\\", "")


def test_the_list_shows_the_size_of_what_has_to_be_fetched():
    labels = _pickers.model_labels()
    assert next(iter(labels)) == "scenes"
    assert labels[_state.PHOTO_MODEL] == "Photographs: ViT-Ti/16 · 23 MB"
    assert labels[PAPER].endswith("no file")
    assert max(map(len, labels.values())) <= 35  # what the sidebar shows of it


def test_without_a_network_one_sentence_says_which_file_to_put_where():
    at = opened()
    before = viewer(at)["shown"]
    model_box(at).select(_state.PHOTO_MODEL).run()
    assert "the model hub cannot be reached" in error_of(at)
    assert f"as {_state.PHOTO_MODEL.removeprefix('timm:')}.safetensors" in error_of(at)
    assert model_box(at).value == "scenes"
    assert viewer(at)["shown"] == before
    model_box(at).select(PAPER).run()
    assert "vit_small_patch8_224.dino.ckpt" in error_of(at)
    assert model_box(at).value == "scenes"


def test_a_file_of_the_local_folder_is_chosen_by_its_name(tmp_path, monkeypatch):
    save_with_metadata(vit(), tmp_path / "mine.safetensors", class_names=NAMES)
    monkeypatch.setenv("CDAM_MODELS", str(tmp_path))
    _pickers._offered_at.cache_clear()
    at = opened()
    model_box(at).select("mine.safetensors").run()
    assert not at.error
    assert viewer(at)["grid"] == [4, 4]
    at.switch_page("attention.py").run()
    assert model_box(at).value == "mine.safetensors"
    at.switch_page("compare.py").run()
    model_box(at).select("scenes").run()
    at.selectbox(key="side.scenes").select(224).run()
    model_box(at).select("mine.safetensors").run()
    assert viewer(at)["grid"] == [4, 4]  # each model has its own size
    model_box(at).select("scenes").run()
    assert viewer(at)["grid"] == [16, 16]
    (tmp_path / "mine.safetensors").unlink()
    _state._large_model.clear()


def test_a_larger_input_is_the_same_model_with_more_patches(monkeypatch):
    at = opened()
    sizes = at.selectbox(key="side.scenes")
    assert sizes.value == 336
    assert [option.split(":")[0] for option in sizes.options] == ["224 px", "336 px", "490 px"]
    assert "24 × 24 patches" in sizes.options[1]
    assert "35 × 35, 2.6 × the time" in sizes.options[2]
    before = json.dumps(viewer(at)["panels"][1]["src"])
    sizes.select(490).run()
    assert viewer(at)["grid"] == [35, 35]
    assert json.dumps(viewer(at)["panels"][1]["src"]) != before
    large = _state.get_model("scenes@490")
    assert large.module is _state.get_model("scenes").module
    with pytest.raises(cdam.BadImage):
        _state.get_model("scenes@337")


@pytest.mark.parametrize("side", [336, 490])
def test_the_input_size_stays_from_page_to_page(side):
    at = opened()
    at.selectbox(key="side.scenes").select(side).run()
    for page in ("methods.py", "attention.py", "compare.py"):
        at.switch_page(page).run()
        assert at.selectbox(key="side.scenes").value == side


def test_only_what_the_administrator_lists_is_offered(monkeypatch):
    monkeypatch.setenv("CDAM_ONLY_MODELS", "scenes")
    _pickers._offered_at.cache_clear()
    at = opened(model=_state.PHOTO_MODEL)
    assert len(model_box(at).options) == 1
    assert model_box(at).value == "scenes"
    assert list(_pickers.model_labels()) == ["scenes"]


def test_at_most_two_large_models_are_kept(monkeypatch):
    loaded = []

    def load_model(source):
        loaded.append(source)
        return cdam.wrap(vit(), model_id=source)

    monkeypatch.setattr(cdam, "load_model", load_model)
    _state._large_model.clear()
    for source in ("a.pth", "b.pth", "a.pth", "c.pth", "c.pth", "a.pth", "b.pth"):
        _state.get_model(source)
    _state._large_model.clear()
    assert loaded[:3] == ["a.pth", "b.pth", "c.pth"]
    assert len(loaded) in (4, 5)  # one or two of three had to give way, c.pth never
    assert loaded.count("c.pth") == 1


def test_progress_is_shown_and_the_model_is_then_in_use(monkeypatch):
    seen = []

    def fetch(source, on_progress):
        seen.append(source)
        on_progress(5_000_000, 23_000_000)
        monkeypatch.setattr(catalogue, "offered", lambda: [
            catalogue.Entry("scenes", "bundled", "", True),
            catalogue.Entry(_state.PHOTO_MODEL, "photographs", "", True, "ViT-Ti/16"),
        ])  # fmt: skip

    monkeypatch.setattr(catalogue, "fetch", fetch)
    monkeypatch.setattr(
        cdam, "load_model", lambda source: cdam.wrap(vit(num_classes=1000), model_id=source)
    )
    at = opened()
    model_box(at).select(_state.PHOTO_MODEL).run()
    try:
        assert seen == [_state.PHOTO_MODEL]
        assert model_box(at).value == _state.PHOTO_MODEL
        assert "Photographs: ViT-Ti/16" in model_box(at).options
        assert not at.error
    finally:
        _state._large_model.clear()


def test_sizes_keep_the_models_weights_once():
    small, large = _state.get_model("scenes"), _state.get_model("scenes@490")
    one, other = (model.module.head.weight for model in (small, large))
    assert one.data_ptr() == other.data_ptr()
    assert np.isfinite(large.embed(torch.zeros(1, 3, 490, 490)).numpy()).all()
