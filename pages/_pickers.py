"""The sidebar that pages about pictures share: model, picture, strongest answers."""

from functools import cache

import numpy as np
import streamlit as st
from PIL import ImageOps

import cdam_core as cdam
from pages import _state, _viewer
from pages._panels import data_url
from pages._samples import Sample, samples
from pages._words import plain, signed

FILE_TYPES = ["png", "jpg", "jpeg", "tif", "tiff", "webp", "bmp", "gif"]
THUMBNAIL_SIDE = 96  # pixels
TOP_COUNT = 5
LOGIT = (
    "A logit is the model's raw score for a class: higher means it sees more of it. "
    "Every class is scored for itself, so logits do not add up to 100 %."
)


# ---- model ---------------------------------------------------------------------------------------


def model_labels() -> dict[str, str]:
    """Id -> label of the models offered here."""
    bundled = {name: card.get("label", name).split(" (")[0] for name, card in cdam.MODELS.items()}
    return bundled | {_state.PHOTO_MODEL: "Photographs (ImageNet)"}


def pick_model() -> str:
    """Draw the choice of model and return the id of one that is loaded."""
    labels = model_labels()
    st.session_state.setdefault(
        "model.choice", st.session_state.get("model.loaded", _state.DEFAULT_MODEL)
    )
    st.selectbox(
        "Model",
        list(labels),
        format_func=labels.get,
        key="model.choice",
        on_change=try_model,
        help="The model of everyday objects ships with the app and knows drawn scenes. The one for "
        "photographs is fetched from the model hub once (23 MB), which needs a network.",
    )
    return st.session_state["model.choice"]


def show_model_problem() -> None:
    """Why the model asked for is not there, in the page itself: a phone hides the sidebar."""
    if problem := st.session_state.get("model.problem"):
        st.error(plain(problem))


def try_model(wanted: str | None = None) -> None:
    """Load the chosen model; where that fails, say why and stay with the one before."""
    wanted = wanted or st.session_state["model.choice"]
    before = st.session_state.get("model.loaded", _state.DEFAULT_MODEL)
    try:
        _state.get_model(wanted)
        st.session_state.pop("model.problem", None)
    except cdam.BadCheckpoint as error:
        st.session_state["model.problem"] = str(error)
        wanted = before
    st.session_state["model.choice"] = st.session_state["model.loaded"] = wanted


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
    st.warning(
        "This picture is unlike the pictures that this model was trained on, "
        "so its answers and maps would mean little here.",
        icon=":material/warning:",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Use the model for photographs",
            type="primary",
            on_click=try_model,
            args=(_state.PHOTO_MODEL,),
            help="A small Vision Transformer with ImageNet's 1000 classes. It is fetched from the "
            "model hub once, so the server needs a network.",
        )
        anyway = st.toggle("Show the maps anyway", key=key)
    if not anyway:
        st.image(prepared.view, caption="Your picture, as the model sees it", width=360)
    return anyway
