"""Teaching: embed what was not embedded before, fit a head, judge it, and say so in words."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import streamlit as st

import cdam_core as cdam
from cdam_core import head
from cdam_core.concepts import near_duplicates
from pages import _state
from pages import _teach_desk as desk
from pages._gate import slot
from pages._methods_jobs import Task
from pages._words import percent, plain

FEW = 10  # pictures of a class, below which its share right says little
MAX_NAMED = 3  # classes in the label of a model
HOW_JUDGED = (
    "Every picture was judged once, by a head that was fitted without it and a share of the others "
    "(cross-validation); the head you get was then fitted to all of them."
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of it.

    Attributes:
        model_id: of the taught model, for this visit.
        label: of it, in lists.
        quality: on pictures that the judged heads were not fitted to.
        counts: class name -> number of pictures.
        unfamiliar: pictures unlike the training data of the backbone; None: not known.
        alike: pairs of pictures that look the same.
        base: id of the model whose backbone is used.
    """

    model_id: str
    label: str
    quality: head.Evaluation
    counts: dict[str, int]
    unfamiliar: int | None
    alike: int
    base: str


# ---- the work ------------------------------------------------------------------------------------


def task(model_id: str) -> Task:
    """Teaching the classes that are on the desk; in a thread of its own, so nothing of Streamlit.

    Embeddings stay with this visit, one per picture and model, also where teaching is cancelled.
    """
    model, cards = _state.get_model(model_id), desk.cards()
    known: dict[tuple[str, str], np.ndarray] = st.session_state.setdefault("teach.latents", {})
    key = (desk.RESULTS, model_id, *((card.name, *(e.digest for e in card.examples))
                                     for card in cards))  # fmt: skip
    identity = hashlib.sha256(repr((key, model.weights_sha256)).encode()).hexdigest()[:12]

    def work(on_step) -> tuple[Outcome, cdam.VisionModel]:
        examples = [example for card in cards for example in card.examples]
        total = len(examples) + head.FOLDS + 1
        for done, each in enumerate(examples, 1):
            place = (model_id, each.digest)
            if place not in known:
                latent = model.embed(model.preprocess(each.image))
                known[place] = latent.float().cpu().numpy()[0]
                on_step(done, total)
        embedded = {card.name: np.stack([known[model_id, e.digest] for e in card.examples])
                    for card in cards}  # fmt: skip
        taught, quality = head.teach_embedded(
            model, embedded, model_id=f"taught-{identity}",
            on_fit=lambda done, _: on_step(len(examples) + done, total),
        )  # fmt: skip
        # Of drawings alone nothing is learned about photographs: the stamp says so.
        taught = replace(taught, simulated=all(each.shipped for each in examples))
        rows = np.concatenate(list(embedded.values()))
        unfamiliar = None if model.bank is None else int(
            sum(bool(model.bank.is_unfamiliar(row)) for row in rows))  # fmt: skip
        counts = {card.name: len(card.examples) for card in cards}
        outcome = Outcome(f"{_state.TAUGHT}{identity}", label_of(list(counts)), quality, counts,
                          unfamiliar, len(near_duplicates([e.image for e in examples])), model.id)
        return outcome, taught

    return Task(key, "teaching your classes", work)


def settle(done: Task) -> None:
    """Offer the taught model to this visitor; the result keeps the words alone."""
    result = _state.recall(done.key)
    if isinstance(result, tuple):
        outcome, taught = result
        _state.keep_taught(outcome.model_id, outcome.label, taught)
        _state.keep(done.key, outcome)


def known(asked: Task) -> Any:
    """What came of it before; a model that made room for newer ones has to be taught again."""
    result = _state.recall(asked.key)
    if isinstance(result, Outcome) and result.model_id not in _state.taught():
        _state.remembered().pop(asked.key)
        return None
    return result


def label_of(names: list[str]) -> str:
    """E.g. "Taught: fox, camel, crab …"."""
    return f"Taught: {', '.join(names[:MAX_NAMED])}{' …' if len(names) > MAX_NAMED else ''}"


# ---- in words ------------------------------------------------------------------------------------


def baseline(outcome: Outcome) -> tuple[str, float]:
    """The most frequent class, and the share right of always answering it."""
    name = max(outcome.counts, key=outcome.counts.get)
    return name, outcome.counts[name] / sum(outcome.counts.values())


def is_beyond_chance(outcome: Outcome) -> bool:
    """Whether the whole interval lies above always answering the most frequent class."""
    return outcome.quality.interval[0] > baseline(outcome)[1]


def result_words(outcome: Outcome) -> str:
    """Share right with its interval, beside the trivial baseline; Markdown."""
    quality, (name, share) = outcome.quality, baseline(outcome)
    low, high = (percent(each) for each in quality.interval)
    right = round(quality.top1 * quality.n)
    even = len(set(outcome.counts.values())) == 1
    which = "one class" if even else f"“{plain(name)}”, the most frequent class,"
    return (f"**Right for {right} of {quality.n} pictures: {percent(quality.top1)}** (95 % "
            f"interval {low} to {high}). Always answering {which} would be right for "
            f"{percent(share)}.")


def confusion_words(outcome: Outcome) -> list[str]:
    """Which class is taken for which, worst first; Markdown."""
    if not outcome.quality.worst:
        return ["No picture was taken for another class."]
    return [
        f"{plain(row['name'])}: {round(row['right'] * row['n'])} of {row['n']} right; taken for "
        f"{plain(row['taken_for'])} {times(row['taken'])}."
        for row in outcome.quality.worst
    ]


def times(count: int) -> str:
    """E.g. "twice"."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def cautions(outcome: Outcome) -> list[str]:
    """What weakens the number, one sentence each; Markdown."""
    words = []
    if few := [name for name, count in outcome.counts.items() if count < FEW]:
        names = ", ".join(plain(name) for name in few)
        words.append(f"Fewer than {FEW} pictures: {names}. Their share right says little.")
    if outcome.alike:
        words.append(f"{outcome.alike} pair{'s' if outcome.alike > 1 else ''} of pictures look the "
                     "same, which makes the number look better than it is.")  # fmt: skip
    if outcome.unfamiliar:
        words.append(f"{outcome.unfamiliar} of {outcome.quality.n} pictures are unlike those that "
                     "the model was trained on; what it makes of them may hold less.")  # fmt: skip
    return words


# ---- the file ------------------------------------------------------------------------------------


def file_of(outcome: Outcome, model: cdam.VisionModel) -> bytes:
    """The safetensors file with its card; runs in a thread without a page."""
    name, share = baseline(outcome)
    card = head.as_card(
        outcome.quality, label=outcome.label, backbone=outcome.base, pictures=outcome.counts,
        measured="cross-validated on the pictures it was taught with",
        baseline={"always": name, "top1": share}, simulated=model.simulated,
    )  # fmt: skip
    with slot():
        return head.to_bytes(model, card)
