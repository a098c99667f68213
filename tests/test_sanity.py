"""Models with part of their knowledge destroyed: what changes, and what must not."""

import copy

import numpy as np
import pytest
import torch

import cdam_core as cdam
from cdam_core.sanity import RANDOMISATIONS, correlation, randomise
from tests.conftest import CLASSES, tiny_late_vit, tiny_vit


def weights(model):
    return dict(model.module.named_parameters())


def changed(model, broken):
    """Names of the parameters that differ."""
    before, after = weights(model), weights(broken)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def order_of(model, broken):
    """Class whose row of the head each class got."""
    rows = model.module.head.weight
    return [int((rows == row).all(1).nonzero()[0, 0]) for row in broken.module.head.weight]


@pytest.fixture(params=["plain", "late"])
def trained(request):
    return cdam.wrap(tiny_vit() if request.param == "plain" else tiny_late_vit())


@pytest.mark.parametrize("how", RANDOMISATIONS)
def test_the_given_model_stays_as_it_is_and_lends_the_rest(trained, how):
    before = copy.deepcopy(trained.module.state_dict())
    broken = randomise(trained, how)
    for name, value in trained.module.state_dict().items():
        assert torch.equal(value, before[name])
    touched, (ours, theirs) = changed(trained, broken), (weights(trained), weights(broken))
    assert touched
    for name in ours.keys() - touched:
        assert ours[name].data_ptr() == theirs[name].data_ptr()
    for name in touched:
        assert ours[name].data_ptr() != theirs[name].data_ptr()


def test_only_the_parts_named_are_drawn_anew(trained):
    last = f"blocks.{len(trained.module.blocks) - 1}."
    touched = {how: changed(trained, randomise(trained, how)) for how in RANDOMISATIONS}
    everything = weights(trained)
    assert touched["last_block"] == {name for name in everything if name.startswith(last)}
    assert touched["all_blocks"] == {name for name in everything if name.startswith("blocks.")}
    assert touched["permuted_head"] == {"head.weight", "head.bias"}


def test_all_blocks_go_on_where_the_last_block_ended(trained):
    one, all_blocks = randomise(trained, "last_block", 3), randomise(trained, "all_blocks", 3)
    last = f"blocks.{len(trained.module.blocks) - 1}."
    for name, value in weights(one).items():
        if name.startswith(last):
            assert torch.equal(value, weights(all_blocks)[name])


def test_a_seed_gives_the_same_model_and_another_one_another(trained):
    for how in ("last_block", "all_blocks"):
        same, again, other = (randomise(trained, how, seed) for seed in (1, 1, 2))
        assert not changed(same, again)
        assert changed(same, other)
        assert same.id == again.id != other.id


def test_new_weights_are_as_large_as_the_trained_ones():
    model = cdam.wrap(tiny_vit(embed_dim=96))
    broken = randomise(model, "all_blocks")
    for name in changed(model, broken):
        trained, drawn = weights(model)[name], weights(broken)[name]
        if trained.numel() > 1000:
            assert float(drawn.std()) == pytest.approx(float(trained.std()), rel=0.1)
            assert abs(drawn.mean() - trained.mean()) < 0.1 * trained.std()


def test_no_class_keeps_its_row(trained):
    for seed in range(5):
        order = order_of(trained, randomise(trained, "permuted_head", seed))
        assert sorted(order) == list(range(CLASSES))
        assert all(got != own for own, got in enumerate(order))


def test_encodings_serve_where_the_table_says_so(trained, pixels):
    tokens = trained.encode(pixels).tokens
    for how, row in RANDOMISATIONS.items():
        same = torch.equal(randomise(trained, how).encode(pixels).tokens, tokens)
        assert same == row.keeps_encoding


def test_with_swapped_classes_the_map_is_exactly_the_other_class(trained, pixels):
    broken = randomise(trained, "permuted_head")
    order = order_of(trained, broken)
    ours = cdam.explain(trained, pixels, cdam.ALL)
    theirs = cdam.explain(broken, pixels, cdam.ALL)
    np.testing.assert_allclose(theirs.scores, ours.scores[order], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(theirs.values, ours.values[order], rtol=1e-5)


def test_attention_notices_the_block_and_not_the_classes(trained, pixels):
    maps = {
        how: cdam.explain(randomise(trained, how), pixels, 0, "attention").scores[0]
        for how in RANDOMISATIONS
    }
    original = cdam.explain(trained, pixels, 0, "attention").scores[0]
    assert correlation(original, maps["permuted_head"]) == pytest.approx(1)
    assert abs(correlation(original, maps["last_block"])) < 0.9


def test_the_new_model_says_what_was_done_to_it(trained, pixels):
    broken = randomise(trained, "all_blocks", 7)
    made = cdam.explain(broken, pixels, 0).provenance()
    assert made["model"] == f"{trained.id}:all_blocks:7"
    assert broken.class_names == trained.class_names


def test_what_cannot_be_randomised_is_refused():
    model = cdam.wrap(tiny_vit())
    with pytest.raises(cdam.BadTarget, match="expected one of last_block, all_blocks"):
        randomise(model, "first_block")
    with pytest.raises(cdam.BadTarget) as caught:
        randomise(cdam.wrap(tiny_vit(num_classes=0)), "permuted_head")
    assert caught.value.reason == "no-head"
    with pytest.raises(cdam.BadTarget, match="one class only"):
        randomise(cdam.wrap(tiny_vit(num_classes=1)), "permuted_head")


def test_correlation_has_its_known_values():
    draw = np.random.default_rng(0)
    one = draw.normal(size=(7, 5))
    assert correlation(one, 3 * one + 2) == pytest.approx(1)
    assert correlation(one, -one) == pytest.approx(-1)
    other = draw.normal(size=(7, 5))
    expected = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert correlation(one, other) == pytest.approx(expected)
    assert np.isnan(correlation(one, np.ones((7, 5))))
