"""Layer-wise relevance propagation down to the attention, and the two maps that Chefer makes of it.

Relevance starts with 1 at the target and is handed down from every output to its inputs. What all
rules share: biases are ignored; norms, activations, layer scale and softmax pass relevance on
unchanged; a product of two matrices splits it as operand * R / output and halves both results; a
fork sums; x / 0 counts as 0. Two families differ in linear layers and residual sums:

* ``ORIGINAL`` (after Voita et al. 2019, as in ``layers_lrp`` of Chefer's code): a linear layer
  normalises its positive and its negative inputs *separately*, which can double the relevance, and
  a residual sum splits it as operand * R / sum.
* ``CONSERVING`` (``layers_ours`` of the same code): a joint denominator, and both sides of a
  residual sum rescaled so that they share the whole in proportion to their absolute sums.

Differs from that code: a denominator is 0 or it is not; the code adds 1e-9 to it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from cdam_core.errors import BadTarget
from cdam_core.methods.base import Relevance, patch_scores
from cdam_core.methods.blocks import (
    OpenAttention,
    Trace,
    blocks_of,
    close_block,
    open_attention,
    require_class_row,
    require_open,
    split_context,
    trace,
)
from cdam_core.methods.relevance import (
    GradientRow,
    backwards,
    rows_relevance,
    start_walks,
    weigh_rows,
)
from cdam_core.models import Encoding, VisionModel
from cdam_core.targets import Targets


def partial_lrp(model: VisionModel, encoding: Encoding, targets: Targets) -> Relevance:
    """Partial LRP: relevance of the last block's attention, max(0, .), mean over heads; row [CLS].

    Source: Voita et al., "Analyzing Multi-Head Self-Attention", ACL 2019, arXiv 1905.09418, in the
    form of Chefer, Gur, Wolf, CVPR 2021 (their method "last_layer" on the original LRP rules),
    which Brocki, Binda, Chung compare with. The walk ends where it reaches the attention
    probabilities: Rel(A)_0j = A_0j / 2 * sum_d V_jd R_0d / (A V)_0d.

    Args:
        model: adapted ViT whose last block is timm's own.
        encoding: the encoded image.
        targets: what is explained; a class starts from 1 at its logit, a contrast from 1 and -1, a
            concept from 1 at its dot product.

    Returns:
        ``Relevance``; scores >= 0; ``rest`` holds the prefix tokens.

    Raises:
        BadTarget: "unsupported" for a cosine or L2 concept, or layers that no rule speaks of.
    """
    block = blocks_of(model.module)[-1]
    require_open(block)
    require_class_row(model.module)
    require_layers(block)
    with torch.no_grad():
        parts = open_attention(block, encoding.tokens)
        rows, context = encoding.tokens[:, :1], parts.context(1)
        _, attention = parts.rows(slice(0, 1))
        out = close_block(block, rows, context)
        maps = []
        for index in range(len(targets)):
            sides = _sides(targets, index)
            relevance = sum(sign * _of_class_row(model, out, row, ORIGINAL) for sign, row in sides)
            _, of_context = _through_rows(block, rows, context, relevance, ORIGINAL)
            share = split_context(block, ratio(of_context, context))
            maps.append((share @ parts.v.transpose(1, 2) * attention / 2)[:, 0])
        tokens = torch.stack(maps).clamp(min=0).mean(1).T
    prefix = model.num_prefix_tokens
    scores = patch_scores(tokens, prefix, encoding.grid)
    return Relevance(scores, tokens[:prefix].sum(0), model.values(encoding, targets))


def transformer_attribution(model: VisionModel, pixels: Tensor, targets: Targets) -> Relevance:
    """Chefer's CVPR 2021 map: the [CLS] row of prod (I + mean_h max(0, dA * Rel(A))) over blocks.

    Source: Chefer, Gur, Wolf, "Transformer Interpretability Beyond Attention Visualization",
    CVPR 2021, arXiv 2012.09838, as their code computes it: rules ``CONSERVING``, product of the
    matrices without normalising rows (in that code the line that would is commented out), all
    blocks. Differs: the code's experiments start at the second block. Contrasts are not in the
    source; these rules keep sums, so a start of 1 and -1 would cancel at the first residual sum.
    Here both sides are handed down on their own, Rel is their difference, dA that of the contrast.

    Args:
        model: adapted ViT of timm's own blocks.
        pixels: (1, 3, H, W), normalised.
        targets: what is explained; a class starts from 1 at its logit, a concept from 1 at its dot
            product.

    Returns:
        ``Relevance``; scores >= 0; ``rest`` holds the prefix tokens, the 1 of the identity that
        the product starts from included.

    Raises:
        BadTarget: "unsupported" for a cosine or L2 concept, or layers that no rule speaks of.
    """
    steps = trace(model, pixels)
    for block in model.module.blocks:
        require_layers(block)
    walks = [Attribution(steps) for _ in range(len(targets))]
    for index, block, tokens in backwards(model.module, steps):
        with torch.no_grad():
            # The attention is the same for every target, so its rows are computed once for all.
            parts, count = open_attention(block, tokens), walks[0].count(index)
            rows, context = tokens[:, :count], parts.context(count)
            if index == walks[0].last:
                out = close_block(block, rows, context)
                start_walks(model, walks, out, targets)
                for target, walk in enumerate(walks):
                    walk.start(model, out, _sides(targets, target))
            for walk in walks:
                walk.enter(index, block, rows, context, parts)
            for chunk in parts.chunks(count):
                logits, attention = parts.rows(chunk)
                for walk in walks:
                    walk.gather(index, chunk, logits, attention)
            for walk in walks:
                walk.leave(model.module, steps, index)
    return rows_relevance(model, pixels, steps, targets, walks)


class Attribution(GradientRow):
    """Transformer attribution for one target.

    Attributes:
        signs: +1 for the target, -1 for what it is contrasted with.
        relevances: per sign, (1, R, d) of the rows leaving the block that is next.
        shares: per sign, what is handed down through the present block's attention.
    """

    signs: list[int]
    relevances: list[Tensor]
    shares: list["AttentionRelevance"]

    def start(self, model: VisionModel, out: Tensor, sides: list[tuple[int, Tensor]]) -> None:
        """Relevance 1 at the target, handed down to the class row leaving the last block."""
        self.signs = [sign for sign, _ in sides]
        self.relevances = [_of_class_row(model, out, row, CONSERVING) for _, row in sides]

    def enter(
        self, index: int, block: nn.Module, rows: Tensor, context: Tensor, parts: OpenAttention
    ) -> None:
        """Come to a block from above."""
        super().enter(index, block, rows, context, parts)
        self.shares = [
            AttentionRelevance(block, rows, context, parts, each) for each in self.relevances
        ]

    def gather(self, index: int, chunk: slice, logits: Tensor, attention: Tensor) -> None:
        """Take up the share of a chunk of queries, (H, r, M) logits and attention."""
        of_attention = self.flow.of_probabilities(chunk)
        found = [share.of_probabilities(chunk, attention) for share in self.shares]
        both = sum(sign * each for sign, each in zip(self.signs, found, strict=True))
        self.gathered += weigh_rows(self.row[chunk], of_attention * both)
        if index:
            self.flow.add(chunk, attention, of_attention.mul_(attention))
            for share, each in zip(self.shares, found, strict=True):
                share.add(chunk, logits, attention, each)

    def leave(self, module: nn.Module, steps: Trace, index: int) -> None:
        """Go on to the block below."""
        super().leave(module, steps, index)
        if not index:
            return
        self.relevances = [share.of_input(steps.inputs[index]) for share in self.shares]
        if self.is_late and index == self.last:
            for each in self.relevances:
                each[:, 0] = 0  # nothing of the backbone's own class token is read


# ---- rules --------------------------------------------------------------------------------------


def ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """Top / bottom, 0 where the bottom is 0."""
    empty = bottom.abs() < torch.finfo(bottom.dtype).tiny
    return torch.where(empty, 0, top / torch.where(empty, 1, bottom))


def _linear_separate(x: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """R_i = sum_j R_j [x+_i w+_ji / sum x+ w+  +  x-_i w-_ji / sum x- w-]."""
    return sum(half * (ratio(relevance, half @ part.T) @ part) for half, part in _halves(x, weight))


def _linear_joint(x: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """R_i = sum_j R_j [x+_i w+_ji + x-_i w-_ji] / (sum x+ w+  +  sum x- w-)."""
    halves = _halves(x, weight)
    share = ratio(relevance, sum(half @ part.T for half, part in halves))
    return sum(half * (share @ part) for half, part in halves)


def _halves(x: Tensor, weight: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    return (x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))


def _sum_by_operand(one: Tensor, two: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Operand * R / sum."""
    share = ratio(relevance, one + two)
    return one * share, two * share


