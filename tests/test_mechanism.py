"""Attention times relevance, and what the last block still decides, against slow versions."""

import numpy as np
import pytest
import torch
from PIL import Image

import cdam_core as cdam
from cdam_core import mechanism
from cdam_core.mechanism import Estimate, agreement, openness, take_apart
from tests import oracles
from tests.conftest import SIZE, tiny_module, tiny_vit

TARGETS = [0, 3, cdam.Contrast(1, 2)]


@pytest.fixture
def encoding(plain_model, pixels):
    return plain_model.encode(pixels)


def values_of(logits):
    return torch.stack([logits[0, 0], logits[0, 3], logits[0, 1] - logits[0, 2]])


# ---- attention times relevance -------------------------------------------------------------------


def test_attention_is_softmax_of_query_and_key(plain_model, pixels, encoding):
    parts = take_apart(plain_model, encoding, 0)
    expected = oracles.attention(plain_model.module, pixels)[:, plain_model.num_prefix_tokens:]
    np.testing.assert_allclose(parts.attention.reshape(3, -1), expected, atol=1e-6)
    np.testing.assert_allclose(parts.mean_attention.ravel(), expected.mean(0), atol=1e-6)


def test_attention_times_relevance_summed_over_heads_is_cdam(plain_model, pixels, encoding):
    parts = take_apart(plain_model, encoding, TARGETS)
    assert parts.relevance.shape == (3, 3, 4, 6)
    np.testing.assert_allclose(parts.evidence.sum(1), parts.scores, atol=1e-6)
    for index in range(3):
        oracle = oracles.cdam(plain_model.module, pixels, lambda z, i=index: values_of(z)[i])
        oracle = oracle[plain_model.num_prefix_tokens:].numpy()
        summed = (parts.attention * parts.relevance[index]).sum(0).ravel()
        np.testing.assert_allclose(summed, oracle, atol=1e-6 * np.abs(oracle).max())


@pytest.mark.parametrize("path", ["value", "key"])
def test_both_paths_are_those_of_the_method_head_by_head(plain_model, encoding, path):
    parts = take_apart(plain_model, encoding, TARGETS)
    by_path = parts.by_value if path == "value" else parts.by_key
    for head in range(3):
        e = cdam.explain(plain_model, encoding, TARGETS, heads=[head], path=path)
        ours = parts.attention[head] * by_path[:, head]
        np.testing.assert_allclose(ours, e.scores, atol=1e-6 * np.abs(e.scores).max())


def test_relevance_is_the_quotient_where_there_is_attention(plain_model, encoding):
    parts = take_apart(plain_model, encoding, TARGETS)
    seen = parts.attention > 1e-3
    assert seen.mean() > 0.3
    for head in range(3):
        scores = cdam.explain(plain_model, encoding, TARGETS, heads=[head]).scores
        for index in range(3):
            quotient = scores[index][seen[head]] / parts.attention[head][seen[head]]
            np.testing.assert_allclose(parts.relevance[index, head][seen[head]], quotient,
                                       rtol=1e-3, atol=1e-4 * np.abs(quotient).max())


def test_relevance_is_known_where_attention_vanishes():
    """Queries a hundred times as long: most of the attention underflows, R does not."""
    module = tiny_vit()
    with torch.no_grad():
        module.blocks[-1].attn.qkv.weight[:24] *= 100
    model = cdam.wrap(module.float())
    pixels = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    parts = take_apart(model, model.encode(pixels), 0)
    unseen = (parts.attention == 0).all(0)
    assert unseen.any()
    assert (parts.scores[0][unseen] == 0).all()  # Eq. 9
    assert np.isfinite(parts.relevance).all()
    assert (np.abs(parts.by_value[0][:, unseen]) > 1e-3).any()


def test_scores_stay_below_their_bound(plain_model, encoding):
    parts = take_apart(plain_model, encoding, TARGETS)
    assert (np.abs(parts.scores) <= parts.bound() * (1 + 1e-5) + 1e-9).all()
    assert (parts.bound() > 0).all()


