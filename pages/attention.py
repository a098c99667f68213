"""Attention vs CDAM: what the model looks at, and what it takes from there, patch by patch."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

import cdam_core as cdam
from cdam_core import mechanism
from cdam_core.mechanism import Mechanism, Openness, Patches
from cdam_core.methods import METHODS
from cdam_core.provenance import Drawing
from pages import (
    _attention_heads,
    _attention_link,
    _attention_pairs,
    _attention_points,
    _attention_pool,
    _attention_viewer,
    _attention_words,
    _controls,
    _downloads,
    _exports,
    _frame,
    _links,
    _methods_jobs,
    _pickers,
    _state,
)
from pages._attention_pairs import Asked
from pages._attention_points import COLOURINGS, VIEWS, View
from pages._attention_question import Question, once, palette, remember, restore
from pages._attention_sets import PictureSet
from pages._attention_words import Numbers
from pages._gate import slot
from pages._methods_jobs import Failed
from pages._samples import Sample
from pages._words import plain

OTHERS = 2  # strongest answers beside the explained one, in the table of what is still open

TITLE = "What does CDAM make of attention?"
PURPOSE = (
    "Every point is a patch: across, how much the model looks at it; up, what it takes from it for "
    "this answer. Draw a box or lasso among the points to light their patches; click a patch to "
    "find its points."
)
HOW_TO_READ = """
**Attention** says where the class token looks in the last block. It is never negative and is the
same for every answer. **CDAM** says what that does for one answer: above zero speaks for it, below
zero against it. In every attention head, CDAM is *attention × relevance*, and the heads add up. So
a patch without attention scores exactly zero, and a patch with much attention may score high, low
or nothing at all: the points open like a fan to the right.

**Head by head.** A head is one of several parallel readers in the last block. *Relevance* is what
a patch would say per unit of attention, whether or not it gets any: it is computed from the
formula, not by dividing by the attention. Hover over a patch to see the products and their sum.

**Value path and key path.** A patch acts in two ways: by what it says when it is attended (value),
and by drawing attention to itself or away from others (key). The two add up to CDAM.

**What this does not tell**

- A correlation says how far two maps agree, not which of them is right.
- Patches of one picture resemble each other; that is why intervals draw whole pictures.
- The formula speaks of plain CDAM. Smooth and Integrated CDAM average over other values of the
  tokens, so they may score a patch that gets no attention here.
