"""Relevance propagation and rollout: what the class row gathers on its way through all blocks.

Both are products of one matrix per block, of which only the [CLS] row is read. Multiplied from the
last block to the first, that row is a vector all the way: one vector times one block's attention,
a chunk of queries at a time, in place of products of whole matrices.

With a late class token (see ``late_vit``) the class row exists in the last block only. What it
gathered there belongs to patch tokens, and these rows are what the earlier blocks carry on; the
backbone's own class token takes part in them as an ordinary token that starts with nothing. What
the late class token keeps for itself is counted in ``rest``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cdam_core.methods.base import Relevance, patch_scores
from cdam_core.methods.blocks import (
    AttentionGradient,
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
    walks = [_propagate(model, steps, targets, index) for index in range(len(targets))]
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


def _propagate(model: VisionModel, steps: Trace, targets: Targets, target: int) -> ClassRow:
    """The class row after all blocks, for one target."""
    walk, gradient = ClassRow(steps), None
    for index, block, tokens in backwards(model.module, steps):
        with torch.no_grad():
            parts, count = open_attention(block, tokens), walk.count(index)
            rows, context = tokens[:, :count], parts.context(count)
            if gradient is None:
                out = close_block(block, rows, context)
                gradient = class_value_gradient(model, out, targets, target)
            of_rows, of_context = pull_through_rows(block, rows, context, gradient)
            flow = AttentionGradient(parts, of_context)
            row = walk.entering(index)
            gathered = torch.zeros_like(row)
            for chunk in parts.chunks(count):
                _, attention = parts.rows(chunk)
                product = attention * flow.of_probabilities(chunk)
                gathered += weigh_rows(row[chunk], product)
                if index:
                    flow.add(chunk, attention, product)
            walk.row = row + gathered
            gradient = input_gradient(model.module, steps, index, flow, of_rows) if index else None
    return walk


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
    model: VisionModel, pixels: Tensor, steps: Trace, targets: Targets, walks: list[ClassRow]
) -> Relevance:
    """The rows of all targets as maps of patches."""
    tokens = torch.stack([walk.row for walk in walks], dim=1)
    left = torch.stack([walk.left for walk in walks])
    encoding, prefix = encoding_of(model, steps, pixels), model.num_prefix_tokens
    scores = patch_scores(tokens, prefix, encoding.grid)
    return Relevance(scores, tokens[:prefix].sum(0) + left, model.values(encoding, targets))
