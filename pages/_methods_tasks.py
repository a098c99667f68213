"""The questions that the page "Methods" asks the library, as tasks with keys.

Everything that a task needs of Streamlit's caches is fetched when it is made; the work itself runs
in a thread of its own and knows the library only.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np

import cdam_core as cdam
from cdam_core import sanity
from cdam_core.benchmarks import box_drops, fidelity, random_band
from cdam_core.methods import METHODS
from pages import _state
from pages._methods_jobs import Task
from pages._panels import only

STEPS = 20  # of the live fidelity curves; tables use 100
RANKINGS = 10  # random orders of the band
BOXES = 30  # per size
SIZES = (1, 2, 3, 5, 8, 12)  # of boxes, in patches


@dataclass(frozen=True, eq=False)
class Question:
    """What all methods are asked: these classes, in this picture, of this model."""

    model_id: str
    picture: _state.Picture
    targets: tuple[int, ...]

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What tells it from other questions."""
        return self.model_id, self.picture.digest, self.targets


def method_task(question: Question, method: str) -> Task:
    """The maps of one method for all targets."""
    model = _state.get_model(question.model_id)
    given = _given(question, method)

    def work(on_step):
        return cdam.explain(model, given, list(question.targets), method, on_step=on_step)

    return Task(("map", *question.key, method), METHODS[method].label, work)


def known_maps(question: Question, method: str) -> dict[int, cdam.Explanation]:
    """Target -> its map alone, from whatever this visitor has asked of this method and picture."""
    found = {}
    for key, result in _state.remembered().items():
        kind, *rest = key
        if kind != "map" or not isinstance(result, cdam.Explanation):
            continue
        model_id, digest, targets, name = rest
        if (model_id, digest, name) == (*question.key[:2], method):
            shares = replace(result, seconds=result.seconds / len(targets))
            found |= {target: only(shares, [i]) for i, target in enumerate(targets)}
    return found


def sanity_task(question: Question, method: str, how: str) -> Task:
    """The same maps, asked of a model with part of its knowledge destroyed."""
    model, row = _state.get_randomised(question.model_id, how), sanity.RANDOMISATIONS[how]
    keeps = row.keeps_encoding and METHODS[method].needs == "encoding"
    given = _given(question, method) if keeps else question.picture.image

    def work(on_step):
        return cdam.explain(model, given, list(question.targets), method, on_step=on_step)

    label = f"{METHODS[method].label}, {row.label[0].lower()}{row.label[1:]}"
    return Task(("sanity", *question.key, method, how), label, work)


def _given(question: Question, method: str):
    """The ready encoding where it serves, else the picture."""
    if METHODS[method].needs == "pixels":
        return question.picture.image
    return _state.prepare(question.model_id, question.picture).encoding


def band_task(question: Question, target: int, unit: str) -> Task:
    """What perturbing in random order does."""
    model, image = _state.get_model(question.model_id), question.picture.image

    def work(on_step):
        return random_band(model, model.preprocess(image), target, STEPS, rankings=RANKINGS,
                           unit=unit, on_step=on_step)

    words = "random order" if unit == "patch" else "random order of pixels"
    return Task(("band", *_picture_key(question), target, unit), words, work)


def drops_task(question: Question, target: int) -> Task:
    """What blurring random boxes costs, once for all maps."""
    model, image = _state.get_model(question.model_id), question.picture.image
    sizes = [size for size in SIZES if size <= min(model.grid)]

    def work(on_step):
        return box_drops(model, model.preprocess(image), target, sizes, BOXES, on_step=on_step)

    return Task(("drops", *_picture_key(question), target), "random boxes", work)


def fidelity_task(question: Question, method: str, target: int, scores: np.ndarray) -> Task:
    """The curves of one map; scores (rows, cols) or (H, W) as they are shown."""
    model, image = _state.get_model(question.model_id), question.picture.image

    def work(on_step):
        pixels = model.preprocess(image)
        return fidelity(model, pixels, scores, target, STEPS, on_step=on_step)

    key = ("fidelity", *_picture_key(question), target, method, scores.shape)
    return Task(key, METHODS[method].label, work)


def _picture_key(question: Question) -> tuple[str, str]:
    return question.model_id, question.picture.digest
