"""CDAM for models that average their patches: a variant under a name of its own.

Where a class token reads the answer, patches reach it through the last attention alone, and CDAM
accounts for all they do there. Where the answer is the average of all patches, a patch also goes
past that attention: its own residual stream enters the average directly. Plain CDAM on such a model
would leave that path out without a word, so ``explain`` refuses it, and this method states both.
"""

import torch
from torch import Tensor

from cdam_core.architectures import answers
from cdam_core.methods.base import Relevance, patch_scores
from cdam_core.models import Encoding, VisionModel
from cdam_core.targets import Targets

PATHS = ("both", "attention", "residual")


def pooled_cdam(
    model: VisionModel, encoding: Encoding, targets: Targets, path: str = "both"
) -> Relevance:
    """S_i = sum_j T_ij * d value / dT_ij  +  sum_j X_ij * d value / dX_ij.

    X is the residual stream entering the last block and T = LN(X); each gradient holds the other
    fixed. The first sum, the attention path, is Eq. 2 of Brocki, Binda, Chung, arXiv 2312.02364,
    over the queries of all tokens that are averaged. The second, the residual path, is what the
    patch itself carries into the average: the same gradient times input, of the same order, at the
    block's input. With a class token no patch has a residual path: the map is that of CDAM, and
    the class token's own share lies in ``rest``.

    Args:
        model: adapted ViT, of either pooling.
        encoding: the encoded image.
        targets: what is explained.
        path: "attention" | "residual" | "both", their sum.

    Returns:
        ``Relevance``; > 0 supports the target, < 0 opposes it.
    """
    with torch.no_grad():
        fed = model.last_norm(encoding.tokens)
    with torch.enable_grad():
        stream = encoding.tokens.detach().clone().requires_grad_(True)
        leaf = fed.detach().clone().requires_grad_(True)
        latents, logits = answers(model.module, stream, leaf, encoding.grid)
        values = targets.values(latents, logits)[0]
        sums = [_evidence(value, stream, leaf, path) for value in values]
    tokens, prefix = torch.stack(sums, dim=1), model.num_prefix_tokens
    scores = patch_scores(tokens, prefix, encoding.grid)
    return Relevance(scores, tokens[:prefix].sum(0), values.detach())


def _evidence(value: Tensor, stream: Tensor, fed: Tensor, path: str) -> Tensor:
    """(M,): gradient times input along the chosen paths."""
    inputs = {"attention": fed, "residual": stream}
    chosen = [each for name, each in inputs.items() if path in (name, "both")]
    gradients = torch.autograd.grad(value, chosen, retain_graph=True)
    return sum(
        (each.detach() * gradient).sum(-1)[0]
        for each, gradient in zip(chosen, gradients, strict=True)
    )
