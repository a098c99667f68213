"""Compare classes: which parts of this picture speak for A rather than B?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import streamlit as st

import cdam_core as cdam
from cdam_core.methods import METHODS
from pages import (
    _compare_pair,
    _compare_patch,
    _compare_second,
    _compare_words,
    _concepts_viewer,
    _controls,
    _downloads,
    _exports,
    _links,
    _methods_cards,
    _methods_jobs,
    _panels,
    _pickers,
    _regions,
    _state,
    _viewer,
)
from pages._compare_maps import maps_of
from pages._concepts_viewer import Thumb
from pages._frame import guard
from pages._methods_jobs import Failed, Task
from pages._methods_tasks import Question
from pages._words import plain, signed

MAX_MORE = 4  # classes beside A and B
CLOSE = 0.005  # difference of logits that is printed as zero


def main() -> None:
    guard()
    with st.sidebar:
        model_id = _pickers.pick_model()
        picture = _pickers.pick_picture()
    _pickers.show_model_problem()
    try:
        model = _state.get_model(model_id)
    except cdam.BadCheckpoint as error:
        st.error(plain(str(error)))
        return
    if picture is None:
        st.title("Compare classes", anchor=False)
        st.info("Open a picture of your own in the menu on the left to begin.")
        return
    prepared = _state.prepare(model_id, picture)
    if not _pickers.wants_maps_anyway(picture, prepared, "Compare classes"):
        return
    with st.sidebar:
        _pickers.show_predictions(model, prepared.logits)
    # Clicks inside a fragment do not end a run that watches a job, clicks elsewhere do.
    if st.session_state.pop("compare.watch", False):
        explore(model_id, may_watch=True)
    else:
        redraw(model_id)


# ---- the comparison ------------------------------------------------------------------------------


def explore(model_id: str, may_watch: bool = False) -> None:
    """Everything that is redrawn without encoding again.

    Args:
        model_id: the model.
        may_watch: whether this run may wait for a job; else it asks for one that may.
    """
    picture = _state.current_picture()
    model, prepared = _state.get_model(model_id), _state.prepare(model_id, picture)
    token = f"{model_id}.{picture.digest[:16]}"
    title = st.container()
    columns = st.columns([1, 1, 1.25, 1])
    classes = pick_classes(model, prepared, token, columns)
    with columns[3]:
        second_id = _compare_second.pick()
    _compare_second.show_problem()
    progress, maps = st.empty(), st.container()
    method, settings, look, summed = pick_look(model, model_id, prepared)
    names = [model.class_names[c] for c in classes]
    if second_id is not None and _second_fits(second_id, picture):
        asked = Asked(picture, classes, method, settings, look, summed, token)
        waiting = explore_both(model_id, second_id, asked, title, maps)
        st.empty()  # at once, in place of what stood below the maps before
        if waiting:
            wait_for(waiting, progress, may_watch)
        return
    _links.write(picture, names, method, second_id)
    with title:
        ask(method, names, prepared.logits[classes])
    found = maps_of(Question(model_id, picture, tuple(classes)), method, settings)
    if isinstance(found, cdam.Explanation):
        show(model, picture, prepared, found, look, summed, token, maps)
        return
    with maps:
        # As part of the page: a file of its own may be gone before the browser has fetched it.
        alone = Thumb("", "What the model saw", (_panels.data_url(prepared.view),))
        _concepts_viewer.thumbs([alone], "Picture", "compare.alone", "list", "large")
        if isinstance(found, Failed):
            st.warning(plain(found.message))
    st.empty()  # at once, in place of what stood below the maps before
    if isinstance(found, Task):
        wait_for([found], progress, may_watch)


redraw = st.fragment(explore)


def wait_for(tasks: Sequence[Task], progress: Any, may_watch: bool) -> None:
    """Have the tasks done and draw again; where they were cancelled, offer to go on."""
    stopped = st.session_state.get("stopped", frozenset())
    if not (may_watch or all(task.key in stopped for task in tasks)):
        st.session_state["compare.watch"] = True
        st.rerun()
    if _methods_jobs.run("compare", tasks, progress, _note_cost):
        st.rerun()


def _note_cost(task: Task) -> None:
    result = _state.recall(task.key)
    if isinstance(result, cdam.Explanation):
        _methods_cards.note_cost(task.key[1], result)


def show(
    model: cdam.VisionModel,
    picture: _state.Picture,
    prepared: _state.Prepared,
    explanation: cdam.Explanation,
    look: _panels.Look,
    summed: bool,
    token: str,
    maps: Any,
) -> None:
    """Maps, words, one patch, and files."""
    drawn = _panels.per_patch(explanation) if summed else explanation
    scale = _panels.shared_scale(drawn)
    every = _compare_patch.every_class(token.rpartition(".")[0], picture, explanation)
    patch = _compare_patch.current_patch(explanation, token)
    captions = _compare_words.captions(explanation)
    with maps:
        data = _panels.viewer_data(
            prepared, drawn, look, patch, scale, captions,
            _panels.scale_bar(drawn, look, scale, _compare_words.scale_note(drawn)), every,
        )  # fmt: skip
        region = _regions.current(token)
        data["region"] = region.description() if region else None
        _viewer.maps(data, key="viewer", on_patch=_compare_patch.on_patch,
                     on_region=partial(_regions.on_drawn, "viewer", token))  # fmt: skip
        if region:
            _regions.tell(explanation, [words["title"] for words in captions], region)
        if sentences := _compare_words.shares(prepared, explanation):
            st.markdown("  \n".join(sentences))
        if explanation.method != "cdam":
            st.caption(_compare_words.about(explanation.method))
        if picture.notes:
            st.caption(plain(f"On opening: {'; '.join(picture.notes)}."))
    with st.container():
        _compare_patch.inspect(explanation, every, patch, look)
        _regions.pick(explanation.grid, token)
        shown = _panels.Shown("compare", model, picture, prepared, explanation, drawn, look, scale)
        _downloads.offer_downloads(shown)
        _exports.offer(shown, [region] if region else [])
        with st.expander("How to read the maps, and what they do not tell",
                         icon=":material/help:"):  # fmt: skip
            st.markdown(_compare_words.how_to_read(explanation.method))


# ---- two models ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Asked:
    """What both models are asked; ``classes`` are the first one's."""

    picture: _state.Picture
    classes: list[int]
    method: str
    settings: dict[str, Any]
    look: _panels.Look
    summed: bool
    token: str


