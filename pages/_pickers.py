"""The sidebar that pages about pictures share: model, picture, strongest answers."""

import time
from functools import cache, lru_cache

import numpy as np
import streamlit as st
from PIL import ImageOps

import cdam_core as cdam
from cdam_core import catalogue
from cdam_core.catalogue import Entry
from cdam_core.sizes import Cost, cost_of, sizes_for
from pages import _state, _viewer
from pages._panels import data_url
from pages._samples import Sample, samples
from pages._words import plain, signed

FILE_TYPES = ["png", "jpg", "jpeg", "tif", "tiff", "webp", "bmp", "gif"]
THUMBNAIL_SIDE = 96  # pixels
TOP_COUNT = 5
TAUGHT = "taught"  # place of models that the visitor has taught
LIST_SECONDS = 30  # for which the list of models is taken to be current
PROGRESS_SECONDS = 0.2  # between two drawings of a progress bar
LOGIT = (
    "A logit is the model's raw score for a class: higher means it sees more of it. "
    "Every class is scored for itself, so logits do not add up to 100 %."
)


# ---- model ---------------------------------------------------------------------------------------


def model_labels() -> dict[str, str]:
    """Id -> label of the models offered here."""
    return {source: _label(entry) for source, entry in _offered().items()}


def entry_of(source: str) -> Entry | None:
    """What is known of an offered model; None: it is not offered here."""
    return _offered().get(source)


def _offered() -> dict[str, Entry]:
    """What can be chosen; files and the hub's cache are looked at anew twice a minute."""
    own = {name: Entry(name, TAUGHT, "taught in this visit", True, label)
           for name, (label, _) in _state.taught().items()}  # fmt: skip
    return _offered_at(int(time.monotonic() / LIST_SECONDS)) | own


@lru_cache(maxsize=1)
def _offered_at(_moment: int) -> dict[str, Entry]:
    return {entry.source: entry for entry in catalogue.offered()}


def _label(entry: Entry) -> str:
    if entry.place == TAUGHT:
        return entry.label
    if entry.place == "photographs":
        size = f" · {entry.fetch_bytes / 1e6:.0f} MB" if entry.fetch_bytes else ""
        return f"Photographs: {entry.label}{size if entry.loadable else ' · no file'}"
    card = cdam.MODELS.get(entry.source)
    return card.get("label", entry.source).split(" (")[0] if card else entry.source


def pick_model() -> str:
    """Draw the choice of model and input size, and return the id of a model that is loaded."""
    _fetch_what_is_wanted()
    labels = model_labels()
    # The same widget on another page would start with its first option, whatever was chosen here.
    st.session_state["model.choice"] = _loaded()
    labels.setdefault(st.session_state["model.choice"], st.session_state["model.choice"])
    st.selectbox(
        "Model",
        list(labels),
        format_func=labels.get,
        key="model.choice",
        on_change=try_model,
        help="The model of everyday objects ships with the app and knows drawn scenes. Those for "
        "photographs know ImageNet's 1000 classes. One with a size beside it is fetched from the "
        "model hub when it is chosen, once for everybody who uses this server; one without a file "
        "says which file it needs.",
    )
    return _state.at_side(st.session_state["model.choice"], _pick_side())


def _loaded() -> str:
    """The model in use: at first the bundled one, or the first that the administrator lists."""
    offered = _offered()
    first = _state.DEFAULT_MODEL if _state.DEFAULT_MODEL in offered or not offered else ""
    return st.session_state.get("model.loaded") or first or next(iter(offered))


def _pick_side() -> int | None:
    """Draw the choice of input size where the model takes several; None: its own."""
    model_id = st.session_state["model.choice"]
    try:
        model = _state.get_model(model_id)
    except cdam.BadCheckpoint:
        return None  # the page says so
    costs = {size[0]: cost_of(model, size) for size in sizes_for(model) if size[0] == size[1]}
    own = model.input_size[0]
    if len(costs) < 2:
        return None
    # As above, so the choice is kept beside the widget and put back before it is drawn.
    kept, key = st.session_state.setdefault("model.sides", {}), f"side.{model_id}"
    st.session_state[key] = kept.get(model_id, own)
    chosen = st.selectbox(
        "Input size",
        list(costs),
        format_func=lambda side: _size_label(costs[side], own),
        key=key,
        on_change=lambda: kept.update({model_id: st.session_state[key]}),
        help="A larger input cuts the picture into more and smaller patches. The model was trained "
        f"at {own} px, so at other sizes its answers can be worse; compare them.",
    )
    return None if chosen == own else chosen


def _size_label(cost: Cost, own: int) -> str:
    rows, cols = cost.grid
    much = " patches" if cost.size[0] == own else f", {max(0.1, cost.times):.1f} × the time"
    return f"{cost.size[0]} px: {rows} × {cols}{much}"


def show_model_problem() -> None:
    """Why the model asked for is not there, in the page itself: a phone hides the sidebar."""
    if problem := st.session_state.get("model.problem"):
        st.error(plain(problem))


def try_model(wanted: str | None = None) -> None:
    """Load the chosen model; where that fails, say why and stay with the one before.

    A model that has to be fetched is fetched when the page is drawn, where its progress shows.
    """
    wanted = wanted or st.session_state["model.choice"]
    entry = _offered().get(wanted)
    if entry is None:
        _settle("This model is not offered here; choose one of the list.")
    elif entry.fetch_bytes:
        st.session_state["model.wanted"] = wanted
        _settle(None)
    elif not entry.loadable:
        _settle(entry.text)
    else:
        _load(wanted)


