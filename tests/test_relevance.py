"""Methods that follow attention and relevance, against twins with whole matrices."""

import numpy as np
import pytest
import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block

import cdam_core as cdam
from cdam_core.last_block import TokenSets, class_attention
from cdam_core.late_vit import LateClassTokenViT
from cdam_core.methods import blocks as laid_open
from tests import oracles, twins
from tests.conftest import (
    CLASSES,
    VARIANTS,
    randomise,
    tiny_distilled_vit,
    tiny_late_vit,
    tiny_module,
    tiny_vit,
)

TARGETS = [2, (1, 3)]
ASKED = [2, cdam.Contrast(1, 3)]


@pytest.fixture(params=[*VARIANTS, "late"])
def opened_module(request):
    """Every variant whose answer is read from one class token."""
    return tiny_module(request.param)


def assert_rows(e, index, twin, module, tolerance=1e-6):
    """Scores and rest of one target against a twin's (row (M,), left over)."""
    row, left = (twin, 0.0) if isinstance(twin, torch.Tensor) else twin
    prefix = module.num_prefix_tokens
    row = np.asarray(row.detach())
    expected = row[prefix:].reshape(4, 6)
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(e.scores[index], expected, atol=tolerance * scale, rtol=1e-5)
    assert e.rest[index] == pytest.approx(row[:prefix].sum() + left, rel=1e-5, abs=1e-9)


# ---- the blocks, laid open -----------------------------------------------------------------------


def test_an_opened_block_is_the_block(opened_module, pixels):
    model = cdam.wrap(opened_module)
    steps = laid_open.trace(model, pixels)
    for index, block in enumerate(model.module.blocks):
        tokens = steps.inputs[index]
        parts = laid_open.open_attention(block, tokens)
        ours = laid_open.close_block(block, tokens, parts.context(tokens.shape[1]))
        theirs = block(tokens)
        assert (ours - theirs).abs().max() < 1e-12 * theirs.abs().max()
    assert torch.equal(steps.inputs[-1], model.encode(pixels).tokens)


def test_attention_rows_equal_those_of_the_class_token(plain_model, pixels):
    """The short way to the one row and the general way to all of them agree."""
    tokens = plain_model.encode(pixels).tokens
    block = plain_model.module.blocks[-1]
    short = class_attention(block.attn, TokenSets.of(plain_model.last_norm(tokens)))
    _, rows = laid_open.open_attention(block, tokens).rows(slice(0, 1))
    assert (short.probabilities[0] - rows[:, 0]).abs().max() < 1e-14


def test_chunks_of_queries_do_not_matter(pixels, monkeypatch):
    model = cdam.wrap(tiny_vit(reg_tokens=4))
    methods = ("relevance_propagation", "transformer_attribution", "rollout")
    whole = [cdam.explain(model, pixels, 1, m).scores for m in methods]
    monkeypatch.setattr(laid_open, "CHUNK_NUMBERS", 3 * 29 * 4)  # four queries of 29 at a time
    for method, expected in zip(methods, whole, strict=True):
        got = cdam.explain(model, pixels, 1, method).scores
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-12)


def test_gated_attention_is_followed(pixels):
    module = tiny_vit()
    for block in module.blocks:
        block.attn = Attention(24, 3, qkv_bias=True, gated=True)
    randomise(module)
    model = cdam.wrap(module)
    steps = laid_open.trace(model, pixels)
    for block, tokens in zip(model.module.blocks, steps.inputs, strict=True):
        context = laid_open.open_attention(block, tokens).context(tokens.shape[1])
        assert (laid_open.close_block(block, tokens, context) - block(tokens)).abs().max() < 1e-12
    assert np.isfinite(cdam.explain(model, pixels, 0, "relevance_propagation").scores).all()
    with pytest.raises(cdam.BadTarget, match="gated"):
        cdam.explain(model, pixels, 0, "partial_lrp")


class OwnBlock(Block):
    """A block that timm does not know."""


