"""The pictures of the page "Several pictures", and what is computed of each.

Files stay as they came, in this visit's memory, until they are forgotten; each is decoded when its
turn comes. Their names are used for the names in the visitor's own ZIP, and nowhere else.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import streamlit as st

import cdam_core as cdam
from cdam_core import archive, series
from cdam_core.provenance import Drawing, file_stem
from pages import _state
from pages._methods_jobs import Failed, Task
from pages._words import file_name

MAX_PICTURES = 20
MAX_BYTES = 60 * 2**20  # of all files together
KEY = "several.files"


@dataclass(frozen=True, eq=False)
class Item:
    """One uploaded file.

    Attributes:
        name: for the names of files, unique.
        content: its bytes.
        digest: SHA-256 of them.
    """

    name: str
    content: bytes
    digest: str


@dataclass(frozen=True, eq=False)
class Answer:
    """What came out for one picture.

    Attributes:
        file: name of its ZIP.
        content: the ZIP.
        rows: lines of the table.
        unfamiliar: whether it is unlike what the model was trained on; None: not known.
    """

    file: str
    content: bytes
    rows: tuple[series.Row, ...]
    unfamiliar: bool | None


# ---- the files -----------------------------------------------------------------------------------


def items() -> list[Item]:
    """The visitor's files, in the order they came."""
    return st.session_state.get(KEY, [])


def take(uploaded: Sequence) -> str:
    """Keep new files, drop the server's copies; returns what did not fit, in words."""
    kept, left_out = list(items()), 0
    for file in uploaded:
        content = file.getvalue()
        size = sum(len(item.content) for item in kept) + len(content)
        if len(kept) < MAX_PICTURES and size <= MAX_BYTES:
            kept.append(_item(file.name, content, {item.name for item in kept}))
        else:
            left_out += 1
        _state.drop_raw_file(file)
    st.session_state[KEY] = kept
    st.session_state["several.uploads"] = st.session_state.get("several.uploads", 0) + 1
    if not left_out:
        return ""
    return (f"{left_out} files were left out: there is room for {MAX_PICTURES} pictures and "
            f"{MAX_BYTES // 2**20} MB. The command line has no such limit.")  # fmt: skip


def _item(name: str, content: bytes, taken: set[str]) -> Item:
    stem = file_name([PurePath(name).stem], "x").removesuffix(".x") or "picture"
    unique, copies = stem, 1
    while unique.casefold() in {each.casefold() for each in taken}:
        copies += 1
        unique = f"{stem}-{copies}"
    return Item(unique, content, hashlib.sha256(content).hexdigest())


def forget() -> None:
    """Remove the files and everything computed from them."""
    for name in (KEY, "several.asked", "several.problem"):
        st.session_state.pop(name, None)
    _state.forget_results("several")


# ---- the work ------------------------------------------------------------------------------------


def task(model_id: str, item: Item, number: int, targets: tuple[int, ...], method: str) -> Task:
    """The work on one picture."""
    model = _state.get_model(model_id)
    question = series.Question(targets, method, drawing=Drawing())

    def work(on_step) -> Answer:
        image = cdam.limit_side(cdam.open_image(item.content), _state.LONGEST_SIDE)
        encoding = model.encode_image(image)
        on_step(1, 2)
        explanation, content = series.answer(model, image, question, encoding)
        name = f"{file_stem([explanation], item.name)}.zip"
        rows = series.rows_of(item.name, image, explanation, name)
        return Answer(name, content, tuple(rows), model.is_unfamiliar(encoding))

    key = ("several", model_id, item.digest, item.name, targets, method)
    return Task(key, f"picture {number}", work)


def table(found: Sequence[tuple[Item, Answer | Failed]]) -> bytes:
    """All lines as CSV, with those of pictures that could not be explained."""
    rows: list[series.Row] = []
    for item, result in found:
        rows += result.rows if isinstance(result, Answer) else [
            series.left_out(item.name, "unreadable")]  # fmt: skip
    return series.table(rows).encode()


def together(found: Sequence[tuple[Item, Answer | Failed]]) -> bytes:
    """One ZIP that holds a ZIP for every picture, and the table."""
    zips = {result.file: result.content for _, result in found if isinstance(result, Answer)}
    return archive.pack(zips | {"table.csv": table(found)})
