"""A visitor's own classes: their example pictures, changed by whole steps that can be undone.

Pictures are kept small and in memory only, for this visit; nothing is written anywhere. A card
never changes: every step puts new cards in the place of old ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import streamlit as st

from pages import _state
from pages._concepts_desk import Example, clean_name

MIN_CLASSES, MAX_CLASSES = 2, 12
MIN_EXAMPLES, MAX_EXAMPLES = 3, 24  # per class
MAX_PICTURES = 160  # of all classes: of 336 x 336 pixels that is 54 MB
MAX_UNDO = 10
KEPT = ("cards", "undo", "fresh", "editing", "problems", "latents", "asked")
RESULTS = "teach"  # how the keys of results begin


@dataclass(frozen=True, eq=False)
class Card:
    """One class.

    Attributes:
        id: number, never used twice in a visit.
        name: shown to people, and the name of the class.
        examples: pictures of it.
    """

    id: int
    name: str
    examples: tuple[Example, ...] = ()


# ---- the desk ------------------------------------------------------------------------------------


def cards() -> tuple[Card, ...]:
    """The visitor's classes; at first two without pictures."""
    if "teach.cards" not in st.session_state:
        st.session_state["teach.cards"] = (Card(0, "Class 1"), Card(1, "Class 2"))
        st.session_state["teach.fresh"] = 2
        st.session_state["teach.undo"] = []
    return st.session_state["teach.cards"]


def card(number: int) -> Card | None:
    """The card of that number, or None."""
    return next((each for each in cards() if each.id == number), None)


def editing() -> Card | None:
    """The class that pictures are given to; None where all are deleted."""
    chosen = card(st.session_state.get("teach.editing", -1))
    return chosen or next(iter(cards()), None)


def edit(number: int) -> None:
    """Give pictures to this class from now on."""
    st.session_state["teach.editing"] = number


def undo_label() -> str:
    """What the last step did; empty where there is nothing to undo."""
    steps = st.session_state.get("teach.undo")
    return steps[-1][1] if steps else ""


def undo() -> None:
    """Go back by one step."""
    if st.session_state.get("teach.undo"):
        st.session_state["teach.cards"], _ = st.session_state["teach.undo"].pop()
        for each in cards():  # the inputs of names follow
            st.session_state.pop(f"teach.name.{each.id}", None)


def forget() -> None:
    """Forget every class and picture, and every model that was made of them."""
    if job := st.session_state.get("job"):
        job.stop()
    for name in KEPT:
        st.session_state.pop(f"teach.{name}", None)
    _state.forget_results(RESULTS)
    _state.forget_taught()


def _put(changed: tuple[Card, ...], label: str) -> None:
    before = cards()
    steps = [*st.session_state["teach.undo"], (before, label)][-MAX_UNDO:]
    while len(steps) > 1 and _pictures_in(steps) > 2 * MAX_PICTURES:
        steps.pop(0)
    st.session_state["teach.undo"] = steps
    st.session_state["teach.cards"] = changed


def _pictures_in(steps: Sequence[tuple[tuple[Card, ...], str]]) -> int:
    """How many pictures are kept only so that steps can be taken back."""
    return len({id(example) for held, _ in steps for card in held for example in card.examples})


# ---- what is missing -----------------------------------------------------------------------------


def missing() -> list[str]:
    """What is needed before anything can be taught, one sentence each."""
    words = []
    if len(cards()) < MIN_CLASSES:
        words.append(f"At least {MIN_CLASSES} classes are needed.")
    for each in cards():
        if (count := len(each.examples)) < MIN_EXAMPLES:
            more = MIN_EXAMPLES - count
            words.append(f"{each.name} needs {more} more picture{'s' if more > 1 else ''}.")
    return words


# ---- steps ---------------------------------------------------------------------------------------


def add_class() -> None:
    """A new class without pictures."""
    if len(cards()) < MAX_CLASSES:
        new = _new_card(f"Class {len(cards()) + 1}", ())
        _put((*cards(), new), "the new class")
        edit(new.id)


