"""Addresses that can be shared: sample, models, size, classes, method, each checked by itself.

Never anything of an upload. A value that does not fit is passed over, as if it were not there.
"""

from collections.abc import Mapping, Sequence

import streamlit as st

import cdam_core as cdam
from cdam_core import catalogue
from cdam_core.sizes import sizes_for
from pages import _concepts_samples, _pickers
from pages._samples import samples
from pages._state import DEFAULT_MODEL, Picture, choose_sample, get_model, is_taught

MAX_CLASSES = 6


def follow() -> None:
    """Take the sample and the model named in the address, once per visit."""
    if "link" in st.session_state:
        return
    st.session_state["link"] = {
        "class": st.query_params.get_all("class")[:MAX_CLASSES],
        "method": st.query_params.get("method"),
        "own": st.query_params.get_all("own")[:MAX_CLASSES],
    }
    sample = st.query_params.get("sample")
    if sample in samples():
        choose_sample(sample)
    scenes = _concepts_samples.scenes()
    if scene := next((name for name in (sample, f"sample:{sample}") if name in scenes), None):
        st.session_state["concept_scene"] = scene
    _follow_model(st.query_params.get("model"))
    _follow_side(st.query_params.get("side"))
    _follow_second(st.query_params.get("second"))


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


def _follow_second(wanted: str | None) -> None:
    """Take an offered second model that is here; what keeps it from loading is said on the page."""
    entry = _pickers.entry_of(wanted) if wanted else None
    if entry is None or wanted == st.session_state.get("model.choice", DEFAULT_MODEL):
        return
    if entry.fetch_bytes:
        st.session_state["second.problem"] = (
            "The second model of this address is not on this server yet; choose it in the list to "
            "fetch it."
        )
        return
    st.session_state["second"] = wanted


def _follow_side(wanted: str | None) -> None:
    """Take an input size that the model offers."""
    if wanted is None:
        return
    model_id = st.session_state.get("model.choice", DEFAULT_MODEL)
    try:
        sizes = sizes_for(get_model(model_id))
    except cdam.BadCheckpoint:
        return  # the page says so
    side = next((size[0] for size in sizes if str(size[0]) == wanted and size[0] == size[1]), None)
    if side is not None:
        st.session_state.setdefault("model.sides", {})[model_id] = side


def asked_classes(model: cdam.VisionModel) -> list[int]:
    """Class indices named in the address, known ones only, each once; asked for only once."""
    names = st.session_state.get("link", {}).pop("class", [])
    known = [model.class_names.index(name) for name in names if name in model.class_names]
    return list(dict.fromkeys(known))


def asked_own_classes(
    first: cdam.VisionModel, second: cdam.VisionModel
) -> dict[str, int]:
    """Class of the first model -> class of the second named for it in the address; only once."""
    found = {}
    for value in st.session_state.get("link", {}).pop("own", []):
        name, _, other = value.partition("=")
        if name in first.class_names and second.class_names.count(other) == 1:
            found[name] = second.class_names.index(other)
    return found


def preset_method(allowed: Sequence[str], key: str) -> None:
    """Set the widget ``key`` to the method named in the address, if it is an allowed one."""
    method = st.session_state.get("link", {}).pop("method", None)
    if key not in st.session_state and method in allowed:
        st.session_state[key] = method


def write(
    picture: Picture,
    classes: list[str],
    method: str,
    second: str | None = None,
    own: Mapping[str, str] | None = None,
) -> None:
    """Put the present choice into the address; for an upload, nothing at all.

    Args:
        picture: what is looked at.
        classes: their names.
        method: id in ``METHODS``.
        second: the model beside the usual one.
        own: name of a class -> what stands for it in the second model.
    """
    wanted = {} if not can_be_shared(picture) else {
        "sample": picture.sample.id, "class": classes, "method": method
    }
    if wanted:
        wanted |= _model_address() | ({"second": second} if second else {})
        wanted |= {"own": [f"{name}={other}" for name, other in own.items()]} if own else {}
    now = {name: st.query_params.get_all(name) for name in st.query_params}
    if now != {k: v if isinstance(v, list) else [v] for k, v in wanted.items()}:
        st.query_params.from_dict(wanted)


def can_be_shared(picture: Picture) -> bool:
    """Whether an address can lead others here: not to an upload, nor to a model taught here."""
    models = (st.session_state.get(name) or "" for name in ("model.choice", "second"))
    return picture.sample is not None and not any(map(is_taught, models))


def _model_address() -> dict[str, str]:
    """Model and input size, where they are not the usual ones."""
    model_id = st.session_state.get("model.choice", DEFAULT_MODEL)
    named = {} if model_id == DEFAULT_MODEL else {"model": model_id}
    side = st.session_state.get("model.sides", {}).get(model_id)
    if side is not None and side != get_model(model_id).input_size[0]:
        named["side"] = str(side)
    return named
