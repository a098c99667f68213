"""What is explained: classes, concepts and contrasts of two, resolved against a model.

A target is a scalar value of the latent l: a logit, a similarity to a concept, or the difference
of two such values. ``resolve`` turns what a caller names into ``Targets``, which the methods ask
for values and gradients and which results quote as labels and JSON-able descriptions.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from cdam_core.concepts import Concept, similarities, similarity_gradients
from cdam_core.errors import BadTarget
from cdam_core.models import VisionModel


@dataclass(frozen=True)
class Contrast:
    """The difference f_a - f_b: what speaks for ``a`` rather than ``b``.

    Attributes:
        a, b: two classes (index or name), or two concepts of the same similarity.
    """

    a: int | str | Concept
    b: int | str | Concept


class _All:
    """Every class of the model, in order."""

    def __repr__(self) -> str:
        return "cdam.ALL"


ALL = _All()

Target = int | str | Concept | Contrast | _All | Sequence[int | str | Concept | Contrast]


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets resolved against one model; implements ``last_block.Directions``.

    Targets are picked from a numbered list of things with a value: first the model's classes,
    then the concepts.

    Attributes:
        model: the model they belong to.
        concepts: K concepts, numbered on after the classes.
        first: (T,) numbers of what is explained.
        second: (T,) numbers of what it is contrasted with, -1 for none.
        labels: one readable name per target, "zebra" or "zebra − elephant".
        descriptions: one JSON-able dict per target.
    """

    model: VisionModel
    concepts: tuple[Concept, ...]
    first: tuple[int, ...]
    second: tuple[int, ...]
    labels: tuple[str, ...]
    descriptions: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.first)

    def values(self, latents: Tensor, logits: Tensor) -> Tensor:
        """(B, T) values from latents (B, d) and logits (B, classes)."""
        known = [logits] if self.model.class_names else []
        if self.concepts:
            known.append(similarities(latents, self.concepts))
        return self._differences(torch.cat(known, dim=1).T).T

    def gradients(self, latents: Tensor) -> Tensor:
        """Of the values by the latent: (T, d) for classes, else (B, T, d) at latents (B, d)."""
        if not self.concepts:
            return self._differences(self.model.module.head.weight)
        known = [similarity_gradients(latents, self.concepts)]
        if self.model.class_names:
            rows = self.model.module.head.weight
            known.insert(0, rows.expand(len(latents), *rows.shape))
        return self._differences(torch.cat(known, dim=1).transpose(0, 1)).transpose(0, 1)

    def _differences(self, rows: Tensor) -> Tensor:
        """(classes + concepts, ...) to (T, ...)."""
        picked = rows[list(self.first)]
        opposed = [position for position, number in enumerate(self.second) if number >= 0]
        if opposed:
            picked = picked.clone()
            picked[opposed] -= rows[[self.second[position] for position in opposed]]
        return picked


def resolve(model: VisionModel, target: Target) -> Targets:
    """Turn a target, or a list of them, into ``Targets``.

    Args:
        model: the model to explain.
        target: class index | class name | ``Concept`` | ``Contrast`` | a list of these | ``ALL``.

    Raises:
        BadTarget: "no-head", "unknown-class", "wrong-type" or "unsupported".
        BadConcept: "other-model".
    """
    if target is ALL:
        model.require_head()
        wanted: Sequence = range(len(model.class_names))
    elif isinstance(target, list | tuple):
        wanted = target
    else:
        wanted = [target]
    if not len(wanted):
        raise BadTarget("wrong-type", "An empty list of targets arrived; name at least one class.")
    concepts: list[Concept] = []
    pairs = [_pair(model, each, concepts) for each in wanted]
    sides = [(_side(model, concepts, a), _side(model, concepts, b)) for a, b in pairs]
    return Targets(
        model,
        tuple(concepts),
        tuple(a for a, _ in pairs),
        tuple(b for _, b in pairs),
        tuple(a["name"] if b is None else f"{a['name']} − {b['name']}" for a, b in sides),
        tuple(a if b is None else {"kind": "contrast", "a": a, "b": b} for a, b in sides),
    )


def _pair(
    model: VisionModel, target: int | str | Concept | Contrast, concepts: list[Concept]
) -> tuple[int, int]:
    """Numbers of both sides of a target, -1 for no second side."""
    if not isinstance(target, Contrast):
        return _number(model, target, concepts), -1
    kinds = [getattr(side, "similarity", "class") for side in (target.a, target.b)]
    if kinds[0] != kinds[1]:
        raise BadTarget(
            "unsupported",
            f"A contrast of {kinds[0]} with {kinds[1]} arrived; both sides need the same kind of "
            "value: two classes, or two concepts of the same similarity.",
        )
    return _number(model, target.a, concepts), _number(model, target.b, concepts)


def _number(model: VisionModel, target: int | str | Concept, concepts: list[Concept]) -> int:
    """Number of a class or concept; a new concept is appended to ``concepts``."""
    if not isinstance(target, Concept):
        return class_index(model, target)
    target.check_model(model)
    for position, known in enumerate(concepts):
        if known is target:
            return len(model.class_names) + position
    concepts.append(target)
    return len(model.class_names) + len(concepts) - 1


def _side(model: VisionModel, concepts: list[Concept], number: int) -> dict[str, Any] | None:
    """JSON-able description of a class or concept by number; None for -1."""
    if number < 0:
        return None
    if number >= len(model.class_names):
        return concepts[number - len(model.class_names)].description()
    name = model.class_names[number]
    unit = {"unit": model.units[name]} if name in model.units else {}
    return {"kind": "class", "index": number, "name": name, **unit}


def class_index(model: VisionModel, target: int | str) -> int:
    """The output index of a class given by index or name.

    Raises:
        BadTarget: "unknown-class" with close matches, or "wrong-type".
    """
    names = model.class_names
    if isinstance(target, str | Integral):
        model.require_head()
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
        "a Concept, a Contrast or a list of these.",
    )


def _index_of_name(names: list[str], name: str) -> int:
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


def top_classes(logits: Tensor, count: int) -> list[tuple[int, float]]:
    """The strongest classes as (index, logit), best first."""
    values, indices = torch.sort(logits, descending=True, stable=True)
    return list(zip(indices[:count].tolist(), values[:count].tolist(), strict=True))
