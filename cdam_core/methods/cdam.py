"""CDAM and its smooth and integrated variants, from the paper's equations 2, 5 and 6.

Source: Brocki, Binda, Chung, "Class-Discriminative Attention Maps for Vision Transformers",
arXiv 2312.02364. T are the tokens after the first LayerNorm of the last block, f_c the logit (or
any other value of the latent). With ``at="tokens"`` noise and interpolation act on T, as the
paper's formulas say, and the residual stream stays; with ``at="block_input"`` they act on the
residual stream entering the last block, T being its LayerNorm, as the paper's text and the
authors' published code have it.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cdam_core.errors import BadTarget
from cdam_core.last_block import (
    Evidence,
    TokenSets,
    autograd_evidence,
    closed_form_evidence,
)
from cdam_core.methods.base import Relevance, patch_scores
from cdam_core.models import Encoding, VisionModel
from cdam_core.targets import Targets

# Noise draws or steps handled at once, as a bound on the numbers that one batch holds: large
# enough for the matrix products, small enough that a 61 x 61 grid stays within a few hundred
# megabytes. Noisy tokens are held as they are (tokens x features), a path of scaled tokens only as
# scores (tokens x targets) and attention (tokens x heads).
CHUNK_NUMBERS = 2**22


def plain_cdam(
    model: VisionModel,
    encoding: Encoding,
    targets: Targets,
    heads: Sequence[int] | None = None,
    path: str = "both",
) -> Relevance:
    """CDAM, Eq. 2: S_i = sum_j T_ij * d value / dT_ij.

    Args:
        model: adapted ViT.
        encoding: the encoded image.
        targets: what is explained.
        heads: attention heads to sum over; None: all. The maps of single heads add up to the whole.
        path: "value" (what the patch says if attended), "key" (how it draws or repels attention),
            or "both", their sum.

    Returns:
        ``Relevance``; > 0 supports the target, < 0 opposes it.
    """
    sets = TokenSets.of(_start(model, encoding, "tokens"))
    evidence = _evidence(model, encoding, encoding.tokens, sets, targets, heads, path)
    return _relevance(model, encoding, evidence.tokens[0], evidence.query[0], evidence.values[0])


def smooth_cdam(
    model: VisionModel,
    encoding: Encoding,
    targets: Targets,
    n: int = 50,
    sigma: float | None = None,
    at: str = "tokens",
    seed: int = 0,
) -> Relevance:
    """Smooth CDAM, Eq. 5: the mean of CDAM over n noisy copies of the tokens.

    Args:
        model: adapted ViT.
        encoding: the encoded image.
        targets: what is explained.
        n: number of noise draws.
        sigma: standard deviation of the noise, absolute; None: 0.05 * (max - min) of what it is
            added to.
        at: "tokens" | "block_input", what the noise is added to.
        seed: seed of the noise.

    Returns:
        ``Relevance``; ``values`` are those of the undisturbed image, ``settings`` holds sigma.
    """
    start = _start(model, encoding, at)
    if sigma is None:
        sigma = 0.05 * float(start.max() - start.min())
    draw = torch.Generator().manual_seed(seed)
    total = 0
    for count in _chunks(n, start.shape[1] * (start.shape[2] + len(targets))):
        # One draw at a time, so that the noise of a seed does not depend on the batches.
        noise = torch.stack([torch.randn(start.shape[1:], generator=draw) for _ in range(count)])
        moved = torch.add(start, noise.to(start), alpha=sigma)
        total = total + _sum_over(model, encoding, moved, at, targets)
    return _mean_relevance(model, encoding, targets, total / n, {"sigma": sigma})


def integrated_cdam(
    model: VisionModel,
    encoding: Encoding,
    targets: Targets,
    steps: int = 50,
    at: str = "tokens",
) -> Relevance:
    """Integrated CDAM, Eq. 6, from the zero baseline.

    ``at="tokens"``: S_i = sum_j T_ij * mean over k = 1..steps of d value / dT_ij at (k/steps) T, a
    path integral: scores and rest together tend to value(T) - value(0) as steps grow.
    ``at="block_input"``: the authors' code: mean over k = 1..steps-1 of
    sum_j T_ij * d value / dT_ij at T = LN((k/steps) X). LayerNorm undoes the scaling, so only the
    residual path shrinks, and the sum has no such meaning.

    Args:
        model: adapted ViT.
        encoding: the encoded image.
        targets: what is explained.
        steps: number of steps, at least 2.
        at: "tokens" | "block_input".
    """
    start = _start(model, encoding, at)
    last = steps if at == "tokens" else steps - 1
    fractions = torch.arange(1, last + 1).to(start)[:, None, None] / steps
    total, done = 0, 0
    scaled = at == "tokens" and model.closed_form
    held = len(targets) + (model.module.blocks[-1].attn.num_heads if scaled else start.shape[2])
    for count in _chunks(last, start.shape[1] * held):
        part = fractions[done : done + count]
        done += count
        if at == "tokens":
            # Evidence is gradient times the scaled token, but T itself is wanted as the factor.
            sets = TokenSets(start, part)
            whole = _whole(model, encoding, encoding.tokens, sets, targets) / part
            total = total + whole.sum(0)
        else:
            total = total + _sum_over(model, encoding, part * start, at, targets)
    return _mean_relevance(model, encoding, targets, total / last)


# ---- shared pieces ----------------------------------------------------------------------------


def _start(model: VisionModel, encoding: Encoding, at: str) -> Tensor:
    """(1, M, d): what noise or interpolation acts on."""
    if at == "block_input":
        return encoding.tokens
    with torch.no_grad():
        return model.last_norm(encoding.tokens)


def _chunks(total: int, numbers: int) -> Iterator[int]:
    """Sizes of batches that cover ``total`` token sets of ``numbers`` numbers each."""
    size = max(1, CHUNK_NUMBERS // numbers)
    for done in range(0, total, size):
        yield min(size, total - done)


def _sum_over(
    model: VisionModel, encoding: Encoding, moved: Tensor, at: str, targets: Targets
) -> Tensor:
    """(M, T): the sum of the evidence at the moved tokens or block inputs (B, M, d)."""
    with torch.no_grad():
        tokens = moved if at == "block_input" else encoding.tokens
        normed = model.last_norm(moved) if at == "block_input" else moved
    return _whole(model, encoding, tokens, TokenSets.of(normed), targets).sum(0)


def _whole(
    model: VisionModel, encoding: Encoding, tokens: Tensor, sets: TokenSets, targets: Targets
) -> Tensor:
    """(B, M, T) evidence, the class token's query included in its row."""
    evidence = _evidence(model, encoding, tokens, sets, targets)
    evidence.tokens[:, 0] += evidence.query
    return evidence.tokens


