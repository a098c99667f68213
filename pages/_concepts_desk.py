"""A visitor's concepts: cards of example pictures, changed by whole steps that can be undone.

Examples are kept small and in memory only, for this visit. A card never changes: every step puts
new cards in the place of old ones, so undoing is going back to the cards of before.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import streamlit as st
from PIL import Image, ImageOps

import cdam_core as cdam
from cdam_core.images import digest, place
from pages import _state
from pages._concepts_samples import Series, series
from pages._panels import data_url
from pages._pickers import THUMBNAIL_SIDE
from pages._settings import settings

MAX_CONCEPTS = 8
MAX_EXAMPLES = settings().uploads.concept_images  # per concept
EXAMPLE_SIDE = 336  # pixels of an example that are kept: as much as the scenes model looks at
MIN_CROP = 16  # pixels of the picture
MAX_UNDO = 10
MAX_NAME = 60  # characters


@dataclass(frozen=True, eq=False)
class Example:
    """One example picture.

    Attributes:
        image: PIL RGB, at most ``EXAMPLE_SIDE`` pixels long.
        digest: SHA-256 of its pixels.
        title: where it comes from, in words; never a file name.
        thumbnail: data URL of a small square of it.
        shipped: one of the app's own pictures, so that what is computed from it may be shared.
    """

    image: Image.Image
    digest: str
    title: str
    thumbnail: str
    shipped: bool = False


@dataclass(frozen=True, eq=False)
class Card:
    """One concept on the visitor's desk.

    Attributes:
        id: number, never used twice in a visit.
        name: shown to people.
        examples: what it is made of.
        loaded: the concept itself where it came from a file, without examples.
    """

    id: int
    name: str
    examples: tuple[Example, ...] = ()
    loaded: cdam.Concept | None = None


# ---- the desk ------------------------------------------------------------------------------------


def cards() -> tuple[Card, ...]:
    """The visitor's cards; at first those of the ready-made concepts."""
    if "concepts.cards" not in st.session_state:
        ready = [row for row in series().values() if row.ready]
        made = tuple(Card(i, row.name, shipped_examples(row)) for i, row in enumerate(ready))
        st.session_state["concepts.cards"] = made
        st.session_state["concepts.undo"] = []
        st.session_state["concepts.fresh"] = len(made)
    return st.session_state["concepts.cards"]


def card(number: int) -> Card | None:
    """The card of that number, or None."""
    return next((each for each in cards() if each.id == number), None)


def fresh_number() -> int:
    """The number of the next new card."""
    cards()
    return st.session_state["concepts.fresh"]


def undo_label() -> str:
    """What the last step did; empty where there is nothing to undo."""
    steps = st.session_state.get("concepts.undo")
    return steps[-1][1] if steps else ""


def undo() -> None:
    """Go back by one step."""
    if st.session_state.get("concepts.undo"):
        st.session_state["concepts.cards"], _ = st.session_state["concepts.undo"].pop()
        for each in cards():  # the inputs of names follow
            st.session_state.pop(f"concepts.name.{each.id}", None)


def start_over() -> None:
    """Forget every example and concept of this visit."""
    for key in [key for key in st.session_state if str(key).startswith("concepts.")]:
        del st.session_state[key]
    _state.forget_examples()


def _put(changed: tuple[Card, ...], label: str) -> None:
    before = cards()
    st.session_state["concepts.undo"] = [*st.session_state["concepts.undo"], (before, label)][
        -MAX_UNDO:
    ]
    st.session_state["concepts.cards"] = changed


def concept(model_id: str, card: Card) -> cdam.Concept:
    """The dot-product concept of a card that this model can use."""
    if card.loaded is not None:
        return card.loaded.using("dot")
    return _state.concept_of(model_id, card.name, card.examples)


# ---- steps ---------------------------------------------------------------------------------------


def add_examples(number: int, examples: Sequence[Example], name: str = "") -> list[str]:
    """Add examples to a card, or make a card of them; returns what was left out, in words."""
    old = card(number)
    if old is None and len(cards()) >= MAX_CONCEPTS:
        return [f"There is room for {MAX_CONCEPTS} concepts; please delete one first."]
    known = {example.digest for example in (old.examples if old else ())}
    wanted = {each.digest: each for each in examples if each.digest not in known}
    room = MAX_EXAMPLES - len(known)
    added = tuple(list(wanted.values())[:room])
    problems = _what_is_left_out(len(examples), len(wanted), len(added))
    if added:
        count = f"{len(added)} example{'s' if len(added) > 1 else ''}"
        if old is None:
            new = Card(number, unused_name(name or f"Concept {number + 1}"), added)
            _put((*cards(), new), f"adding {count}")
            st.session_state["concepts.fresh"] = max(fresh_number(), number + 1)
        else:
            _exchange(replace(old, examples=old.examples + added), f"adding {count}")
    return problems


def _what_is_left_out(given: int, new: int, added: int) -> list[str]:
    problems = []
    if given > new:
        problems.append(f"{_pictures(given - new)} already among the examples.")
    if new > added:
        problems.append(f"{_pictures(new - added)} left out: a concept holds at most "
                        f"{MAX_EXAMPLES} examples.")  # fmt: skip
    return problems


