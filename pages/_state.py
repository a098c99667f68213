"""What the pages remember: models and samples for everyone, pictures and results per visitor.

The only place with ``st.cache_*``, for what is the same for everybody. Everything computed from a
picture is on the shelf (``_cache``), found again by the SHA-256 of its pixels, never by Streamlit's
own hash of an array, which looks at a sample of it. Pictures themselves, and answers to slow
questions, live in the session alone and go with it.
"""

import gc
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import streamlit as st
from PIL import Image
from streamlit.runtime.scriptrunner import get_script_run_ctx

import cdam_core as cdam
from cdam_core import sanity
from cdam_core.concepts import concept_of_latents, near_duplicates
from cdam_core.images import digest, fit_mask
from cdam_core.maps import coverage
from cdam_core.pictures import outline_layer, view_zoom
from pages import _cache
from pages._gate import slot, still_wanted
from pages._samples import Sample, samples

DEFAULT_MODEL = "scenes"
# Fetched from the model hub when somebody asks for it; small, with ImageNet's 1000 classes.
PHOTO_MODEL = "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"
LONGEST_SIDE = 1536  # pixels of an uploaded picture that are kept
RESULTS_KEPT = 96  # of the slow questions, per visitor

TAUGHT = "taught:"  # how the ids of models begin that a visitor has taught
MAX_TAUGHT = 3  # of them, per visitor

Target = int | tuple[int, int]  # a class, or "first rather than second"
_loaded: WeakValueDictionary[str, cdam.VisionModel] = WeakValueDictionary()