@pytest.mark.parametrize("make", [lambda: tiny_vit(block_fn=OwnBlock), tiny_distilled_vit])
def test_what_cannot_be_followed_is_refused_in_one_sentence(make, pixels):
    model = cdam.wrap(make())
    for method in ("attention", "relevance_propagation", "rollout", "partial_lrp",
                   "transformer_attribution", "attention_grad_cam"):  # fmt: skip
        with pytest.raises(cdam.BadTarget) as caught:
            cdam.explain(model, pixels, 0, method)
        assert caught.value.reason == "unsupported"
        assert str(caught.value).endswith(".")
    for method in ("cdam", "grad_cam", "input_x_gradient", "token_ablation"):
        assert np.isfinite(cdam.explain(model, pixels, 0, method).scores).all()


def test_the_attention_map_is_the_class_row_of_whole_matrices(opened_module, pixels):
    """Norms of queries and keys included; single heads, and what the prefix tokens hold."""
    model = cdam.wrap(opened_module)
    rows = twins.explicit_forward(opened_module, pixels).attention[-1][:, 0].detach()
    assert_rows(cdam.explain(model, pixels, 0, "attention"), 0, rows.mean(0), opened_module)
    for head in range(len(rows)):
        e = cdam.explain(model, pixels, 0, "attention", heads=[head])
        assert_rows(e, 0, rows[head], opened_module)
    both = cdam.explain(model, pixels, 0, "attention", heads=[0, 2])
    assert_rows(both, 0, rows[[0, 2]].mean(0), opened_module)
    assert float(both.scores.sum() + both.rest[0]) == pytest.approx(1, abs=1e-6)


def test_norms_of_queries_and_keys_change_the_attention(pixels):
    """The case that the short way cannot do is a case of its own."""
    model = cdam.wrap(tiny_module("qk_norm"))
    assert not model.closed_form
    normed = cdam.explain(model, pixels, 0, "attention").scores
    attn = model.module.blocks[-1].attn
    tokens = TokenSets.of(model.last_norm(model.encode(pixels).tokens))
    without = class_attention(attn, tokens).probabilities[0].mean(0)[1:].reshape(4, 6)
    assert np.abs(normed[0] - without.numpy()).max() > 0.01


# ---- relevance propagation and rollout -----------------------------------------------------------


def test_relevance_propagation_equals_products_of_matrices(opened_module, pixels):
    e = cdam.explain(cdam.wrap(opened_module), pixels, ASKED, "relevance_propagation")
    for index, target in enumerate(TARGETS):
        assert_rows(
            e, index, twins.relevance_propagation(opened_module, pixels, target), opened_module
        )
    assert (e.scores >= 0).all()


def test_deeper_models(pixels):
    """Four blocks, and a late class token after two blocks of its own."""
    late = LateClassTokenViT(
        CLASSES, trained_blocks=3, backbone_depth=2, img_size=(32, 48), patch_size=8, embed_dim=24,
        num_heads=3,
    )  # fmt: skip
    for module in (tiny_vit(depth=4, reg_tokens=4), randomise(late)):
        e = cdam.explain(cdam.wrap(module), pixels, 2, "relevance_propagation")
        assert_rows(e, 0, twins.relevance_propagation(module, pixels, 2), module)
        e = cdam.explain(cdam.wrap(module), pixels, 2, "transformer_attribution")
        assert_rows(e, 0, twins.transformer_attribution(module, pixels, 2), module)
        e = cdam.explain(cdam.wrap(module), pixels, 2, "rollout")
        assert_rows(e, 0, twins.rollout(module, pixels), module)


def test_relevance_of_a_contrast_is_not_the_difference(model, pixels):
    a, b, both = cdam.explain(
        model, pixels, [1, 3, cdam.Contrast(1, 3)], "relevance_propagation"
    ).scores
    assert np.abs(both - (a - b)).max() > 0.1 * both.max()
    assert (both >= 0).all()


def test_relevance_is_zero_for_a_constant_value(pixels):
    """Nothing moves a class whose row of the head is zero."""
    module = tiny_vit()
    with torch.no_grad():
        module.head.weight[1] = 0
    e = cdam.explain(cdam.wrap(module), pixels, 1, "relevance_propagation")
    assert (e.scores == 0).all()
    assert e.rest[0] == 1


