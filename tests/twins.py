"""Slow twins of the baseline methods: whole matrices, every token, straight from the formulas.

One explicit forward pass in float64 keeps every attention matrix in the graph; relevance is handed
down by tensors that hold every single contribution. Nothing of ``cdam_core`` is used.
"""

from dataclasses import dataclass, field

import torch


@dataclass
class Explicit:
    """An explicit forward pass of one image; lists run over blocks."""

    logits: torch.Tensor
    attention: list = field(default_factory=list)  # (H, M, M), in the graph
    kept: list = field(default_factory=list)  # intermediate tensors of a block, by name
    latent: torch.Tensor | None = None


def explicit_forward(module, pixels, dropped=None):
    """The whole model with attention written out; ``dropped`` leaves one patch token out."""
    out = Explicit(logits=None)
    tokens = module.norm_pre(module._pos_embed(module.patch_embed(pixels)))[0]
    if dropped is not None:
        keep = [i for i in range(len(tokens)) if i != module.num_prefix_tokens + dropped]
        tokens = tokens[keep]
    for index, block in enumerate(module.blocks):
        if index == len(module.blocks) - 1 and hasattr(module, "late_cls_token"):
            tokens = torch.cat([module.late_cls_token[0], module.late_norm(tokens[1:])])
        tokens = explicit_block(block, tokens, out)
    features = module.fc_norm(module.norm(tokens))
    out.latent, out.logits = features[0], module.head(features[0])
    if hasattr(module, "head_dist"):
        out.logits = (out.logits + module.head_dist(features[1])) / 2
    return out


def explicit_block(block, x, out):
    attn, kept = block.attn, {"x": x}
    normed = kept["normed1"] = block.norm1(x)
    weight, bias = attn.qkv.weight, attn.qkv.bias
    qkv = normed @ weight.T + (0 if bias is None else bias)
    size = attn.num_heads * attn.head_dim
    q, k, v = (qkv[:, i * size : (i + 1) * size] for i in range(3))
    heads = [slice(h * attn.head_dim, (h + 1) * attn.head_dim) for h in range(attn.num_heads)]
    q = torch.stack([attn.q_norm(q[:, h]) for h in heads])
    k = torch.stack([attn.k_norm(k[:, h]) for h in heads])
    v = torch.stack([v[:, h] for h in heads])
    dots = torch.einsum("hid,hjd->hij", q, k)
    weights = torch.exp(dots * attn.head_dim**-0.5)
    attention = weights / weights.sum(-1, keepdim=True)
    context = torch.einsum("hij,hjd->ihd", attention, v).flatten(1)
    kept.update(q=q, k=k, v=v, dots=dots, context=context)
    mixed = kept["mixed"] = attn.norm(context)
    attended = kept["attended"] = block.ls1(attn.proj(mixed))
    middle = kept["middle"] = x + attended
    normed = kept["normed2"] = block.norm2(middle)
    hidden = kept["hidden"] = block.mlp.norm(block.mlp.act(block.mlp.fc1(normed)))
    added = kept["added"] = block.ls2(block.mlp.fc2(hidden))
    out.attention.append(attention)
    out.kept.append(kept)
    return middle + added


def value_of(logits, target):
    return logits[target] if isinstance(target, int) else logits[target[0]] - logits[target[1]]


# ---- products of whole matrices ------------------------------------------------------------------


def first_row(module, matrices):
    """Row [CLS] of the product, last block leftmost, and what a late class token keeps."""
    total = torch.eye(len(matrices[0])).double()
    for index, matrix in enumerate(matrices):
        if index == len(matrices) - 1 and hasattr(module, "late_cls_token"):
            without = torch.eye(len(matrix)).double()
            without[0, 0] = 0
            joined = matrix @ without @ total
            stays = matrix[0, 0]
            return joined[0], float(stays)
        total = matrix @ total
    return total[0], 0.0


def relevance_propagation(module, pixels, target):
    out = explicit_forward(module, pixels)
    gradients = torch.autograd.grad(value_of(out.logits, target), out.attention)
    matrices = [
        torch.eye(a.shape[-1]) + (g * a.detach()).clamp(min=0).mean(0)
        for g, a in zip(gradients, out.attention, strict=True)
    ]
    return first_row(module, matrices)


def rollout(module, pixels):
    matrices = []
    for attention in explicit_forward(module, pixels).attention:
        matrix = attention.detach().mean(0) + torch.eye(attention.shape[-1])
        matrices.append(matrix / matrix.sum(-1, keepdim=True))
    return first_row(module, matrices)


def attention_grad_cam(module, pixels, target):
    out = explicit_forward(module, pixels)
    (gradient,) = torch.autograd.grad(value_of(out.logits, target), out.attention[-1])
    prefix = module.num_prefix_tokens
    total = 0
    for g, a in zip(gradient, out.attention[-1].detach(), strict=True):
        total = total + g[0, prefix:].mean() * a[0, prefix:]
    return (total / len(gradient)).clamp(min=0)


def grad_cam(module, pixels, target):
    out = explicit_forward(module, pixels)
    tokens, prefix = out.kept[-1]["normed1"], module.num_prefix_tokens
    (gradient,) = torch.autograd.grad(value_of(out.logits, target), tokens)
    weights = gradient[prefix:].mean(0)
    return torch.stack([(weights * t).sum() for t in tokens[prefix:].detach()]).clamp(min=0)