def _second_fits(second_id: str, picture: _state.Picture) -> bool:
    prepared = _state.prepare(second_id, picture)
    return _compare_second.wants_maps(second_id, picture, prepared)


def explore_both(
    model_id: str, second_id: str, asked: Asked, title: Any, maps: Any
) -> list[Task]:
    """The same for two models side by side; returns what has to be done first."""
    first, second = _state.get_model(model_id), _state.get_model(second_id)
    names = [first.class_names[index] for index in asked.classes]
    matched = _compare_second.counterparts(first, second, second_id, asked.classes)
    nameless = [position for position, index in enumerate(asked.classes)
                if _compare_second.same_class(first, second, index) is None]  # fmt: skip
    own = _compare_second.own_classes(first, second, second_id, asked.classes)
    _links.write(asked.picture, names, asked.method, second_id, own)
    sides = tuple(
        _compare_pair.ask_side(
            each, label, asked.picture, targets, missing, asked.method, asked.settings, asked.summed
        )
        for each, label, targets, missing in (
            (model_id, _compare_second.label(model_id), asked.classes, ()),
            (second_id, _compare_second.label(second_id), matched, nameless),
        )
    )
    with title:
        st.title(_compare_words.question(asked.method, *names[:2]), anchor=False)
        _compare_pair.tell_answers(sides)
    rows = _compare_pair.rows_of(names, asked.method)
    _compare_pair.show(sides, asked.picture, rows, asked.method, asked.look, asked.token, maps)
    return _compare_pair.tasks_of(sides)


# ---- what is asked -------------------------------------------------------------------------------


