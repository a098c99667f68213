"""The token ablation map, against one explicit forward pass per patch."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import Block

import cdam_core as cdam
from tests import twins
from tests.conftest import tiny_vit


def test_token_ablation_equals_one_pass_per_patch(any_module, pixels):
    e = cdam.explain(cdam.wrap(any_module), pixels, [0, 2, cdam.Contrast(1, 3)], "token_ablation")
    for index, target in enumerate([0, 2, (1, 3)]):
        expected = twins.token_ablation(any_module, pixels, target, 24).reshape(4, 6)
        scale = float(expected.abs().max())
        np.testing.assert_allclose(e.scores[index], expected, atol=1e-6 * scale)
    assert np.isnan(e.rest).all()


class Blinkered(Block):
    """Nobody attends to a token whose first feature is large."""

    def forward(self, x, attn_mask=None, is_causal=False):
        hidden = (x[..., 0] > 100)[:, None, None].to(x) * -1e9
        x = x + self.attn(self.norm1(x), attn_mask=hidden)
        return x + self.mlp(self.norm2(x))


def test_a_token_that_nobody_looks_at_counts_nothing(pixels):
    module = tiny_vit(block_fn=Blinkered)
    ignored = 9
    with torch.no_grad():
        module.pos_embed[0, 1 + ignored, 0] = 1e3
    scores = cdam.explain(cdam.wrap(module), pixels, [0, 1], "token_ablation").scores
    scores = scores.reshape(2, 24)
    assert (np.abs(scores[:, ignored]) < 1e-12).all()
    assert (np.abs(np.delete(scores, ignored, axis=1)) > 1e-6).all()


def test_progress_and_cancelling(model, pixels, monkeypatch):
    from cdam_core.methods import blocks

    monkeypatch.setattr(blocks, "BATCH_BYTES", 1)
    for method, settings, total in (
        ("token_ablation", {}, 24),
        ("smoothgrad", {"n": 4}, 4),
        ("integrated_gradients", {"steps": 5}, 5),
    ):
        seen = []
        e = cdam.explain(
            model, pixels, 0, method, on_step=lambda *step, seen=seen: seen.append(step), **settings
        )
        assert seen == [(done, total) for done in range(1, total + 1)]
        silent = cdam.explain(model, pixels, 0, method, **settings)
        np.testing.assert_array_equal(e.scores, silent.scores)

        def stop(done, _):
            if done == 2:
                raise InterruptedError("enough")

        with pytest.raises(InterruptedError, match="enough"):
            cdam.explain(model, pixels, 0, method, on_step=stop, **settings)


def test_methods_without_steps_ignore_the_callback(model, pixels):
    def fail(*_):
        raise AssertionError("called")

    assert cdam.explain(model, pixels, 0, "cdam", on_step=fail).scores.shape == (1, 4, 6)