def token_ablation(module, pixels, target, count):
    with torch.no_grad():
        whole = value_of(explicit_forward(module, pixels).logits, target)
        return torch.stack(
            [
                whole - value_of(explicit_forward(module, pixels, dropped=i).logits, target)
                for i in range(count)
            ]
        )


# ---- relevance handed down -----------------------------------------------------------------------


def divide(a, b):
    return torch.where(b == 0, torch.zeros_like(a), a / torch.where(b == 0, 1.0, b))


def linear(x, weight, relevance, joint):
    """Every contribution x_i w_ji of every token spelled out: (M, j, i)."""
    products = x[:, None] * weight
    positive = torch.where((x[:, None] > 0) & (weight > 0), products, 0)
    negative = torch.where((x[:, None] < 0) & (weight < 0), products, 0)
    up, down = positive.sum(-1, keepdim=True), negative.sum(-1, keepdim=True)
    if joint:
        shares = divide(positive + negative, (up + down).expand_as(products))
    else:
        shares = divide(positive, up.expand_as(products))
        shares = shares + divide(negative, down.expand_as(products))
    return (relevance[..., None] * shares).sum(1)


def add(a, b, relevance, rescaled):
    of_a, of_b = a * divide(relevance, a + b), b * divide(relevance, a + b)
    if not rescaled:
        return of_a, of_b
    size_a, size_b = of_a.sum().abs(), of_b.sum().abs()
    whole = relevance.sum()
    part_a, part_b = whole * size_a / (size_a + size_b), whole * size_b / (size_a + size_b)
    return of_a * divide(part_a, of_a.sum()), of_b * divide(part_b, of_b.sum())


def start_relevance(module, out, starts, tokens, joint):
    """(M, d): head, selection of the class token, final norm; starts by class."""
    one_hot = torch.zeros(1, len(module.head.weight)).double()
    for target, start in starts.items():
        one_hot[0, target] = start
    relevance = torch.zeros(tokens, out.latent.shape[0]).double()
    relevance[:1] = linear(out.latent[None], module.head.weight, one_hot, joint)
    return relevance


def block_relevance(block, kept, attention, relevance, joint):
    """(relevance of the attention (H, M, M), relevance of the block's input (M, d))."""
    past, down = add(kept["middle"], kept["added"], relevance, joint)
    down = linear(kept["hidden"], block.mlp.fc2.weight, down, joint)
    down = linear(kept["normed2"], block.mlp.fc1.weight, down, joint)
    past, down = add(kept["x"], kept["attended"], past + down, joint)
    down = linear(kept["mixed"], block.attn.proj.weight, down, joint)
    heads = len(attention)
    of_context = down.unflatten(-1, (heads, -1)).transpose(0, 1)
    context = kept["context"].unflatten(-1, (heads, -1)).transpose(0, 1)
    # every product A_ij V_jd of every head
    products = attention[..., None] * kept["v"][:, None]
    shares = products * divide(of_context, context)[:, :, None]
    of_attention, of_v = shares.sum(-1) / 2, shares.sum(1) / 2
    products = kept["q"][:, :, None] * kept["k"][:, None]
    shares = products * divide(of_attention, kept["dots"])[..., None]
    of_q, of_k = shares.sum(2) / 2, shares.sum(1) / 2
    together = torch.cat([each.transpose(0, 1).flatten(1) for each in (of_q, of_k, of_v)], dim=1)
    return of_attention, past + linear(kept["normed1"], block.attn.qkv.weight, together, joint)


def partial_lrp(module, pixels, target):
    """(M,)."""
    with torch.no_grad():
        out = explicit_forward(module, pixels)
        attention = out.attention[-1]
        starts = {target: 1} if isinstance(target, int) else {target[0]: 1, target[1]: -1}
        relevance = start_relevance(module, out, starts, attention.shape[-1], joint=False)
        found, _ = block_relevance(module.blocks[-1], out.kept[-1], attention, relevance, False)
    return found.clamp(min=0).mean(0)[0]


def relevance_of_all_attention(module, out, target):
    """Relevance of every block's attention for one class, by the conserving rules."""
    relevance = start_relevance(module, out, {target: 1}, out.attention[-1].shape[-1], joint=True)
    found = []
    for index in reversed(range(len(module.blocks))):
        of_attention, relevance = block_relevance(
            module.blocks[index], out.kept[index], out.attention[index], relevance, True
        )
        found.insert(0, of_attention)
        if index == len(module.blocks) - 1 and hasattr(module, "late_cls_token"):
            relevance[0] = 0
    return found


def transformer_attribution(module, pixels, target):
    out = explicit_forward(module, pixels)
    gradients = torch.autograd.grad(value_of(out.logits, target), out.attention)
    with torch.no_grad():
        if isinstance(target, int):
            relevance = relevance_of_all_attention(module, out, target)
        else:
            one, two = (relevance_of_all_attention(module, out, side) for side in target)
            relevance = [a - b for a, b in zip(one, two, strict=True)]
        matrices = [
            torch.eye(r.shape[-1]) + (g * r).clamp(min=0).mean(0)
            for g, r in zip(gradients, relevance, strict=True)
        ]
    return first_row(module, matrices)
