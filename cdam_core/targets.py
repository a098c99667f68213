"""What is explained: classes and contrasts of classes, resolved against a model.

A target is a scalar value of the latent l: a logit, or the difference of two. ``resolve`` turns
what a caller names into ``Targets``, which the methods ask for values and gradients and which
results quote as labels and JSON-able descriptions.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from cdam_core.errors import BadTarget
from cdam_core.models import VisionModel


@dataclass(frozen=True)
class Contrast:
    """The difference f_a - f_b: what speaks for ``a`` rather than ``b``.

    Attributes:
        a, b: class index or class name.
    """

    a: int | str
    b: int | str


class _All:
    """Every class of the model, in order."""

    def __repr__(self) -> str:
        return "cdam.ALL"


ALL = _All()

Target = int | str | Contrast | _All | Sequence[int | str | Contrast]


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets resolved against one model; implements ``last_block.Directions``.

    Attributes:
        model: the model they belong to.
        first: (T,) class indices.
        second: (T,) indices of the classes they are contrasted with, -1 for none.
        labels: one readable name per target, "zebra" or "zebra − elephant".
        descriptions: one JSON-able dict per target.
    """

    model: VisionModel
    first: tuple[int, ...]
    second: tuple[int, ...]
    labels: tuple[str, ...]
    descriptions: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.first)

    def values(self, latents: Tensor, logits: Tensor) -> Tensor:
        """(B, T) logits, or differences of logits, from (B, classes)."""
        return self._differences(logits.T).T

    def gradients(self, latents: Tensor) -> Tensor:
        """(T, d): rows of the linear head, or their differences."""
        return self._differences(self.model.module.head.weight)

    def _differences(self, rows: Tensor) -> Tensor:
        """(classes, ...) to (T, ...)."""
        picked = rows[list(self.first)]
        opposed = [position for position, index in enumerate(self.second) if index >= 0]
        if opposed:
            picked = picked.clone()
            picked[opposed] -= rows[[self.second[position] for position in opposed]]
        return picked


def resolve(model: VisionModel, target: Target) -> Targets:
    """Turn a target, or a list of them, into ``Targets``.

    Args:
        model: the model to explain.
        target: class index | class name | ``Contrast`` | a list of these | ``ALL``.

    Raises:
        BadTarget: "no-head", "unknown-class" or "wrong-type".
    """
    model.require_head()
    if target is ALL:
        wanted: Sequence = range(len(model.class_names))
    elif isinstance(target, list | tuple):
        wanted = target
    else:
        wanted = [target]
    if not len(wanted):
        raise BadTarget("wrong-type", "An empty list of targets arrived; name at least one class.")
    pairs = [_pair(model, each) for each in wanted]
    return Targets(
        model,
        tuple(a for a, _ in pairs),
        tuple(b for _, b in pairs),
        tuple(_label(model, a, b) for a, b in pairs),
        tuple(_description(model, a, b) for a, b in pairs),
    )


def _pair(model: VisionModel, target: int | str | Contrast) -> tuple[int, int]:
    if isinstance(target, Contrast):
        return class_index(model, target.a), class_index(model, target.b)
    return class_index(model, target), -1


def class_index(model: VisionModel, target: int | str) -> int:
    """The output index of a class given by index or name.

    Raises:
        BadTarget: "unknown-class" with close matches, or "wrong-type".
    """
    names = model.class_names
    if isinstance(target, str):
        return _index_of_name(names, target)
    if isinstance(target, Integral) and not isinstance(target, bool):
        if 0 <= target < len(names):
            return int(target)
        raise BadTarget(
            "unknown-class",
            f"Class index {int(target)} arrived; this model has classes 0 to {len(names) - 1}.",
        )
    raise BadTarget(
        "wrong-type",
        f"A target of type {type(target).__name__} arrived; expected a class index, a class name, "
        "a Contrast or a list of these.",
    )


def _index_of_name(names: tuple[str, ...], name: str) -> int:
    count = names.count(name)
    if count == 1:
        return names.index(name)
    if count > 1:
        raise BadTarget(
            "unknown-class", f"{count} classes of this model share that name; give the class index."
        )
    close = difflib.get_close_matches(name, names, 3)
    hint = f" Did you mean {', '.join(close)}?" if close else ""
    raise BadTarget("unknown-class", f"This model has no class of that name.{hint}")


def _label(model: VisionModel, a: int, b: int) -> str:
    name = model.class_names[a]
    return name if b < 0 else f"{name} − {model.class_names[b]}"


def _description(model: VisionModel, a: int, b: int) -> dict[str, Any]:
    one = {"kind": "class", "index": a, "name": model.class_names[a]}
    if b < 0:
        return one
    return {
        "kind": "contrast",
        "a": one,
        "b": {"kind": "class", "index": b, "name": model.class_names[b]},
    }


def top_classes(logits: Tensor, count: int) -> list[tuple[int, float]]:
    """The strongest classes as (index, logit), best first."""
    values, indices = torch.sort(logits, descending=True, stable=True)
    return list(zip(indices[:count].tolist(), values[:count].tolist(), strict=True))