@pytest.mark.parametrize("name", ["qk_norm", "scaled_attention"])
def test_without_the_closed_form_attention_and_cdam_remain(name, pixels):
    module = tiny_module(name)
    model = cdam.wrap(module)
    assert not model.closed_form
    parts = take_apart(model, model.encode(pixels), 1)
    assert parts.by_value is parts.by_key is parts.relevance is parts.evidence is None
    assert parts.bound() is None
    oracle = oracles.cdam(module, pixels, lambda logits: logits[0, 1])[1:].numpy()
    np.testing.assert_allclose(parts.scores[0].ravel(), oracle, atol=1e-6 * np.abs(oracle).max())
    attn, tokens = module.blocks[-1].attn, oracles.run_with_tokens(module, pixels)[1].detach()
    q, k, _ = attn.qkv(tokens)[0].unflatten(-1, (3, 3, 8)).unbind(1)
    logits = torch.einsum("he,mhe->hm", attn.q_norm(q)[0], attn.k_norm(k)) * attn.scale
    expected = logits.softmax(-1)[:, 1:].detach()
    np.testing.assert_allclose(parts.attention.reshape(3, -1), expected, atol=1e-6)


def test_a_block_of_its_own_kind_keeps_its_attention_to_itself(pixels):
    class OwnBlock(type(tiny_vit().blocks[-1])):
        pass

    module = tiny_vit()
    module.blocks[-1].__class__ = OwnBlock
    model = cdam.wrap(module)
    encoding = model.encode(pixels)
    parts = take_apart(model, encoding, 0)
    assert parts.attention is parts.mean_attention is None
    assert np.abs(parts.scores).max() > 0
    with pytest.raises(cdam.BadTarget, match="no attention to compare"):
        mechanism.patches_of(model, encoding, 0)
    with pytest.raises(cdam.BadTarget, match="way of its own"):
        openness(model, encoding, 0)


def test_a_model_that_averages_its_patches_is_refused():
    model = cdam.wrap(tiny_vit(global_pool="avg"), pool="avg")
    encoding = model.encode(torch.zeros(1, 3, *SIZE))
    for asked in (take_apart, openness):
        with pytest.raises(cdam.BadTarget, match="average"):
            asked(model, encoding, 0)


# ---- what is still open --------------------------------------------------------------------------


def masked_values(module, pixels, prefix):
    """The logits with minus infinity for the patches' attention logits in the last block."""
    _, tokens, stream = oracles.run_with_tokens(module, pixels)
    block, tokens = module.blocks[-1], tokens.detach()
    attn = block.attn
    q, k, v = attn.qkv(tokens)[0].unflatten(-1, (3, attn.num_heads, attn.head_dim)).unbind(1)
    logits = torch.einsum("nhe,mhe->hnm", attn.q_norm(q), attn.k_norm(k)) * attn.scale
    logits[:, :prefix, prefix:] = -torch.inf
    mixed = attn.norm(torch.einsum("hnm,mhe->nhe", logits.softmax(-1), v).flatten(1))
    rows = stream[0] + block.ls1(attn.proj(mixed))
    rows = rows + block.ls2(block.mlp(block.norm2(rows)))
    return module.forward_head(module.norm(rows[None]))[0].detach()


def test_hidden_values_are_those_of_a_mask(any_module, pixels):
    model = cdam.wrap(any_module)
    found = openness(model, model.encode(pixels), cdam.ALL)
    prefix = model.num_prefix_tokens
    hidden = masked_values(any_module, pixels, prefix)
    blank = torch.zeros_like(pixels)
    blank_hidden = masked_values(any_module, blank, prefix)
    for c, each in enumerate(found):
        assert each.full == pytest.approx(float(any_module(pixels)[0, c].detach()), abs=1e-5)
        assert each.hidden == pytest.approx(float(hidden[c]), abs=1e-5)
        assert each.blank_full == pytest.approx(float(any_module(blank)[0, c].detach()), abs=1e-5)
        assert each.blank_hidden == pytest.approx(float(blank_hidden[c]), abs=1e-5)
        whole = each.full - each.blank_full
        assert each.before + each.last == pytest.approx(whole, abs=1e-5)


def test_a_late_class_token_leaves_everything_to_the_last_block(pixels):
    model = cdam.wrap(tiny_module("late"))
    for each in openness(model, model.encode(pixels), cdam.ALL):
        assert each.before == 0
        assert each.share == 1
        assert each.verdict == "large"


@pytest.mark.parametrize(("left", "share"), [(1e-9, 1e-6), (1e-4, 0.01)])
def test_a_model_that_has_decided_before_leaves_nothing_to_it(pixels, left, share):
    """An ordinary ViT whose last attention contributes nothing, or next to nothing."""
    module = tiny_vit()
    with torch.no_grad():
        module.blocks[-1].attn.proj.weight *= left
    model = cdam.wrap(module)
    for each in openness(model, model.encode(pixels), cdam.ALL):
        assert abs(each.before) > 1e-3
        assert each.share <= share
        assert each.verdict == "small"