@dataclass(frozen=True)
class Picture:
    """The picture a visitor looks at.

    Attributes:
        image: PIL RGB.
        digest: SHA-256 of its pixels.
        notes: what was changed on opening.
        sample: where it is one of the samples.
    """

    image: Image.Image
    digest: str
    notes: tuple[str, ...]
    sample: Sample | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as a model sees it: what every question about it starts from.

    Attributes:
        encoding: tokens entering the last block.
        view: PIL RGB, exactly what the model saw, enlarged for the screen.
        logits: (C,) float32.
        unfamiliar: whether it is far from the model's training data; None: not known.
        regions: class name -> (rows, cols) fraction of every patch that the object covers.
        outlines: RGBA of the view's size with the borders of the objects, or None.
    """

    encoding: cdam.Encoding
    view: Image.Image
    logits: np.ndarray
    unfamiliar: bool | None
    regions: dict[str, np.ndarray]
    outlines: Image.Image | None


# ---- models --------------------------------------------------------------------------------------


def at_side(model_id: str, side: int | None) -> str:
    """The id of a model at another input size, "scenes@336"; None: its own size."""
    return model_id if side is None else f"{model_id}@{side}"


def get_model(model_id: str) -> cdam.VisionModel:
    """The one copy of a model that all visitors share, at the size that its id names.

    Models that a visitor has taught are found in that visit alone.

    Raises:
        BadCheckpoint: with one sentence; a model of the hub that cannot be had.
    """
    source, _, side = model_id.rpartition("@")
    if source and side.isdigit():
        return get_model(source).at_size((int(side), int(side)))
    if is_taught(model_id):
        return _taught_model(model_id)
    return _bundled_model(model_id) if model_id in cdam.MODELS else _large_model(model_id)


@st.cache_resource(show_spinner="Loading the model …")
def _bundled_model(model_id: str) -> cdam.VisionModel:
    return _in_place(cdam.load_model(model_id))


# Two at most: a third that somebody asks for takes the place of the one that waited longest.
@st.cache_resource(max_entries=2, show_spinner="Loading the model …")
def _large_model(model_id: str) -> cdam.VisionModel:
    return _in_place(cdam.load_model(model_id))


def _in_place(model: cdam.VisionModel) -> cdam.VisionModel:
    """The model where this server computes: on a graphics card where there is one."""
    half = os.environ.get("CDAM_HALF", "") == "1"
    placed = model.on(os.environ.get("CDAM_DEVICE", "auto"), half)
    _loaded[placed.id] = placed
    return placed


def loaded_models() -> tuple[str, ...]:
    """Ids of the models that are in memory for everybody."""
    return tuple(sorted(_loaded))


def get_randomised(model_id: str, how: str) -> cdam.VisionModel:
    """A copy of a model with part of its knowledge destroyed, one for all who can use the model.

    Raises:
        BadTarget: with one sentence; this model cannot be changed like that.
    """
    return (_own_randomised if is_taught(model_id) else _shared_randomised)(model_id, how)


@st.cache_resource(max_entries=6, show_spinner="Making a model that knows less …")
def _shared_randomised(model_id: str, how: str) -> cdam.VisionModel:
    return sanity.randomise(get_model(model_id), how)


@st.cache_resource(scope="session", max_entries=2,
                   show_spinner="Making a model that knows less …")  # fmt: skip
def _own_randomised(model_id: str, how: str) -> cdam.VisionModel:
    return sanity.randomise(get_model(model_id), how)


def n_heads(model: cdam.VisionModel) -> int:
    """Attention heads that can be shown one by one; 0 where the closed form does not apply."""
    return model.module.blocks[-1].attn.num_heads if model.closed_form else 0


def warm() -> bool:
    """Do the slow first things before the first visitor comes; whether the model is there.

    Freezing what exists then keeps the garbage collector, which Streamlit calls after every run,
    from walking through all of torch each time.
    """
    try:
        model = get_model(DEFAULT_MODEL)
    except cdam.BadCheckpoint:
        return False  # the page will say so
    height, width = model.input_size
    cdam.explain(model, Image.new("RGB", (width, height), "grey"), cdam.ALL)
    for sample_id in list(samples())[:1]:  # what every visitor sees first
        prepare(DEFAULT_MODEL, _sample_picture(sample_id))
    gc.collect()
    gc.freeze()
    return True


# ---- models that a visitor has taught ------------------------------------------------------------


def is_taught(model_id: str) -> bool:
    """Whether the id is that of a model which a visitor has taught."""
    return model_id.startswith(TAUGHT)


def taught() -> dict[str, tuple[str, cdam.VisionModel]]:
    """Id -> label and model, of what this visitor has taught; nobody else sees them."""
    return st.session_state.get("taught", {})


def keep_taught(model_id: str, label: str, model: cdam.VisionModel) -> None:
    """Offer a model to this visitor; of too many, the oldest goes."""
    kept = st.session_state.setdefault("taught", {})
    kept[model_id] = (label, model)
    while len(kept) > MAX_TAUGHT:
        _forget_model(next(iter(kept)))


def forget_taught() -> None:
    """Remove every model that this visitor has taught, and all that they answered."""
    for model_id in list(taught()):
        _forget_model(model_id)
    _cache.shelf.forget(visit())
    _own_randomised.clear()


def _forget_model(model_id: str) -> None:
    taught().pop(model_id, None)
    for name in ("model.choice", "model.loaded", "second", "second.choice"):
        if st.session_state.get(name) == model_id:
            del st.session_state[name]
    results = remembered()
    for key in [key for key in results if any(_names(part, model_id) for part in key)]:
        del results[key]


def _names(part: Any, model_id: str) -> bool:
    """Whether part of a key names the model, at any input size."""
    return isinstance(part, str) and part.partition("@")[0] == model_id


def _taught_model(model_id: str) -> cdam.VisionModel:
    if model_id not in taught():
        raise cdam.BadCheckpoint(
            "unknown-model",
            "This model was taught in another visit, or forgotten since; teach it again, or choose "
            "a model of the list.",
        )
    return taught()[model_id][1]


# ---- the current picture -------------------------------------------------------------------------


def current_picture() -> Picture | None:
    """The visitor's picture; at first, the first sample."""
    if "picture" not in st.session_state and samples():
        choose_sample(next(iter(samples())))
    return st.session_state.get("picture")


def choose_sample(sample_id: str) -> None:
    """Make a sample the current picture; an unknown id changes nothing."""
    if sample_id in samples():
        st.session_state["picture"] = _sample_picture(sample_id)


def take_upload(uploaded) -> None:
    """Decode an uploaded file, make it the current picture and drop the raw file at once.

    Raises:
        BadImage: with one sentence; the previous picture stays.
    """
    try:
        with slot():
            image = cdam.limit_side(cdam.open_image(uploaded.getvalue()), LONGEST_SIDE)
            notes = tuple(image.info["notes"])
            st.session_state["picture"] = Picture(image, digest(image), notes)
    finally:
        _drop_raw_file(uploaded)


