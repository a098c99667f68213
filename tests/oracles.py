"""Slow, independent versions, from the paper: plain autograd on the whole model, in float64.

They use the module's own forward and a hook on ``norm1`` of its last block, and nothing of
``cdam_core``.
"""

import torch


def run_with_tokens(module, pixels, tokens=None, block_input=None):
    """The logits, T, and the block's input, with T or the block's input replaced where given."""
    kept = {}

    def swap_input(_, inputs):
        kept["input"] = inputs[0] if block_input is None else block_input
        return (kept["input"], *inputs[1:])

    def swap_tokens(_, __, out):
        kept["T"] = (out.detach() if tokens is None else tokens).clone().requires_grad_(True)
        return kept["T"]

    last = module.blocks[-1]
    hooks = [
        last.register_forward_pre_hook(swap_input),
        last.norm1.register_forward_hook(swap_tokens),
    ]
    try:
        logits = module(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return logits, kept["T"], kept["input"].detach()


def gradient_of(module, pixels, value, **replaced):
    """(T, d value / dT, value): value is a function of the logits (B, C) to a scalar."""
    logits, tokens, _ = run_with_tokens(module, pixels, **replaced)
    scalar = value(logits)
    (gradient,) = torch.autograd.grad(scalar, tokens)
    return tokens.detach(), gradient, float(scalar.detach())


def cdam(module, pixels, value, **replaced):
    """(M,): sum_j T_ij d value / dT_ij, prefix tokens included (Eq. 2)."""
    tokens, gradient, _ = gradient_of(module, pixels, value, **replaced)
    return (tokens * gradient).sum(-1)[0]


def smooth(module, pixels, value, noises, at):
    """(M,): Eq. 5 over the given noises (n, M, d), scaled already."""
    _, tokens, block_input = run_with_tokens(module, pixels)
    total = 0
    for noise in noises:
        if at == "tokens":
            total = total + cdam(module, pixels, value, tokens=tokens.detach() + noise)
        else:
            total = total + cdam(module, pixels, value, block_input=block_input + noise)
    return total / len(noises)


def integrated(module, pixels, value, steps, at):
    """(M,): Eq. 6 from the zero baseline, as decided for both readings of it."""
    _, tokens, block_input = run_with_tokens(module, pixels)
    tokens = tokens.detach()
    if at == "block_input":
        parts = [
            cdam(module, pixels, value, block_input=block_input * k / steps)
            for k in range(1, steps)
        ]
        return sum(parts) / len(parts)
    gradients = [
        gradient_of(module, pixels, value, tokens=tokens * k / steps)[1]
        for k in range(1, steps + 1)
    ]
    return (tokens * sum(gradients) / steps).sum(-1)[0]


def attention(module, pixels):
    """(H, M): the class token's attention in the last block, from explicit q and k."""
    _, tokens, _ = run_with_tokens(module, pixels)
    attn = module.blocks[-1].attn
    with torch.no_grad():
        q, k, _ = attn.qkv(tokens)[0].unflatten(-1, (3, attn.num_heads, attn.head_dim)).unbind(1)
        logits = torch.einsum("he,mhe->hm", q[0], k) * attn.scale
        return torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)
