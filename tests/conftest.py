"""Small models that make every test fast: seeded, float64, a non-square grid, several prefixes."""

import sys

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

import cdam_core as cdam
from cdam_core.late_vit import LateClassTokenViT

# The models are tiny: more threads would only wait for each other.
torch.set_num_threads(1)

SIZE = (32, 48)  # a 4 x 6 grid of 8 px patches
CLASSES = 5

# id -> extra arguments of the tiny ViT, and whether the closed form must apply to it.
VARIANTS = {
    "plain": ({}, True),
    "registers": ({"reg_tokens": 4}, True),
    "one_register": ({"reg_tokens": 1}, True),
    "layer_scale": ({"init_values": 0.5}, True),
    "no_qkv_bias": ({"qkv_bias": False}, True),
    "pre_norm": ({"pre_norm": True}, True),
    "fc_norm": ({"fc_norm": True}, True),
    "qk_norm": ({"qk_norm": True}, False),
    "scaled_attention": ({"scale_attn_norm": True}, False),
}


@pytest.fixture(scope="module", autouse=True)
def nothing_is_remembered():
    """What pages computed for one file, perhaps with other settings, is no answer in the next."""
    if "pages._cache" in sys.modules:
        sys.modules["pages._cache"].shelf.clear()


def randomise(module, seed=0):
    """Random weights large enough for attention that is far from uniform."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 1.6 * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.4
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * spread)
    return module.double().eval()


def tiny_vit(**extra):
    """A two-block ViT in float64."""
    layout = {
        "img_size": SIZE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3,
        "num_classes": CLASSES, "dynamic_img_size": True,
    }  # fmt: skip
    return randomise(VisionTransformer(**(layout | extra)))


def tiny_late_vit():
    """The bundled models' architecture in small."""
    return randomise(
        LateClassTokenViT(
            CLASSES, backbone_depth=2, img_size=SIZE, patch_size=8, embed_dim=24, num_heads=3
        )
    )


def tiny_distilled_vit():
    """Two class tokens, each with its own head, averaged."""
    return randomise(
        VisionTransformerDistilled(
            img_size=SIZE, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=CLASSES
        )
    )


def tiny_module(name):
    """The module of a variant, or one of an architecture of its own."""
    own = {"late": tiny_late_vit, "distilled": tiny_distilled_vit}
    return own[name]() if name in own else tiny_vit(**VARIANTS[name][0])


@pytest.fixture(params=[*VARIANTS, "late", "distilled"])
def any_module(request):
    """Every variant in turn."""
    return tiny_module(request.param)


@pytest.fixture(params=[name for name, (_, plain) in VARIANTS.items() if plain] + ["late"])
def plain_model(request):
    """Every model to which the closed form applies, wrapped."""
    model = cdam.wrap(tiny_module(request.param))
    assert model.closed_form
    return model


@pytest.fixture
def model():
    """The plain tiny model, wrapped."""
    return cdam.wrap(tiny_vit())


@pytest.fixture
def pixels():
    """(1, 3, 32, 48) float64."""
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1)).double()