def forget_picture() -> None:
    """Remove an uploaded picture and everything computed from it."""
    for name in ("picture", "results", "job", "drawn", "classes", "pair", "patch", "region",
                 "attention.once", "attention.maps"):  # fmt: skip
        st.session_state.pop(name, None)
    for kind in ("prepared", "explanation", "concept maps"):
        _cache.shelf.forget(visit(), kind)


def upload_key() -> str:
    """Key of the upload widget; a new one empties it."""
    return f"upload.{st.session_state.get('uploads', 0)}"


def drop_raw_file(uploaded) -> None:
    """Free the server's copy now: by itself it would outlive the browser tab."""
    context = get_script_run_ctx()
    if context is not None:
        context.uploaded_file_mgr.remove_file(context.session_id, uploaded.file_id)


def _drop_raw_file(uploaded) -> None:
    drop_raw_file(uploaded)
    st.session_state["uploads"] = st.session_state.get("uploads", 0) + 1


@st.cache_resource(max_entries=64, show_spinner=False)
def _sample_picture(sample_id: str) -> Picture:
    sample = samples()[sample_id]
    image = cdam.open_image(sample.file)
    return Picture(image, digest(image), tuple(image.info["notes"]), sample)


# ---- what is computed from it --------------------------------------------------------------------


def visit() -> str:
    """Id of the visit for which this runs; where there is none, the house's."""
    context = get_script_run_ctx(suppress_warning=True)
    return _cache.HOUSE if context is None else context.session_id


def _once(
    kind: str, model_id: str, key: tuple, make: Callable[[], Any], is_shipped: bool = False
) -> Any:
    """What is on the shelf, or made now and put there; of a taught model, for this visit alone.

    Args:
        kind: first part of the key.
        model_id: the model that computes it.
        key: the rest, with the digest of every picture.
        make: computes it.
        is_shipped: whether it comes from pictures that everybody has.
    """
    owner = visit()
    if is_taught(model_id):
        key = (*key, owner)
    elif is_shipped:
        owner = _cache.HOUSE
    return _cache.shelf.get((kind, model_id, *key), make, owner, still_wanted)


def prepare(model_id: str, picture: Picture) -> Prepared:
    """Encode a picture, once per model."""
    is_shipped = picture.sample is not None

    def make() -> Prepared:
        with st.spinner("Reading the picture …", show_time=False):
            return _prepare(get_model(model_id), picture)

    return _once("prepared", model_id, (picture.digest, is_shipped), make, is_shipped)


def _prepare(model: cdam.VisionModel, picture: Picture) -> Prepared:
    view = model.fit(picture.image, zoom=view_zoom(model.input_size)).image
    with slot():
        encoding = model.encode_image(picture.image)
        logits = model.logits(encoding).cpu().numpy()
        unfamiliar = model.is_unfamiliar(encoding)
    masks = _masks(picture.sample, (view.height, view.width))
    regions = {name: coverage(mask, encoding.grid) for name, mask in masks.items()}
    outlines = outline_layer(list(masks.values())) if masks else None
    return Prepared(encoding, view, logits, unfamiliar, regions, outlines)


