"""The attention map: where the class token looks in the last block."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cdam_core.last_block import TokenSets, check_heads, class_attention
from cdam_core.methods.base import Relevance, patch_scores
from cdam_core.methods.blocks import (
    blocks_of,
    open_attention,
    require_class_row,
    require_open,
)
from cdam_core.models import Encoding, VisionModel
from cdam_core.targets import Targets


def attention_map(
    model: VisionModel,
    encoding: Encoding,
    targets: Targets,
    heads: Sequence[int] | None = None,
) -> Relevance:
    """A_i = mean over heads of A^h_i, the class token's attention in the last block.

    Source: Brocki, Binda, Chung, arXiv 2312.02364, section 3 ("attention maps").

    Args:
        model: adapted ViT.
        encoding: the encoded image.
        targets: the map is the same for all of them and is repeated.
        heads: heads to average; None: all.

    Returns:
        ``Relevance``; scores >= 0 that sum to at most 1 (the rest is the attention on [CLS] and
        registers); they say where the model looks, not what for.

    Raises:
        BadTarget: "unsupported" where the last block is not timm's own ``Block`` with timm's own
            ``Attention`` (norms of queries, keys and output included), or where the answer is not
            read from one class token.
    """
    with torch.no_grad():
        probabilities = _class_row(model, encoding)
        mean = probabilities[check_heads(len(probabilities), heads)].mean(0)
        tokens = mean[:, None].expand(-1, len(targets))
        prefix = model.num_prefix_tokens
        scores = patch_scores(tokens, prefix, encoding.grid)
        values = model.values(encoding, targets)
    return Relevance(scores, tokens[:prefix].sum(0), values)


def _class_row(model: VisionModel, encoding: Encoding) -> Tensor:
    """(H, M): the class token's attention; the short way where it is known, else the general one.

    The short way folds the keys into the query and cannot hold norms of queries and keys.
    """
    if model.closed_form:
        sets = TokenSets.of(model.last_norm(encoding.tokens))
        return class_attention(model.module.blocks[-1].attn, sets).probabilities[0]
    block = blocks_of(model.module)[-1]
    require_open(block)
    require_class_row(model.module)
    return open_attention(block, encoding.tokens).rows(slice(0, 1))[1][:, 0]
