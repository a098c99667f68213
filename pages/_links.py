"""Addresses that can be shared: sample, model, classes and method, each value checked by itself.

Never anything of an upload. A value that does not fit is passed over, as if it were not there.
"""

from collections.abc import Sequence

import streamlit as st

import cdam_core as cdam
from cdam_core import catalogue
from pages import _concepts_samples, _pickers
from pages._samples import samples
from pages._state import DEFAULT_MODEL, Picture, choose_sample

MAX_CLASSES = 6


def follow() -> None:
    """Take the sample and the model named in the address, once per visit."""
    if "link" in st.session_state:
        return
    st.session_state["link"] = {
        "class": st.query_params.get_all("class")[:MAX_CLASSES],
        "method": st.query_params.get("method"),
    }
    sample = st.query_params.get("sample")
    if sample in samples():
        choose_sample(sample)
    scenes = _concepts_samples.scenes()
    if scene := next((name for name in (sample, f"sample:{sample}") if name in scenes), None):
        st.session_state["concept_scene"] = scene
    _follow_model(st.query_params.get("model"))


def _follow_model(wanted: str | None) -> None:
    """Take an offered model that is here; an address never makes the server fetch one."""
    if wanted is None or wanted == DEFAULT_MODEL or wanted not in _pickers.model_labels():
        return
    entry = next((each for each in catalogue.offered() if each.source == wanted), None)
    if entry is not None and entry.fetch_bytes:
        st.session_state["model.problem"] = (
            "The model of this address is not on this server yet; choose it in the list to fetch "
            "it."
        )
        return
    _pickers.try_model(wanted)


def asked_classes(model: cdam.VisionModel) -> list[int]:
    """Class indices named in the address, known ones only, each once; asked for only once."""
    names = st.session_state.get("link", {}).pop("class", [])
    known = [model.class_names.index(name) for name in names if name in model.class_names]
    return list(dict.fromkeys(known))


def preset_method(allowed: Sequence[str], key: str) -> None:
    """Set the widget ``key`` to the method named in the address, if it is an allowed one."""
    method = st.session_state.get("link", {}).pop("method", None)
    if key not in st.session_state and method in allowed:
        st.session_state[key] = method


def write(picture: Picture, classes: list[str], method: str) -> None:
    """Put the present choice into the address; for an upload, nothing at all."""
    wanted = {} if picture.sample is None else {
        "sample": picture.sample.id, "class": classes, "method": method
    }
    model = st.session_state.get("model.choice", DEFAULT_MODEL)
    if wanted and model != DEFAULT_MODEL:
        wanted["model"] = model
    now = {name: st.query_params.get_all(name) for name in st.query_params}
    if now != {k: v if isinstance(v, list) else [v] for k, v in wanted.items()}:
        st.query_params.from_dict(wanted)