def add(given: Mapping[str, Sequence[Example]], number: int | None = None) -> list[str]:
    """Give pictures to classes, in one step; a class is found by its name, or made.

    Args:
        given: name of a class -> pictures.
        number: of the class that all of them go to, whatever their names.

    Returns:
        What was left out, one sentence each.
    """
    changed, problems, added = list(cards()), [], 0
    if number is None:  # classes that have neither pictures nor a name of their own make room
        changed = [each for each in changed if each.examples or not _is_unnamed(each)]
    for name, examples in given.items():
        name = clean_name(name) or "Class"
        place = next((i for i, each in enumerate(changed)
                      if (each.id == number if number is not None else each.name == name)), None)
        if place is None and len(changed) >= MAX_CLASSES:
            problems.append(f"{name} was left out: there is room for {MAX_CLASSES} classes.")
            continue
        if place is None:
            changed.append(_new_card(name, ()))
            place = len(changed) - 1
        taken, words = _fitting(changed, place, examples)
        changed[place] = replace(changed[place], examples=changed[place].examples + taken)
        added, problems = added + len(taken), problems + words
    if added:
        _put(tuple(changed), f"adding {added} picture{'s' if added > 1 else ''}")
    return problems


def _is_unnamed(card: Card) -> bool:
    return card.name.startswith("Class ") and card.name[6:].isdigit()


def _fitting(
    present: Sequence[Card], place: int, examples: Sequence[Example]
) -> tuple[tuple[Example, ...], list[str]]:
    """The pictures that a class can take, and what was left out."""
    own = present[place]
    here = {each.digest for each in own.examples}
    elsewhere = {each.digest for card in present if card is not own for each in card.examples}
    unique = {each.digest: each for each in examples}
    fresh = {d: each for d, each in unique.items() if d not in here}
    wanted = [each for d, each in fresh.items() if d not in elsewhere]
    room = MAX_PICTURES - sum(len(each.examples) for each in present)
    fits = wanted[: MAX_EXAMPLES - len(own.examples)]
    taken = tuple(fits[:room])
    words = []
    for count, why in (
        (len(examples) - len(fresh), f"already among those of {own.name}"),
        (len(fresh) - len(wanted), "in another class already, and a picture can teach only one"),
        (len(wanted) - len(fits), f"too many: a class holds at most {MAX_EXAMPLES} pictures"),
        (len(fits) - len(taken), f"too many: there is room for {MAX_PICTURES} pictures in all"),
    ):
        if count:
            words.append(f"{count} picture{'s were' if count > 1 else ' was'} left out of "
                         f"{own.name}: {why}.")  # fmt: skip
    return taken, words


def remove_example(number: int, position: int, digest_start: str) -> None:
    """Remove a picture, if it is still the one that the visitor saw there."""
    old = card(number)
    if old is None or not 0 <= position < len(old.examples):
        return
    if old.examples[position].digest.startswith(digest_start):
        left = old.examples[:position] + old.examples[position + 1 :]
        _exchange(replace(old, examples=left), f"removing picture {position + 1}")


def rename(number: int, name: str) -> str:
    """Give a class another name; returns why not, in one sentence, or nothing."""
    old, name = card(number), clean_name(name)
    if old is None or not name or name == old.name:
        return ""
    if any(each.name.casefold() == name.casefold() for each in cards() if each.id != number):
        return f"Another class is called {name} already; please choose another name."
    _exchange(replace(old, name=name), "the new name")
    return ""


def delete(number: int) -> None:
    """Take a class off the desk."""
    if old := card(number):
        _put(tuple(each for each in cards() if each.id != number), f"deleting {old.name}")


def _exchange(new: Card, label: str) -> None:
    _put(tuple(new if each.id == new.id else each for each in cards()), label)


def _new_card(name: str, examples: tuple[Example, ...]) -> Card:
    cards()
    number = st.session_state["teach.fresh"]
    st.session_state["teach.fresh"] = number + 1
    taken = {each.name.casefold() for each in cards()}
    candidates = (name, *(f"{name} ({n})" for n in range(2, 3 + len(taken))))
    unique = next(each for each in candidates if each.casefold() not in taken)
    return Card(number, unique, examples)
