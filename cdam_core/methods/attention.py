"""The attention map: where the class token looks in the last block."""

from collections.abc import Sequence

import torch

from cdam_core.errors import BadTarget
from cdam_core.last_block import TokenSets, check_heads, class_attention
from cdam_core.methods.base import Relevance, patch_scores
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
    """
    if not model.closed_form:
        raise BadTarget(
            "unsupported",
            "The attention of this model's last block is not computed in timm's plain way, so its "
            "attention map is not available; choose CDAM instead.",
        )
    with torch.no_grad():
        attn = model.module.blocks[-1].attn
        seen = class_attention(attn, TokenSets.of(model.last_norm(encoding.tokens)))
        mean = seen.probabilities[0, check_heads(attn.num_heads, heads)].mean(0)
        tokens = mean[:, None].expand(-1, len(targets))
        prefix = model.num_prefix_tokens
        scores = patch_scores(tokens, prefix, encoding.grid)
        values = model.values(encoding, targets)
    return Relevance(scores, tokens[:prefix].sum(0), values)