def pick_classes(
    model: cdam.VisionModel, prepared: _state.Prepared, token: str, columns: Sequence[Any]
) -> list[int]:
    """A, B, and more classes, each in a column; at first the two strongest answers."""
    a_key, b_key, more_key = (f"{name}.{token}" for name in ("a", "b", "more"))
    if a_key not in st.session_state:
        asked = _links.asked_classes(model)
        if not asked and st.session_state.get("classes", ("",))[0] == token:
            asked = st.session_state["classes"][1]  # back from another page
        strongest = [int(c) for c in np.argsort(-prepared.logits, kind="stable")[:3]]
        preset = [*asked, *(c for c in strongest if c not in asked)]
        st.session_state[a_key], st.session_state[b_key] = preset[:2]
        st.session_state[more_key] = asked[2 : 2 + MAX_MORE]
    st.session_state["pair"] = (st.session_state[a_key], st.session_state[b_key])
    options, names = list(range(len(model.class_names))), _controls.class_labels(model)
    shared = {"options": options, "format_func": names.__getitem__}
    keep_apart = {"on_change": _keep_apart, "args": (token,)}
    with columns[0]:
        a = st.selectbox("A: why this class …", key=a_key, **shared, **keep_apart)
    with columns[1]:
        b = st.selectbox("B: … rather than this one?", key=b_key, **shared, **keep_apart)
    with columns[2]:
        more = st.multiselect(
            "More classes to show", key=more_key, max_selections=MAX_MORE,
            placeholder="Add up to four classes", **shared,
        )  # fmt: skip
    chosen = [a, b, *(c for c in more if c not in (a, b))]
    st.session_state["classes"] = (token, chosen)
    return chosen


def _keep_apart(token: str) -> None:
    """Choosing B's class for A, or A's for B, swaps the two."""
    a_key, b_key = f"a.{token}", f"b.{token}"
    if st.session_state[a_key] == st.session_state[b_key]:
        old_a, old_b = st.session_state["pair"]
        st.session_state[a_key], st.session_state[b_key] = old_b, old_a


def pick_look(
    model: cdam.VisionModel, model_id: str, prepared: _state.Prepared
) -> tuple[str, dict[str, Any], _panels.Look, bool]:
    """The quiet controls: method, head, how maps are drawn, whether pixels are summed."""
    _links.preset_method(_controls.VARIANTS_FIRST, "method")
    _controls.restore()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        method = _controls.pick_method(
            _controls.VARIANTS_FIRST, "method", 250, _controls.method_with_cost(model_id)
        )
        row = METHODS[method]
        heads = pick_heads(model, method)
        palette = _controls.pick_palette(155, row.signed)
        opacity = _controls.pick_opacity(120)
        # One toggle more does not fit beside the rest: all of them get a line of their own.
        is_pixel = row.resolution == "pixel"
        with st.container(
            horizontal=is_pixel, width="stretch" if is_pixel else 130,
            gap="medium" if is_pixel else "xsmall",
        ):  # fmt: skip
            smooth = st.toggle(
                "Smooth", key="smooth",
                help="Blend neighbouring patches. For the eye only: the scores stay the same.",
            )
            summed = _controls.pick_summed(is_pixel)
            outlines = _controls.pick_outlines(prepared)
    _controls.remember()
    settings = {} if heads is None else {"heads": (heads,)}
    return method, settings, _panels.Look(palette, opacity, smooth, outlines), summed


def pick_heads(model: cdam.VisionModel, method: str) -> int | None:
    """One attention head, or None for all of them."""
    known = any(setting.name == "heads" for setting in METHODS[method].settings)
    count = _state.n_heads(model) if known else 0
    label = st.selectbox(
        "Head",
        ["All", *(f"Head {head + 1}" for head in range(count))],
        key=f"head.{count}",
        disabled=not count,
        help="An attention head is one of several parallel readers in the last block. Only plain "
        "CDAM, whose heads add up to the whole, and the attention map can be taken apart like "
        "this.",
        width=95,
    )
    return None if label == "All" else int(label.removeprefix("Head ")) - 1


def ask(method: str, names: list[str], values: np.ndarray) -> None:
    """The question and, in one line, the model's answer."""
    (a, b), (value_a, value_b) = names[:2], values[:2]
    st.title(_compare_words.question(method, a, b), anchor=False)
    winner, lead = (a, value_a - value_b) if value_a >= value_b else (b, value_b - value_a)
    st.markdown(
        f"Logit of {plain(a)}: {signed(value_a)}, of {plain(b)}: {signed(value_b)}. "
        + (
            f"The model leans towards **{plain(winner)}** by {lead:.2f}."
            if lead >= CLOSE
            else "The model finds both equally strong."
        ),
        help=_pickers.LOGIT,
    )


main()
