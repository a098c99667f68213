"""Every block of a ViT laid open: its attention row by row, and what flows back through it.

Relevance propagation and its relatives need the attention matrix of every block and the gradient
with respect to it. At a 61 x 61 grid one such matrix of one head holds 14 million numbers, so none
is ever held whole: queries come in chunks, and each chunk gives its share of every sum. Nothing is
stored on the module. ``last_block.class_attention`` is the short way to the one row that CDAM
needs; this module is the only place where whole attention rows are computed.

Notation: one image, M = P + N tokens (P prefix), H heads of e features, R of the M rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from cdam_core.architectures import answers, width_and_depth
from cdam_core.errors import BadTarget
from cdam_core.last_block import Directions, TokenSets, plain_answers
from cdam_core.late_vit import LateClassTokenViT
from cdam_core.models import Encoding, VisionModel

# Numbers of one chunk of attention rows (heads x rows x tokens); about ten such chunks live at a
# time.
CHUNK_NUMBERS = 2**22
MAX_IMAGES_ON_CPU = 16
# Bytes that the images of one batch may take.
BATCH_BYTES = 2**29
# Numbers per token, block and feature that one image holds: with a graph for the gradient (what
# norms, attention and MLP keep of every block), and without one (a single block at a time).
NUMBERS_WITH_GRAPH, NUMBERS_WITHOUT_GRAPH = 14, 16


# ---- pixels to tokens to values -----------------------------------------------------------------


def as_pixels(model: VisionModel, pixels: Tensor) -> Tensor:
    """Pixels on the model's device, in its dtype, without a graph."""
    return pixels.detach().to(next(model.module.parameters()))


def blocks_of(module: nn.Module) -> nn.Module:
    """The blocks, where they alone carry tokens from the first to the last.

    Raises:
        BadTarget: "unsupported" for other kinds of networks (stages, rotary positions, a class
            token that joins after the blocks).
    """
    if not isinstance(module, VisionTransformer):
        raise BadTarget(
            "unsupported",
            f"The tokens of this {type(module).__name__} go a way of their own through its blocks, "
            "which this method cannot follow; choose CDAM or a gradient method instead.",
        )
    return module.blocks


def first_tokens(module: nn.Module, pixels: Tensor) -> Tensor:
    """(B, M, d) tokens entering the first block, positions encoded.

    Raises:
        BadTarget: as ``blocks_of``.
    """
    blocks_of(module)
    return module.norm_pre(module.patch_drop(module._pos_embed(module.patch_embed(pixels))))


def enter_last_block(module: nn.Module, tokens: Tensor) -> Tensor:
    """Tokens leaving ``blocks[-2]`` as they enter the last block; a late class token joins here."""
    if isinstance(module, LateClassTokenViT):
        return module.join_class_token(tokens)
    return tokens


def values_of_tokens(model: VisionModel, tokens: Tensor, directions: Directions) -> Tensor:
    """(B, T) values of tokens (B, M, d) entering the first block, without a graph."""
    module = model.module
    with torch.no_grad():
        for block in module.blocks[:-1]:
            tokens = block(tokens)
        tokens = enter_last_block(module, tokens)
        normed = model.last_norm(tokens)
        if model.closed_form:
            found = plain_answers(module, tokens[:, 0], TokenSets.of(normed))
        else:
            found = answers(module, tokens, normed)
        return directions.values(*found)


def values_of_pixels(model: VisionModel, pixels: Tensor, directions: Directions) -> Tensor:
    """(B, T) values of pixels (B, 3, H, W), without a graph."""
    if isinstance(model.module, VisionTransformer):
        with torch.no_grad():
            return values_of_tokens(model, first_tokens(model.module, pixels), directions)
    with torch.no_grad():
        features = model.module.forward_features(pixels)
        latents = model.module.forward_head(features, pre_logits=True)
        return directions.values(latents, model.module.forward_head(features))