def _pictures(count: int) -> str:
    return f"{count} picture was" if count == 1 else f"{count} pictures were"


def remove_example(number: int, position: int, digest_start: str) -> None:
    """Remove an example, if it is still the one that the visitor saw there."""
    old = card(number)
    if old is None or not 0 <= position < len(old.examples):
        return
    if old.examples[position].digest.startswith(digest_start):
        left = old.examples[:position] + old.examples[position + 1 :]
        _exchange(replace(old, examples=left), f"removing example {position + 1}")


def rename(number: int, name: str) -> None:
    """Give a card another name; an empty one changes nothing."""
    old = card(number)
    if old is not None and (name := clean_name(name)) and name != old.name:
        loaded = replace(old.loaded, name=name) if old.loaded else None
        _exchange(replace(old, name=unused_name(name), loaded=loaded), "the new name")


def delete(number: int) -> None:
    """Take a card off the desk."""
    if old := card(number):
        left = tuple(each for each in cards() if each.id != number)
        _put(left, f"deleting {old.name}")


def add_loaded(concepts: Sequence[cdam.Concept]) -> list[int]:
    """Put concepts of a file on the desk, as far as there is room; returns their numbers."""
    start = fresh_number()
    taken = concepts[: MAX_CONCEPTS - len(cards())]
    made: list[Card] = []
    for number, concept in enumerate(taken, start):
        name = unused_name(clean_name(concept.name) or f"Concept {number + 1}",
                           {each.name for each in made})  # fmt: skip
        made.append(Card(number, name, loaded=replace(concept, name=name)))
    if made:
        _put((*cards(), *made), f"opening {len(made)} concept{'s' if len(made) > 1 else ''}")
        st.session_state["concepts.fresh"] = start + len(made)
    return [each.id for each in made]


def _exchange(new: Card, label: str) -> None:
    _put(tuple(new if each.id == new.id else each for each in cards()), label)


# ---- names ---------------------------------------------------------------------------------------


def clean_name(name: str) -> str:
    """A visitor's name for a concept: one short line without invisible characters."""
    text = unicodedata.normalize("NFKC", str(name)[: 20 * MAX_NAME])
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    return " ".join(text.split())[:MAX_NAME].strip()


def unused_name(name: str, also_taken: set[str] | None = None) -> str:
    """The name, with a number where another card has it."""
    name = clean_name(name)
    taken = {each.name for each in cards()} | (also_taken or set())
    candidates = (f"{name} ({number})" for number in range(2, 2 + len(taken)))
    return name if name not in taken else next(each for each in candidates if each not in taken)


# ---- examples ------------------------------------------------------------------------------------


def make_example(image: Image.Image, title: str, shipped: bool = False) -> Example:
    """An example of a picture, made small in just the way in which the model would do it."""
    if max(image.size) > EXAMPLE_SIDE:
        frame = place(image.size[::-1], (EXAMPLE_SIDE, EXAMPLE_SIDE))
        image = image.resize(frame.resized[::-1], Image.Resampling.BICUBIC)
    small = ImageOps.fit(image, (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return Example(image, digest(image), title, data_url(small), shipped)


def crop(image: Image.Image, box: Sequence[float]) -> Image.Image:
    """A region of a picture.

    Args:
        image: PIL RGB.
        box: left, top, right, bottom as fractions of the picture; anything else is refused.

    Raises:
        BadImage: "too-small" or "too-elongated".
    """
    left, top, right, bottom = (min(1.0, max(0.0, float(each))) for each in box)
    width, height = image.size
    edges = (round(left * width), round(top * height), round(right * width), round(bottom * height))
    sides = sorted((edges[2] - edges[0], edges[3] - edges[1]))
    if sides[0] < MIN_CROP:
        raise cdam.BadImage("too-small", "The region is too small; please draw a box of at least "
                            f"{MIN_CROP} pixels of the picture.")  # fmt: skip
    if sides[1] > 20 * sides[0]:
        raise cdam.BadImage("too-elongated", "The region is too narrow; one side may be at most 20 "
                            "times the other.")  # fmt: skip
    return image.crop(edges)


def shipped_examples(row: Series) -> tuple[Example, ...]:
    """The example pictures of a series."""
    return _state.shipped_examples(row.id, lambda: tuple(
        make_example(cdam.open_image(file), f"{row.name}, sample {number}", shipped=True)
        for number, file in enumerate(row.files, 1)))  # fmt: skip


def read_uploads(
    uploaded: Sequence, room: int, on_step: Callable[[int, int], None]
) -> tuple[list[Example], list[str]]:
    """Decode uploaded files one by one and drop each raw file at once.

    Returns:
        The examples, and one sentence per file that is none, by its position, counted from 1.
    """
    examples, problems = [], []
    for position, file in enumerate(uploaded, 1):
        try:
            if len(examples) < room:
                image = _state.open_upload(file)
                examples.append(make_example(image, f"own picture {position}"))
            else:
                problems.append(f"File {position} was left out: a concept holds at most "
                                f"{MAX_EXAMPLES} examples.")  # fmt: skip
        except cdam.BadImage as error:
            problems.append(f"File {position}: {error}")
        finally:
            _state.drop_raw_file(file)
        on_step(position, len(uploaded))
    return examples, problems
