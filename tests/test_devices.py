"""The same scores wherever a model computes, on a stand-in for a graphics card."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import cdam_core as cdam
from cdam_core import benchmarks, devices, head, mechanism, sanity
from tests import zoo
from tests.conftest import tiny_module
from tests.elsewhere import NAME, Elsewhere, There

QUICK = {"smooth_cdam": {"n": 3}, "smoothgrad": {"n": 3}, "integrated_cdam": {"steps": 4},
         "integrated_gradients": {"steps": 4}}  # fmt: skip
KINDS = ("plain", "late", "qk_norm")


@pytest.fixture
def elsewhere(model):
    """A model and the same on the other device, inside which this test runs."""
    with Elsewhere():
        moved = model.on(NAME)
        assert all(isinstance(p, There) for p in moved.module.parameters())
        yield moved


@pytest.fixture
def model():
    return cdam.wrap(tiny_module("plain"))


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-4 * np.abs(expected).max())


def test_the_stand_in_refuses_what_a_card_refuses():
    with Elsewhere():
        moved = torch.ones(3).to(NAME)
        assert moved.device.type == NAME
        assert (moved + 1).cpu().tolist() == [2, 2, 2]
        with pytest.raises(RuntimeError, match="one device"):
            moved + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            moved.numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", cdam.METHODS)
def test_every_method_computes_where_the_model_is(method, kind, pixels):
    model = cdam.wrap(tiny_module(kind))
    targets, settings = [1, cdam.Contrast(2, 3)], QUICK.get(method, {})
    try:
        expected = cdam.explain(model, pixels, targets, method, **settings)
    except cdam.BadTarget as refused:
        with Elsewhere(), pytest.raises(cdam.BadTarget, match=re.escape(str(refused))):
            cdam.explain(model.on(NAME), pixels, targets, method, **settings)
        return
    with Elsewhere():
        found = cdam.explain(model.on(NAME), pixels, targets, method, **settings)
    assert_close(found.scores, expected.scores)
    assert_close(found.values, expected.values)


def test_averaged_patches_there(pixels):
    module = zoo.shrunk("vit_medium_patch16_gap_240")
    given = zoo.pixels_for(module)
    model = cdam.wrap(module, input_size=tuple(given.shape[-2:]), pool="avg")
    expected = cdam.explain(model, given, [0, 4], "pooled_cdam")
    with Elsewhere():
        found = cdam.explain(model.on(NAME), given, [0, 4], "pooled_cdam")
    assert_close(found.scores, expected.scores)


def test_all_classes_of_an_encoding_there(model, elsewhere, pixels):
    encoding = elsewhere.encode(pixels)
    assert encoding.tokens.device.type == NAME
    expected = cdam.explain(model, pixels, cdam.ALL)
    assert_close(cdam.explain(elsewhere, encoding, cdam.ALL).scores, expected.scores)
    heads = cdam.explain(elsewhere, encoding, 1, heads=[0])
    assert_close(heads.scores, cdam.explain(model, pixels, 1, heads=[0]).scores)


@pytest.mark.parametrize("similarity", ["dot", "cosine", "l2"])
def test_concepts_are_built_and_asked_there(model, elsewhere, similarity):
    pictures = [Image.fromarray(np.full((40, 40, 3), shade, np.uint8)) for shade in (20, 90, 200)]
    one, other = (cdam.build_concept(each, pictures, name="grey", similarity=similarity)
                  for each in (model, elsewhere))  # fmt: skip
    np.testing.assert_allclose(other.vector, one.vector, atol=1e-5)
    expected = cdam.explain(model, pictures[1], one)
    assert_close(cdam.explain(elsewhere, pictures[1], one).scores, expected.scores)


def test_measures_there(model, elsewhere, pixels):
    scores = cdam.explain(model, pixels, 1).scores[0]
    expected = benchmarks.fidelity(model, pixels, scores, 1, steps=6)
    found = benchmarks.fidelity(elsewhere, pixels, scores, 1, steps=6)
    assert_close(found.mif, expected.mif)
    assert_close(found.lif, expected.lif)
    expected = benchmarks.box_sensitivity(model, pixels, scores, 1, n_boxes=4)
    found = benchmarks.box_sensitivity(elsewhere, pixels, scores, 1, n_boxes=4)
    assert_close(found.correlation, expected.correlation)


@pytest.mark.parametrize("how", sanity.RANDOMISATIONS)
def test_randomised_models_there_are_those_of_the_processor(model, elsewhere, pixels, how):
    expected = cdam.explain(sanity.randomise(model, how), pixels, 1)
    assert_close(cdam.explain(sanity.randomise(elsewhere, how), pixels, 1).scores, expected.scores)


def test_the_mechanism_is_taken_apart_there(model, elsewhere, pixels):
    one = mechanism.take_apart(model, model.encode(pixels), 1)
    other = mechanism.take_apart(elsewhere, elsewhere.encode(pixels), 1)
    assert_close(other.attention, one.attention)
    assert_close(other.relevance, one.relevance)
    (expected,) = mechanism.openness(model, model.encode(pixels), 1)
    (found,) = mechanism.openness(elsewhere, elsewhere.encode(pixels), 1)
    assert_close(found.full, expected.full)
    assert_close(found.hidden, expected.hidden)
    assert_close(found.blank_full, expected.blank_full)


def test_a_model_of_another_device_is_the_same_model(model, elsewhere):
    assert elsewhere.weights_sha256 == model.weights_sha256


def test_where_there_is_no_card_auto_is_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.find("auto") == torch.device("cpu")
    assert devices.find("cpu") == devices.find(torch.device("cpu"))


def test_where_there_is_a_card_auto_is_the_card(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *shape, device: asked.append(device))
    with torch.backends.cudnn.flags(allow_tf32=True):  # puts back what is set
        assert devices.find("auto") == torch.device("cuda")
        assert not torch.backends.cudnn.allow_tf32
    assert asked == [torch.device("cuda")]


@pytest.mark.parametrize("name", ["nonsense", "cuda:4096", "xla", ""])
def test_a_device_that_is_not_here_is_one_clear_sentence(name):
    with pytest.raises(cdam.BadCheckpoint, match="not available to PyTorch here") as caught:
        devices.find(name)
    assert caught.value.reason == "unsupported"


def test_a_head_is_taught_there(model, elsewhere):
    pictures = {
        name: [Image.new("RGB", (32, 32), (shade, shade, other)) for shade in shades]
        for name, shades, other in (("dark", (5, 20, 35), 0), ("light", (200, 220, 240), 90))
    }
    expected, seen = head.teach(model, pictures)
    taught, judged = head.teach(elsewhere, pictures)
    assert all(isinstance(p, There) for p in taught.module.parameters())
    assert judged.top1 == seen.top1
    picture = pictures["dark"][0]
    one, other = (cdam.explain(each, picture, "dark") for each in (expected, taught))
    assert_close(other.scores, one.scores)