def _masks(sample: Sample | None, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Class name -> (H, W) bool, at the size of the view."""
    numbers = sample.read_mask() if sample else None
    if numbers is None:
        return {}
    fitted = fit_mask(numbers, size)
    masks: dict[str, np.ndarray] = {}
    for number, name in enumerate(sample.objects, start=1):
        masks[name] = masks.get(name, False) | (fitted == number)
    return {name: mask for name, mask in masks.items() if mask.any()}


def explain(
    model_id: str,
    picture: Picture,
    targets: tuple[Target, ...] | None,
    method: str = "cdam",
    settings: dict[str, Any] | None = None,
) -> cdam.Explanation:
    """An explanation of the picture, remembered for this visitor.

    Args:
        model_id: the model.
        picture: the picture.
        targets: class indices, or pairs (a, b) for a rather than b; None: every class.
        method: id in ``METHODS``.
        settings: of the method.
    """
    key = tuple(sorted((settings or {}).items()))
    encoding = prepare(model_id, picture).encoding
    asked = cdam.ALL if targets is None else [
        cdam.Contrast(*target) if isinstance(target, tuple) else target for target in targets
    ]

    def make() -> cdam.Explanation:
        with slot():
            return cdam.explain(get_model(model_id), encoding, asked, method, **dict(key))

    return _once("explanation", model_id, (picture.digest, targets, method, key), make,
                 picture.sample is not None)  # fmt: skip


# ---- results of slow questions -------------------------------------------------------------------


def recall(key: Hashable) -> Any | None:
    """What ``keep`` stored under that key in this visit."""
    return remembered().get(key)


def remembered() -> dict[Hashable, Any]:
    """Everything that ``keep`` stored in this visit."""
    return st.session_state.get("results", {})


def keep(key: Hashable, result: Any) -> None:
    """Remember a result for this visit; of too many, the oldest go."""
    results = st.session_state.setdefault("results", {})
    results[key] = result
    while len(results) > RESULTS_KEPT:
        results.pop(next(iter(results)))


def forget_results(kind: str) -> None:
    """Remove the results whose key begins with ``kind``."""
    results = remembered()
    for key in [key for key in results if isinstance(key, tuple) and key[0] == kind]:
        del results[key]


# ---- concepts ------------------------------------------------------------------------------------


def open_upload(uploaded) -> Image.Image:
    """Decode an uploaded file, whatever it is for; the caller drops the raw file.

    Raises:
        BadImage: with one sentence.
    """
    with slot():
        return cdam.open_image(uploaded.getvalue())


def picture_of(sample: Sample) -> Picture:
    """A shipped picture that need not be in the gallery of samples."""
    return _shipped_picture(str(sample.file), sample)


@st.cache_resource(max_entries=64, show_spinner=False)
def _shipped_picture(file: str, _sample: Sample) -> Picture:
    image = cdam.open_image(_sample.file)
    return Picture(image, digest(image), tuple(image.info["notes"]), _sample)


@st.cache_resource(max_entries=64, show_spinner=False)
def shipped_examples(series_id: str, _make: Callable[[], tuple]) -> tuple:
    """Example pictures that ship with the app, opened once for everyone."""
    return _make()


def latent(model_id: str, image: Image.Image, image_digest: str, shipped: bool) -> np.ndarray:
    """(d,) what a model makes of a picture; shared by all visitors where the picture is shipped."""

    def make() -> np.ndarray:
        model = get_model(model_id)
        with slot():
            return model.embed(model.preprocess(image)).float().cpu().numpy()[0]

    return _once("latent", model_id, (image_digest,), make, shipped)


def concept_of(model_id: str, name: str, examples: tuple) -> cdam.Concept:
    """The dot-product concept of examples (objects with ``image``, ``digest``, ``shipped``)."""
    digests = tuple(each.digest for each in examples)

    def make() -> cdam.Concept:
        with st.spinner("Building the concept …"):
            rows = [latent(model_id, each.image, each.digest, each.shipped) for each in examples]
        alike = near_duplicates([each.image for each in examples])
        report = {"left_out": [], "near_duplicates": alike}
        return concept_of_latents(get_model(model_id), np.stack(rows), name, "dot", digests, report)

    return _once("concept", model_id, (name, digests, visit()), make)


def explain_concepts(
    model_id: str,
    picture: Picture,
    targets: list[cdam.Concept | cdam.Contrast],
    method: str = "cdam",
) -> cdam.Explanation:
    """Maps of concepts, remembered for this visitor."""
    key = tuple(_key_of(target) for target in targets)
    encoding = prepare(model_id, picture).encoding

    def make() -> cdam.Explanation:
        with slot():
            return cdam.explain(get_model(model_id), encoding, targets, method)

    return _once("concept maps", model_id, (picture.digest, key, method, visit()), make)


def _key_of(target: cdam.Concept | cdam.Contrast) -> tuple:
    if isinstance(target, cdam.Contrast):
        return (_key_of(target.a), _key_of(target.b))
    return tuple(target.description().values())


def forget_examples() -> None:
    """Remove everything computed from a visitor's examples."""
    for kind in ("latent", "concept", "concept maps"):
        _cache.shelf.forget(visit(), kind)
