"""The maps of the page "Lung nodules": malignancy, eight biomarkers, two compared, neighbours."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import streamlit as st

import cdam_core as cdam
from cdam_core.errors import BadScan
from cdam_core.nodules import BIOMARKERS, Phantom, Plane, to_image
from cdam_core.nodules.browse import Browse, load_browse
from cdam_core.pictures import draw, legend, palette_for, shared_scale
from pages import _methods_viewer, _nodules_pick, _nodules_words, _panels, _state, _viewer
from pages._compare_maps import with_difference
from pages._concepts_viewer import Thumb, thumbs
from pages._gate import slot
from pages._nodules_case import MALIGNANCY, MARKERS, OWN, TARGETS, Answer, Case, answer
from pages._nodules_slices import model_of, prepared_of, stamp_layer, stamped
from pages._nodules_words import tag
from pages._panels import data_url, only
from pages._state import Prepared
from pages._words import decimals_for, plain, signed

NEIGHBOURS = 5
CARD_PIXELS = 336  # of a biomarker's picture: two for each on the screen
CARD = 185  # pixels of a biomarker's map, at least, on a wide screen


@dataclass(frozen=True)
class Look(_panels.Look):
    """How maps are drawn, and which of the two targets of malignancy."""

    target: str = TARGETS[0]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the page shows.

    Attributes:
        case: what is looked at.
        plane: the slice that is explained.
        answer: of the models.
        look: how maps are drawn.
    """

    case: Case
    plane: Plane
    answer: Answer
    look: Look

    def prepared(self, model_id: str) -> Prepared:
        """What maps of a model are drawn on."""
        return prepared_of(model_of(model_id), self.case, self.plane, self.answer)

    def marked(self, model_id: str) -> tuple[Prepared, "Look"]:
        """The same with the stamp on every picture, and the look that shows it."""
        prepared = stamped(self.prepared(model_id), self.case.source, self.look.outlines)
        return prepared, replace(self.look, outlines=True)

    def malignancy(self) -> cdam.Explanation:
        """The map of the chosen target."""
        return only(self.answer.malignancy, [TARGETS.index(self.look.target)])

    def compared(self, a: str, b: str) -> cdam.Explanation:
        """The maps of two biomarkers, and of the first minus the second."""
        indices = [BIOMARKERS.index(name) for name in (a, b)]
        return with_difference(only(self.answer.markers, indices))


# ---- malignancy ----------------------------------------------------------------------------------


def malignancy(seen: Seen) -> None:
    """What the model saw, and the map of malignant or benign."""
    explanation = seen.malignancy()
    other = TARGETS[1 - TARGETS.index(seen.look.target)]
    title = f"{seen.look.target}, logit {signed(explanation.values[0])}"
    words = [_panels.caption("", seen.look.target, f"logit {signed(explanation.values[0])}",
                             _panels.alt_text(explanation, 0, title))]  # fmt: skip
    ends = (f"towards {other}", f"towards {seen.look.target}")
    note = f"{_nodules_words.HOW_TO_READ['malignant']} Score per patch, in logits." \
        if seen.look.target == "malignant" else "Score per patch, in logits."  # fmt: skip
    _show(seen, MALIGNANCY, explanation, words, note, ends, "nodules.malignancy")


def _show(
    seen: Seen, model_id: str, explanation: cdam.Explanation, words: list[dict[str, str]],
    note: str, ends: tuple[str, str], key: str, saw: bool = True,
) -> None:  # fmt: skip
    """Panels on one printed scale."""
    scale, (prepared, look) = shared_scale(explanation), seen.marked(model_id)
    data = _panels.viewer_data(
        prepared, explanation, look, clicked_patch(explanation, key), scale,
        words, _panels.scale_bar(explanation, look, scale, note, ends), saw=saw,
    )  # fmt: skip
    _viewer.maps(data, key=key, on_patch=lambda: take_patch(key))


def clicked_patch(explanation: cdam.Explanation, key: str, index: int = 0) -> tuple[int, int]:
    """The patch that was clicked last, else the strongest of one of the maps."""
    row, col = st.session_state.get(f"{key}.patch", (-1, -1))
    rows, cols = explanation.grid
    inside = 0 <= row < rows and 0 <= col < cols
    return (row, col) if inside else _panels.strongest_patch(explanation, index)


