"""CDAM and its variants against slow versions, exact numbers and known limits."""

import threading

import numpy as np
import pytest
import torch
from captum.attr import LayerGradientXActivation
from hypothesis import given, settings
from hypothesis import strategies as st

import cdam_core as cdam
from cdam_core.last_block import TokenSets, autograd_evidence, closed_form_evidence
from cdam_core.targets import resolve
from tests import oracles
from tests.conftest import CLASSES, tiny_vit

TIGHT = 1e-6  # of the largest score; results are handed out as float32


def assert_equal(scores, oracle, model, tolerance=TIGHT):
    """(rows, cols) scores against (M,) oracle scores with prefix."""
    oracle = np.asarray(oracle)[model.num_prefix_tokens :]
    np.testing.assert_allclose(scores.ravel(), oracle, atol=tolerance * np.abs(oracle).max())


# ---- plain ---------------------------------------------------------------------------------------


def test_cdam_equals_autograd_on_the_whole_model(any_module, pixels):
    model = cdam.wrap(any_module)
    e = cdam.explain(model, pixels, cdam.ALL)
    for c in range(CLASSES):
        oracle = oracles.cdam(any_module, pixels, lambda logits, c=c: logits[0, c])
        assert_equal(e.scores[c], oracle, model)
        prefix = float(oracle[: model.num_prefix_tokens].sum())
        assert e.rest[c] == pytest.approx(prefix, abs=TIGHT * float(oracle.abs().max()))
    np.testing.assert_allclose(e.values, any_module(pixels)[0].detach(), rtol=1e-6, atol=1e-6)


def test_closed_form_equals_autograd_in_float64(plain_model, pixels):
    tokens = plain_model.encode(pixels).tokens
    targets = resolve(plain_model, [0, 3, cdam.Contrast(1, 2)])
    normed = plain_model.last_norm(tokens)
    fast = closed_form_evidence(plain_model.module, tokens[:, 0], TokenSets.of(normed), targets)
    slow = autograd_evidence(plain_model.module, tokens, normed, targets)
    whole = fast.tokens.clone()
    whole[:, 0] += fast.query
    assert (whole - slow.tokens).abs().max() < 1e-12 * slow.tokens.abs().max()
    assert (fast.values - slow.values).abs().max() < 1e-12


@pytest.mark.parametrize("count", [2, 40])
def test_both_orders_of_the_products_agree(count):
    """Few and many classes take different routes through the same formula."""
    module = tiny_vit(num_classes=40)
    model = cdam.wrap(module)
    x = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(3)).double()
    e = cdam.explain(model, x, list(range(count)))
    for c in (0, count - 1):
        oracle = oracles.cdam(module, x, lambda logits, c=c: logits[0, c])
        assert_equal(e.scores[c], oracle, model)


def test_captum_agrees(model, pixels):
    """An oracle from outside: Captum's gradient times activation at the same layer."""
    module = tiny_vit()
    outside = LayerGradientXActivation(module, module.blocks[-1].norm1)
    for c in range(CLASSES):
        theirs = outside.attribute(pixels, target=c).sum(-1)[0].detach()
        assert_equal(cdam.explain(model, pixels, c).scores[0], theirs, model)


def test_contrast_is_the_difference_of_the_maps(plain_model, pixels):
    a, b, both = cdam.explain(plain_model, pixels, [1, 4, cdam.Contrast(1, 4)]).scores
    np.testing.assert_allclose(both, a - b, atol=TIGHT * np.abs(both).max())


def test_heads_and_paths_add_up(plain_model, pixels):
    encoding = plain_model.encode(pixels)
    whole = cdam.explain(plain_model, encoding, cdam.ALL)
    heads = [cdam.explain(plain_model, encoding, cdam.ALL, heads=[h]) for h in range(3)]
    paths = [cdam.explain(plain_model, encoding, cdam.ALL, path=p) for p in ("value", "key")]
    for parts in (heads, paths):
        for field in ("scores", "rest"):
            total = sum(getattr(part, field).astype(float) for part in parts)
            expected = getattr(whole, field)
            np.testing.assert_allclose(total, expected, atol=2e-6 * np.abs(expected).max())


