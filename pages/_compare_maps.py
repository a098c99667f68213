"""Which maps the comparison shows, and where they come from: at once, or from a job.

Methods that start from the encoding answer at once, difference included. The others start from
pixels and run as the same jobs as on the page "Methods": a map that was computed there, or here for
another pair of classes, is not computed again.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import cdam_core as cdam
from cdam_core.methods import METHODS
from pages import _state
from pages._methods_jobs import Failed, Task
from pages._methods_tasks import Question, known_maps, method_task
from pages._panels import only


def maps_of(
    question: Question, method: str, settings: dict[str, Any], difference: bool = True
) -> cdam.Explanation | Task | Failed:
    """The maps of A, of B, of A - B where the method has one, and of the other classes.

    Args:
        question: the classes, A and B first.
        method: id in ``METHODS``.
        settings: of a method that starts from the encoding.
        difference: whether A and B are both among the classes, first.

    Returns:
        The maps; or the task that has to be done first; or why there are none.
    """
    row = METHODS[method]
    if not row.class_specific:
        question = replace(question, targets=question.targets[:1])
    if row.needs == "pixels":
        return _from_jobs(question, method, difference)
    targets: list[_state.Target] = list(question.targets)
    if difference and has_difference(method):
        targets.insert(2, (targets[0], targets[1]))
    try:
        return _state.explain(
            question.model_id, question.picture, tuple(targets), method, settings
        )
    except cdam.CdamError as error:
        return Failed(str(error))


def has_difference(method: str) -> bool:
    """Whether a map of A - B says what speaks for A rather than B.

    Methods without signs cut away what speaks against a class; the difference of what is left is no
    evidence for one rather than the other.
    """
    return METHODS[method].signed


def _from_jobs(
    question: Question, method: str, difference: bool
) -> cdam.Explanation | Task | Failed:
    found = known_maps(question, method)
    missing = tuple(target for target in question.targets if target not in found)
    if missing:
        task = method_task(replace(question, targets=missing), method)
        result = _state.recall(task.key)
        return result if isinstance(result, Failed) else task
    together = join([found[target] for target in question.targets])
    return with_difference(together) if difference and has_difference(method) else together


def join(parts: Sequence[cdam.Explanation]) -> cdam.Explanation:
    """Maps of one method and picture, asked at different times, as one explanation."""
    first = parts[0]
    return replace(
        first,
        **{name: np.concatenate([getattr(each, name) for each in parts])
           for name in ("scores", "rest", "values")},
        labels=sum((each.labels for each in parts), ()),
        targets=sum((each.targets for each in parts), ()),
        seconds=sum(each.seconds for each in parts),
    )  # fmt: skip


def with_difference(explanation: cdam.Explanation) -> cdam.Explanation:
    """The map of the first target rather than the second, put in third place.

    All signed methods are linear in the value that they explain, so it is the difference of the two
    maps, as the library itself would answer.
    """
    a, b = (only(explanation, [index]) for index in (0, 1))
    difference = replace(
        a,
        **{name: getattr(a, name) - getattr(b, name) for name in ("scores", "rest", "values")},
        labels=(f"{a.labels[0]} − {b.labels[0]}",),
        targets=({"kind": "contrast", "a": a.targets[0], "b": b.targets[0]},),
        seconds=0.0,
    )
    others = [only(explanation, [index]) for index in range(2, len(explanation.labels))]
    joined = join([a, b, difference, *others])
    return replace(joined, seconds=explanation.seconds)