def images_per_batch(model: VisionModel, size: tuple[int, int], with_graph: bool) -> int:
    """How many images of (height, width) a batch may hold so that it fits ``BATCH_BYTES``."""
    rows, cols = model.grid_of(size)
    width, depth = width_and_depth(model.module)
    token_numbers = (model.num_prefix_tokens + rows * cols) * width
    held = NUMBERS_WITH_GRAPH * depth if with_graph else NUMBERS_WITHOUT_GRAPH
    like = next(model.module.parameters())
    fitting = max(1, BATCH_BYTES // (token_numbers * held * like.element_size()))
    # Processors gain nothing from more, and long work can only be cancelled between batches.
    return min(fitting, MAX_IMAGES_ON_CPU) if like.device.type == "cpu" else fitting


# ---- the walk through the blocks ----------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """One image's way through the blocks; all that is kept for a walk back.

    Attributes:
        inputs: per block, the (1, M, d) tokens entering it.
        before_joining: (1, M, d) tokens leaving ``blocks[-2]`` where a late class token then takes
            the place of the backbone's own, else None.
    """

    inputs: tuple[Tensor, ...]
    before_joining: Tensor | None


def trace(model: VisionModel, pixels: Tensor) -> Trace:
    """Run the image up to the last block and keep what enters every block.

    Raises:
        BadTarget: "unsupported" where a block is not timm's own ``Block`` with timm's own
            ``Attention``, or where the answer is not read from one class token.
    """
    module = model.module
    for block in blocks_of(module):
        require_open(block)
    require_class_row(module)
    with torch.no_grad():
        tokens = first_tokens(module, as_pixels(model, pixels))
        inputs = []
        for block in module.blocks[:-1]:
            inputs.append(tokens)
            tokens = block(tokens)
        joined = enter_last_block(module, tokens)
    is_late = isinstance(module, LateClassTokenViT)
    return Trace((*inputs, joined), tokens if is_late else None)


def encoding_of(model: VisionModel, steps: Trace, pixels: Tensor) -> Encoding:
    """The ``Encoding`` that a trace ends in."""
    grid = model.grid_of(pixels.shape[-2:])
    return Encoding(steps.inputs[-1], grid, np.ones(grid, bool))


def class_value_gradient(
    model: VisionModel, rows: Tensor, directions: Directions, index: int
) -> Tensor:
    """(1, 1, d): gradient of one value with respect to the class row leaving the last block."""
    module = model.module
    with torch.enable_grad():
        leaf = rows.detach().requires_grad_(True)
        features = module.norm(leaf)
        latents = module.forward_head(features, pre_logits=True)
        values = directions.values(latents, module.forward_head(features))
        (gradient,) = torch.autograd.grad(values[0, index], leaf)
    return gradient


def leave_join(module: nn.Module, steps: Trace, gradient: Tensor) -> Tensor:
    """Gradient (1, M, d) at the last block's input, carried back to the output of ``blocks[-2]``.

    With a late class token the backbone's own one gets none: nothing of it is read.
    """
    if steps.before_joining is None:
        return gradient
    with torch.enable_grad():
        leaf = steps.before_joining.detach().requires_grad_(True)
        (back,) = torch.autograd.grad(module.join_class_token(leaf), leaf, gradient)
    return back


# ---- one block ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenAttention:
    """Queries (scaled), keys and values of one image, (H, M, e) each, after their norms."""

    q: Tensor
    k: Tensor
    v: Tensor

    def rows(self, chunk: slice) -> tuple[Tensor, Tensor]:
        """Attention logits and probabilities of the queries in a chunk, (H, r, M) each."""
        logits = self.q[:, chunk] @ self.k.transpose(1, 2)
        return logits, logits.softmax(-1)

    def chunks(self, count: int) -> Iterator[slice]:
        """Slices that cover the first ``count`` queries."""
        heads, tokens, _ = self.k.shape
        size = max(1, CHUNK_NUMBERS // (heads * tokens))
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))

    def context(self, count: int) -> Tensor:
        """(1, R, H * e): the attention-weighted values of the first R = ``count`` queries."""
        mixed = F.scaled_dot_product_attention(self.q[None, :, :count], self.k[None],
                                               self.v[None], scale=1.0)  # fmt: skip
        return mixed.transpose(1, 2).flatten(2)


def require_open(block: nn.Module) -> None:
    """Raise ``BadTarget`` "unsupported" unless the block's attention can be laid open."""
    if type(block) is not Block or type(block.attn) is not Attention:
        found = type(getattr(block, "attn", block)).__name__
        raise BadTarget(
            "unsupported",
            f"A block of this model computes its attention in a way of its own ({found}), so the "
            "attention cannot be followed; choose CDAM or a gradient method instead.",
        )


def require_class_row(module: nn.Module) -> None:
    """Raise ``BadTarget`` "unsupported" unless the answer is read from one class token."""
    if type(module).forward_head is not VisionTransformer.forward_head:
        raise BadTarget(
            "unsupported",
            f"A {type(module).__name__} reads its answer in a way of its own, so relevance cannot "
            "be followed from one class token; choose CDAM or a gradient method instead.",
        )


def open_attention(block: nn.Module, tokens: Tensor) -> OpenAttention:
    """Queries, keys and values of tokens (1, M, d) entering a block; a graph is kept."""
    attn = block.attn
    parts = attn.qkv(block.norm1(tokens))[0].unflatten(-1, (3, attn.num_heads, attn.head_dim))
    q, k, v = parts.permute(1, 2, 0, 3).unbind(0)
    return OpenAttention(attn.q_norm(q) * attn.scale, attn.k_norm(k), v)


def close_block(block: nn.Module, rows: Tensor, context: Tensor) -> Tensor:
    """What leaves a block, row by row.

    Args:
        block: timm ``Block`` for which ``require_open`` holds.
        rows: (1, R, d) tokens entering it.
        context: (1, R, H * e) attention-weighted values of these rows.

    Returns:
        (1, R, d); a graph is kept.
    """
    attn = block.attn
    context = attn.norm(context)
    if attn.gate is not None:
        context = context * attn.gate(block.norm1(rows)).sigmoid()
    rows = rows + block.ls1(attn.proj(context))
    return rows + block.ls2(block.mlp(block.norm2(rows)))


def pull_through_rows(
    block: nn.Module, rows: Tensor, context: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients (1, R, d) of the rows and (H, R, e) of their context, from that of the output."""
    with torch.enable_grad():
        leaves = (rows.detach().requires_grad_(True), context.detach().requires_grad_(True))
        out = close_block(block, *leaves)
        of_rows, of_context = torch.autograd.grad(out, leaves, gradient)
    return of_rows, split_context(block, of_context)


def split_context(block: nn.Module, context: Tensor) -> Tensor:
    """(1, R, H * e) to (H, R, e)."""
    return context[0].unflatten(-1, (block.attn.num_heads, -1)).transpose(0, 1)


class AttentionGradient:
    """Sums up, chunk by chunk of queries, what flows back through the attention.

    With G the gradient of the context, dA = G V^T, dV = A^T G, dS = A * (dA - rowsum(A * dA)),
    dQ = dS K and dK = dS^T Q, S being the logits.

    Args:
        parts: the attention.
        of_context: (H, R, e), G of the first R queries; the rest of them have none.
    """

    def __init__(self, parts: OpenAttention, of_context: Tensor):
        self.parts, self.of_context = parts, of_context
        self.q, self.k, self.v = (torch.zeros_like(each) for each in (parts.q, parts.k, parts.v))

    def of_probabilities(self, chunk: slice) -> Tensor:
        """(H, r, M): the gradient of the attention probabilities of a chunk of queries."""
        return self.of_context[:, chunk] @ self.parts.v.transpose(1, 2)

    def add(self, chunk: slice, attention: Tensor, product: Tensor) -> None:
        """Take in the share of a chunk of queries; product is A * dA, and is used up."""
        self.v += attention.transpose(1, 2) @ self.of_context[:, chunk]
        of_logits = product.sub_(attention * product.sum(-1, keepdim=True))
        self.q[:, chunk] = of_logits @ self.parts.k
        self.k += of_logits.transpose(1, 2) @ self.parts.q[:, chunk]

    def of_tokens(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """(1, M, d): carried on to the tokens entering the block, the attention's branch alone."""
        with torch.enable_grad():
            leaf = tokens.detach().requires_grad_(True)
            parts = open_attention(block, leaf)
            sums = (self.q, self.k, self.v)
            (gradient,) = torch.autograd.grad((parts.q, parts.k, parts.v), leaf, sums)
        return gradient