def test_value_path_is_cdam_with_attention_frozen(model, pixels):
    """Independent of the closed form: detach the attention probabilities, keep the values."""
    module = model.module
    _, tokens, block_input = oracles.run_with_tokens(module, pixels)
    attn, block = module.blocks[-1].attn, module.blocks[-1]
    leaf = tokens.detach().clone().requires_grad_(True)
    v = attn.qkv(leaf)[0].unflatten(-1, (3, 3, 8))[:, 2]
    mixed = torch.einsum("hm,mhe->he", oracles.attention(module, pixels), v).flatten()
    row = block_input[0, 0] + attn.proj(mixed)
    row = row + block.mlp(block.norm2(row))
    value = module.head(module.norm(row))[2]
    (gradient,) = torch.autograd.grad(value, leaf)
    e = cdam.explain(model, pixels, 2, path="value")
    assert_equal(e.scores[0], (leaf.detach() * gradient).sum(-1)[0], model)


@pytest.mark.parametrize("method", ["cdam", "attention"])
def test_no_attention_no_score(method):
    """A_i = 0 implies S_i = 0 (Eq. 9): a key of minus infinity along the query hides a token."""
    module = tiny_vit(num_heads=1)
    x = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(5)).double()
    hidden = 7
    _, tokens, _ = oracles.run_with_tokens(module, x)
    attn = module.blocks[-1].attn
    with torch.no_grad():
        query = attn.qkv(tokens)[0, 0, :24]
        # Push along the pulled-back query until the softmax underflows to an exact zero.
        probe = attn.qkv.weight[24:48].T @ query
        shift = -1e5 * probe / probe.norm()
    shifted = tokens.detach().clone()
    shifted[0, 1 + hidden] += shift
    model = cdam.wrap(module)
    sets = TokenSets.of(shifted)
    targets = resolve(model, cdam.ALL)
    rows = model.encode(x).tokens[:, 0]
    evidence = closed_form_evidence(model.module, rows, sets, targets)
    if method == "cdam":
        assert (evidence.tokens[0, 1 + hidden] == 0).all()
        assert (evidence.tokens[0, 1:].abs().sum(0) > 0).all()
        oracle = oracles.cdam(module, x, lambda logits: logits[0, 1], tokens=shifted)
        assert float(oracle[1 + hidden]) == 0
    else:
        from cdam_core.last_block import class_attention

        assert class_attention(model.module.blocks[-1].attn, sets).probabilities[0, 0, 8] == 0


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(24)))
def test_permuting_patches_permutes_the_map(order):
    """The last block has no positions: its map moves with its tokens."""
    model = cdam.wrap(tiny_vit())
    x = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(9)).double()
    encoding = model.encode(x)
    moved = encoding.tokens[:, [0, *(1 + i for i in order)]]
    permuted = cdam.Encoding(moved, encoding.grid, encoding.content)
    for method in ("cdam", "integrated_cdam", "attention"):
        straight = cdam.explain(model, encoding, [0, 2], method)
        other = cdam.explain(model, permuted, [0, 2], method)
        flat = straight.scores.reshape(2, -1)[:, list(order)]
        np.testing.assert_allclose(
            other.scores.reshape(2, -1), flat, atol=1e-6 * np.abs(flat).max()
        )
        np.testing.assert_allclose(other.rest, straight.rest, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_linear_in_the_target(alpha, beta):
    """The map of a linear combination of logits is the combination of the maps."""
    module = tiny_vit()
    x = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(2)).double()
    model = cdam.wrap(module)
    a, b = cdam.explain(model, x, [0, 1]).scores.astype(float)
    oracle = oracles.cdam(module, x, lambda f: alpha * f[0, 0] + beta * f[0, 1])
    combined = alpha * a + beta * b
    tolerance = 1e-6 * (np.abs(a).max() * abs(alpha) + np.abs(b).max() * abs(beta)) + 1e-12
    np.testing.assert_allclose(combined.ravel(), oracle[1:], atol=tolerance)


# ---- attention -----------------------------------------------------------------------------------


def test_attention_equals_softmax_of_explicit_keys(plain_model, pixels):
    e = cdam.explain(plain_model, pixels, 0, "attention")
    oracle = oracles.attention(plain_model.module, pixels)
    assert_equal(e.scores[0], oracle.mean(0), plain_model)
    one = cdam.explain(plain_model, pixels, 0, "attention", heads=[1])
    assert_equal(one.scores[0], oracle[1], plain_model)
    assert e.scores.sum() + e.rest[0] == pytest.approx(1, abs=1e-6)


