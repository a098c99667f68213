"""Keeping concepts: as a file of one's own, or in a folder that everyone on this server sees."""

from collections.abc import Sequence

import streamlit as st

import cdam_core as cdam
from cdam_core.concepts import MAX_FILE_BYTES, concepts_to_bytes, load_concepts
from pages import _concepts_desk as desk
from pages import _concepts_shared as shared
from pages import _state
from pages._concepts_edit import editing, show_first
from pages._words import file_name, plain

FILE = "application/octet-stream"


def show(model_id: str, model: cdam.VisionModel, cards: dict[int, desk.Card]) -> None:
    """Downloads, opening a file, and the shared folder where there is one."""
    with st.expander("Keep concepts", icon=":material/save:", key="concepts.keep",
                     on_change="rerun") as box:  # fmt: skip
        if not box.open:
            return  # nothing is built for a closed drawer
        concepts = {number: desk.concept(model_id, card) for number, card in cards.items()}
        st.caption(
            "A concept is kept for this visit. A file holds its vector, its name and how it was "
            "made, but none of its pictures; it fits this model only."
        )
        left, right = st.columns(2, gap="medium")
        with left:
            offer_files(model, concepts)
        with right:
            open_file(model)
        if shared.folder() is not None:
            show_folder(model, concepts)
        st.button("Forget all my concepts and examples", on_click=desk.start_over,
                  icon=":material/delete_sweep:")  # fmt: skip


def offer_files(model: cdam.VisionModel, concepts: dict[int, cdam.Concept]) -> None:
    """One concept, or all in one file."""
    if not concepts:
        st.caption("There is no concept to download yet.")
        return
    number = st.selectbox("Download", list(concepts), preset(concepts),
                          lambda n: concepts[n].name, key="concepts.download")  # fmt: skip
    model_name = model.id.removeprefix("timm:")
    with st.container(horizontal=True):
        st.download_button(
            "This concept", concepts[number].to_bytes, mime=FILE, on_click="ignore",
            file_name=file_name(["concept", model_name, concepts[number].name], "safetensors"),
            icon=":material/download:", key="concepts.download.one",
        )
        st.download_button(
            "All in one file", lambda: concepts_to_bytes(list(concepts.values())), mime=FILE,
            file_name=file_name(["concepts", model_name], "safetensors"), on_click="ignore",
            icon=":material/download:", key="concepts.download.all",
        )


def preset(concepts: dict[int, cdam.Concept]) -> int:
    """Position of the concept that is being made, else of the first."""
    numbers = list(concepts)
    return numbers.index(editing()) if editing() in concepts else 0


def open_file(model: cdam.VisionModel) -> None:
    """Concepts from a file."""
    key = f"concepts.open.{st.session_state.get('concepts.opened', 0)}"
    uploaded = st.file_uploader("Open a concept file", type=["safetensors"], key=key)
    if uploaded is not None:
        take_file(model, uploaded)
        st.rerun()
    if problem := st.session_state.get("concepts.file_problem"):
        st.error(plain(problem))


def take_file(model: cdam.VisionModel, uploaded) -> None:
    """Put the concepts of a file on the desk, or say why not; the raw file is dropped."""
    try:
        content = uploaded.getvalue() if uploaded.size <= MAX_FILE_BYTES else b""
        problem = put_on_desk(load_concepts(content, model))
    except cdam.BadConcept as error:
        problem = str(error)
    finally:
        _state.drop_raw_file(uploaded)
    st.session_state["concepts.opened"] = st.session_state.get("concepts.opened", 0) + 1
    st.session_state["concepts.file_problem"] = problem


def put_on_desk(concepts: Sequence[cdam.Concept]) -> str:
    """Add loaded concepts and show the first; returns what did not fit, in words."""
    numbers = desk.add_loaded(concepts)
    if numbers:
        st.session_state["concepts.editing"] = numbers[0]
        show_first(numbers[0])
    if len(numbers) < len(concepts):
        return (f"Only {len(numbers)} of the {len(concepts)} concepts were opened: there is room "
                f"for {desk.MAX_CONCEPTS}. Delete some and open the file again.")  # fmt: skip
    return ""


# ---- the shared folder ---------------------------------------------------------------------------


def show_folder(model: cdam.VisionModel, concepts: dict[int, cdam.Concept]) -> None:
    """Concepts that everyone on this server can use."""
    st.markdown("**Shared on this server**")
    found = {name: concept for name, concept in shared.saved().items()
             if concept.weights_sha256 == model.weights_sha256}  # fmt: skip
    left, right = st.columns(2, gap="medium")
    with left:
        if concepts:
            number = st.selectbox("Share with everyone here", list(concepts), preset(concepts),
                                  lambda n: concepts[n].name, key="concepts.share")  # fmt: skip
            st.button("Save to the shared folder", on_click=_share, args=(concepts[number],))
    with right:
        if not found:
            st.caption("Nothing for this model is in the shared folder yet.")
            return
        name = st.selectbox("Use a shared concept", list(found), key="concepts.use",
                            format_func=lambda file: label_of(file, found[file]))  # fmt: skip
        st.button("Use it", on_click=_use, args=(found[name],))


def label_of(file: str, concept: cdam.Concept) -> str:
    """Name and examples; the end of the file's name tells concepts of one name apart."""
    return f"{concept.name} ({concept.count} examples, {file.rsplit('-', 1)[-1][:8]})"


def _share(concept: cdam.Concept) -> None:
    st.session_state["concepts.file_problem"] = shared.save(concept) or ""


def _use(concept: cdam.Concept) -> None:
    st.session_state["concepts.file_problem"] = put_on_desk([concept])
