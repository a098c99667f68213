"""Concepts: vectors, values and maps against plain autograd and exact numbers."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import cdam_core as cdam
from cdam_core.bank import EmbeddingBank
from cdam_core.concepts import (
    SIMILARITIES,
    concept_of_latents,
    concepts_to_bytes,
    load_concepts,
    map_correlations,
    map_words,
    mean_concept,
    minus_mean_of_others,
    near_duplicates,
    rank_in_bank,
    rank_words,
    reliability,
    reliability_words,
    similarity_of,
    without_one,
)
from tests import oracles
from tests.conftest import tiny_module, tiny_vit


def noise_images(count, seed=0):
    """PIL images of random pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 32, 48, 3), np.uint8)
    return [Image.fromarray(each) for each in noise]


@pytest.fixture
def concept(model):
    return cdam.build_concept(model, noise_images(6), "noise")


def png(image):
    """The bytes of a PNG file."""
    from cdam_core.pictures import png as encode

    return encode(image)


def plain_similarity(latent, vector, similarity):
    """g(l, l_c), written from the definitions."""
    if similarity == "dot":
        return (latent * vector).sum()
    if similarity == "cosine":
        return (latent * vector).sum() / (latent.norm() * vector.norm())
    return -((latent - vector) ** 2).sum().sqrt()


# ---- building ------------------------------------------------------------------------------------


def test_the_vector_is_the_mean_latent(model):
    images = noise_images(11)
    concept = cdam.build_concept(model, images, "noise")
    latents = [model.embed(model.preprocess(image))[0] for image in images]
    np.testing.assert_allclose(concept.vector, torch.stack(latents).mean(0), rtol=1e-5, atol=1e-6)
    assert concept.vector.dtype == np.float32
    assert concept.count == 11
    assert len(set(concept.digests)) == 11
    assert concept.model_id == model.id


def test_the_order_of_the_examples_changes_nothing(model):
    images = noise_images(7)
    one, two = (cdam.build_concept(model, each) for each in (images, images[::-1]))
    np.testing.assert_allclose(one.vector, two.vector, rtol=1e-6, atol=1e-7)
    assert sorted(one.digests) == sorted(two.digests)


def test_files_and_images_may_be_mixed_and_bad_ones_are_named(model, tmp_path):
    good = noise_images(3)
    path = tmp_path / "good.png"
    path.write_bytes(png(good[1]))
    concept = cdam.build_concept(model, [good[0], b"nonsense", path, b"", png(good[2])])
    assert concept.count == 3
    left_out = concept.report["left_out"]
    assert [entry["position"] for entry in left_out] == [2, 4]
    assert [entry["reason"] for entry in left_out] == ["unreadable", "empty"]
    expected = cdam.build_concept(model, good)
    np.testing.assert_array_equal(concept.vector, expected.vector)


def test_without_examples_there_is_no_concept(model):
    with pytest.raises(cdam.BadConcept) as error:
        cdam.build_concept(model, [])
    assert error.value.reason == "too-few"
    with pytest.raises(cdam.BadConcept, match="numbers 1, 2") as error:
        cdam.build_concept(model, [b"one", b"two"])
    assert error.value.reason == "unreadable"


def test_progress_is_told_and_can_cancel(model):
    steps = []
    cdam.build_concept(model, noise_images(10), on_step=lambda *step: steps.append(step))
    assert steps == [(8, 10), (10, 10)]

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cdam.build_concept(model, noise_images(10), on_step=stop)


def test_a_backbone_without_a_head_is_enough(pixels):
    model = cdam.wrap(tiny_vit(num_classes=0))
    concept = cdam.build_concept(model, noise_images(4))
    e = cdam.explain(model, pixels, concept)
    assert e.scores.shape == (1, 4, 6)
    assert np.abs(e.scores).max() > 0


