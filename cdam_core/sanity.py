"""Does a map explain the model at all? Models with part of their knowledge destroyed.

A map that stays the same when the model has forgotten everything explains the picture, not the
model (Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, arXiv 1810.03292). Each row
of ``RANDOMISATIONS`` makes a new model out of a given one; the given one is never changed.

    broken = randomise(model, "last_block")
    correlation(explain(model, image, 0).scores[0], explain(broken, image, 0).scores[0])
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from cdam_core.benchmarks import pearson
from cdam_core.errors import BadTarget
from cdam_core.models import VisionModel, wrap

Change = Callable[[nn.Module, Generator], None]


@dataclass(frozen=True)
class Randomisation:
    """One way to destroy what a model knows.

    Attributes:
        id: name in code, files and results.
        label: name shown to people.
        summary: one sentence for a reader who is no programmer.
        change: applied to a copy of the module.
        keeps_encoding: whether the tokens entering the last block stay the same, so that an
            encoding of the given model serves the changed one, too.
    """

    id: str
    label: str
    summary: str
    change: Change
    keeps_encoding: bool


def redraw_last_block(module: nn.Module, draw: Generator) -> None:
    """Draw the last block's weights anew."""
    _redraw(module.blocks[-1], draw)


def redraw_all_blocks(module: nn.Module, draw: Generator) -> None:
    """Draw the weights of all blocks anew, last to first: of a seed, the last one's are the same.

    Patch embedding, positions, class token, final norm and head stay.
    """
    for block in reversed(module.blocks):
        _redraw(block, draw)


def permute_head(module: nn.Module, draw: Generator) -> None:
    """Give every class another one's row of the head, in one random cycle through all of them."""
    count = module.num_classes
    round_trip = torch.randperm(count, generator=draw)
    order = torch.empty(count, dtype=torch.long)
    order[round_trip] = round_trip.roll(1)
    for name, value in list(module.head.named_parameters()):
        _replace(module.head, name, value.detach()[order.to(value.device)])


RANDOMISATIONS: dict[str, Randomisation] = {
    row.id: row
    for row in (
        Randomisation(
            "last_block",
            "Last block randomised",
            "What the model learned in its last block is replaced by chance.",
            redraw_last_block,
            keeps_encoding=True,
        ),
        Randomisation(
            "all_blocks",
            "All blocks randomised",
            "Everything the model learned to see is replaced by chance.",
            redraw_all_blocks,
            keeps_encoding=False,
        ),
        Randomisation(
            "permuted_head",
            "Classes swapped",
            "The model sees as before, but the names of all classes are mixed up.",
            permute_head,
            keeps_encoding=True,
        ),
    )
}


def randomise(model: VisionModel, how: str, seed: int = 0) -> VisionModel:
    """A new model with part of the given one's knowledge destroyed.

    Weights are drawn from a normal distribution with the mean and standard deviation that the
    trained ones have, tensor by tensor, so that activations keep their order of magnitude.
    Differs: Adebayo et al. draw them as before training.

    Args:
        model: stays as it is; what is not redrawn shares its memory.
        how: id in ``RANDOMISATIONS``.
        seed: of the random numbers.

    Returns:
        ``VisionModel`` with the same class names; its id tells what was done.

    Raises:
        BadTarget: "unsupported" for an unknown ``how``, or a head with fewer than two classes to
            permute; "no-head" for a model without one.
    """
    if how not in RANDOMISATIONS:
        raise BadTarget(
            "unsupported",
            f"There is no such randomisation; expected one of {', '.join(RANDOMISATIONS)}.",
        )
    if how == "permuted_head":
        model.require_head()
        if len(model.class_names) < 2:
            raise BadTarget(
                "unsupported", "The model has one class only; two are needed to swap them."
            )
    module = _shallow_copy(model.module)
    RANDOMISATIONS[how].change(module, Generator().manual_seed(seed))
    return wrap(
        module,
        model.class_names or None,
        model.mean,
        model.std,
        model_id=f"{model.id}:{how}:{seed}",
        input_size=model.input_size,
        pool=model.pool,
        simulated=model.simulated,
    )


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of two maps of the same shape; NaN where one of them is flat."""
    return pearson(one, other, flat=math.nan)


# ---- changing a copy ----------------------------------------------------------------------------


def _shallow_copy(module: nn.Module) -> nn.Module:
    """A copy with its own structure and the very same tensors."""
    shared = {id(each): each for each in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def _redraw(part: nn.Module, draw: Generator) -> None:
    for name, value in list(part.named_parameters()):
        trained = value.detach().double().cpu()
        noise = torch.randn(trained.shape, generator=draw, dtype=torch.float64)
        _replace(part, name, (trained.mean() + trained.std(correction=0) * noise).to(value))


def _replace(part: nn.Module, name: str, value: Tensor) -> None:
    """Put a new tensor where the shared one was."""
    owner, _, last = name.rpartition(".")
    setattr(part.get_submodule(owner), last, nn.Parameter(value.clone(), requires_grad=False))
