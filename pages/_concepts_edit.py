"""Making a concept: its cards, the three ways to add examples, and the words on how good it is."""

from functools import cache

import streamlit as st

import cdam_core as cdam
from cdam_core.concepts import FEW_EXAMPLES, reliability_words
from pages import _concepts_desk as desk
from pages import _concepts_samples, _concepts_viewer, _state
from pages._concepts_panels import small_map, value_text
from pages._concepts_viewer import Thumb
from pages._panels import Look, data_url
from pages._pickers import FILE_TYPES, _thumbnail
from pages._words import plain

WAYS = {"region": "A region of a picture", "samples": "Sample pictures", "files": "Your own files"}
CROP_SIDE = 448  # pixels of the picture to draw on
NEW = "new"


# ---- which concept -------------------------------------------------------------------------------


def editing() -> int:
    """Number of the concept being made; of a new one, the number that it will have."""
    number = st.session_state.get("concepts.editing")
    if number is None or desk.card(number) is None:
        number = st.session_state["concepts.editing"] = desk.fresh_number()
    return number


def show_cards(model: cdam.VisionModel) -> None:
    """All concepts as cards, and one for a new concept."""
    number = editing()
    items = [
        Thumb(
            str(card.id),
            f"{card.name}: {count_text(card)}",
            tuple(example.thumbnail for example in card.examples[:4]),
            card.name,
            note_of(card, model),
            blank="from a file" if card.loaded else "no examples yet",
        )
        for card in desk.cards()
    ]
    items.append(Thumb(NEW, "New concept", (), "New concept", "draw, pick or upload", blank="+"))
    chosen = str(number) if desk.card(number) else NEW
    _concepts_viewer.thumbs(items, "Concepts", "concepts.deck", "choice", "cards", chosen=chosen,
                            on_choose=_on_card)  # fmt: skip


def _on_card() -> None:
    chosen = str(st.session_state["concepts.deck"]["choose"])
    known = {str(card.id): card.id for card in desk.cards()}
    st.session_state["concepts.editing"] = known.get(chosen, desk.fresh_number())


def count_text(card: desk.Card) -> str:
    """E.g. "10 examples"."""
    count = card.loaded.count if card.loaded else len(card.examples)
    return f"{count} example{'' if count == 1 else 's'}"


def note_of(card: desk.Card, model: cdam.VisionModel) -> str:
    """What is printed below a card's name."""
    return count_text(card) if is_usable(card, model) else "made for another model"


def is_usable(card: desk.Card, model: cdam.VisionModel) -> bool:
    """Whether a card is, or will be, a concept of this model."""
    return card.loaded is None or card.loaded.weights_sha256 == model.weights_sha256


# ---- the editor ----------------------------------------------------------------------------------


def show_editor(model_id: str, picture: _state.Picture, look: Look) -> None:
    """The concept being made: examples in on the left, what it has become on the right."""
    number = editing()
    with st.container(border=True):
        show_problems()
        left, right = st.columns([1.2, 1], gap="medium")
        with left:
            add_examples(number, model_id, picture)
        with right:
            show_concept(number, model_id, picture, look)


def show_problems() -> None:
    """What the last step left out, once."""
    if problems := st.session_state.pop("concepts.problems", None):
        st.warning("  \n".join(plain(problem) for problem in problems))


def _add(number: int, examples: list[desk.Example], problems: list[str] | None = None) -> None:
    """Add examples to the concept being made; a new concept is shown at once."""
    is_new = desk.card(number) is None
    name = str(st.session_state.get(f"concepts.name.{number}", ""))
    found = desk.add_examples(number, examples, name)
    st.session_state["concepts.problems"] = [*(problems or []), *found]
    if is_new and desk.card(number):
        st.session_state["concepts.editing"] = number
        st.session_state.pop(f"concepts.name.{number}", None)
        show_first(number)


def show_first(number: int) -> None:
    """Ask for a concept to stand first among those whose maps are shown, from the next run on."""
    st.session_state["concepts.first"] = number


def add_examples(number: int, model_id: str, picture: _state.Picture | None) -> None:
    """Three ways to add examples."""
    card = desk.card(number)
    if card is not None and card.loaded is not None:
        st.info("This concept came from a file. Its example pictures stayed with its maker, so it "
                "cannot be changed here.")  # fmt: skip
        return
    st.session_state.setdefault("concepts.way", "region")
    way = st.segmented_control(
        "Add examples from", list(WAYS), format_func=WAYS.get, key="concepts.way", required=True,
        wrap=True,
    )
    if way == "samples":
        pick_samples(number)
    elif way == "files":
        upload(number, model_id)
    else:
        draw_region(number, picture)