- All of it is about the last block. How much that still decides is measured on this page.
"""


def main() -> None:
    _frame.guard()
    with st.sidebar:
        model_id = _pickers.pick_model()
        picture = _pickers.pick_picture()
    _pickers.show_model_problem()
    st.title(TITLE, anchor=False)
    st.markdown(PURPOSE)
    try:
        model = _state.get_model(model_id)
        model.require_head()
    except cdam.CdamError as error:
        st.error(plain(str(error)))
        return
    if picture is None:
        st.info("Open a picture of your own in the menu on the left to begin.")
        return
    prepared = _state.prepare(model_id, picture)
    if not _pickers.wants_maps_anyway(picture, prepared):
        return
    with st.sidebar:
        _pickers.show_predictions(model, prepared.logits)
    explore(model_id)
    with st.expander("How to read this, and what it does not tell", icon=":material/help:"):
        st.markdown(HOW_TO_READ)


@st.fragment
def explore(model_id: str) -> None:
    """Everything that is redrawn without encoding again."""
    restore()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen_set = _attention_pool.pick_set()
        question = pick_class(model_id)
        places = [st.container(width=width) for width in (275, 120)]
    try:
        parts = once("parts", question.key, lambda: take_apart(question))
    except cdam.BadTarget as error:
        st.error(plain(str(error)))
        return
    view, colouring = pick_view(places, parts, chosen_set == _attention_pool.CURRENT)
    is_open = once("open", question.key, lambda: still_open(question))
    if is_open:
        warn_of_small_share(is_open[0])
    found = None
    if parts.attention is None:
        show_instead(question)
    else:
        found = _attention_pool.pictures_to_plot(chosen_set, question, view)
    if found is not None:
        which, pictures = found
        _attention_link.link(question, which, pictures, view, colouring)
        say_simulated(question)
        numbers = tell_numbers(question, which, pictures)
    show_heads(question, parts)
    show_open(is_open)
    if found is not None:
        pairs = compare_pairs(question, which, pictures)
        offer_downloads(question, which, pictures, numbers, pairs)
    remember()
    _links.write(question.picture, [question.model.class_names[question.target]], "cdam")
    if parts.attention is not None:
        offer_exports(question)


# ---- what is asked -------------------------------------------------------------------------------


def pick_class(model_id: str) -> Question:
    """The answer that is explained: the first class chosen elsewhere, else the strongest."""
    picture, model = _state.current_picture(), _state.get_model(model_id)
    token = f"{model_id}.{picture.digest[:16]}"
    key = f"attention.target.{token}"
    if key not in st.session_state:
        asked = _links.asked_classes(model)
        if not asked and st.session_state.get("classes", ("",))[0] == token:
            asked = st.session_state["classes"][1]
        strongest = int(_state.prepare(model_id, picture).logits.argmax())
        st.session_state[key] = asked[0] if asked else strongest
    names = _controls.class_labels(model)
    chosen = st.selectbox("Answer", range(len(names)), key=key, format_func=names.__getitem__,
                          width=165)  # fmt: skip
    known = st.session_state.get("classes", ("", []))
    others = [c for c in known[1] if c != chosen] if known[0] == token else []
    st.session_state["classes"] = (token, [chosen, *others])
    return Question(model_id, picture, chosen)


def pick_view(places: Sequence[Any], parts: Mechanism, is_single: bool) -> tuple[View, str]:
    """What is plotted against what, and in which colours."""
    allowed = [name for name, view in VIEWS.items() if parts.by_value is not None or not view.split]
    colours = ["evidence", "head"] if is_single else list(COLOURINGS)
    for name, options in (("view", allowed), ("colouring", colours)):
        if st.session_state.get(f"attention.{name}") not in options:
            st.session_state.pop(f"attention.{name}", None)
    nothing = parts.attention is None
    with places[0]:
        view = st.selectbox("Show", allowed, format_func=lambda name: VIEWS[name].label,
                            key="attention.view", disabled=nothing)  # fmt: skip
    with places[1]:
        colouring = st.selectbox("Colour by", colours, format_func=COLOURINGS.get,
                                 key="attention.colouring", disabled=nothing)  # fmt: skip
    return VIEWS[view], colouring


def take_apart(question: Question) -> Mechanism:
    model, encoding = question.model, question.prepared.encoding
    with slot():
        return mechanism.take_apart(model, encoding, question.target)


def say_simulated(question: Question) -> None:
    """The stamp of a model of simulated data."""
    if question.model.simulated:
        note = cdam.MODELS.get(question.model.id, {}).get("simulated_note", "no real pictures")
        st.caption(plain(f"Simulated training data: {note}."))


def show_instead(question: Question) -> None:
    """Where the block keeps its attention to itself: CDAM alone."""
    st.info("The last block of this model computes its attention in a way of its own, so there is "
            "nothing to plot CDAM against. Shown instead: CDAM by automatic differentiation, and "
            "what the last block still decides.")  # fmt: skip
    saw, coloured = _attention_link.single_panels(question, VIEWS["cdam"])
    with st.container(horizontal=True):
        for panel in (saw, coloured):
            st.image(panel["src"], width=_attention_link.PANEL_SIDE,
                     caption=f"{panel['title']} {panel['note']}".strip())  # fmt: skip
    say_simulated(question)


# ---- in numbers ----------------------------------------------------------------------------------


def tell_numbers(
    question: Question, which: PictureSet, pictures: tuple[Patches, ...]
) -> list[Numbers]:
    """Correlation, quiet patches, where attention goes: in words, then for every variant."""
    st.subheader("In numbers", anchor=False)
    if which.id == question.set_id:
        pictures = (_attention_pool.current_patches(question, _controls.VARIANTS),)
    methods = [name for name in _controls.VARIANTS if name in pictures[0].scores]
    targets = tuple(each.target for each in pictures)
    numbers = once(
        "numbers", (which.id, question.model_id, targets, *methods),
        lambda: [_attention_words.numbers_of(pictures, name) for name in methods],
    )  # fmt: skip
    st.markdown("\n".join(f"- {line}" for line in _attention_words.sentences(numbers[0], pictures)))
    st.dataframe(_attention_words.table(numbers), hide_index=True)
    st.caption(_attention_words.how_measured(len(pictures)))
    return numbers


# ---- head by head --------------------------------------------------------------------------------


def show_heads(question: Question, parts: Mechanism) -> None:
    """Attention and CDAM of every head of the last block, for the current picture."""
    st.subheader("Head by head, in this picture", anchor=False)
    if parts.by_value is None:
        st.info("The last block of this model is not built in timm's plain way, so its CDAM, which "
                "is computed by automatic differentiation, cannot be split into heads and paths.")
        return
    path = st.segmented_control(
        "Path", list(_attention_heads.PATHS), key="attention.path", default="both", required=True,
        format_func=_attention_heads.PATHS.get, label_visibility="collapsed",
    )  # fmt: skip
    row, col = _attention_link.marked_cell(question, parts)
    data = once(
        "heads", (question.key, path, palette()),
        lambda: _attention_heads.viewer_data(question.prepared, parts, path, palette()),
    )  # fmt: skip
    st.session_state["attention.heads"] = (question.set_id, parts.content.shape)
    _attention_viewer.heads(data | {"selected": [row, col]}, "attention-heads", on_head_patch)
    st.markdown(_attention_heads.path_words(parts))
    st.markdown(f"**Row {row + 1}, column {col + 1}**: in every head attention × relevance, and "
                "the heads add up.")  # fmt: skip
    st.dataframe(_attention_heads.sum_table(parts, path, (row, col)), hide_index=True, width=560)


def on_head_patch() -> None:
    """A patch was clicked in the maps of the heads: it is marked among the points, too."""
    set_id, (rows, cols) = st.session_state["attention.heads"]
    try:
        row, col = (int(each) for each in st.session_state["attention-heads"]["patch"])
    except (TypeError, ValueError, OverflowError):
        return
    _, plotted = st.session_state.get("attention.plotted", ("", ""))
    identity = plotted if plotted.startswith(f"{set_id}.") else f"{set_id}."
    if 0 <= row < rows and 0 <= col < cols:
        _attention_link.put_mark(identity, 0, row * cols + col)


# ---- what was decided before ---------------------------------------------------------------------


def still_open(question: Question) -> list[Openness]:
    """How much the last block decides: of the answer explained, then of the strongest others.

    Empty where the patches cannot be hidden from the class token.
    """
    model, prepared = question.model, question.prepared
    order = [int(c) for c in np.argsort(-prepared.logits, kind="stable")]
    targets = [question.target, *[c for c in order if c != question.target][:OTHERS]]
    blank = blank_picture(model)
    blank_encoding = _state.prepare(question.model_id, blank).encoding
    try:
        with slot():
            return mechanism.openness(model, prepared.encoding, targets, blank_encoding)
    except cdam.BadTarget:
        return []


def blank_picture(model: cdam.VisionModel) -> _state.Picture:
    """A picture of the mean colour, as a sample, so that its encoding serves all visitors."""
    fill = tuple(round(255 * value) for value in model.mean)
    image = Image.new("RGB", model.input_size[::-1], fill)
    nothing = Sample("blank", "", _frame.FOLDER, None, (), "")
    return _state.Picture(image, f"blank-{model.input_size}-{fill}", (), nothing)


def warn_of_small_share(found: Openness) -> None:
    """Before anything is shown: where CDAM explains a small correction, or a part."""
    verdict, words = _attention_heads.open_words(found)
    if verdict in ("small", "none"):
        st.warning(words, icon=":material/warning:")
    elif verdict == "part":
        st.info(words)


def show_open(found: Sequence[Openness]) -> None:
    st.subheader("What does the last block still decide?", anchor=False)
    if not found:
        st.info("Not measured: in the last block of this model the patches cannot simply be left "
                "out.")  # fmt: skip
        return
    _, words = _attention_heads.open_words(found[0])
    st.markdown(words, help=_attention_heads.OPEN_HELP)
    st.dataframe(_attention_heads.open_table(found), hide_index=True)


# ---- pairs of methods ----------------------------------------------------------------------------


def compare_pairs(
    question: Question, which: PictureSet, pictures: Sequence[Patches]
) -> dict[str, list[np.ndarray]] | None:
    """Any methods against each other, on demand; the maps once they are there."""
    st.subheader("Methods in pairs", anchor=False)
    st.session_state.setdefault("attention.pairs", list(_attention_pairs.DEFAULT))
    methods = st.multiselect(
        "Methods, and what they cost for one picture", _controls.OFFERED, key="attention.pairs",
        format_func=_controls.method_with_cost(question.model_id),
        max_selections=_attention_pairs.MAX_METHODS, placeholder="Choose two to six methods",
    )  # fmt: skip
    targets = tuple(each.target for each in pictures)
    asked_key = (question.model_id, which.id, targets, tuple(methods))
    asked = st.session_state.setdefault("attention.paired", set())
    words = "this picture" if len(pictures) == 1 else f"{len(pictures)} pictures"
    if st.button(f"Compare them on {words}", key="attention-pair", disabled=len(methods) < 2,
                 icon=":material/grid_view:"):  # fmt: skip
        asked.add(asked_key)
    progress = st.empty()
    if asked_key not in asked or len(methods) < 2:
        return None
    sources = [Asked(each.number, which.sources[each.number], each.target) for each in pictures]
    tasks = [_attention_pairs.task(question.model_id, which.id, sources, name) for name in methods]
    _methods_jobs.run("attention-pairs", tasks, progress, lambda _: None)
    maps = known_maps(dict(zip(methods, tasks, strict=True)))
    if maps is not None:
        show_pairs(asked_key, maps)
    return maps


def known_maps(tasks: dict[str, _methods_jobs.Task]) -> dict[str, list[np.ndarray]] | None:
    """The maps of those methods that are done, of the pictures that all of them could read."""
    found = {name: _state.recall(task.key) for name, task in tasks.items()}
    for name, result in found.items():
        if isinstance(result, Failed):
            st.warning(f"{plain(METHODS[name].label)}: {plain(result.message)}")
    maps = {name: result for name, result in found.items() if isinstance(result, list)}
    if len(maps) < 2:
        return None
    maps = _attention_pairs.complete(maps)
    if not next(iter(maps.values())):
        st.warning("None of these pictures could be read again.")
        return None
    return maps


def show_pairs(key: tuple, maps: dict[str, list[np.ndarray]]) -> None:
    dark = st.context.theme.type == "dark"
    figure, table = once("pairs", (key, tuple(maps), dark), lambda: (
        mechanism.pair_plot(maps, dark=dark), mechanism.correlation_table(maps)))  # fmt: skip
    is_single = len(next(iter(maps.values()))) == 1
    st.image(figure, width=620)
    st.dataframe(_attention_pairs.table(table, is_single), hide_index=True)
    st.caption(_attention_pairs.CAPTION)


# ---- downloads -----------------------------------------------------------------------------------


def offer_downloads(
    question: Question,
    which: PictureSet,
    pictures: Sequence[Patches],
    numbers: Sequence[Numbers],
    pairs: dict[str, list[np.ndarray]] | None,
) -> None:
    """The points, the numbers, and the pair plot where there is one."""
    st.subheader("Take it home", anchor=False)
    model = question.model
    labels = list(dict.fromkeys(each.label for each in pictures))
    whose = labels if len(labels) == 1 else [f"{len(pictures)}-pictures"]
    parts = ["attention-cdam", model.id.removeprefix("timm:"), *whose,
             *(["simulated"] if model.simulated else [])]  # fmt: skip

    def points() -> str:
        made = json.dumps(_attention_words.made(model, which, pictures), ensure_ascii=False)
        return _attention_points.csv_of(pictures, which.titles, made)

    def statistics() -> str:
        found = _attention_words.made(model, which, pictures) | _attention_words.as_json(numbers)
        if pairs is not None:
            found["pairs"] = _attention_pairs.as_json(mechanism.correlation_table(pairs))
        return json.dumps(found, ensure_ascii=False, indent=1)

    offers = [("Points (CSV)", "csv", "text/csv", points),
              ("Numbers (JSON)", "json", "application/json", statistics)]  # fmt: skip
    if pairs is not None:
        title = f"Model {model.id}, {which.label}" + (", SIMULATED DATA" if model.simulated else "")
        draw = partial(mechanism.pair_plot, pairs, title)
        offers += [("Pair plot (PNG)", "png", "image/png", draw),
                   ("Pair plot (SVG)", "svg", "image/svg+xml", partial(draw, "svg"))]  # fmt: skip
    _downloads.buttons("attention", parts, offers)


def offer_exports(question: Question) -> None:
    """Both maps of the current picture, to be checked elsewhere."""
    found = [question.explain(name) for name in ("attention", "cdam")]
    parts = ["cdam_attention", question.model.id.removeprefix("timm:"), *found[1].labels,
             *(["simulated"] if found[1].simulated else [])]  # fmt: skip
    _exports.offer_parcel(_exports.Parcel(
        "attention", parts, question.model, question.picture, question.prepared.logits, found,
        Drawing(palette()),
    ))  # fmt: skip


main()