def _sum_rescaled(one: Tensor, two: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """The same, each side rescaled to its part of the whole by absolute sums."""
    sides = _sum_by_operand(one, two, relevance)
    sums = torch.stack([side.sum() for side in sides])
    parts = ratio(sums.abs(), sums.abs().sum()) * relevance.sum()
    one, two = (side * scale for side, scale in zip(sides, ratio(parts, sums), strict=True))
    return one, two


@dataclass(frozen=True)
class Rules:
    """How linear layers and residual sums hand relevance down."""

    linear: Callable[[Tensor, Tensor, Tensor], Tensor]
    residual: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


ORIGINAL = Rules(_linear_separate, _sum_by_operand)
CONSERVING = Rules(_linear_joint, _sum_rescaled)


def require_layers(block: nn.Module) -> None:
    """Raise ``BadTarget`` "unsupported" where a block has layers that no rule speaks of."""
    if type(block.mlp) is not Mlp or block.attn.gate is not None:
        found = "a gated attention" if type(block.mlp) is Mlp else type(block.mlp).__name__
        raise BadTarget(
            "unsupported",
            f"No rule of relevance is defined for {found}, which this model uses; choose relevance "
            "propagation or CDAM instead.",
        )


# ---- one block ----------------------------------------------------------------------------------


def _sides(targets: Targets, index: int) -> list[tuple[int, Tensor]]:
    """The last linear layer of a target, (sign, row (d,)) for each side of it."""
    numbers = [(1, targets.first[index]), (-1, targets.second[index])]
    return [(sign, _row(targets, number)) for sign, number in numbers if number >= 0]


def _row(targets: Targets, number: int) -> Tensor:
    """(d,): the head's row of a class, or a dot concept's vector as a linear layer without bias."""
    model = targets.model
    if number < len(model.class_names):
        return model.module.head.weight[number]
    concept = targets.concepts[number - len(model.class_names)]
    if concept.similarity != "dot":
        raise BadTarget(
            "unsupported",
            f"Relevance starts from a linear layer, which a concept's {concept.similarity} "
            "similarity is not; use the dot product, or CDAM.",
        )
    return torch.as_tensor(concept.vector).to(next(model.module.parameters()))


def _of_class_row(model: VisionModel, out: Tensor, row: Tensor, rules: Rules) -> Tensor:
    """(1, 1, d) relevance of the class row leaving the last block: head, then the final norm."""
    module = model.module
    latent = module.forward_head(module.norm(out), pre_logits=True)
    return rules.linear(latent, row[None], latent.new_ones(1, 1))[:, None]


def _through_rows(
    block: nn.Module, rows: Tensor, context: Tensor, relevance: Tensor, rules: Rules
) -> tuple[Tensor, Tensor]:
    """Relevance (1, R, d) of rows, past their attention, and (1, R, H * e) of their context."""
    mixed = block.attn.norm(context)
    attended = block.ls1(block.attn.proj(mixed))
    middle = rows + attended
    normed = block.norm2(middle)
    hidden = block.mlp.norm(block.mlp.act(block.mlp.fc1(normed)))
    added = block.ls2(block.mlp.fc2(hidden))
    past, of_mlp = rules.residual(middle, added, relevance)
    of_mlp = rules.linear(hidden, block.mlp.fc2.weight, of_mlp)
    of_mlp = rules.linear(normed, block.mlp.fc1.weight, of_mlp)
    of_rows, of_attended = rules.residual(rows, attended, past + of_mlp)
    return of_rows, rules.linear(mixed, block.attn.proj.weight, of_attended)


class AttentionRelevance:
    """Hands relevance down through a block's attention, chunk by chunk of queries.

    Args:
        block: the block.
        rows: (1, R, d), the first R tokens entering it.
        context: (1, R, H * e), their attention-weighted values.
        parts: the attention.
        relevance: (1, R, d) of the rows leaving the block; the rest of them have none.
    """

    def __init__(
        self,
        block: nn.Module,
        rows: Tensor,
        context: Tensor,
        parts: OpenAttention,
        relevance: Tensor,
    ):
        self.block, self.parts = block, parts
        self.of_rows, of_context = _through_rows(block, rows, context, relevance, CONSERVING)
        self.share = split_context(block, ratio(of_context, context))  # R / (A V)
        self.q, self.k, self.v = (torch.zeros_like(each) for each in (parts.q, parts.k, parts.v))

    def of_probabilities(self, chunk: slice, attention: Tensor) -> Tensor:
        """(H, r, M): relevance of the attention probabilities of a chunk of queries."""
        return (self.share[:, chunk] @ self.parts.v.transpose(1, 2)).mul_(attention).div_(2)

    def add(self, chunk: slice, logits: Tensor, attention: Tensor, relevance: Tensor) -> None:
        """Take in the share of a chunk of queries."""
        parts = self.parts
        self.v += parts.v * (attention.transpose(1, 2) @ self.share[:, chunk]) / 2
        share = ratio(relevance, logits)
        self.q[:, chunk] = parts.q[:, chunk] * (share @ parts.k) / 2
        self.k += parts.k * (share.transpose(1, 2) @ parts.q[:, chunk]) / 2

    def of_input(self, tokens: Tensor) -> Tensor:
        """(1, M, d): relevance of the tokens entering the block."""
        together = torch.stack([self.q, self.k, self.v]).permute(2, 0, 1, 3).flatten(1)[None]
        weight = self.block.attn.qkv.weight
        relevance = CONSERVING.linear(self.block.norm1(tokens), weight, together)
        relevance[:, : self.of_rows.shape[1]] += self.of_rows
        return relevance
