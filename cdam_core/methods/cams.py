"""Grad-CAM twice: on the last attention, and on the tokens that enter it.

Both weight whole channels (heads, or features) by a mean gradient and cut what is negative, so
counter-evidence never shows. Differs from their usual code: no map is stretched to [0, 1].
"""

import torch
from torch import Tensor

from cdam_core.architectures import answers
from cdam_core.methods.base import Relevance, nothing, patch_scores
from cdam_core.methods.blocks import (
    blocks_of,
    class_value_gradient,
    close_block,
    open_attention,
    pull_through_rows,
    require_class_row,
    require_open,
)
from cdam_core.models import Encoding, VisionModel
from cdam_core.targets import Targets


def attention_grad_cam(model: VisionModel, encoding: Encoding, targets: Targets) -> Relevance:
    """max(0, mean over heads of w_h A^h_i), w_h the mean over patches of d value / dA^h_i.

    Source: the Grad-CAM baseline of Chefer, Gur, Wolf, CVPR 2021, arXiv 2012.09838: attention of
    the last block, [CLS] row, patch columns.

    Args:
        model: adapted ViT whose last block is timm's own.
        encoding: the encoded image.
        targets: what is explained.

    Returns:
        ``Relevance``; scores >= 0; ``rest`` is not defined.
    """
    block = blocks_of(model.module)[-1]
    require_open(block)
    require_class_row(model.module)
    with torch.no_grad():
        parts = open_attention(block, encoding.tokens)
        rows, context = encoding.tokens[:, :1], parts.context(1)
        attention = parts.rows(slice(0, 1))[1][:, 0, model.num_prefix_tokens :]
        values = parts.v[:, model.num_prefix_tokens :]
        out = close_block(block, rows, context)
        maps = []
        for index in range(len(targets)):
            gradient = class_value_gradient(model, out, targets, index)
            _, of_context = pull_through_rows(block, rows, context, gradient)
            of_attention = torch.einsum("he,hne->hn", of_context[:, 0], values)
            weights = of_attention.mean(1, keepdim=True)
            maps.append((weights * attention).mean(0).clamp(min=0))
    return _relevance(model, encoding, targets, torch.stack(maps, dim=1))


def grad_cam(model: VisionModel, encoding: Encoding, targets: Targets) -> Relevance:
    """max(0, sum_d w_d T_id), w_d the mean over patches of d value / dT_id.

    Source: Selvaraju et al., "Grad-CAM", arXiv 1610.02391, on T, the tokens after the first
    LayerNorm of the last block, as users of pytorch-grad-cam run it on ViTs.

    Args:
        model: adapted ViT.
        encoding: the encoded image.
        targets: what is explained.

    Returns:
        ``Relevance``; scores >= 0; ``rest`` is not defined.
    """
    prefix = model.num_prefix_tokens
    with torch.enable_grad():
        leaf = model.last_norm(encoding.tokens).detach().requires_grad_(True)
        values = targets.values(*answers(model.module, encoding.tokens, leaf, encoding.grid))[0]
        weights = torch.cat(
            [
                torch.autograd.grad(value, leaf, retain_graph=True)[0][:, prefix:].mean(1)
                for value in values
            ]
        )
    tokens = (leaf.detach()[0, prefix:] @ weights.T).clamp(min=0)
    return _relevance(model, encoding, targets, tokens)


def _relevance(
    model: VisionModel, encoding: Encoding, targets: Targets, patches: Tensor
) -> Relevance:
    """Maps of patches (N, T)."""
    values = model.values(encoding, targets)
    return Relevance(patch_scores(patches, 0, encoding.grid), nothing(len(targets), values), values)
