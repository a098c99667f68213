"""CDAM of models that average their patches."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import cdam_core as cdam
from tests import zoo
from tests.conftest import tiny_module, tiny_vit

AVERAGING = {
    "vit_medium_patch16_gap_240": 0,  # no class token at all
    "beit_base_patch16_224": 1,
    "vit_relpos_base_patch16_clsgap_224": 1,
    "vit_small_patch16_dinov3": 5,
    "vit_relpos_medium_patch16_rpn_224": 0,  # normalises after the attention
}


def averaging(name):
    module = zoo.shrunk(name)
    pixels = zoo.pixels_for(module)
    return module, pixels, cdam.wrap(module, input_size=tuple(pixels.shape[-2:]), pool="avg")


@pytest.mark.parametrize("name", AVERAGING)
def test_attention_and_residual_path_agree_with_plain_autograd(name):
    module, pixels, model = averaging(name)
    assert model.pool == "avg"
    assert model.num_prefix_tokens == AVERAGING[name]
    asked = {2: lambda f: f[0, 2], cdam.Contrast(0, 4): lambda f: f[0, 0] - f[0, 4]}
    for target, value in asked.items():
        attention, logits = zoo.oracle(module, pixels, value)
        both, _ = zoo.oracle(module, pixels, value, residual=True)
        expected = {"both": both, "attention": attention, "residual": both - attention}
        for path, scores in expected.items():
            e = cdam.explain(model, pixels, target, "pooled_cdam", path=path)
            prefix, scale = model.num_prefix_tokens, float(both.abs().max())
            patches = scores[prefix:].reshape(model.grid)
            np.testing.assert_allclose(e.scores[0], patches, atol=3e-6 * scale)
            np.testing.assert_allclose(e.rest[0], float(scores[:prefix].sum()), atol=1e-4 * scale)
        assert float((both - attention).abs().max()) > 1e-3 * float(both.abs().max())
    torch.testing.assert_close(model.logits(model.encode(pixels)), logits)


def test_with_a_class_token_it_is_cdam_itself(pixels):
    for name in ("plain", "registers", "late", "qk_norm", "distilled"):
        model = cdam.wrap(tiny_module(name))
        one = cdam.explain(model, pixels, [0, 3], "pooled_cdam")
        other = cdam.explain(model, pixels, [0, 3], "cdam")
        scale = np.abs(other.scores).max()
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5 * scale)
        residual = cdam.explain(model, pixels, [0, 3], "pooled_cdam", path="residual")
        assert np.abs(residual.scores).max() == 0


def test_a_model_of_averages_alone_is_known_exactly():
    """Without attention and MLP the answer is linear in the normalised stream: known by hand.

    With the last block switched off and no final norm, f = w . mean(X) + b, so the residual path
    of patch i is w . X_i / N, the attention path is zero, and all scores and b add up to f.
    """
    module = tiny_vit(global_pool="avg", class_token=False)
    with torch.no_grad():
        last = module.blocks[-1]
        for linear in (last.attn.proj, last.mlp.fc2):
            linear.weight.zero_()
            linear.bias.zero_()
    module.norm = module.fc_norm = torch.nn.Identity()
    pixels = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    model = cdam.wrap(module, pool="avg")
    tokens = model.encode(pixels).tokens[0]
    e = cdam.explain(model, pixels, 1, "pooled_cdam")
    expected = tokens @ module.head.weight[1].detach() / len(tokens)
    np.testing.assert_allclose(e.scores[0].ravel(), expected, rtol=1e-5)
    np.testing.assert_allclose(e.scores.sum() + float(module.head.bias[1].detach()), e.values[0],
                               rtol=1e-5)  # fmt: skip


def test_no_other_map_of_the_last_attention_is_silently_wrong():
    """What stands for a class token's reading is refused, by a sentence that names the variant."""
    _, pixels, model = averaging("vit_medium_patch16_gap_240")
    refused = {"cdam", "smooth_cdam", "integrated_cdam", "attention", "rollout",
               "relevance_propagation", "partial_lrp", "transformer_attribution",
               "attention_grad_cam"}  # fmt: skip
    quick = {"smoothgrad": {"n": 2}, "integrated_gradients": {"steps": 2}}
    value = float(model.module(pixels)[0, 1])
    for method in cdam.METHODS:
        if method in refused:
            with pytest.raises(cdam.BadTarget, match="pooled_cdam"):
                cdam.explain(model, pixels, 1, method)
        else:
            e = cdam.explain(model, pixels, 1, method, **quick.get(method, {}))
            np.testing.assert_allclose(e.values[0], value, rtol=1e-5)


def test_averaging_is_never_assumed():
    module = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3,
                               num_classes=3, global_pool="avg")  # fmt: skip
    with pytest.raises(cdam.BadCheckpoint, match="pool='avg'"):
        cdam.wrap(module)
    assert not cdam.wrap(module, pool="avg").closed_form
