"""Relevance propagation and rollout: what the class row gathers on its way through all blocks.

Both are products of one matrix per block, of which only the [CLS] row is read. Multiplied from the
last block to the first, that row is a vector all the way: one vector times one block's attention,
a chunk of queries at a time, in place of products of whole matrices.

With a late class token (see ``late_vit``) the class row exists in the last block only. What it
gathered there belongs to patch tokens, and these rows are what the earlier blocks carry on; the
backbone's own class token takes part in them as an ordinary token that starts with nothing. What
the late class token keeps for itself is counted in ``rest``.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cdam_core.methods.base import Relevance, patch_scores
from cdam_core.methods.blocks import (
    AttentionGradient,
    OpenAttention,
    Trace,
    class_value_gradient,
    close_block,
    encoding_of,
    leave_join,
    open_attention,
    pull_through_rows,
    trace,
)
from cdam_core.models import VisionModel
from cdam_core.targets import Targets


def relevance_propagation(model: VisionModel, pixels: Tensor, targets: Targets) -> Relevance:
    """Chefer's generic relevance: R <- R + A' R per block, A' = mean_h max(0, dA * A); row [CLS].

    Source: Chefer, Gur, Wolf, "Generic Attention-model Explainability", ICCV 2021,
    arXiv 2103.15679, rules 5 and 6, for self-attention alone; called RP by Brocki, Binda, Chung.
    Product first, then the positive part, then the mean over heads; no normalisation of rows; dA is
    the gradient of the value itself (no softmax) with respect to the block's attention.

    Differs: the authors' notebook for CLIP starts at the last block by default; here, as in their
    notebook for ViT, all blocks count.

    Args:
        model: adapted ViT of timm's own blocks.
        pixels: (1, 3, H, W), normalised.
        targets: what is explained; a contrast is explained itself, which is not the difference of
            two maps, because negative products are cut.

    Returns:
        ``Relevance``; scores >= 0, so counter-evidence never shows; ``rest`` holds the prefix
        tokens, the 1 of the identity that the product starts from included.
    """
    steps = trace(model, pixels)
    walks = [Propagation(steps) for _ in range(len(targets))]
    for index, block, tokens in backwards(model.module, steps):
        with torch.no_grad():
            # The attention is the same for every target, so its rows are computed once for all.
            parts, count = open_attention(block, tokens), walks[0].count(index)
            rows, context = tokens[:, :count], parts.context(count)
            if index == walks[0].last:
                start_walks(model, walks, close_block(block, rows, context), targets)
            for walk in walks:
                walk.enter(index, block, rows, context, parts)
            for chunk in parts.chunks(count):
                _, attention = parts.rows(chunk)
                for walk in walks:
                    walk.gather(index, chunk, attention)
            for walk in walks:
                walk.leave(model.module, steps, index)
    return rows_relevance(model, pixels, steps, targets, walks)


def rollout(model: VisionModel, pixels: Tensor, targets: Targets) -> Relevance:
    """Attention rollout: the [CLS] row of the product of (mean_h A + I) / 2 over all blocks.

    Source: Abnar, Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020,
    arXiv 2005.00928, as in Chefer's comparison code: mean over heads, rows normalised (they sum to
    2), all blocks. Differs: that code's experiments start at the second block; jacobgil's
    "vit-explain" also discards the lowest attentions and divides by sums of the wrong axis.

    Args:
        model: adapted ViT of timm's own blocks.
        pixels: (1, 3, H, W), normalised.
        targets: the map is the same for all of them and is repeated.

    Returns:
        ``Relevance``; scores >= 0 which with ``rest`` sum to 1.
    """
    steps = trace(model, pixels)
    walk = ClassRow(steps)
    for index, block, tokens in backwards(model.module, steps):
        with torch.no_grad():
            parts = open_attention(block, tokens)
            row = walk.entering(index)
            gathered = torch.zeros_like(row)
            for chunk in parts.chunks(walk.count(index)):
                _, attention = parts.rows(chunk)
                gathered += row[chunk] @ attention.mean(0)
            walk.row = (row + gathered) / 2
    return rows_relevance(model, pixels, steps, targets, [walk] * len(targets))


# ---- the walk back ------------------------------------------------------------------------------


class ClassRow:
    """The row R[cls] on its way from the last block to the first.

    Attributes:
        row: (M,), what the class row holds of every token so far.
        left: what stays with a late class token where it joins.
    """

    def __init__(self, steps: Trace):
        self.last = len(steps.inputs) - 1
        self.is_late = steps.before_joining is not None
        self.row = steps.inputs[-1].new_zeros(steps.inputs[-1].shape[1])
        self.row[0] = 1
        self.left = torch.zeros_like(self.row[0])

    def count(self, index: int) -> int:
        """How many leading rows take part in a block: in the last one, the class row alone."""
        return 1 if index == self.last else len(self.row)

    def entering(self, index: int) -> Tensor:
        """The row as it enters a block from above; a late class token stays behind."""
        if self.is_late and index == self.last - 1:
            self.left = self.row[0].clone()
            self.row = torch.cat([torch.zeros_like(self.row[:1]), self.row[1:]])
        return self.row


class GradientRow(ClassRow):
    """A class row with the gradient of its target's value, which flows back beside it.

    Attributes:
        gradient: (1, R, d) of the rows leaving the block that is next.
        flow: what has flowed back through the present block's attention.
        of_rows: (1, R, d) what has flowed back past it.
        gathered: (M,) what the row takes up in the present block.
    """

    gradient: Tensor
    flow: AttentionGradient
    of_rows: Tensor
    gathered: Tensor

    def enter(
        self, index: int, block: nn.Module, rows: Tensor, context: Tensor, parts: OpenAttention
    ) -> None:
        """Come to a block from above."""
        self.of_rows, of_context = pull_through_rows(block, rows, context, self.gradient)
        self.flow = AttentionGradient(parts, of_context)
        self.row = self.entering(index)
        self.gathered = torch.zeros_like(self.row)

    def leave(self, module: nn.Module, steps: Trace, index: int) -> None:
        """Go on to the block below."""
        self.row = self.row + self.gathered
        if index:
            self.gradient = input_gradient(module, steps, index, self.flow, self.of_rows)


class Propagation(GradientRow):
    """Relevance propagation for one target."""

    def gather(self, index: int, chunk: slice, attention: Tensor) -> None:
        """Take up the share of a chunk of queries, (H, r, M) attention."""
        product = attention * self.flow.of_probabilities(chunk)
        self.gathered += weigh_rows(self.row[chunk], product)
        if index:
            self.flow.add(chunk, attention, product)


def start_walks(
    model: VisionModel, walks: Sequence[GradientRow], out: Tensor, targets: Targets
) -> None:
    """Hand every walk the gradient of its target at the class row leaving the last block."""
    for target, walk in enumerate(walks):
        walk.gradient = class_value_gradient(model, out, targets, target)


def weigh_rows(row: Tensor, products: Tensor) -> Tensor:
    """(M,): a row vector (r,) times the mean over heads of max(0, products (H, r, M))."""
    return torch.einsum("r,hrm->m", row, products.clamp(min=0)) / len(products)


def input_gradient(
    module: nn.Module, steps: Trace, index: int, flow: AttentionGradient, of_rows: Tensor
) -> Tensor:
    """(1, M, d): gradient at the output of the block before ``index``."""
    gradient = flow.of_tokens(module.blocks[index], steps.inputs[index])
    gradient[:, : of_rows.shape[1]] += of_rows
    return leave_join(module, steps, gradient) if index == len(steps.inputs) - 1 else gradient


def backwards(module: nn.Module, steps: Trace) -> Iterator[tuple[int, nn.Module, Tensor]]:
    """(index, block, tokens entering it), last block first."""
    for index in reversed(range(len(steps.inputs))):
        yield index, module.blocks[index], steps.inputs[index]


def rows_relevance(
    model: VisionModel, pixels: Tensor, steps: Trace, targets: Targets, walks: Sequence[ClassRow]
) -> Relevance:
    """The rows of all targets as maps of patches."""
    tokens = torch.stack([walk.row for walk in walks], dim=1)
    left = torch.stack([walk.left for walk in walks])
    encoding, prefix = encoding_of(model, steps, pixels), model.num_prefix_tokens
    scores = patch_scores(tokens, prefix, encoding.grid)
    return Relevance(scores, tokens[:prefix].sum(0) + left, model.values(encoding, targets))