# ---- maps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("variant", ["plain", "registers", "qk_norm", "late", "fc_norm"])
def test_the_map_equals_plain_autograd(variant, similarity, pixels):
    module = tiny_module(variant)
    model = cdam.wrap(module)
    concepts = [
        cdam.build_concept(model, noise_images(5, seed), f"c{seed}", similarity) for seed in (1, 2)
    ]
    e = cdam.explain(model, pixels, [*concepts, cdam.Contrast(*concepts)])

    def value_of(concept):
        def value(_):
            # The latent again, with a graph: the module's own way to it.
            return plain_similarity(kept["latent"], torch.tensor(concept.vector).double(),
                                    similarity)  # fmt: skip

        return value

    kept = {}
    real = module.forward_head

    def spy(features, pre_logits=False):
        if not pre_logits:
            kept["latent"] = real(features, pre_logits=True)[0]
        return real(features, pre_logits)

    module.forward_head = spy
    maps = []
    for concept, value in zip(concepts, e.values, strict=False):
        oracle = oracles.cdam(module, pixels, value_of(concept))
        assert value == pytest.approx(
            float(plain_similarity(kept["latent"].detach(), torch.tensor(concept.vector).double(),
                                   similarity)), rel=1e-5, abs=1e-6)  # fmt: skip
        maps.append(np.asarray(oracle)[model.num_prefix_tokens :])
    for scores, expected in zip(e.scores, [*maps, maps[0] - maps[1]], strict=True):
        tolerance = 1e-6 * max(np.abs(each).max() for each in maps)
        np.testing.assert_allclose(scores.ravel(), expected, atol=tolerance)


