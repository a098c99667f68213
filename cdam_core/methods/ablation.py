"""The token ablation map: what the model loses when it never sees a patch."""

from collections.abc import Callable

import torch
from torch import Tensor

from cdam_core.methods.base import Relevance, nothing
from cdam_core.methods.blocks import as_pixels, first_tokens, images_per_batch, values_of_tokens
from cdam_core.models import VisionModel
from cdam_core.targets import Targets


def token_ablation(
    model: VisionModel,
    pixels: Tensor,
    targets: Targets,
    on_step: Callable[[int, int], None] | None = None,
) -> Relevance:
    """S_i = value(all tokens) - value(without patch i), the token dropped before the first block.

    Source: the token ablation map of the CDAM authors' repository. The patch's token is taken out
    of the sequence after positions have been added; all others keep theirs.

    Args:
        model: adapted ViT.
        pixels: (1, 3, H, W), normalised.
        targets: what is explained; one forward pass per patch serves all of them.
        on_step: called with (done, total) between batches; may raise to cancel.

    Returns:
        ``Relevance``; > 0: the value falls without the patch. ``rest`` is not defined: the class
        token and registers are never dropped.
    """
    with torch.no_grad():
        tokens = first_tokens(model.module, as_pixels(model, pixels))
    whole = values_of_tokens(model, tokens, targets)
    prefix, total = model.num_prefix_tokens, tokens.shape[1] - model.num_prefix_tokens
    size = images_per_batch(model, pixels.shape[-2:], with_graph=False)
    without = []
    for start in range(0, total, size):
        stop = min(start + size, total)
        kept = [_all_but(prefix + patch, tokens.shape[1]) for patch in range(start, stop)]
        without.append(values_of_tokens(model, tokens[0, torch.stack(kept)], targets))
        if on_step:
            on_step(stop, total)
    scores = (whole - torch.cat(without)).T.reshape(-1, *model.grid_of(pixels.shape[-2:]))
    return Relevance(scores, nothing(len(targets), whole), whole[0])


def _all_but(dropped: int, count: int) -> Tensor:
    """(count - 1,) indices."""
    return torch.cat([torch.arange(dropped), torch.arange(dropped + 1, count)])
