"""Wrapping, encoding and loading models."""

import json
import threading

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models.vision_transformer import Block, VisionTransformer

import cdam_core as cdam
from cdam_core.models import imagenet_names
from tests.conftest import CLASSES, SIZE, VARIANTS, randomise, tiny_module, tiny_vit


@pytest.fixture
def image():
    """A PIL image of the model's own proportions."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    return Image.fromarray(noise)


# ---- wrap ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "plain"), [(name, plain) for name, (_, plain) in VARIANTS.items()]
)
def test_the_closed_form_is_used_exactly_where_it_holds(name, plain):
    assert cdam.wrap(tiny_module(name)).closed_form is plain


def test_encoding_and_answering_reproduce_the_module(any_module, pixels):
    model = cdam.wrap(any_module)
    encoding = model.encode(pixels)
    with torch.no_grad():
        assert torch.allclose(model.logits(encoding), any_module(pixels)[0], rtol=1e-10)
        features = any_module.forward_features(pixels)
        latent = any_module.forward_head(features, pre_logits=True)
    assert torch.allclose(model.embed(pixels), latent, rtol=1e-10)
    assert encoding.tokens.shape == (1, model.num_prefix_tokens + 24, 24)
    assert encoding.grid == model.grid == (4, 6)
    assert model.patch_size == (8, 8)
    assert not encoding.tokens.requires_grad


def test_embed_takes_batches(model):
    pixels = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(0)).double()
    together = model.embed(pixels)
    assert together.shape == (3, 24)
    for one, each in zip(pixels, together, strict=True):
        assert torch.allclose(model.embed(one[None])[0], each, rtol=1e-10)


def test_other_sizes_than_the_one_it_was_built_for(model):
    """Positions are interpolated, as timm does for the same pixels."""
    larger = torch.randn(1, 3, 56, 40, generator=torch.Generator().manual_seed(0)).double()
    encoding = model.encode(larger)
    assert encoding.grid == (7, 5)
    expected = tiny_vit()(larger)[0].detach()
    assert torch.allclose(model.logits(encoding), expected, rtol=1e-10)
    assert cdam.explain(model, encoding, 0).scores.shape == (1, 7, 5)


def test_wrap_leaves_the_given_module_alone(pixels):
    module = tiny_vit().train()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    model = cdam.wrap(module)
    cdam.explain(model, pixels, 0)
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert not any(p.requires_grad for p in model.module.parameters())
    assert not model.module.training
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())
    shared = {p.data_ptr() for p in module.parameters()}
    assert shared == {p.data_ptr() for p in model.module.parameters()}


def test_explaining_changes_nothing_on_the_model_even_after_an_error(model, pixels):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    attributes = {name: sorted(vars(m)) for name, m in model.module.named_modules()}
    for method in cdam.METHODS:
        cdam.explain(model, pixels, [0, 1], method)
        with pytest.raises(cdam.BadTarget):
            cdam.explain(model, pixels, "no such class", method)
    after = model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert attributes == {name: sorted(vars(m)) for name, m in model.module.named_modules()}
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())


def test_class_names_and_normalisation():
    module = tiny_vit()
    named = cdam.wrap(module, ["a", "b", "c", "d", "e"], mean=(0, 0, 0), std=(1, 1, 1))
    assert named.class_names == ["a", "b", "c", "d", "e"]
    assert cdam.wrap(module).class_names == [f"class {i}" for i in range(CLASSES)]
    assert cdam.wrap(module).mean == (0.485, 0.456, 0.406)
    module.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    assert cdam.wrap(module).mean == (0.5, 0.5, 0.5)
    with pytest.raises(cdam.BadCheckpoint, match="2 class names"):
        cdam.wrap(module, ["a", "b"])


def test_a_backbone_without_a_head_has_embeddings_but_no_classes(pixels):
    model = cdam.wrap(tiny_vit(num_classes=0))
    assert model.class_names == []
    assert model.embed(pixels).shape == (1, 24)
    for ask in (
        lambda: model.logits(model.encode(pixels)),
        lambda: cdam.explain(model, pixels, 0),
        lambda: cdam.explain(model, pixels, cdam.ALL),
    ):
        with pytest.raises(cdam.BadTarget, match="train a linear head") as error:
            ask()
        assert error.value.reason == "no-head"


class _Convolutional(torch.nn.Module):
    """No transformer at all."""


class _FedWithoutNorm(Block):
    """Its attention sees the tokens as they come: norm1 has no say."""

    def forward(self, x, **_):
        x = x + self.norm1(self.attn(x))
        return x + self.mlp(self.norm2(x))


@pytest.mark.parametrize(
    "module",
    [
        _Convolutional(),
        tiny_vit(global_pool="avg"),
        tiny_vit(class_token=False, global_pool="avg"),
        tiny_vit(block_fn=_FedWithoutNorm),
    ],
    ids=["no_transformer", "average_pooled", "no_class_token", "block_of_its_own"],
)
def test_models_that_cannot_be_explained_are_refused(module):
    with pytest.raises(cdam.BadCheckpoint) as error:
        cdam.wrap(module)
    assert error.value.reason == "unsupported"
    assert "expected" in str(error.value) or "explains" in str(error.value)


def test_broken_weights_are_refused():
    module = tiny_vit()
    with torch.no_grad():
        module.blocks[0].mlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(cdam.BadCheckpoint) as error:
        cdam.wrap(module)
    assert error.value.reason == "damaged"


def test_half_a_closed_form_would_be_noticed(monkeypatch):
    """The self-check falls back to autograd where the closed form is wrong."""
    from cdam_core import models

    right = models.closed_form_evidence

    def wrong(*arguments):
        evidence = right(*arguments)
        evidence.tokens[:, 3] *= 1.01
        return evidence

    monkeypatch.setattr(models, "closed_form_evidence", wrong)
    assert not cdam.wrap(tiny_vit()).closed_form


# ---- pixels --------------------------------------------------------------------------------------


def test_preprocess_gives_normalised_pixels(model, image):
    pixels = model.preprocess(image, "stretch")
    assert pixels.shape == (1, 3, *SIZE)
    assert pixels.dtype == torch.float32
    seen = np.asarray(model.fit(image, "stretch").image) / 255
    expected = (seen - model.mean) / np.array(model.std)
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0), expected, atol=1e-5)


def test_a_square_image_comes_out_the_same_for_every_fit():
    square = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 50, 3), np.uint8))
    model = cdam.wrap(randomise(VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=2)))  # fmt: skip
    one, two, three = (model.preprocess(square, fit) for fit in ("pad", "crop", "stretch"))
    assert torch.equal(one, two)
    assert torch.equal(one, three)


def test_padding_is_remembered_patch_by_patch(model):
    tall = Image.new("RGB", (32, 64), (200, 10, 10))
    encoding = model.encode_image(tall)  # 16 of 48 columns hold the picture
    assert encoding.content.sum(1).tolist() == [2, 2, 2, 2]
    assert encoding.content[:, 2:4].all()
    assert cdam.explain(model, tall, 0).content.tolist() == encoding.content.tolist()
    sharp = model.fit(tall, zoom=3)
    assert sharp.image.size == (SIZE[1] * 3, SIZE[0] * 3)
    assert sharp.content == (0, 48, 96, 96)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (torch.zeros(1, 3, 30, 48), "wrong-shape"),
        (torch.zeros(1, 1, 32, 48), "wrong-shape"),
        (torch.zeros(3, 32, 48), "wrong-shape"),
        (torch.zeros(2, 3, 32, 48), "wrong-shape"),
        (torch.zeros(1, 3, 0, 48), "wrong-shape"),
        (torch.full((1, 3, 32, 48), float("nan")), "not-finite"),
        (torch.full((1, 3, 32, 48), float("inf")), "not-finite"),
        ("a string", "wrong-shape"),
        (None, "wrong-shape"),
        (np.zeros((1, 3, 32, 48)), "wrong-shape"),
    ],
)
def test_bad_pixels(model, pixels, reason):
    for ask in (lambda: model.encode(pixels), lambda: cdam.explain(model, pixels, 0)):
        with pytest.raises(cdam.BadImage) as error:
            ask()
        assert error.value.reason == reason


def test_a_fixed_size_model_says_which_size_it_wants():
    model = cdam.wrap(tiny_vit(dynamic_img_size=False))
    with pytest.raises(cdam.BadImage, match=r"exactly \(32, 48\)"):
        model.encode(torch.zeros(1, 3, 40, 48))


def test_works_inside_inference_mode(model, pixels):
    expected = cdam.explain(model, pixels, [0, 1]).scores
    with torch.inference_mode():
        inside = cdam.explain(model, pixels, [0, 1]).scores
    np.testing.assert_array_equal(inside, expected)


# ---- loading -------------------------------------------------------------------------------------


def test_every_bundled_model_loads_and_has_a_complete_card():
    assert "scenes" in cdam.MODELS
    for name, card in cdam.MODELS.items():
        for entry in ("label", "description", "licence", "provenance", "simulated", "class_names"):
            assert entry in card, (name, entry)
        model = cdam.load_model(name)
        assert model.id == name
        assert model.closed_form
        assert model.class_names == card["class_names"]
        sides = zip(model.input_size, model.patch_size, strict=True)
        assert model.grid == tuple(side // patch for side, patch in sides)


def test_the_bundled_model_takes_other_sizes():
    model = cdam.load_model("scenes", input_size=(280, 196))
    assert model.grid == (20, 14)
    pixels = model.preprocess(Image.new("RGB", (90, 60), (90, 120, 30)))
    assert cdam.explain(model, pixels, "zebra").scores.shape == (1, 20, 14)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("no-such-model", "unknown-model"),
        ("timm:vit_smal_patch8_224", "unknown-model"),
        ("timm:resnet18", "unsupported"),
        ("timm:vit_base_patch16_siglip_224", "unsupported"),
        ("missing/card.json", "unknown-model"),
    ],
)
def test_models_that_cannot_be_loaded(source, reason):
    with pytest.raises(cdam.BadCheckpoint) as error:
        cdam.load_model(source)
    assert error.value.reason == reason
    assert "Traceback" not in str(error.value)


def test_an_unreachable_hub_is_one_clear_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    real = timm.create_model

    def offline(name, pretrained=False, **extra):
        if pretrained:
            raise ConnectionError("proxy.example said: no route, user secret")
        return real(name, pretrained=False, **extra)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(cdam.BadCheckpoint) as error:
        cdam.load_model("timm:vit_tiny_patch16_224")
    assert error.value.reason == "unreachable"
    assert "connect to the network once" in str(error.value)
    assert "secret" not in str(error.value)


def test_an_architecture_without_pretrained_weights_says_so(monkeypatch):
    monkeypatch.setattr("cdam_core.hub.status", lambda: ("answers", "it is there"))
    with pytest.raises(cdam.BadCheckpoint, match="no pretrained weights") as error:
        cdam.load_model("timm:vit_base_patch16_18x2_224")
    assert error.value.reason == "unsupported"


def test_a_hub_model_gets_imagenet_names(monkeypatch):
    real = timm.create_model
    monkeypatch.setattr("cdam_core.hub.status", lambda: ("answers", "it is there"))
    monkeypatch.setattr(
        timm, "create_model",
        lambda name, pretrained=False, **extra: real(name, pretrained=False, num_classes=1000,
                                                     **extra),
    )  # fmt: skip
    model = cdam.load_model("timm:vit_tiny_patch16_224")
    assert model.class_names[340] == "zebra"
    assert model.id == "timm:vit_tiny_patch16_224"
    assert len(imagenet_names()) == 1000


def test_cards_beside_their_weights_load_and_damage_is_named(tmp_path):
    card = dict(cdam.MODELS["scenes"])
    source = cdam.models.assets_dir() / "models"
    weights = tmp_path / card["weights"]
    weights.write_bytes((source / card["weights"]).read_bytes())
    card["id"], card["bank"] = "mine", None
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(card), encoding="utf-8")
    assert cdam.load_model(path).id == "mine"

    def refusal():
        with pytest.raises(cdam.BadCheckpoint) as error:
            cdam.load_model(path)
        return error.value.reason

    path.write_text(json.dumps(card | {"class_names": ["a", "b"]}), encoding="utf-8")
    assert refusal() == "mismatch"
    path.write_text(json.dumps({"id": "mine"}), encoding="utf-8")
    assert refusal() == "damaged"
    path.write_text("{", encoding="utf-8")
    assert refusal() == "unreadable"
    path.write_text(json.dumps(card), encoding="utf-8")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert refusal() == "damaged"
    path.write_text(json.dumps(card | {"weights": "other.safetensors"}), encoding="utf-8")
    assert refusal() == "unreadable"


def test_eight_threads_share_the_bundled_model():
    model = cdam.load_model("scenes")
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, 112, 112, generator=draw) for _ in range(8)]
    expected = [cdam.explain(model, x, ["zebra", "elephant"]).scores for x in images]
    wrong = []

    def work(i):
        for _ in range(3):
            got = cdam.explain(model, images[i], ["zebra", "elephant"]).scores
            if np.abs(got - expected[i]).max() > 1e-4 * np.abs(expected[i]).max():
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