def take_patch(key: str) -> None:
    """Keep the patch that the viewer of that key sent; anything else changes nothing."""
    sent = st.session_state[key]["patch"]
    if isinstance(sent, list) and len(sent) == 2 and all(isinstance(x, int) for x in sent):
        st.session_state[f"{key}.patch"] = tuple(sent)


# ---- the eight biomarkers ------------------------------------------------------------------------


def markers(seen: Seen) -> None:
    """A map per biomarker, each with its value, the readers' and its own printed scale."""
    explanation = seen.answer.markers
    scales = marker_scales(explanation)
    decimals = decimals_for(max(scales))
    _methods_viewer.card({
        "panels": _marker_panels(seen),
        "grid": list(explanation.grid),
        "content": explanation.content.ravel().astype(int).tolist(),
        "decimals": decimals,
        "signed": True,
        "smallest": CARD,
        "values": np.round(explanation.scores.reshape(len(scales), -1), decimals).tolist(),
    }, key="nodules.markers")  # fmt: skip


def marker_scales(explanation: cdam.Explanation) -> list[float]:
    """|score| at full colour of every biomarker, each on its own: their units differ."""
    return [shared_scale(only(explanation, [index])) for index in range(len(explanation.labels))]


def _marker_panels(seen: Seen) -> list[dict]:
    """Of every biomarker; drawn again only when they look different."""
    look = replace(seen.look, target=TARGETS[0])  # which changes nothing here
    if seen.case.source != OWN:
        return _remembered_panels(seen.case, seen.plane, look)
    key = ("nodules", seen.case.key, seen.plane, look)
    found = _state.recall(key)
    if found is None:
        found = _drawn_panels(seen)
        _state.keep(key, found)
    return found


@lru_cache(maxsize=64)
def _remembered_panels(case: Case, plane: Plane, look: Look) -> list[dict]:
    return _drawn_panels(Seen(case, plane, answer(case, plane), look))


def _drawn_panels(seen: Seen) -> list[dict]:
    prepared, look = seen.marked(MARKERS)
    small = (CARD_PIXELS, CARD_PIXELS)
    prepared = replace(prepared, view=prepared.view.resize(small),
                       outlines=prepared.outlines.resize(small))  # fmt: skip
    return [_marker_panel(replace(seen, look=look), prepared, index, scale)
            for index, scale in enumerate(marker_scales(seen.answer.markers))]  # fmt: skip


def _marker_panel(seen: Seen, prepared: Prepared, index: int, scale: float) -> dict:
    name, explanation, look = BIOMARKERS[index], seen.answer.markers, seen.look
    picture = draw(prepared.view, explanation, index, scale, look.palette, look.opacity,
                   look.smooth)  # fmt: skip
    picture.paste(prepared.outlines, mask=prepared.outlines)
    value = _nodules_words.value_text(name, float(explanation.values[index]))
    readers = "" if seen.case.nodule is None else \
        f"readers {_nodules_words.readers_text(seen.case.nodule, name)}\n"  # fmt: skip
    end = _panels.number_text(scale, scale, False)
    bar = legend(scale, palette_for(explanation.method, look.palette))
    return {
        "title": f"{name}: {value}",
        "src": data_url(picture),
        "alt": _panels.alt_text(explanation, index, f"{name}, {value}"),
        "scale": {"low": f"−{end}", "high": f"+{end}", "src": data_url(bar),
                  "alt": f"Colour scale from −{end} over zero to +{end}"},
        "note": f"{readers}scores in {_nodules_words.short_unit(explanation.units[index])}\n"
                f"{tag(name)}",
    }  # fmt: skip


