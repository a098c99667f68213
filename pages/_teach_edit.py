"""The classes as cards, and the editor: pictures in on the left, what a class has on the right."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from pages import _attention_sets, _concepts_viewer, _state, _teach_read
from pages import _teach_desk as desk
from pages._concepts_desk import EXAMPLE_SIDE, MAX_NAME, shipped_examples
from pages._concepts_samples import series
from pages._concepts_viewer import Thumb
from pages._pickers import FILE_TYPES
from pages._words import plain

WAYS = {"files": "Your own files", "samples": "Sample pictures", "zip": "A ZIP of folders",
        "folder": "A folder of this server"}  # fmt: skip
NEW = "new"
READING = "Reading the pictures …"


# ---- which class ---------------------------------------------------------------------------------


def show_cards() -> None:
    """All classes, and one more."""
    current = desk.editing()
    items = [
        Thumb(str(each.id), f"{each.name}: {count_text(each)}",
              tuple(example.thumbnail for example in each.examples[:4]), each.name,
              count_text(each), blank="no pictures yet")
        for each in desk.cards()
    ]  # fmt: skip
    if len(items) < desk.MAX_CLASSES:
        items.append(Thumb(NEW, "Add a class", (), "Add a class", "", blank="+"))
    _concepts_viewer.thumbs(items, "Classes", "teach.deck", "choice", "cards",
                            chosen=str(current.id) if current else "", on_choose=_on_card)


def _on_card() -> None:
    chosen = str(st.session_state["teach.deck"]["choose"])
    if chosen == NEW:
        desk.add_class()
    elif chosen.isdigit():
        desk.edit(int(chosen))


def count_text(card: desk.Card) -> str:
    """E.g. "2 of at least 3 pictures"."""
    count = len(card.examples)
    if count < desk.MIN_EXAMPLES:
        return f"{count} of at least {desk.MIN_EXAMPLES} pictures"
    return f"{count} pictures"


# ---- the editor ----------------------------------------------------------------------------------


def show_editor() -> None:
    """The class that is chosen."""
    card = desk.editing()
    with st.container(border=True):
        show_problems()
        left, right = st.columns([1.2, 1], gap="medium")
        with left:
            add_pictures(card)
        with right:
            if card is not None:
                name_input(card)
                show_examples(card)
            show_steps(card)


def show_problems() -> None:
    """What the last step left out, once."""
    if problems := st.session_state.pop("teach.problems", None):
        st.warning("  \n".join(plain(problem) for problem in problems))


def show_steps(card: desk.Card | None) -> None:
    """Undo, delete."""
    with st.container(horizontal=True):
        label = desk.undo_label()
        st.button("Undo", icon=":material/undo:", on_click=desk.undo, disabled=not label,
                  key="teach.undo_button", help=plain(f"Takes back {label}.") if label else None)
        if card is not None:
            st.button("Delete this class", icon=":material/delete:", on_click=desk.delete,
                      args=(card.id,), key="teach.delete")  # fmt: skip


def name_input(card: desk.Card) -> None:
    """The name of the class."""
    key = f"teach.name.{card.id}"
    if key not in st.session_state:
        st.session_state[key] = card.name

    def on_name() -> None:
        if problem := desk.rename(card.id, st.session_state[key]):
            st.session_state["teach.problems"] = [problem]
        st.session_state[key] = desk.card(card.id).name

    st.text_input("Name of the class", key=key, max_chars=MAX_NAME, on_change=on_name)


def show_examples(card: desk.Card) -> None:
    """Thumbnails with crosses."""
    if not card.examples:
        st.caption(f"No pictures yet. A class needs {desk.MIN_EXAMPLES}; with ten or more it is "
                   "known how good it is.")  # fmt: skip
        return
    items = [
        Thumb(f"{position}.{example.digest[:16]}", f"picture {position + 1}", (example.thumbnail,),
              say=f"Picture {position + 1}: {example.title}")
        for position, example in enumerate(card.examples)
    ]  # fmt: skip

    def on_remove() -> None:
        position, _, start = str(st.session_state["teach.examples"]["remove"]).partition(".")
        if position.isdigit():
            desk.remove_example(card.id, int(position), start)

    title = f"{len(card.examples)} pictures (at most {desk.MAX_EXAMPLES})"
    _concepts_viewer.thumbs(items, f"Pictures of {card.name}", "teach.examples", "list", "medium",
                            title, removable=True, on_remove=on_remove)  # fmt: skip


# ---- pictures in ---------------------------------------------------------------------------------


def add_pictures(card: desk.Card | None) -> None:
    """The ways to add pictures."""
    allowed = _attention_sets.folders()
    ways = [way for way in WAYS if (way != "folder" or allowed) and (way != "samples" or series())]
    if st.session_state.get("teach.way") not in ways:
        st.session_state["teach.way"] = ways[0]
    way = st.segmented_control("Add pictures from", ways, format_func=WAYS.get, key="teach.way",
                               required=True, wrap=True)  # fmt: skip
    if way == "zip":
        give_zip()
    elif way == "samples":
        pick_samples()
    elif way == "folder":
        pick_folder(list(allowed))
    elif card is not None:
        give_files(card)
    else:
        st.caption("Add a class first.")


def give_files(card: desk.Card) -> None:
    """Many files at once for one class."""
    files = st.file_uploader(
        f"Pictures of {plain(card.name)}", type=FILE_TYPES, accept_multiple_files=True,
        key=_upload_key("files"),
        help=f"They are decoded in memory and kept at most {EXAMPLE_SIDE} pixels long, for this "
        "visit only; the files are dropped at once.",
    )  # fmt: skip
    st.caption(
        f"{desk.MIN_CLASSES} to {desk.MAX_CLASSES} classes of {desk.MIN_EXAMPLES} to "
        f"{desk.MAX_EXAMPLES} pictures, {desk.MAX_PICTURES} in all. Vary what should not matter "
        "(background, light, camera) within every class, or the head learns that instead."
    )
    if files:
        _take(partial(_teach_read.uploads, files, card.name), card.id)


def give_zip() -> None:
    """All classes at once."""
    file = st.file_uploader(
        "A ZIP with a folder of pictures per class", type=["zip"], key=_upload_key("zip"),
        help="It is read in memory; nothing is unpacked to disk. The folder that holds a picture "
        "is its class.",
    )  # fmt: skip
    if file is not None:
        content = file.getvalue()
        _drop(file)
        _take(partial(_teach_read.from_zip, content))


def pick_folder(labels: list[str]) -> None:
    """All classes at once, of a folder on the server."""
    label = st.selectbox("Folder", labels, key="teach.folder")
    st.caption("Each folder in it is a class; pictures that lie in it directly are a class of its "
               "own name.")  # fmt: skip
    if st.button("Read this folder", key="teach.read_folder"):
        _take(partial(_teach_read.from_folder, label))


def pick_samples() -> None:
    """Pictures that ship with the app: a series becomes a class."""
    rows = series()
    chosen = st.multiselect("Series", list(rows), key="teach.series",
                            format_func=lambda name: rows[name].name,
                            placeholder="Choose two or more")  # fmt: skip

    def on_add() -> None:
        given = {rows[name].name: shipped_examples(rows[name]) for name in chosen}
        st.session_state["teach.problems"] = desk.add(given)
        st.session_state["teach.series"] = []

    st.button("Add as classes", on_click=on_add, disabled=not chosen, key="teach.add_samples")
    st.caption("Ten drawings each, of things that the bundled model has no output for.")


def _upload_key(kind: str) -> str:
    return f"teach.{kind}.{st.session_state.get('teach.uploads', 0)}"


def _drop(file) -> None:
    _state.drop_raw_file(file)


def _take(read: Callable, number: int | None = None) -> None:
    """Read pictures with a progress bar, and give them to their classes."""
    bar = st.progress(0.0, READING)
    found, problems = read(lambda done, total: bar.progress(done / total, READING))
    found = {name: examples for name, examples in found.items() if examples}
    st.session_state["teach.problems"] = problems + desk.add(found, number)
    st.session_state["teach.uploads"] = st.session_state.get("teach.uploads", 0) + 1
    st.rerun()