@pytest.mark.parametrize("method", ["cdam", "smooth_cdam", "integrated_cdam", "attention"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_closed_form_and_autograd_agree_for_every_variant(model, pixels, method, similarity):
    concepts = [
        cdam.build_concept(model, noise_images(5, s), similarity=similarity) for s in (1, 2)
    ]
    fast = cdam.explain(model, pixels, concepts, method)
    if method == "attention":
        np.testing.assert_array_equal(fast.scores[0], fast.scores[1])
        return
    slow_model = dataclasses.replace(model, closed_form=False)
    slow = cdam.explain(slow_model, pixels, concepts, method)
    np.testing.assert_allclose(fast.scores, slow.scores, atol=2e-6 * np.abs(slow.scores).max())
    np.testing.assert_allclose(fast.rest, slow.rest, rtol=1e-4, atol=1e-6)


def test_a_concept_equal_to_a_classifier_row_gives_the_class_map(model, pixels):
    head = model.module.head
    concept = dataclasses.replace(
        cdam.build_concept(model, noise_images(2)), vector=head.weight[3].float().numpy()
    )
    e = cdam.explain(model, pixels, [concept, 3])
    np.testing.assert_allclose(e.scores[0], e.scores[1], atol=1e-6 * np.abs(e.scores).max())
    assert e.values[1] - e.values[0] == pytest.approx(float(head.bias[3]), abs=1e-5)


def test_many_concepts_and_classes_at_once_equal_each_alone(model, pixels):
    library = [cdam.build_concept(model, noise_images(3, s), f"c{s}") for s in range(30)]
    e = cdam.explain(model, pixels, [0, *library, 4])
    assert e.scores.shape[0] == 32
    for index, target in ((0, 0), (7, library[6]), (31, 4)):
        alone = cdam.explain(model, pixels, target)
        np.testing.assert_allclose(e.scores[index], alone.scores[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("closed_form", [True, False])
def test_l2_at_the_concept_itself_is_the_zero_map(pixels, closed_form):
    model = dataclasses.replace(cdam.wrap(tiny_vit().float()), closed_form=closed_form)
    here = concept_of_latents(model, model.embed(pixels).numpy(), "here", "l2")
    e = cdam.explain(model, pixels, here)
    assert e.values[0] == pytest.approx(0, abs=1e-5)
    assert not e.scores.any()
    there = dataclasses.replace(here, vector=here.vector + np.float32(0.01))
    assert np.abs(cdam.explain(model, pixels, there).scores).max() > 0


def test_heads_add_up_for_concepts_too(model, pixels, concept):
    cosine = concept.using("cosine")
    whole = cdam.explain(model, pixels, cosine).scores
    parts = sum(cdam.explain(model, pixels, cosine, heads=[h]).scores for h in range(3))
    np.testing.assert_allclose(parts, whole, atol=1e-6 * np.abs(whole).max())


def test_results_describe_the_concept_in_json(model, pixels, concept):
    e = cdam.explain(model, pixels, [concept, cdam.Contrast(concept, concept)])
    record = json.loads(json.dumps(e.provenance()))
    assert record["targets"][0]["name"] == "noise"
    assert record["targets"][0]["examples"] == 6
    assert record["units"] == ["dot similarity", "dot similarity"]
    assert e.labels == ("noise", "noise − noise")
    assert not e.scores[1].any()


@pytest.mark.parametrize(
    "contrast",
    [
        lambda c: cdam.Contrast(c, 0),
        lambda c: cdam.Contrast("class 1", c),
        lambda c: cdam.Contrast(c, c.using("l2")),
    ],
)
def test_both_sides_of_a_contrast_are_of_one_kind(model, pixels, concept, contrast):
    with pytest.raises(cdam.BadTarget) as error:
        cdam.explain(model, pixels, contrast(concept))
    assert error.value.reason == "unsupported"


def test_another_models_concept_is_refused(concept, pixels):
    other = tiny_vit()
    with torch.no_grad():
        other.head.bias[0] += 1e-9
    with pytest.raises(cdam.BadConcept) as error:
        cdam.explain(cdam.wrap(other), pixels, concept)
    assert error.value.reason == "other-model"


# ---- reliability ---------------------------------------------------------------------------------


def test_leave_one_out_on_constructed_latents():
    """Three unit vectors along x and one along y: exact cosines."""
    latents = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    report = reliability(latents)
    with_all = np.array([3, 1]) / np.sqrt(10)
    without_x = np.array([2, 1]) / np.sqrt(5)
    expected = [with_all @ without_x] * 3 + [with_all @ np.array([1, 0])]
    np.testing.assert_allclose(report["leave_one_out"], expected, rtol=1e-12)
    assert report["odd_one"] == 4
    assert report["few"] is True
    assert reliability(np.eye(6))["few"] is False
    assert reliability(np.eye(1))["leave_one_out"] == []


def test_concepts_without_one_example(model):
    images = noise_images(4)
    concept = cdam.build_concept(model, images)
    for index, smaller in enumerate(without_one(concept)):
        expected = cdam.build_concept(model, images[:index] + images[index + 1 :])
        np.testing.assert_allclose(smaller.vector, expected.vector, rtol=1e-5, atol=1e-6)
        assert smaller.count == 3
    with pytest.raises(cdam.BadConcept):
        without_one(cdam.build_concept(model, images[:1]))


def test_near_duplicates_are_pointed_out():
    one, two, three = noise_images(3)
    brighter = Image.fromarray(np.clip(np.asarray(one).astype(int) + 4, 0, 255).astype(np.uint8))
    assert near_duplicates([one, two, brighter, three]) == [(1, 3)]


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_rank_among_known_pictures(model, similarity):
    concept = concept_of_latents(model, np.array([[2.0] + [0.0] * 23]), "x", similarity)
    entries = np.zeros((4, 24), np.float32)
    entries[:, 0], entries[:, 1] = [2, 1, -1, -3], 1.0
    values = {"dot": [4.0, 2.0, -2.0, -6.0],
              "cosine": [2 / 5**0.5, 1 / 2**0.5, -1 / 2**0.5, -3 / 10**0.5],
              "l2": [-1.0, -(2**0.5), -(10**0.5), -(26**0.5)]}[similarity]  # fmt: skip
    for position, value in enumerate(values):
        assert rank_in_bank(concept, value + 1e-4, entries) == pytest.approx((4 - position) / 4)


# ---- algebra -------------------------------------------------------------------------------------


def test_algebra_of_dot_concepts_is_algebra_of_maps(model, pixels):
    a, b, c = (cdam.build_concept(model, noise_images(3, s), n) for s, n in enumerate("abc"))
    e = cdam.explain(
        model, pixels,
        [a, b, c, a - b, -a, mean_concept([a, b, c]), minus_mean_of_others(a, [a, b, c])],
    )  # fmt: skip
    scores, tolerance = e.scores.astype(float), 2e-6 * np.abs(e.scores).max()
    np.testing.assert_allclose(scores[3], scores[0] - scores[1], atol=tolerance)
    np.testing.assert_allclose(scores[4], -scores[0], atol=tolerance)
    np.testing.assert_allclose(scores[5], scores[:3].mean(0), atol=tolerance)
    np.testing.assert_allclose(scores[6], scores[0] - scores[1:3].mean(0), atol=tolerance)
    assert e.labels[3:5] == ("a − b", "not a")


def test_only_dot_products_are_linear(model, concept):
    for similarity in ("cosine", "l2"):
        with pytest.raises(cdam.BadConcept) as error:
            concept.using(similarity) - concept.using(similarity)
        assert error.value.reason == "not-linear"
    with pytest.raises(cdam.BadConcept):
        minus_mean_of_others(concept, [concept])


def test_a_zero_vector_has_no_cosine(concept):
    zero = dataclasses.replace(concept, vector=np.zeros(24))
    with pytest.raises(cdam.BadConcept) as error:
        zero.using("cosine")
    assert error.value.reason == "zero-vector"
    with pytest.raises(cdam.BadTarget):
        concept.using("manhattan")


# ---- files ---------------------------------------------------------------------------------------


def test_saved_and_loaded_concepts_are_the_same(model, pixels, concept, tmp_path):
    path = tmp_path / "noise.safetensors"
    concept.save(path)
    loaded = cdam.load_concept(path, model)
    assert loaded.examples is None
    for field in ("name", "similarity", "model_id", "weights_sha256", "count", "digests"):
        assert getattr(loaded, field) == getattr(concept, field)
    assert json.loads(json.dumps(dict(loaded.report))) == json.loads(
        json.dumps(dict(concept.report))
    )
    np.testing.assert_array_equal(
        cdam.explain(model, pixels, loaded).scores, cdam.explain(model, pixels, concept).scores
    )
    assert cdam.load_concept(concept.to_bytes()).name == "noise"
    assert len({concept.to_bytes() for _ in range(20)}) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_loading_for_another_model_is_refused(concept):
    other = cdam.wrap(tiny_vit(num_classes=7))
    with pytest.raises(cdam.BadConcept) as error:
        cdam.load_concept(concept.to_bytes(), other)
    assert error.value.reason == "other-model"


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"",
        lambda b: b"nonsense",
        lambda b: b[:-8],
        lambda b: b[: len(b) // 2],
        lambda b: b.replace(b"cdam-concept-1", b"cdam-concept-9"),
        lambda b: b.replace(b'\\"similarity\\": \\"dot\\"', b'\\"similarity\\": \\"tod\\"'),
        lambda b: b[:-4] + np.float32("nan").tobytes(),
        lambda b: b"\xff" * 8 + b[8:],
        lambda b: b + b"\0" * 2**21,
    ],
)
def test_damaged_files_are_refused(concept, damage):
    with pytest.raises(cdam.BadConcept) as error:
        cdam.load_concept(damage(concept.to_bytes()))
    assert error.value.reason == "damaged"


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(cdam.BadConcept):
        cdam.load_concept(tmp_path / "none.safetensors")


# ---- several in one file -------------------------------------------------------------------------


def test_several_concepts_travel_in_one_file(model, concept):
    other = cdam.build_concept(model, noise_images(3, 9), "other", "cosine")
    content = concepts_to_bytes([concept, other])
    for loaded, given in zip(load_concepts(content, model), [concept, other], strict=True):
        assert (loaded.name, loaded.similarity) == (given.name, given.similarity)
        np.testing.assert_array_equal(loaded.vector, given.vector)
    assert [c.name for c in load_concepts(concept.to_bytes())] == ["noise"]
    with pytest.raises(cdam.BadConcept) as error:
        cdam.load_concept(content)
    assert error.value.reason == "damaged"


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-8], lambda b: b.replace(b"vector.1", b"vector.7"),
     lambda b: b.replace(b'\\"name\\"', b'\\"nome\\"'), lambda b: b"[" * 40_000,
     lambda b: b.replace(b'\\"leave_one_out\\": [', b'\\"leave_one_out\\": [[],')],
)  # fmt: skip
def test_one_damaged_concept_spoils_the_file(model, concept, damage):
    with pytest.raises(cdam.BadConcept) as error:
        load_concepts(damage(concepts_to_bytes([concept, concept])), model)
    assert error.value.reason == "damaged"


