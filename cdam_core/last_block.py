"""The last block of a ViT as pure functions: attention of the class token and evidence of patches.

Everything CDAM needs of a model happens between T, the tokens that leave the first LayerNorm of
the last block, and a value of the latent l. This module computes d value / dT times T, once by a
closed form and once by autograd. It knows nothing about images, names or methods. Nothing is ever
stored on the module: it is read by many threads at once.

Notation (Brocki, Binda, Chung, "Class-Discriminative Attention Maps for Vision Transformers",
arXiv 2312.02364): B sets of tokens, M = P + N tokens (P prefix), d features, H heads of d_h
features, C explained values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from cdam_core.architectures import answers, find
from cdam_core.errors import BadTarget

PATHS = ("both", "value", "key")
# How many rows of width d one chunk of the tail may hold; bounds the memory of many classes times
# many noise samples without slowing the matrix products down.
TAIL_ROWS = 4096


class Directions(Protocol):
    """What is explained: C values of the latent, and how each of them moves with it."""

    def values(self, latents: Tensor, logits: Tensor) -> Tensor:
        """(B, C) values from latents (B, d) and logits (B, classes)."""

    def gradients(self, latents: Tensor) -> Tensor:
        """(C, d) or (B, C, d): d value / d latent."""


@dataclass(frozen=True)
class LinearDirections:
    """Values that are dot products with given rows (C, d)."""

    rows: Tensor

    def values(self, latents: Tensor, logits: Tensor) -> Tensor:
        """(B, C) dot products."""
        return latents @ self.rows.T

    def gradients(self, latents: Tensor) -> Tensor:
        """(C, d), the same for every latent."""
        return self.rows


@dataclass(frozen=True)
class Evidence:
    """Gradient times token, summed over features, for B sets of tokens and C values.

    Attributes:
        tokens: (B, M, C), what each token contributes through its key and value; signed, in units
            of the value.
        query: (B, C), what the class token contributes through its query on top of that.
        values: (B, C), the explained values at these tokens.
    """

    tokens: Tensor
    query: Tensor
    values: Tensor


@dataclass(frozen=True)
class TokenSets:
    """B sets of tokens T, stored as factors times b = 1 or B base sets.

    A path of scaled tokens is one base set with B factors: products with it read the tokens once.

    Attributes:
        base: (b, M, d).
        factors: (B, 1, 1).
    """

    base: Tensor
    factors: Tensor

    @classmethod
    def of(cls, normed: Tensor) -> "TokenSets":
        """Plain sets (B, M, d)."""
        return cls(normed, normed.new_ones(len(normed), 1, 1))

    def dense(self) -> Tensor:
        """(B, M, d)."""
        return self.base * self.factors

    def dot_base(self, rows: Tensor) -> Tensor:
        """(B, K, d) rows to (B, K, M) dot products with the base tokens."""
        if len(self.base) == len(rows):
            return rows @ self.base.transpose(1, 2)
        return (rows.flatten(0, 1) @ self.base[0].T).unflatten(0, rows.shape[:2])

    def mix(self, weights: Tensor) -> Tensor:
        """(B, K, M) weights to (B, K, d) weighted sums of the tokens."""
        if len(self.base) == len(weights):
            return self.factors * (weights @ self.base)
        mixed = (weights.flatten(0, 1) @ self.base[0]).unflatten(0, weights.shape[:2])
        return self.factors * mixed


@dataclass(frozen=True)
class ClassAttention:
    """What the class token's query sees in the last block.

    Attributes:
        probabilities: (B, H, M), A, rows sum to 1.
        pull: (B, H, M), kappa = q . (K - b_K) / sqrt(d_h): how strongly a token's features enter
            its attention logit.
        mixed: (B, H, d_h), Z, the attention-weighted mean of the values.
        turned: (B, H, d_h), sum_m A_m (q' . K_m / sqrt(d_h)) (V_m - Z): how Z moves as the query
            without its bias, q', grows.
    """

    probabilities: Tensor
    pull: Tensor
    mixed: Tensor
    turned: Tensor


def is_plain(module: nn.Module) -> bool:
    """The guard of the closed form.

    True for timm's own ``Block`` with timm's own ``Attention``, without query, key or output
    normalisation or gate, read by a linear head from one class token.
    """
    place = find(module, module.global_pool)
    if not place.is_last_of_blocks or module.global_pool != "token":
        return False
    block, attn = module.blocks[-1], getattr(module.blocks[-1], "attn", None)
    if type(block) is not Block or type(attn) is not Attention or attn.gate is not None:
        return False
    untouched = all(isinstance(part, nn.Identity) for part in (attn.q_norm, attn.k_norm, attn.norm))
    own_head = type(module).forward_head is VisionTransformer.forward_head
    return untouched and own_head and isinstance(module.head, nn.Linear | nn.Identity)


# ---- forward ------------------------------------------------------------------------------------


def latent_of(module: nn.Module, class_rows: Tensor, mixed: Tensor) -> Tensor:
    """The class token's way from its mixed values to the latent; plain blocks only.

    Args:
        module: timm ViT for which ``is_plain`` holds.
        class_rows: (B, d) residual stream of the class token entering the last block.
        mixed: (B, d), Z of all heads side by side.

    Returns:
        (B, d) latents l.
    """
    block = module.blocks[-1]
    rows = class_rows + block.ls1(block.attn.proj(mixed))
    rows = rows + block.ls2(block.mlp(block.norm2(rows)))
    return module.forward_head(module.norm(rows)[:, None], pre_logits=True)


def class_attention(attn: nn.Module, sets: TokenSets) -> ClassAttention:
    """Recompute the attention of the class token; the one place where this is done.

    Keys and values of all tokens are never needed: q . K_i = (W_K^T q) . T_i + q . b_K, whose last
    term is the same for all tokens and leaves the softmax, and Z = W_V (sum_i A_i T_i) + b_V.

    Args:
        attn: timm ``Attention`` without query or key normalisation.
        sets: tokens fed to it.
    """
    weight_q, weight_k, weight_v = _split_heads(attn, attn.qkv.weight)
    bias_q, _, bias_v = _biases(attn)
    query = torch.einsum("hed,bd->bhe", weight_q, sets.base[:, 0])
    probes = torch.cat([query, bias_q.expand_as(query)], 1) * attn.scale
    probes = torch.einsum("bhe,hed->bhd", probes, weight_k.repeat(2, 1, 1))
    # Both query and key scale with the factor; the query's bias does not.
    by_query, by_bias = sets.dot_base(probes).chunk(2, 1)
    by_query = by_query * sets.factors**2
    pull = by_query + by_bias * sets.factors
    probabilities = pull.softmax(-1)
    tilt = probabilities * by_query
    means = sets.mix(torch.cat([probabilities, tilt], 1))
    mixed, tilted = torch.einsum("bhd,hed->bhe", means, weight_v.repeat(2, 1, 1)).chunk(2, 1)
    turned = tilted - tilt.sum(-1, keepdim=True) * mixed
    return ClassAttention(probabilities, pull, mixed + bias_v, turned)


def plain_answers(module: nn.Module, class_rows: Tensor, sets: TokenSets) -> tuple[Tensor, Tensor]:
    """What ``answers`` returns, from the class row alone; for modules where ``is_plain`` holds."""
    mixed = class_attention(module.blocks[-1].attn, sets).mixed
    latents = latent_of(module, class_rows, mixed.flatten(1))
    return latents, module.head(latents)


def _split_heads(attn: nn.Module, weight: Tensor) -> Tensor:
    """(3 * H * d_h, d) to (3, H, d_h, d): query, key, value."""
    return weight.view(3, attn.num_heads, attn.head_dim, -1)


def _biases(attn: nn.Module) -> Tensor:
    """(3, H, d_h) biases of query, key and value; zeros where the layer has none."""
    bias = attn.qkv.bias
    if bias is None:
        bias = attn.qkv.weight.new_zeros(3 * attn.attn_dim)
    return bias.view(3, attn.num_heads, attn.head_dim)


# ---- evidence -----------------------------------------------------------------------------------


def closed_form_evidence(
    module: nn.Module,
    class_rows: Tensor,
    sets: TokenSets,
    directions: Directions,
    heads: Sequence[int] | None = None,
    path: str = "both",
) -> Evidence:
    """Evidence of every token for every value, without a backward pass through the attention.

    With J^h = d value / dZ^h, kappa as in ``ClassAttention`` and values V = V' + b_V,

        S_i = sum_h A^h_i [ V'^h_i . J^h  +  kappa^h_i (V^h_i - Z^h) . J^h ],

    the first term being the value path and the second the key path. The class token's query adds
    sum_h ``turned``^h . J^h to its own row; it moves the attention and counts as key path.

    Args:
        module: timm ViT for which ``is_plain`` holds.
        class_rows: (B, d) residual stream of the class token entering the last block.
        sets: B sets of tokens T.
        directions: what is explained.
        heads: heads to sum over; None: all.
        path: "both" | "value" | "key".

    Returns:
        ``Evidence``; over heads, and over the two paths, the parts add up to the whole.
    """
    attn = module.blocks[-1].attn
    with torch.no_grad():
        seen = class_attention(attn, sets)
        values, pulls = _pull_back(module, class_rows, seen.mixed, directions)
        pulls = pulls * _head_mask(attn, heads).to(pulls)
        tokens = _value_and_key_evidence(attn, sets, seen, pulls, path)
        query = torch.einsum("bhe,bche->bc", seen.turned, pulls)
        if path == "value":
            query = torch.zeros_like(query)
    return Evidence(tokens, query, values)


def _pull_back(
    module: nn.Module, class_rows: Tensor, mixed: Tensor, directions: Directions
) -> tuple[Tensor, Tensor]:
    """Values (B, C) and J = d value / dZ (B, C, H, d_h), through the class row alone."""
    batch, heads, width = mixed.shape
    with torch.no_grad():
        latents = latent_of(module, class_rows, mixed.flatten(1))
        logits = module.head(latents)
        values = directions.values(latents, logits)
        rows = directions.gradients(latents)
        rows = rows.expand(batch, -1, -1) if rows.ndim == 2 else rows
        count, features = rows.shape[1:]
        # Beyond d values the Jacobian of l itself is cheaper than one backward pass per value.
        through_jacobian = count > features
        seeds = torch.eye(features).to(rows).expand(batch, -1, -1) if through_jacobian else rows
        step = max(1, TAIL_ROWS // seeds.shape[1])
        pulled = torch.cat(
            [
                _tail_gradient(
                    module, class_rows[i : i + step], mixed[i : i + step], seeds[i : i + step]
                )
                for i in range(0, batch, step)
            ]
        )
        pulls = rows @ pulled if through_jacobian else pulled
    return values, pulls.unflatten(-1, (heads, width))


def _tail_gradient(module: nn.Module, class_rows: Tensor, mixed: Tensor, seeds: Tensor) -> Tensor:
    """(B, K, H * d_h): gradient of seed . l with respect to Z for K seeds (B, K, d)."""
    batch, count, _ = seeds.shape
    with torch.enable_grad():
        start = mixed.flatten(1).repeat_interleave(count, 0).requires_grad_(True)
        latents = latent_of(module, class_rows.repeat_interleave(count, 0), start)
        (gradient,) = torch.autograd.grad(latents, start, seeds.flatten(0, 1))
    return gradient.unflatten(0, (batch, count))


def _head_mask(attn: nn.Module, heads: Sequence[int] | None) -> Tensor:
    """(H, 1) of ones for the chosen heads."""
    mask = torch.zeros(attn.num_heads, 1)
    mask[check_heads(attn.num_heads, heads)] = 1
    return mask


def check_heads(count: int, heads: Sequence[int] | None) -> list[int]:
    """The chosen heads as a list; None means all.

    Raises:
        BadTarget: "bad-setting" for an empty list or a head that does not exist.
    """
    if heads is None:
        return list(range(count))
    chosen = [int(head) for head in heads]
    if not chosen or not all(0 <= head < count for head in chosen):
        raise BadTarget(
            "bad-setting",
            f"Heads {chosen} arrived; expected some of 0 to {count - 1}, or None for all.",
        )
    return chosen


def _value_and_key_evidence(
    attn: nn.Module, sets: TokenSets, seen: ClassAttention, pulls: Tensor, path: str
) -> Tensor:
    """(B, M, C) evidence through values and keys; pulls (B, C, H, d_h)."""
    weight_v, bias_v = _split_heads(attn, attn.qkv.weight)[2], _biases(attn)[2]
    nothing = torch.zeros_like(seen.pull)
    by_value = seen.probabilities if path != "key" else nothing
    by_key = seen.probabilities * seen.pull if path != "value" else nothing
    offset = torch.einsum("bche,bhe->bhc", pulls, seen.mixed - bias_v)
    evidence = _weighted_values(sets, weight_v, by_value + by_key, pulls)
    return evidence - by_key.transpose(1, 2) @ offset


def _weighted_values(sets: TokenSets, weight_v: Tensor, weights: Tensor, pulls: Tensor) -> Tensor:
    """(B, M, C): sum over heads of weight (B, H, M) times V' . J, V' the bias-free values.

    Two orders of the same product: pull J back to the tokens (few values), or push the tokens
    forward to V' (many values).
    """
    heads, _, features = weight_v.shape
    weights = weights * sets.factors
    if pulls.shape[1] * (heads - 1) < features:
        back = torch.einsum("bche,hed->bhcd", pulls, weight_v)
        each = sets.dot_base(back.flatten(1, 2)).unflatten(1, (heads, -1))
        return torch.einsum("bhcm,bhm->bmc", each, weights)
    forward = (sets.base @ weight_v.flatten(0, 1).T).unflatten(2, (heads, -1))
    weighted = (forward * weights.transpose(1, 2)[..., None]).flatten(2)
    return weighted @ pulls.flatten(2).transpose(1, 2)


def relevance_by_head(
    module: nn.Module, class_rows: Tensor, sets: TokenSets, directions: Directions
) -> tuple[ClassAttention, Tensor, Tensor]:
    """R^h, what every token would say per unit of attention in every head, by path.

    The factor beside A^h in ``closed_form_evidence``,

        R^h_i = V'^h_i . J^h  +  kappa^h_i (V^h_i - Z^h) . J^h   (value path + key path),

    from the formula, never as a quotient: it is as exact where the attention is tiny.

    Args:
        module: timm ViT for which ``is_plain`` holds.
        class_rows: (B, d) residual stream of the class token entering the last block.
        sets: B sets of tokens T.
        directions: what is explained.

    Returns:
        The attention; and (B, C, H, M) relevance of the value path and of the key path, signed, in
        units of the value per unit of attention.
    """
    attn = module.blocks[-1].attn
    with torch.no_grad():
        seen = class_attention(attn, sets)
        _, pulls = _pull_back(module, class_rows, seen.mixed, directions)
        weight_v, bias_v = _split_heads(attn, attn.qkv.weight)[2], _biases(attn)[2]
        back = torch.einsum("bche,hed->bchd", pulls, weight_v)
        by_value = sets.dot_base(back.flatten(1, 2)).unflatten(1, back.shape[1:3])
        by_value = by_value * sets.factors[..., None]
        offset = torch.einsum("bche,bhe->bch", pulls, seen.mixed - bias_v)
        by_key = seen.pull[:, None] * (by_value - offset[..., None])
    return seen, by_value, by_key


def values_without_patches(module: nn.Module, tokens: Tensor, normed: Tensor, prefix: int,
                           directions: Directions) -> Tensor:  # fmt: skip
    """The values when the class token cannot see the patches in the last block.

    Leaving the patches out of the block is the same as giving them no attention: the prefix tokens
    share all of it.

    Args:
        module: timm ViT whose last block is timm's own.
        tokens: (B, M, d) residual stream entering the last block.
        normed: (B, M, d) tokens T.
        prefix: number of prefix tokens; these stay.
        directions: what is explained.

    Returns:
        (B, C) values.
    """
    with torch.no_grad():
        return directions.values(*answers(module, tokens[:, :prefix], normed[:, :prefix]))


def autograd_evidence(
    module: nn.Module,
    tokens: Tensor,
    normed: Tensor,
    directions: Directions,
    grid: tuple[int, int] | None = None,
) -> Evidence:
    """The same by autograd through the whole last block, for any kind of block.

    Args:
        module: a network that ``architectures.find`` accepts.
        tokens: (B, M, d) residual stream entering the last attention's norm.
        normed: (B, M, d) tokens T.
        directions: what is explained.
        grid: (rows, cols) of the patches; None: that of the module's own input size.

    Returns:
        ``Evidence`` whose ``query`` is zero: the class token's share is in its row of ``tokens``.
    """
    with torch.enable_grad():
        leaf = normed.detach().clone().requires_grad_(True)
        latents, logits = answers(module, tokens, leaf, grid)
        values = directions.values(latents, logits)
        # Beyond d linear values one pass per feature of the latent is cheaper than one per value.
        through_latents = values.shape[1] > latents.shape[1] and _reads_linearly(module)
        rows = directions.gradients(latents.detach()) if through_latents else None
        through_latents = rows is not None and rows.ndim == 2
        explained = latents if through_latents else values
        each = [
            (leaf.detach() * torch.autograd.grad(one, leaf, retain_graph=True)[0]).sum(-1)
            for one in explained.sum(0)
        ]
    evidence = torch.stack(each, dim=-1)
    if through_latents:
        evidence = evidence @ rows.T
    values = values.detach()
    return Evidence(evidence, torch.zeros_like(values), values)


def _reads_linearly(module: nn.Module) -> bool:
    """Whether logits are one linear layer on the latent, without a second head beside it."""
    others = (getattr(module, name, None) for name in ("head_dist", "aux_head"))
    return isinstance(module.head, nn.Linear) and all(other is None for other in others)
