"""Every architecture of timm in small, and what plain autograd on the whole model says about it.

``shrunk`` builds an architecture by its own function in timm, with two blocks and little width, so
that whatever makes its blocks special stays. ``oracle`` uses the module's own forward and hooks at
places that are written down here, and nothing of ``cdam_core``.
"""

import dataclasses
import sys
from contextlib import ExitStack
from unittest import mock

import timm
import torch

from tests.conftest import CLASSES, randomise

SIDE = 64  # pixels, where the patch size does not ask for another

# Class in timm -> the norms that feed the last attention in which the class token reads patches, in
# a model of two blocks (two in the last stage).
PLACES = {
    "Cait": ("blocks_token_only.1.norm1",),
    "Xcit": ("cls_attn_blocks.1.norm1",),
    "VOLO": ("post_network.1.norm1",),
    "PoolingVisionTransformer": ("transformers.2.blocks.1.norm1",),
    "MultiScaleVit": ("stages.3.blocks.1.norm1",),
    "CoaT": ("serial_blocks4.1.norm1",),
    "TNT": ("blocks.1.norm_out",),
}
# Kind of block -> the same, below the block; "attn" where no norm comes first.
IN_BLOCK = {
    "ParallelScalingBlock": ("in_norm",),
    "DiffParallelScalingBlock": ("in_norm",),
    "ParallelThingsBlock": ("attns.0.norm", "attns.1.norm"),
    "ResPostBlock": ("attn",),
    "ResPostRelPosBlock": ("attn",),
    "EvaBlockPostNorm": ("attn",),
}


def places(module):
    """Paths of the modules at which the oracle looks."""
    named = PLACES.get(type(module).__name__)
    if named:
        return named
    below = IN_BLOCK.get(type(module.blocks[-1]).__name__, ("norm1",))
    return tuple(f"blocks.{len(module.blocks) - 1}.{name}" for name in below)


# ---- small ---------------------------------------------------------------------------------------


def _patch(given):
    size = given.get("patch_size", 16)
    return size if isinstance(size, int) else size[0]


def _effective_patch(given):
    """Of PiT's third stage: two poolings by 2 after a convolution."""
    return 4 * given["stride"]


def _vit(given):
    if given.get("embed_layer") is not None:  # a convolutional stem decides the width
        return {"depth": 2, "img_size": SIDE}
    small = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 4 * _patch(given)}
    if "num_kv_heads" in given:
        small["num_kv_heads"] = 1
    return small


SMALL = {
    "Cait": lambda given: {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": SIDE},
    "Xcit": lambda given: {"depth": 2, "embed_dim": 32, "num_heads": 2,
                           "img_size": 4 * _patch(given)},
    "VOLO": lambda given: {"layers": (1, 1, 1, 1), "embed_dims": (24, 32, 32, 32),
                           "num_heads": (2, 2, 2, 2), "stem_hidden_dim": 8, "img_size": SIDE},
    "PoolingVisionTransformer": lambda given: {"base_dims": [8, 8, 8], "heads": [2, 4, 8],
                                               "depth": [1, 1, 2],
                                               "img_size": 4 * _effective_patch(given)},
    "ConVit": lambda given: {"depth": 2, "local_up_to_layer": 1, "embed_dim": 8, "num_heads": 4,
                             "img_size": SIDE},
    "TNT": lambda given: {"depth": 2, "embed_dim": 32, "inner_dim": 8, "num_heads_outer": 2,
                          "img_size": SIDE},
    "MultiScaleVit": lambda given: {"img_size": 96, "model_cfg": dataclasses.replace(
        given["model_cfg"], depths=(1, 1, 1, 2), embed_dim=8, num_heads=1)},
    "CoaT": lambda given: {"embed_dims": [8, 8, 16, 16], "serial_depths": [1, 1, 1, 2],
                           "img_size": 2 * SIDE},
    "NaFlexVit": lambda given: {"cfg": dataclasses.replace(
        given["cfg"], depth=2, embed_dim=32, num_heads=2)},
}  # fmt: skip


def shrunk(name, **extra):
    """An architecture of timm by name, small, with five classes and random weights in float64."""
    extra = {"num_classes": CLASSES} | extra
    file = sys.modules[timm.model_entrypoint(name).__module__]
    real = file.build_model_with_cfg

    def build(kind, variant, pretrained, **given):
        small = SMALL.get(kind.__name__, _vit)(given)
        return real(kind, variant, pretrained, **(given | small | extra))

    with ExitStack() as stack:
        for each in {file, sys.modules["timm.models.vision_transformer"]}:
            stack.enter_context(mock.patch.object(each, "build_model_with_cfg", build))
        return randomise(timm.create_model(name, pretrained=False))


# ---- plain autograd on the whole model -----------------------------------------------------------


def oracle(module, pixels, value, residual=False):
    """(M,) sum over features of T times d value / dT, and the logits.

    Args:
        module: a small architecture.
        pixels: (1, 3, H, W).
        value: function of the logits (1, C) to a scalar.
        residual: add X times d value / dX at fixed T, X the input of the last block.
    """
    leaves, hooks = [], []

    def keep(tokens):
        leaves.append(tokens.detach().clone().requires_grad_(True))
        return leaves[-1]

    for path in places(module):
        part = module.get_submodule(path)
        if path.endswith("attn"):
            hooks.append(part.register_forward_pre_hook(lambda _, x: (keep(x[0]), *x[1:])))
        else:
            hooks.append(part.register_forward_hook(lambda _, __, out: keep(out)))
    if residual:
        block = module.get_submodule(places(module)[0].rpartition(".")[0])
        hooks.append(block.register_forward_pre_hook(lambda _, x: (keep(x[0]), *x[1:])))
    try:
        logits = module(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(value(logits), leaves)
    scores = sum(
        (leaf.detach() * gradient).sum(-1)[0]
        for leaf, gradient in zip(leaves, gradients, strict=True)
    )
    return scores, logits.detach()[0]


def pixels_for(module, seed=1):
    """(1, 3, H, W) float64 of the size that a small architecture was built for."""
    names = ("patch_embed", "patch_embed1", "pixel_embed")
    owners = [getattr(module, name, None) for name in names]
    size = next((owner.img_size for owner in owners if hasattr(owner, "img_size")), (SIDE, SIDE))
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, *size, generator=draw, dtype=torch.float64)