def test_a_file_with_another_models_concept_is_refused(concept):
    with pytest.raises(cdam.BadConcept) as error:
        load_concepts(concepts_to_bytes([concept]), cdam.wrap(tiny_vit(num_classes=7)))
    assert error.value.reason == "other-model"


# ---- reliability in words ------------------------------------------------------------------------


def test_similarities_of_latents_are_those_of_explanations(model, pixels, concept):
    latent = model.embed(pixels).numpy()
    for similarity in SIMILARITIES:
        one = concept.using(similarity)
        expected = cdam.explain(model, pixels, one).values
        np.testing.assert_allclose(similarity_of(one, latent), expected, rtol=1e-5, atol=1e-6)


def test_correlation_of_maps_without_one_example():
    """Exact: the same map shifted and scaled, its negative, a constant, an orthogonal one."""
    whole = np.array([[1.0, -1.0], [1.0, -1.0]])
    without = np.array([3 * whole + 5, -whole, np.ones((2, 2)), [[1, 1], [-1, -1]]])
    np.testing.assert_allclose(map_correlations(whole, without), [1, -1, 0, 0], atol=1e-12)
    content = np.array([[True, True], [True, False]])
    other = np.array([[[1.0, -1.0], [1.0, 99.0]]])
    np.testing.assert_allclose(map_correlations(whole, other, content), [1], atol=1e-12)