def _load(wanted: str) -> None:
    try:
        _state.get_model(wanted)
    except cdam.BadCheckpoint as error:
        _settle(str(error))
        return
    st.session_state["model.loaded"] = wanted
    _settle(None)


def _settle(problem: str | None) -> None:
    """Show the model in use as the chosen one, and why another is not."""
    st.session_state["model.problem"] = problem
    st.session_state["model.choice"] = _loaded()


def _fetch_what_is_wanted() -> None:
    """Fetch a model from the hub, once for everybody, with its progress in view."""
    wanted = st.session_state.pop("model.wanted", None)
    if wanted is None:
        return
    try:
        fetch(wanted)
    except cdam.BadCheckpoint as error:
        _settle(str(error))
    else:
        _load(wanted)


def fetch(wanted: str) -> None:
    """Fetch a model from the hub, with its progress in view.

    Raises:
        BadCheckpoint: with one sentence; it cannot be had.
    """
    bar, drawn = st.progress(0.0, text="Asking the model hub …"), [0.0]

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if total and now - drawn[0] > PROGRESS_SECONDS:
            drawn[0] = now
            text = f"Fetching the model: {done / 1e6:.0f} of {total / 1e6:.0f} MB"
            bar.progress(min(1.0, done / total), text=text)

    try:
        catalogue.fetch(wanted, show)
    finally:
        bar.empty()
    _offered_at.cache_clear()


# ---- picture -------------------------------------------------------------------------------------


def pick_picture() -> _state.Picture | None:
    """Draw gallery and upload, and return the current picture."""
    picture = _state.current_picture()
    sample = picture.sample if picture else None
    if samples():
        _viewer.gallery(
            _thumbnails(), sample.id if sample else None, "gallery", _on_sample
        )
    if sample:
        st.caption(plain(sample.title) + (f" · {plain(sample.credits)}" if sample.credits else ""))
    _upload()
    if picture is not None and sample is None:
        st.button("Forget my picture", on_click=_state.forget_picture, width="stretch")
    return picture


def _on_sample() -> None:
    st.session_state.pop("picture.problem", None)
    _state.choose_sample(str(st.session_state["gallery"]["sample"]))


def _upload() -> None:
    uploaded = st.file_uploader(
        "Open your own picture",
        type=FILE_TYPES,
        key=_state.upload_key(),
        help="It is decoded in memory, and the file is dropped at once. Nothing is stored.",
    )
    if uploaded is not None:
        try:
            _state.take_upload(uploaded)
            st.session_state.pop("picture.problem", None)
        except cdam.BadImage as error:
            st.session_state["picture.problem"] = str(error)
        st.rerun()
    if problem := st.session_state.get("picture.problem"):
        st.error(plain(problem))


@cache
def _thumbnails() -> list[dict[str, str]]:
    return [
        {"id": sample.id, "title": sample.title, "src": _thumbnail(sample)}
        for sample in samples().values()
    ]


def _thumbnail(sample: Sample) -> str:
    small = ImageOps.fit(cdam.open_image(sample.file), (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return data_url(small)


# ---- strongest answers ---------------------------------------------------------------------------


def show_predictions(model: cdam.VisionModel, logits: np.ndarray) -> None:
    """The strongest classes as bars."""
    order = np.argsort(-logits, kind="stable")[:TOP_COUNT]
    items = [(model.class_names[c], max(0.0, float(logits[c])), signed(logits[c])) for c in order]
    full = max(1.0, float(logits.max()))
    _viewer.bars("Strongest answers (logits)", items, full, key="predictions")
    st.caption(LOGIT)


# ---- a picture that the model does not know ------------------------------------------------------


def warn_of_unfamiliar(whose: str) -> None:
    """Say that the picture is unlike those that a model was trained on."""
    st.warning(
        f"This picture is unlike the pictures that {whose} was trained on, "
        "so its answers and maps would mean little here.",
        icon=":material/warning:",
    )


def wants_maps_anyway(
    picture: _state.Picture, prepared: _state.Prepared, title: str = ""
) -> bool:
    """Whether to explain the picture: warn instead of explaining nonsense; the visitor may insist.

    Args:
        picture: samples are known to fit.
        prepared: what the model made of it.
        title: printed above the warning while nothing is explained.
    """
    if not prepared.unfamiliar or picture.sample is not None:
        return True
    key = f"anyway.{picture.digest[:16]}"
    if title and not st.session_state.get(key):
        st.title(title, anchor=False)
    warn_of_unfamiliar("this model")
    with st.container(horizontal=True, vertical_alignment="center"):
        if _state.PHOTO_MODEL in _offered():
            st.button(
                "Use the model for photographs",
                type="primary",
                on_click=try_model,
                args=(_state.PHOTO_MODEL,),
                help="A small Vision Transformer with ImageNet's 1000 classes. It is fetched from "
                "the model hub once, so the server needs a network.",
            )
        anyway = st.toggle("Show the maps anyway", key=key)
    if not anyway:
        st.image(prepared.view, caption="Your picture, as the model sees it", width=360)
    return anyway