def test_rollout_equals_products_of_matrices(opened_module, pixels):
    e = cdam.explain(cdam.wrap(opened_module), pixels, ASKED, "rollout")
    for index in range(2):
        assert_rows(e, index, twins.rollout(opened_module, pixels), opened_module)
    np.testing.assert_allclose(e.scores.sum((1, 2)) + e.rest, 1, rtol=1e-6)


@pytest.mark.parametrize("make", [tiny_vit, tiny_late_vit])
def test_rollout_of_uniform_attention(make, pixels):
    """Without keys attention is 1 / M everywhere, and the map is known by hand."""
    module = make()
    with torch.no_grad():
        for block in module.blocks:
            block.attn.qkv.weight[24:48] = 0
    scores = cdam.explain(cdam.wrap(module), pixels, 0, "rollout").scores[0]
    tokens, depth = 25, len(module.blocks)
    if make is tiny_vit:
        # (U / 2 + I / 2)^L has row [CLS] (1 - 2^-L) / M + 2^-L [CLS], U U = U being uniform.
        expected = (1 - 0.5**depth) / tokens
    else:
        # The late token hands 1 / (2 M) to each of M - 1 patches; U spreads evenly what they hold.
        held, mass = 0.5 / tokens, 0.5 * (tokens - 1) / tokens
        keep = 0.5 ** (depth - 1)
        expected = keep * held + (1 - keep) * mass / tokens
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


# ---- partial LRP and transformer attribution -----------------------------------------------------


def test_partial_lrp_equals_every_contribution_spelled_out(opened_module, pixels):
    e = cdam.explain(cdam.wrap(opened_module), pixels, ASKED, "partial_lrp")
    for index, target in enumerate(TARGETS):
        assert_rows(e, index, twins.partial_lrp(opened_module, pixels, target), opened_module)


def test_transformer_attribution_equals_every_contribution_spelled_out(opened_module, pixels):
    e = cdam.explain(cdam.wrap(opened_module), pixels, ASKED, "transformer_attribution")
    for index, target in enumerate(TARGETS):
        assert_rows(
            e, index, twins.transformer_attribution(opened_module, pixels, target), opened_module
        )


def test_conserving_rules_keep_the_sum():
    """What arrives leaves: linear layers and residual sums of Chefer's CVPR 2021 rules."""
    from cdam_core.methods.lrp import CONSERVING, ORIGINAL

    draw = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 5, 70, generator=draw).double()
    weight = torch.randn(9, 70, generator=draw).double()
    relevance = torch.rand(5, 9, generator=draw).double()
    assert torch.allclose(CONSERVING.linear(x, weight, relevance).sum(-1), relevance.sum(-1))
    assert torch.allclose(ORIGINAL.linear(x, weight, relevance).sum(-1), 2 * relevance.sum(-1))
    arriving = torch.rand(5, 70, generator=draw).double()
    one, two = CONSERVING.residual(x, other, arriving)
    assert torch.allclose(one.sum() + two.sum(), arriving.sum())
    assert one.sum() > 0
    assert two.sum() > 0
    one, two = ORIGINAL.residual(x, other, arriving)
    assert torch.allclose(one + two, arriving)