def test_maps_without_one_example_cost_one_pass(model, pixels, concept):
    scores = cdam.explain(model, pixels, [concept, *without_one(concept)]).scores
    found = map_correlations(scores[0], scores[1:])
    expected = [np.corrcoef(scores[0].ravel(), each.ravel())[0, 1] for each in scores[1:]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_words_follow_the_numbers():
    words = reliability_words({"examples": 3, "few": True, "leave_one_out": [0.99, 0.85, 0.95],
                               "odd_one": 2, "near_duplicates": [(1, 3)],
                               "left_out": [{"position": 4}, {"position": 6}]})  # fmt: skip
    assert words[0].startswith("Only 3 examples")
    assert words[1].startswith("Unstable")
    assert "0.85" in words[1]
    assert "example 2" in words[1]
    assert "Examples 1 and 3" in words[2]
    assert words[3].endswith("4, 6.")
    assert reliability_words({"examples": 9, "leave_one_out": [0.98] * 9})[0].startswith("Stable")
    assert reliability_words({}) == []
    assert map_words([0.99, 0.98]).startswith("The map is stable")
    assert "fairly" in map_words([0.99, 0.91])
    assert "example 2" in map_words([0.99, 0.5])
    assert "single" in map_words([])
    assert [rank_words(r).split(":")[0] for r in (0.99, 0.8, 0.4)] == [
        "Probably there", "Perhaps there", "No clear sign of it"]  # fmt: skip


def test_a_banks_embeddings_are_what_was_put_in():
    entries = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    bank = EmbeddingBank.build(entries, entries + 1, entries)
    np.testing.assert_allclose(bank.embeddings(), entries, atol=np.abs(entries).max() / 200)