# ---- a region ------------------------------------------------------------------------------------


def draw_region(number: int, target: _state.Picture | None) -> None:
    """Draw a box on a picture; every box becomes an example at once."""
    source = crop_source(target)
    if source is None:
        st.info("Open a picture first.")
        return
    show = source.image.copy()
    show.thumbnail((CROP_SIDE, CROP_SIDE))
    st.caption("Draw a box around what you mean. It becomes an example at once; Undo removes it.")
    by_numbers = st.session_state.get("concepts.numbers")
    planned = region_by_numbers(number, source) if by_numbers else None

    def on_box() -> None:
        _take_region(number, source, st.session_state["concepts.crop"]["box"])

    _concepts_viewer.crop(data_url(show), "Picture to draw a box on; the numbers below do the same "
                          "by keyboard", "concepts.crop", on_box, planned)  # fmt: skip
    st.toggle("Give the box by numbers", key="concepts.numbers")
    choose_source(target)


def region_by_numbers(number: int, source: _state.Picture) -> tuple[float, float, float, float]:
    """The box as four numbers, for keyboards and screen readers."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        left, top, width, height = (
            st.number_input(label, 0, 100, preset, 1, key=f"concepts.box.{label}", width=92)
            for label, preset in (("Left %", 25), ("Top %", 25), ("Width %", 50), ("Height %", 50))
        )
        box = (left / 100, top / 100, min(1.0, (left + width) / 100),
               min(1.0, (top + height) / 100))  # fmt: skip
        st.button("Add this box", on_click=_take_region, args=(number, source, box))
    return box


def _take_region(number: int, source: _state.Picture, box) -> None:
    try:
        region = desk.crop(source.image, box)
    except (TypeError, ValueError) as error:
        message = str(error) if isinstance(error, cdam.BadImage) else "Please draw the box again."
        st.session_state["concepts.problems"] = [message]
        return
    title = f"region of {source.sample.title}" if source.sample else "region of your picture"
    _add(number, [desk.make_example(region, title)])


def crop_source(target: _state.Picture | None) -> _state.Picture | None:
    """The picture to draw on: one chosen below, else the one whose maps are shown."""
    scenes = _concepts_samples.scenes()
    chosen = st.session_state.get("concepts.source")
    return _state.picture_of(scenes[chosen]) if chosen in scenes else target


def choose_source(target: _state.Picture | None) -> None:
    """Other pictures to draw on."""
    scenes = _concepts_samples.scenes()
    items = [Thumb(name, scene.title, (thumbnail(name),)) for name, scene in scenes.items()]
    at_target = next((name for name, scene in scenes.items()
                      if target is not None and scene is target.sample), "")  # fmt: skip
    chosen = st.session_state.get("concepts.source") or at_target
    _concepts_viewer.thumbs(items, "Pictures to draw on", "concepts.sources", "choice", "small",
                            "Other pictures to draw on", chosen, on_choose=_on_source)  # fmt: skip


def _on_source() -> None:
    st.session_state["concepts.source"] = str(st.session_state["concepts.sources"]["choose"])


@cache
def thumbnail(scene: str) -> str:
    """Data URL of a shipped scene, small."""
    return _thumbnail(_concepts_samples.scenes()[scene])


# ---- sample pictures -----------------------------------------------------------------------------


def pick_samples(number: int) -> None:
    """Example pictures that ship with the app: a click adds one."""
    series = _concepts_samples.series()
    if not series:
        st.info("No sample pictures are installed.")
        return
    preset = next((row.id for row in series.values() if not row.ready), next(iter(series)))
    st.session_state.setdefault("concepts.series", preset)
    row = series[st.segmented_control(
        "Pictures of", list(series), key="concepts.series", required=True, wrap=True,
        format_func=lambda name: series[name].name,
    )]  # fmt: skip
    examples = desk.shipped_examples(row)
    card = desk.card(number)
    used = {example.digest for example in card.examples} if card else set()
    items = [
        Thumb(str(i), example.title, (example.thumbnail,), say=f"Add {example.title}",
              note="added" if example.digest in used else "")
        for i, example in enumerate(examples)
    ]  # fmt: skip

    def on_pick() -> None:
        position = int(st.session_state["concepts.picks"]["choose"])
        if 0 <= position < len(examples):
            _add(number, [examples[position]])

    _concepts_viewer.thumbs(items, f"Sample pictures of {row.name}", "concepts.picks", "buttons",
                            "medium", on_choose=on_pick)  # fmt: skip
    st.button(f"Add all {len(examples)}", on_click=_add, args=(number, list(examples)))
    st.caption(plain(f"Drawings: {row.credits}."))


# ---- own files -----------------------------------------------------------------------------------


def upload(number: int, model_id: str) -> None:
    """Many files at once, each decoded, made small and dropped before the next."""
    key = f"concepts.files.{st.session_state.get('concepts.uploads', 0)}"
    files = st.file_uploader(
        "Pictures that show it", type=FILE_TYPES, accept_multiple_files=True, key=key,
        help="They are decoded in memory and kept at most 336 pixels long, for this visit only; "
        "the files are dropped at once.",
    )
    st.caption(
        f"At most {desk.MAX_EXAMPLES} examples per concept and {desk.MAX_CONCEPTS} concepts. "
        "Pictures that show little else make the clearest concept."
    )
    if not files:
        return
    card = desk.card(number)
    room = desk.MAX_EXAMPLES - (len(card.examples) if card else 0)
    bar = st.progress(0.0, "Reading the pictures …")
    examples, problems = desk.read_uploads(
        files, room, lambda done, total: bar.progress(0.5 * done / total, "Reading the pictures …")
    )
    for done, example in enumerate(examples, 1):
        _state.latent(model_id, example.image, example.digest, example.shipped)
        bar.progress(0.5 + 0.5 * done / len(examples), "Building the concept …")
    st.session_state["concepts.uploads"] = st.session_state.get("concepts.uploads", 0) + 1
    _add(number, examples, problems)
    st.rerun()


# ---- what it has become --------------------------------------------------------------------------


def show_concept(number: int, model_id: str, picture: _state.Picture, look: Look) -> None:
    """Name, examples, map, and how good the concept is."""
    card = desk.card(number)
    name_input(number, card)
    if card is None or not (card.examples or card.loaded):
        st.caption(f"No examples yet. A concept needs one, and {FEW_EXAMPLES} or more to be "
                   "reliable. The map appears with the first.")  # fmt: skip
    if card is not None and card.loaded is None:
        show_examples(card)
    with st.container(horizontal=True):
        label = desk.undo_label()
        st.button("Undo", icon=":material/undo:", on_click=desk.undo, disabled=not label,
                  help=plain(f"Takes back {label}.") if label else None)  # fmt: skip
        if card is not None:
            st.button("Delete", icon=":material/delete:", on_click=_delete, args=(number,))
    has_content = card is not None and (card.examples or card.loaded)
    if has_content and is_usable(card, _state.get_model(model_id)):
        show_result(desk.concept(model_id, card), model_id, picture, look)


def show_result(
    concept: cdam.Concept, model_id: str, picture: _state.Picture, look: Look
) -> None:
    """The map on the present picture, and the report in words."""
    explanation = _state.explain_concepts(model_id, picture, [concept])
    source = small_map(_state.prepare(model_id, picture), explanation, 0, look)
    value = value_text(explanation.values[0])
    item = Thumb("", f"Map of {concept.name}", (source,), "Its map now", f"similarity {value}",
                 f"Map of {concept.name}, similarity {value}")  # fmt: skip
    _concepts_viewer.thumbs([item], "The map of this concept", "concepts.result", "list", "large")
    if words := reliability_words(concept.report):
        st.caption("  \n".join(plain(sentence) for sentence in words))


def _delete(number: int) -> None:
    desk.delete(number)
    st.session_state.pop("concepts.editing", None)


def name_input(number: int, card: desk.Card | None) -> None:
    """The concept's name."""
    key = f"concepts.name.{number}"
    if card is not None and key not in st.session_state:
        st.session_state[key] = card.name

    def on_name() -> None:
        desk.rename(number, st.session_state[key])
        if desk.card(number):
            st.session_state[key] = desk.card(number).name

    st.text_input("Name", key=key, max_chars=desk.MAX_NAME, on_change=on_name,
                  placeholder=f"Concept {number + 1}")  # fmt: skip


def show_examples(card: desk.Card) -> None:
    """Counter, thumbnails with crosses."""
    items = [
        Thumb(f"{position}.{example.digest[:16]}", f"example {position + 1}", (example.thumbnail,),
              say=f"Example {position + 1}: {example.title}")
        for position, example in enumerate(card.examples)
    ]  # fmt: skip

    def on_remove() -> None:
        position, _, start = str(st.session_state["concepts.examples"]["remove"]).partition(".")
        if position.isdigit():
            desk.remove_example(card.id, int(position), start)

    count = f"{count_text(card)} (at most {desk.MAX_EXAMPLES})"
    _concepts_viewer.thumbs(items, "Examples", "concepts.examples", "list", "medium", count,
                            removable=True, on_remove=on_remove)  # fmt: skip