# ---- smooth --------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["tokens", "block_input"])
def test_smooth_equals_the_mean_over_the_same_noise(any_module, pixels, at):
    model = cdam.wrap(any_module)
    e = cdam.explain(model, pixels, 3, "smooth_cdam", n=6, sigma=0.3, at=at, seed=11)
    _, tokens, _ = oracles.run_with_tokens(any_module, pixels)
    draw = torch.Generator().manual_seed(11)
    noises = [0.3 * torch.randn(tokens.shape[1:], generator=draw).double() for _ in range(6)]
    oracle = oracles.smooth(any_module, pixels, lambda f: f[0, 3], noises, at)
    assert_equal(e.scores[0], oracle, model)
    assert e.settings == {"n": 6, "sigma": 0.3, "at": at, "seed": 11}


def test_smooth_without_noise_is_plain(model, pixels):
    plain = cdam.explain(model, pixels, [0, 1])
    smooth = cdam.explain(model, pixels, [0, 1], "smooth_cdam", sigma=0.0, n=3)
    np.testing.assert_allclose(smooth.scores, plain.scores, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(smooth.rest, plain.rest, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("at", ["tokens", "block_input"])
def test_default_sigma_is_a_twentieth_of_the_range(model, pixels, at):
    e = cdam.explain(model, pixels, 0, "smooth_cdam", at=at, n=2)
    _, tokens, block_input = oracles.run_with_tokens(model.module, pixels)
    start = tokens.detach() if at == "tokens" else block_input
    assert e.settings["sigma"] == pytest.approx(0.05 * float(start.max() - start.min()))


def test_chunks_do_not_change_smooth(model, pixels, monkeypatch):
    whole = cdam.explain(model, pixels, 0, "smooth_cdam", n=7)
    monkeypatch.setattr("cdam_core.methods.cdam.CHUNK_NUMBERS", 1)
    single = cdam.explain(model, pixels, 0, "smooth_cdam", n=7)
    np.testing.assert_allclose(single.scores, whole.scores, rtol=1e-5, atol=1e-9)


# ---- integrated ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["tokens", "block_input"])
def test_integrated_equals_the_sum_over_steps(any_module, pixels, at):
    model = cdam.wrap(any_module)
    e = cdam.explain(model, pixels, [1, cdam.Contrast(0, 4)], "integrated_cdam", steps=7, at=at)
    for scores, value in zip(
        e.scores, (lambda f: f[0, 1], lambda f: f[0, 0] - f[0, 4]), strict=True
    ):
        assert_equal(scores, oracles.integrated(any_module, pixels, value, 7, at), model)


def test_integrated_is_complete(any_module, pixels):
    """Scores and rest tend to f(T) - f(0); the error of the right sum falls as 1 / steps."""
    model = cdam.wrap(any_module)
    encoding = model.encode(pixels)
    _, tokens, _ = oracles.run_with_tokens(any_module, pixels)
    zero = torch.zeros_like(tokens)
    empty = oracles.run_with_tokens(any_module, pixels, tokens=zero)[0][0, 2].detach()
    errors = []
    for steps in (100, 200, 400, 800):
        e = cdam.explain(model, encoding, 2, "integrated_cdam", steps=steps)
        whole = e.scores.astype(float).sum() + float(e.rest[0])
        errors.append(whole - (float(e.values[0]) - float(empty)))
    size = abs(float(e.values[0]) - float(empty)) + 0.1
    assert abs(errors[-1]) < 0.02 * size
    halves = [errors[i + 1] / errors[i] for i in range(3)]
    assert all(0.42 < half < 0.58 for half in halves), errors


# ---- shared model --------------------------------------------------------------------------------


def test_eight_threads_on_one_model_get_their_own_maps():
    model = cdam.wrap(tiny_vit())
    draw = torch.Generator().manual_seed(4)
    images = [torch.randn(1, 3, 32, 48, generator=draw).double() for _ in range(8)]
    methods = ("cdam", "smooth_cdam", "integrated_cdam", "attention")
    expected = [[cdam.explain(model, x, [0, 1], m).scores for m in methods] for x in images]
    wrong = []

    def work(i):
        for _ in range(12):
            for m, want in zip(methods, expected[i], strict=True):
                got = cdam.explain(model, images[i], [0, 1], m).scores
                if not np.allclose(got, want, rtol=1e-5, atol=1e-9):
                    wrong.append((i, m))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