def test_a_blank_picture_moves_nothing():
    model = cdam.wrap(tiny_vit())
    (found,) = openness(model, mechanism.blank_encoding(model), 0)
    assert found.before == found.last == 0
    assert np.isnan(found.share)
    assert found.verdict == "none"


def test_the_bundled_model_decides_in_its_last_block():
    model = cdam.load_model("scenes")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for each in openness(model, model.encode_image(image), [0, 1, 2]):
        assert each.before == 0
        assert each.verdict == "large"


# ---- sets of pictures ----------------------------------------------------------------------------


def pictures(count, height=32, width=48):
    draw = np.random.default_rng(5)
    return [Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))
            for _ in range(count)]


def test_a_pool_holds_what_explaining_one_by_one_gives(model):
    images, methods = pictures(3), ("cdam", "integrated_cdam", "smooth_cdam")
    steps = []
    pool = mechanism.pool(model, [lambda i=i: i for i in images], methods=methods,
                          on_step=lambda *step: steps.append(step))  # fmt: skip
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert len(pool) == 3 * 24
    for number, (image, found) in enumerate(zip(images, pool.pictures, strict=True)):
        encoding = model.encode_image(image)
        strongest = int(model.logits(encoding).argmax())
        assert (found.number, found.target) == (number, strongest)
        assert found.label == model.class_names[strongest]
        for name in methods:
            e = cdam.explain(model, encoding, strongest, name)
            np.testing.assert_array_equal(found.scores[name], e.scores[0].ravel())
            assert found.value == pytest.approx(float(e.values[0]), abs=1e-6)
        attention = cdam.explain(model, encoding, strongest, "attention").scores[0]
        np.testing.assert_allclose(found.attention, attention.ravel(), atol=1e-7)
        np.testing.assert_allclose(found.evidence.sum(0), found.scores["cdam"], atol=1e-6)


def test_padding_is_left_out_and_one_class_may_serve_all(model):
    (tall,) = pictures(1, 32, 24)
    pool = mechanism.pool(model, [lambda: tall], target=2)
    (found,) = pool.pictures
    content = model.encode_image(tall).content
    assert 0 < content.sum() < content.size
    np.testing.assert_array_equal(found.index, np.flatnonzero(content))
    assert len(found.attention) == found.head_attention.shape[1] == content.sum()
    assert found.target == 2


def test_a_picture_that_cannot_be_read_is_left_out(model):
    def broken():
        raise cdam.BadImage("unreadable", "This is not a readable image.")

    pool = mechanism.pool(model, [pictures(1)[0].copy, broken, pictures(1)[0].copy])
    assert [each.number for each in pool.pictures] == [0, 2]
    assert pool.left_out == ((1, "This is not a readable image."),)


def test_a_pool_can_be_cancelled(model):
    class Stop(Exception):
        pass

    def stop(done, _total):
        if done == 2:
            raise Stop

    opened = []
    sources = [lambda: opened.append(1) or pictures(1)[0]] * 5
    with pytest.raises(Stop):
        mechanism.pool(model, sources, on_step=stop)
    assert len(opened) == 2


# ---- numbers -------------------------------------------------------------------------------------


def test_pooled_and_mean_correlation_against_numpy():
    draw = np.random.default_rng(1)
    ones = [draw.normal(size=n) for n in (30, 50, 40)]
    twos = [0.5 * a + draw.normal(size=a.size) + shift
            for a, shift in zip(ones, (0, 3, -2), strict=True)]
    found = agreement(ones, twos)
    pooled = np.corrcoef(np.concatenate(ones), np.concatenate(twos))[0, 1]
    each = [np.corrcoef(a, b)[0, 1] for a, b in zip(ones, twos, strict=True)]
    assert found.pooled.value == pytest.approx(pooled)
    np.testing.assert_allclose(found.per_image, each)
    assert found.mean.value == pytest.approx(np.mean(each))


def test_the_interval_draws_whole_pictures():
    """Against a slow bootstrap that repeats the arrays."""
    draw = np.random.default_rng(2)
    ones = [draw.normal(size=20) + shift for shift in range(12)]
    twos = [a + draw.normal(size=20) for a in ones]
    found = agreement(ones, twos).pooled
    slow = []
    for _ in range(2000):
        chosen = draw.integers(0, 12, 12)
        slow.append(np.corrcoef(np.concatenate([ones[i] for i in chosen]),
                                np.concatenate([twos[i] for i in chosen]))[0, 1])
    low, high = np.quantile(slow, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)
    assert agreement(ones, twos).pooled == found  # the same pictures, the same interval


