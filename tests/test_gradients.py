"""Methods on pixels, against Captum, explicit loops and their axioms."""

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency

import cdam_core as cdam
from cdam_core.methods import blocks, gradients
from tests.conftest import CLASSES, tiny_late_vit, tiny_vit

PIXEL_METHODS = [id for id, method in cdam.METHODS.items() if method.resolution == "pixel"]


def assert_map(scores, expected, tolerance=1e-6):
    """(H, W) scores against (1, 3, H, W) attributions, summed over channels here."""
    expected = expected.detach().sum(1)[0].numpy()
    np.testing.assert_allclose(scores, expected, atol=tolerance * np.abs(expected).max())


def leaf_of(pixels):
    return pixels.clone().requires_grad_(True)


def gradient(module, pixels, target):
    leaf = leaf_of(pixels)
    return torch.autograd.grad(module(leaf)[0, target], leaf)[0]


# ---- oracles from outside ------------------------------------------------------------------------


def test_captum_agrees_on_input_x_gradient(any_module, pixels):
    e = cdam.explain(cdam.wrap(any_module), pixels, list(range(CLASSES)), "input_x_gradient")
    for c in range(CLASSES):
        theirs = InputXGradient(any_module).attribute(leaf_of(pixels), target=c)
        assert_map(e.scores[c], theirs)


def test_captum_agrees_on_integrated_gradients(any_module, pixels):
    """From zero, Captum's default; its right Riemann sum is the formula's."""
    e = cdam.explain(
        cdam.wrap(any_module), pixels, 3, "integrated_gradients", steps=7, baseline="zero"
    )
    theirs = IntegratedGradients(any_module, multiply_by_inputs=True).attribute(
        pixels, target=3, n_steps=7, method="riemann_right"
    )
    assert_map(e.scores[0], theirs)


def test_captum_agrees_on_smoothgrad_without_noise(any_module, pixels):
    e = cdam.explain(cdam.wrap(any_module), pixels, 1, "smoothgrad", n=3, sigma=0.0)
    assert_map(e.scores[0], Saliency(any_module).attribute(leaf_of(pixels), target=1, abs=False))


# ---- explicit loops ------------------------------------------------------------------------------


def test_smoothgrad_equals_a_loop_over_the_same_noise(any_module, pixels):
    e = cdam.explain(cdam.wrap(any_module), pixels, 4, "smoothgrad", n=5, sigma=0.2, seed=8)
    draw = torch.Generator().manual_seed(8)
    total = 0
    for _ in range(5):
        noise = 0.2 * torch.randn(3, 32, 48, generator=draw).double()
        total = total + gradient(any_module, pixels + noise, 4)
    assert_map(e.scores[0], total / 5)


def test_smoothgrad_resolves_its_noise_level(model, pixels):
    e = cdam.explain(model, pixels, 0, "smoothgrad", n=2)
    assert e.settings["sigma"] == pytest.approx(0.15 * float(pixels.max() - pixels.min()))
    again = cdam.explain(model, pixels, 0, "smoothgrad", **e.settings)
    np.testing.assert_array_equal(again.scores, e.scores)
    other = cdam.explain(model, pixels, 0, "smoothgrad", n=2, seed=1)
    assert np.abs(other.scores - e.scores).max() > 0


def test_integrated_gradients_start_from_a_black_image(any_module, pixels):
    model = cdam.wrap(any_module, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    black = torch.tensor([-0.5 / 0.2, -0.4 / 0.3, -0.3 / 0.4]).double()[None, :, None, None]
    e = cdam.explain(model, pixels, 2, "integrated_gradients", steps=6)
    way = pixels - black
    total = sum(gradient(any_module, black + way * k / 6, 2) for k in range(1, 7))
    assert_map(e.scores[0], way * total / 6)


def test_black_is_what_a_black_picture_becomes(model):
    from PIL import Image

    black = model.preprocess(Image.new("RGB", (48, 32)))
    assert torch.allclose(gradients.black_image(model, black), black)


def test_batches_do_not_matter(pixels, monkeypatch):
    model = cdam.wrap(tiny_vit(reg_tokens=4))
    asked = {"smoothgrad": {"n": 7}, "integrated_gradients": {"steps": 7}, "token_ablation": {}}
    whole = [cdam.explain(model, pixels, [0, 1], m, **s).scores for m, s in asked.items()]
    monkeypatch.setattr(blocks, "BATCH_BYTES", 1)  # one image at a time
    for (method, given), expected in zip(asked.items(), whole, strict=True):
        got = cdam.explain(model, pixels, [0, 1], method, **given).scores
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-9)


# ---- axioms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_vit, tiny_late_vit])
@pytest.mark.parametrize("baseline", ["black", "zero"])
def test_integrated_gradients_are_complete(make, baseline, pixels):
    """Scores sum to value(x) - value(baseline); the error falls as one over the steps."""
    model = cdam.wrap(make())
    start = torch.zeros_like(pixels)
    if baseline == "black":
        start = gradients.black_image(model, pixels)
    ends = [cdam.explain(model, x, 1).values.astype(float)[0] for x in (start, pixels)]
    errors = []
    for steps in (100, 200, 400):
        e = cdam.explain(model, pixels, 1, "integrated_gradients", steps=steps, baseline=baseline)
        assert e.rest[0] == 0
        errors.append(e.scores.astype(float).sum() - (ends[1] - ends[0]))
    assert abs(errors[-1]) < 0.02 * (abs(ends[1] - ends[0]) + 0.1)
    assert all(0.3 < errors[i + 1] / errors[i] < 0.6 for i in range(2)), errors


def test_gradients_of_a_contrast_are_the_difference(model, pixels):
    for method in PIXEL_METHODS:
        a, b, both = cdam.explain(model, pixels, [0, 2, cdam.Contrast(0, 2)], method).scores
        np.testing.assert_allclose(both, a - b, atol=1e-6 * np.abs(both).max())


def test_pixels_of_float32_reach_a_model_of_float64(model, pixels):
    for method in PIXEL_METHODS:
        got = cdam.explain(model, pixels.float(), 0, method)
        assert got.scores.shape == (1, 32, 48)


def test_a_caller_without_gradients_gets_them_all_the_same(model, pixels):
    for method in (*PIXEL_METHODS, "relevance_propagation", "grad_cam", "attention_grad_cam"):
        expected = cdam.explain(model, pixels, 0, method).scores
        with torch.no_grad():
            np.testing.assert_array_equal(cdam.explain(model, pixels, 0, method).scores, expected)
        with torch.inference_mode():
            np.testing.assert_array_equal(cdam.explain(model, pixels, 0, method).scores, expected)