def _evidence(
    model: VisionModel,
    encoding: Encoding,
    tokens: Tensor,
    sets: TokenSets,
    targets: Targets,
    heads: Sequence[int] | None = None,
    path: str = "both",
) -> Evidence:
    """Closed form where it applies, autograd on the same tokens everywhere else."""
    tokens = tokens.expand(len(sets.factors), -1, -1)
    if model.closed_form:
        return closed_form_evidence(model.module, tokens[:, 0], sets, targets, heads, path)
    if heads is not None or path != "both":
        raise BadTarget(
            "unsupported",
            "Single heads and paths are known only for models whose last block is timm's plain "
            "Block; leave heads and path at their defaults.",
        )
    return autograd_evidence(model.module, tokens, sets.dense(), targets, encoding.grid)


def _mean_relevance(
    model: VisionModel,
    encoding: Encoding,
    targets: Targets,
    mean: Tensor,
    settings: dict | None = None,
) -> Relevance:
    values = model.values(encoding, targets)
    return _relevance(model, encoding, mean, torch.zeros_like(values), values, settings)


def _relevance(
    model: VisionModel,
    encoding: Encoding,
    tokens: Tensor,
    query: Tensor,
    values: Tensor,
    settings: dict | None = None,
) -> Relevance:
    prefix = model.num_prefix_tokens
    rest = tokens[:prefix].sum(0) + query
    return Relevance(patch_scores(tokens, prefix, encoding.grid), rest, values, settings or {})
