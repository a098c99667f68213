"""The second model of the comparison: its choice, and which of its classes answer to the first's.

Only a model that can be loaded and has classes stays chosen; of any other a sentence says why not.
"""

import re

import streamlit as st

import cdam_core as cdam
from pages import _links, _pickers, _state
from pages._words import plain

KEY = "second.choice"  # of the widget
KEPT = "second"  # the source that is in use; Streamlit forgets widgets from page to page
PROBLEM = "second.problem"
OWN = "second.own"  # (source, name of a class of the first model) -> class of the second
_BETWEEN = re.compile(r"[\s_-]+")


def pick() -> str | None:
    """Draw the choice, and return the id of a model that is loaded; None: no second model."""
    first = st.session_state.get("model.choice", _state.DEFAULT_MODEL)
    labels = {name: text for name, text in _pickers.model_labels().items() if name != first}
    st.session_state.setdefault(KEY, st.session_state.get(KEPT))
    wanted = st.session_state[KEY]
    if wanted is not None and wanted not in labels:
        wanted = st.session_state[KEY] = None
    if wanted is not None and (problem := _why_not(wanted)):
        st.session_state[PROBLEM], st.session_state[KEY] = problem, None
    chosen = st.selectbox(
        "Second model (optional)",
        list(labels),
        index=None,
        format_func=lambda name: labels.get(name, name),
        key=KEY,
        placeholder="None",
        disabled=not labels,
        on_change=_forget_problem,
        help="Show the same classes for two models side by side: before and after fine-tuning, "
        "small and large. Classes are matched by name.",
    )
    st.session_state[KEPT] = chosen
    return chosen


def show_problem() -> None:
    """Why the model asked for is not shown."""
    if problem := st.session_state.get(PROBLEM):
        st.warning(plain(problem))


def label(model_id: str) -> str:
    """The model's name in the list, with its input size where it is not the usual one."""
    source, _, side = model_id.rpartition("@")
    if not (source and side.isdigit()):
        source, side = model_id, ""
    name = _pickers.model_labels().get(source, source).split(" · ")[0]
    return f"{name} at {side} px" if side else name


def wants_maps(source: str, picture: _state.Picture, prepared: _state.Prepared) -> bool:
    """Whether to show the second model's maps: warn of a picture unlike its training data.

    Samples are known to fit the bundled model alone.
    """
    fits = source == _state.DEFAULT_MODEL and picture.sample is not None
    if not prepared.unfamiliar or fits:
        return True
    _pickers.warn_of_unfamiliar("the second model")
    return st.toggle("Show its maps anyway", key=f"anyway.{source}.{picture.digest[:16]}")


def _why_not(source: str) -> str | None:
    """Fetch and load it; in one sentence why it cannot be asked about classes, or None."""
    entry = _pickers.entry_of(source)
    try:
        if entry.fetch_bytes:
            _pickers.fetch(source)
        elif not entry.loadable:
            return entry.text
        _state.get_model(source).require_head()
    except cdam.CdamError as error:
        return str(error)
    return None


def _forget_problem() -> None:
    st.session_state.pop(PROBLEM, None)


# ---- classes -------------------------------------------------------------------------------------


def counterparts(
    first: cdam.VisionModel, second: cdam.VisionModel, source: str, classes: list[int]
) -> list[int | None]:
    """For each class of the first model, the second's of that name, or the visitor's choice.

    Args:
        first, second: the models.
        source: of the second.
        classes: of the first model.
    """
    own = st.session_state.setdefault(OWN, {})
    for name, index in _links.asked_own_classes(first, second).items():
        own.setdefault((source, name), index)
    found = []
    for index in classes:
        same = same_class(first, second, index)
        chosen = own.get((source, first.class_names[index]))
        found.append(chosen if same is None else same)
    return found


def same_class(first: cdam.VisionModel, second: cdam.VisionModel, index: int) -> int | None:
    """The class of the second model with the name of a class of the first.

    Capitals, hyphens and underscores make no difference. None where there is none, or where several
    share the name and their numbers do not tell which is meant.
    """
    wanted, names = _key(first.class_names[index]), [_key(name) for name in second.class_names]
    if index < len(names) and names[index] == wanted:
        return index
    return names.index(wanted) if names.count(wanted) == 1 else None


def _key(name: str) -> str:
    return _BETWEEN.sub(" ", name.casefold()).strip()


def keep_own(source: str, name: str, key: str) -> None:
    """Remember the second model's own class for one that it does not know."""
    st.session_state.setdefault(OWN, {})[source, name] = st.session_state[key]


def own_classes(
    first: cdam.VisionModel, second: cdam.VisionModel, source: str, classes: list[int]
) -> dict[str, str]:
    """Name of a class of the first model -> the class chosen for it, for addresses."""
    own = st.session_state.get(OWN, {})
    names = [first.class_names[i] for i in classes if same_class(first, second, i) is None]
    chosen = {name: own.get((source, name)) for name in names}
    return {name: second.class_names[i] for name, i in chosen.items() if i is not None}
