"""Any methods against each other, patch by patch: the tasks, the numbers, the figure.

Maps of single pictures are remembered as they come, so that a cancelled run goes on where it was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

import cdam_core as cdam
from cdam_core.benchmarks import to_patches
from cdam_core.errors import BadImage
from cdam_core.mechanism import Agreement, interval_text
from cdam_core.methods import METHODS
from pages import _state
from pages._attention_words import estimate_json
from pages._methods_jobs import Task

DEFAULT = ("token_ablation", "cdam", "relevance_propagation", "attention")
MAX_METHODS = 6
KEPT = 4000  # maps of single pictures that are remembered per visit
# Pair plot of the paper's authors' repository: 1000 pictures of ImageNet, all patches together.
AUTHORS = {
    frozenset(("token_ablation", "cdam")): 0.44,
    frozenset(("token_ablation", "relevance_propagation")): 0.34,
    frozenset(("token_ablation", "attention")): 0.10,
    frozenset(("cdam", "relevance_propagation")): 0.47,
    frozenset(("cdam", "attention")): 0.12,
    frozenset(("relevance_propagation", "attention")): 0.75,
}


@dataclass(frozen=True)
class Asked:
    """One picture and the class it is asked about.

    Attributes:
        number: of the picture in its set.
        open: opens it, and may raise ``BadImage``.
        target: class index.
    """

    number: int
    open: Callable[[], Image.Image]
    target: int


def task(model_id: str, set_id: str, asked: Sequence[Asked], method: str) -> Task:
    """The maps of one method for all pictures: a list of flat arrays, None where unreadable."""
    model = _state.get_model(model_id)
    store = st.session_state.setdefault("attention.maps", {})

    def work(on_step: Callable[[int, int], None]) -> list[np.ndarray | None]:
        found = []
        for number, each in enumerate(asked):
            on_step(number, len(asked))
            key = (model_id, set_id, each.number, each.target, method)
            if key not in store:
                while len(store) >= KEPT:
                    store.pop(next(iter(store)))
                within = partial(_say_again, on_step, number, len(asked))
                store[key] = _flat_map(model, each, method, within)
            found.append(store[key])
        return found

    targets = tuple(each.target for each in asked)
    return Task(("pairs", model_id, set_id, targets, method), METHODS[method].label, work)


def _say_again(on_step: Callable[[int, int], None], number: int, count: int, *_: int) -> None:
    """Between the batches of one picture: the gate is handed on, and Cancel is heard."""
    on_step(number, count)


def _flat_map(
    model: cdam.VisionModel, asked: Asked, method: str, on_step: Callable[..., None]
) -> np.ndarray | None:
    try:
        e = cdam.explain(model, asked.open(), asked.target, method, on_step=on_step)
    except BadImage:
        return None
    return to_patches(e.scores[0], e.grid)[e.content].astype(np.float32)


def complete(maps: Mapping[str, Sequence[np.ndarray | None]]) -> dict[str, list[np.ndarray]]:
    """Method -> maps of those pictures that all methods could read."""
    count = len(next(iter(maps.values())))
    fine = [i for i in range(count) if all(each[i] is not None for each in maps.values())]
    return {name: [each[i] for i in fine] for name, each in maps.items()}


def table(found: Mapping[tuple[str, str], Agreement], is_single: bool) -> list[dict[str, Any]]:
    """One line per pair of methods."""
    lines = []
    for (one, two), each in found.items():
        line = {"Pair": f"{METHODS[one].label} – {METHODS[two].label}",
                "All patches": interval_text(each.pooled)}  # fmt: skip
        if not is_single:
            line["Mean of the pictures"] = interval_text(each.mean)
        theirs = AUTHORS.get(frozenset((one, two)))
        line["Paper's authors"] = "" if theirs is None else f"{theirs:.2f}"
        lines.append(line)
    return lines


def as_json(found: Mapping[tuple[str, str], Agreement]) -> list[dict[str, Any]]:
    """All pairs with their intervals."""
    return [
        {"methods": list(pair), "all_patches": estimate_json(each.pooled),
         "mean_of_pictures": estimate_json(each.mean)}
        for pair, each in found.items()
    ]  # fmt: skip


CAPTION = (
    "Pearson's correlation, with 95 % intervals from drawing whole pictures where there are "
    "several. *Paper's authors*: all patches of 1000 photographs together, another model (ViT-S/8 "
    "trained with DINO); for orientation, not as a goal."
)