def compared(seen: Seen, a: str, b: str) -> None:
    """Two biomarkers on one scale, and their difference."""
    if a == b:
        st.info("Choose two different biomarkers to compare.")
        return
    explanation = seen.compared(a, b)
    words = []
    for badge, name, index in (("A", a, 0), ("B", b, 1), ("A − B", f"{a} − {b}", 2)):
        value = signed(explanation.values[index], 1)
        title = f"{name}, value {value}"
        words.append(_panels.caption(badge, name, f"value {value}",
                                     _panels.alt_text(explanation, index, title)))  # fmt: skip
    units = dict.fromkeys(_nodules_words.short_unit(unit) for unit in explanation.units[:2])
    note = f"One scale for all three. Score per patch, in {' and '.join(units)}."
    _show(seen, MARKERS, explanation, words, note, ("lowers it", "raises it"), "nodules.pair",
          saw=False)  # fmt: skip
    if _nodules_words.units_differ(a, b):
        st.caption("A rating and a length have no common unit: of their difference read places and "
                   "signs, not amounts.")  # fmt: skip
    for name in (a, b):
        st.caption(f"**{name}** ({tag(name)}). {_nodules_words.HOW_TO_READ[name]}")


# ---- neighbours ----------------------------------------------------------------------------------


def nearest(seen: Seen) -> None:
    """The training nodules that look most alike to the malignancy model."""
    st.caption(_nodules_words.NEAREST)
    try:
        browse = load_browse()
    except BadScan as error:
        st.info(plain(str(error)))
        return
    if browse.weights_sha256 != model_of(MALIGNANCY).weights_sha256:
        st.info("The stored embeddings are those of other weights; run "
                "scripts/build_nodules_browse.py again.")  # fmt: skip
        return
    found = neighbours(seen, browse)
    items = [_neighbour(nodule_id, cosine) for nodule_id, cosine in found]
    thumbs(items, "Nearest training nodules", "nodules.near", "buttons", "pairs",
           on_choose=_on_near)  # fmt: skip


def familiarity(seen: Seen) -> tuple[bool, str] | None:
    """Whether a crop of a real scan is unlike the training nodules, and the sentence that says so.

    None for simulated ones, and where there is nothing to compare with.
    """
    if seen.case.source == "phantom":
        return None
    try:
        browse = load_browse()
    except BadScan:
        return None
    if browse.weights_sha256 != model_of(MALIGNANCY).weights_sha256:
        return None
    distance = browse.distance(seen.answer.latent)
    return distance > browse.usual_distance, \
        _nodules_words.familiarity(distance, browse.usual_distance)  # fmt: skip


def neighbours(seen: Seen, browse: Browse) -> list[tuple[int, float]]:
    """Ids and cosines; those of the same patient are left out."""
    without = []
    if seen.case.nodule is not None:
        patient = seen.case.nodule.patient_id
        without = [n for n in browse.trained if _nodules_pick.nodule(n).patient_id == patient]
    return browse.nearest(seen.answer.latent, NEIGHBOURS, without)


def _neighbour(nodule_id: int, cosine: float) -> Thumb:
    nodule = _nodules_pick.nodule(nodule_id)
    called = "malignant" if nodule.malignant else "benign"
    size = f"{nodule.biomarkers['diameter']:.0f} mm"
    return Thumb(
        str(nodule_id), f"Open nodule {nodule_id}, called {called}, {size}, cosine {cosine:.2f}",
        neighbour_pictures(nodule_id), f"{called}, {size}", f"nodule {nodule_id} · {cosine:.2f}",
    )  # fmt: skip


@lru_cache(maxsize=256)
def neighbour_pictures(nodule_id: int) -> tuple[str, str]:
    """Data URLs of a training nodule and of its map of malignant, on a scale of its own."""
    model, image = model_of(MALIGNANCY), to_image(Phantom().crop(_nodules_pick.nodule(nodule_id)))
    with slot():
        explanation = cdam.explain(model, image, TARGETS[0])
    view = model.fit(image).image
    pictures = (view, draw(view, explanation, 0, shared_scale(explanation)))
    layer = stamp_layer(view.width, _nodules_words.PHANTOM_STAMP)
    for picture in pictures:
        picture.paste(layer, mask=layer)
    return tuple(data_url(picture) for picture in pictures)


def _on_near() -> None:
    _nodules_pick.open_nodule(str(st.session_state["nodules.near"]["choose"]))
    st.session_state["nodules.reopen"] = True