def test_identical_pictures_have_no_uncertainty_and_one_has_no_interval():
    a, b = np.arange(9.0), np.arange(9.0) ** 2
    found = agreement([a] * 4, [b] * 4)
    assert found.pooled.low == pytest.approx(found.pooled.high)
    single = agreement([a], [b])
    assert np.isnan([single.pooled.low, single.mean.high]).all()


def test_flat_maps_have_no_correlation_and_are_left_out_of_the_mean():
    a, flat = np.arange(9.0), np.full(9, 0.3)
    found = agreement([a, a], [a, flat])
    np.testing.assert_array_equal(np.isnan(found.per_image), [False, True])
    assert found.mean.value == 1
    assert np.isnan(agreement([a], [flat]).pooled.value)


def test_tiles_cover_every_patch_once():
    for shape in ((16, 16), (4, 6), (3, 5), (1, 1)):
        content = np.random.default_rng(0).random(shape) > 0.2
        content[0, 0] = True
        found = mechanism.tiles(content)
        np.testing.assert_array_equal(np.sum(found, 0), content)
        assert len(found) <= 16
    one = np.random.default_rng(1).normal(size=(16, 16))
    two = one + np.random.default_rng(2).normal(size=(16, 16))
    found = mechanism.agreement_within(one, two, np.ones((16, 16), bool))
    assert found.value == pytest.approx(np.corrcoef(one.ravel(), two.ravel())[0, 1])
    assert found.low < found.value < found.high


def test_quiet_patches_by_hand():
    attention = np.array([1.0, 0.5, 0.009, 0.009, 0.011])
    scores = np.array([-1.0, 0.0, 0.06, 0.04, 0.5])
    assert mechanism.quiet_patches(attention, scores) == (2, 1)
    share, quiet, loud = mechanism.quiet_share([attention, attention[:2]], [scores, scores[:2]])
    assert (share.value, quiet, loud) == (0.5, 2, 1)
    none, quiet, loud = mechanism.quiet_share([attention[:2]], [scores[:2]])
    assert np.isnan(none.value)
    assert (quiet, loud) == (0, 0)


def test_plain_cdam_is_quiet_where_attention_is_and_variants_need_not_be():
    """Attention that underflows at T, but not at the other values of T that variants visit."""
    module = tiny_vit()
    with torch.no_grad():
        module.blocks[-1].attn.qkv.weight[:24] *= 6
    model = cdam.wrap(module)
    pixels = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)).double()
    encoding = model.encode(pixels)
    found = mechanism.patches_of(model, encoding, 0, ("cdam", "integrated_cdam"))
    quiet, loud = mechanism.quiet_patches(found.attention, found.scores["cdam"])
    assert quiet > 5
    bound = take_apart(model, encoding, 0).bound()[0].ravel()
    allowed = bound[found.attention < 0.01 * found.attention.max()]
    assert loud <= (allowed > 0.05 * np.abs(found.scores["cdam"]).max()).sum()
    assert mechanism.quiet_patches(found.attention, found.scores["integrated_cdam"])[1] > loud


def test_attention_mass_by_hand():
    attention, scores = np.array([6.0, 2.0, 1.0, 1.0]), np.array([2.0, -1.0, 0.1, -0.1])
    shares = mechanism.attention_mass([attention, np.ones(2)], [scores, np.array([1.0, 0.0])])
    assert [each.value for each in shares] == pytest.approx([0.55, 0.1, 0.35])
    assert all(isinstance(each, Estimate) and each.low <= each.value <= each.high
               for each in shares)  # fmt: skip


def test_intervals_are_printed_with_real_minus_signs():
    assert mechanism.interval_text(Estimate(-0.123, -0.2, 0.05)) == "−0.12 (−0.20 to 0.05)"
    assert mechanism.interval_text(Estimate(0.5, np.nan, np.nan)) == "0.50"
    assert mechanism.interval_text(Estimate(np.nan, np.nan, np.nan)) == "not defined"


@pytest.mark.parametrize(("file_format", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_pair_plot_is_the_same_file_each_time(file_format, start):
    draw = np.random.default_rng(0)
    maps = {name: [draw.normal(size=50) for _ in range(3)]
            for name in ("token_ablation", "cdam", "attention")}
    one, two = (mechanism.pair_plot(maps, "Title", file_format) for _ in range(2))
    assert one == two
    assert one.startswith(start)
    table = mechanism.correlation_table(maps)
    assert list(table) == [("token_ablation", "cdam"), ("token_ablation", "attention"),
                           ("cdam", "attention")]
    assert table["cdam", "attention"].pooled == agreement(maps["cdam"], maps["attention"]).pooled


