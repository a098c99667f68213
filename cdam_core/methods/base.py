"""What a method is: a pure function with a name, a source and settings, one row of ``METHODS``."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from cdam_core.errors import BadTarget


@dataclass(frozen=True)
class Relevance:
    """What a method returns; T targets.

    Attributes:
        scores: (T, rows, cols) or (T, H, W), signed where the method is, in units of the value.
        rest: (T,) what [CLS] and register tokens hold, or NaN where the method does not define it.
        values: (T,) the explained values.
        settings: settings that the method resolved itself, such as the absolute noise level.
    """

    scores: Tensor
    rest: Tensor
    values: Tensor
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """One setting of a method.

    Attributes:
        name: keyword of the method.
        default: its default; None has the meaning that ``help`` gives.
        help: one sentence for a reader.
        kind: "integer" | "number" | "choice" | "heads".
        low, high: bounds of numbers, both included.
        choices: the values of a choice.
    """

    name: str
    default: Any
    help: str
    kind: str = "choice"
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """The value, converted; ``BadTarget`` "bad-setting" where it does not fit."""
        if value is None and self.default is None:
            return None
        if self.kind == "choice" and isinstance(value, str) and value in self.choices:
            return value
        if self.kind == "heads" and _are_different_integers(value):
            return tuple(int(head) for head in value)
        number = Integral if self.kind == "integer" else Real
        if self.kind in ("integer", "number") and _is_number(value, number, self.low, self.high):
            return int(value) if self.kind == "integer" else float(value)
        raise BadTarget("bad-setting", f"Setting {self.name} got {value!r}; {self._expected()}.")

    def _expected(self) -> str:
        if self.kind == "choice":
            return f"expected one of {', '.join(self.choices)}"
        if self.kind == "heads":
            return "expected a list of different head numbers, or None for all"
        return f"expected a {self.kind} from {self.low:g} to {self.high:g}"


def _are_different_integers(value: Any) -> bool:
    if not isinstance(value, list | tuple | range):
        return False
    return len(set(value)) == len(value) and all(_is_number(i, Integral, 0, 2**15) for i in value)


def _is_number(value: Any, number: type, low: float, high: float) -> bool:
    return isinstance(value, number) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True)
class Method:
    """One row of ``METHODS``.

    Attributes:
        id: name in code, files and results.
        label: name shown to people.
        run: ``run(model, x, targets, **settings) -> Relevance``; x is an ``Encoding``, or pixels
            where ``needs`` says so; where ``steps`` is set it also takes ``on_step``.
        source: where it is defined.
        summary: one sentence for a reader who is no programmer.
        signed: whether negative scores mean evidence against.
        class_specific: whether the map depends on the target.
        all_classes: whether one pass serves every class (``ALL``).
        resolution: "patch" | "pixel".
        needs: "encoding" | "pixels".
        cost: "instant" | "seconds" | "minutes".
        steps: whether it works in batches, reports progress and can be cancelled between them.
        pooling: which models it is made for, by how they read their answer: "token" | "avg" (the
            average of all patches) | "any".
        settings: the settings, in order.
    """

    id: str
    label: str
    run: Callable[..., Relevance]
    source: str
    summary: str
    signed: bool = True
    class_specific: bool = True
    all_classes: bool = False
    resolution: str = "patch"
    needs: str = "encoding"
    cost: str = "instant"
    steps: bool = False
    pooling: str = "token"
    settings: tuple[Setting, ...] = ()

    def resolve_settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All settings with defaults filled in; ``BadTarget`` for an unknown or unfit one."""
        known = {setting.name: setting for setting in self.settings}
        for name in given:
            if name not in known:
                expected = ", ".join(known) or "none"
                raise BadTarget(
                    "unknown-setting",
                    f"Method {self.id} has no setting {name!r}; its settings are: {expected}.",
                )
        return {name: s.check(given.get(name, s.default)) for name, s in known.items()}


def patch_scores(tokens: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """(M, T) per-token scores to (T, rows, cols), prefix tokens left out."""
    return tokens[prefix:].T.reshape(-1, *grid).contiguous()


def nothing(count: int, like: Tensor) -> Tensor:
    """(count,) NaN: the method defines no such number."""
    return torch.full((count,), math.nan).to(like)