def two_token_model():
    """One patch, one block, one head of width 2, no MLP output: relevance by hand."""
    module = tiny_vit(img_size=8, embed_dim=2, depth=1, num_heads=1, num_classes=2, mlp_ratio=1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        for norm in (module.blocks[0].norm1, module.blocks[0].norm2, module.norm):
            norm.weight.fill_(1)
        module.cls_token[0, 0] = torch.tensor([3.0, 1.0])  # normalised: (1, -1)
        module.patch_embed.proj.bias.copy_(torch.tensor([0.0, 4.0]))  # normalised: (-1, 1)
        module.blocks[0].attn.qkv.bias[4:] = torch.tensor([4.0, 4.0])  # both values (4, 4)
        module.blocks[0].attn.qkv.weight[4:] = torch.eye(2)  # plus the token: (5, 3) and (3, 5)
        module.blocks[0].attn.proj.weight.copy_(torch.eye(2))
        module.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    return module


def test_partial_lrp_by_hand():
    """Attention is 1/2 and 1/2, so the context is (4, 4); the class row leaves as (7, 5).

    Class 0 reads feature 0 alone: normalised (1, -1), weight 1, so its relevance is 1. No MLP: the
    sum passes it on. Of 7 = 3 + 4 the attention gives 4: 4/7. The projection passes it on. Of the
    context 4 = (5 + 3) / 2: Rel(A_j) = A_j / 2 * V_j0 * R / 4, so 1/2 * 1/2 * (5, 3) * (4/7) / 4.
    """
    model = cdam.wrap(two_token_model())
    x = torch.zeros(1, 3, 8, 8).double()
    e = cdam.explain(model, x, 0, "partial_lrp")
    assert e.rest[0] == pytest.approx(5 / 28, rel=1e-4)
    assert e.scores.item() == pytest.approx(3 / 28, rel=1e-4)
    # Class 1 reads feature 1, normalised to -1, by a positive weight: no rule of equal signs hits.
    assert cdam.explain(model, x, 1, "partial_lrp").scores.item() == 0
    both = cdam.explain(model, x, cdam.Contrast(0, 1), "partial_lrp")
    assert both.scores.item() == pytest.approx(3 / 28, rel=1e-4)


# ---- Grad-CAM ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["attention_grad_cam", "grad_cam"])
def test_grad_cams_equal_explicit_gradients(opened_module, pixels, method):
    e = cdam.explain(cdam.wrap(opened_module), pixels, [0, *ASKED], method)
    for index, target in enumerate([0, *TARGETS]):
        expected = getattr(twins, method)(opened_module, pixels, target).detach().reshape(4, 6)
        np.testing.assert_allclose(e.scores[index], expected, rtol=1e-5, atol=1e-9)
    assert np.isnan(e.rest).all()
    assert e.scores.max() > 0


def test_grad_cam_from_an_encoding(model, pixels):
    """The methods that need the encoding alone answer from it."""
    encoding = model.encode(pixels)
    for method in ("attention_grad_cam", "grad_cam", "partial_lrp"):
        straight = cdam.explain(model, pixels, 1, method).scores
        np.testing.assert_array_equal(cdam.explain(model, encoding, 1, method).scores, straight)


def test_grad_cam_shares_the_gradient_of_cdam(model, pixels):
    """Grad-CAM averages over patches the very gradient that CDAM multiplies patch by patch."""
    tokens, gradient, _ = oracles.gradient_of(model.module, pixels, lambda f: f[0, 1])
    weights = gradient[0, 1:].mean(0)
    expected = (tokens[0, 1:] @ weights).clamp(min=0).reshape(4, 6)
    got = cdam.explain(model, pixels, 1, "grad_cam").scores[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-9)


# ---- several targets -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["relevance_propagation", "transformer_attribution"])
@pytest.mark.parametrize("name", ["registers", "qk_norm", "late"])
def test_targets_of_one_walk_do_not_touch_each_other(name, method, pixels):
    """Bit for bit the same alone, in a list, and in another order."""
    model = cdam.wrap(tiny_module(name))
    asked = [0, cdam.Contrast(1, 3), 4, 0]
    together = cdam.explain(model, pixels, asked, method)
    for index, target in enumerate(asked):
        alone = cdam.explain(model, pixels, target, method)
        np.testing.assert_array_equal(together.scores[index], alone.scores[0])
        assert together.rest[index] == alone.rest[0]
    turned = cdam.explain(model, pixels, asked[::-1], method)
    np.testing.assert_array_equal(turned.scores[::-1], together.scores)


@pytest.mark.parametrize("method", ["relevance_propagation", "transformer_attribution"])
def test_attention_rows_are_computed_once_for_all_targets(method, pixels, monkeypatch):
    model, calls = cdam.wrap(tiny_vit()), []
    rows = laid_open.OpenAttention.rows

    def counted(parts, chunk):
        calls.append(chunk)
        return rows(parts, chunk)

    monkeypatch.setattr(laid_open.OpenAttention, "rows", counted)
    cdam.explain(model, pixels, 0, method)
    once = len(calls)
    calls.clear()
    cdam.explain(model, pixels, [0, 1, cdam.Contrast(2, 3)], method)
    assert len(calls) == once == len(model.module.blocks)
