"""The counterfactual proof on the page "Lung nodules": one thing changes; does its map follow?

The pairs are rendered, not cut from the slice above, because only a phantom can hold everything
else equal; see ``cdam_core.nodules.counterfactuals``.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import streamlit as st
from PIL import Image

import cdam_core as cdam
from cdam_core.images import fit_mask
from cdam_core.nodules import to_image
from cdam_core.nodules.counterfactuals import KINDS, Pair, compare, pair
from cdam_core.pictures import outline_layer, shared_scale, view_zoom
from pages import _panels, _viewer
from pages._compare_maps import join, with_difference
from pages._gate import slot
from pages._nodules_case import MARKERS, by_id
from pages._nodules_maps import Seen, clicked_patch, take_patch
from pages._nodules_slices import model_of
from pages._nodules_words import PHANTOM_STAMP, unit_of
from pages._state import Prepared
from pages._words import plain, signed

KEY = "nodules.proof"
LABEL = "Counterfactual proof: one thing changes, does its map follow?"
# What each kind of pair cannot show.
CAVEATS = {
    "calcification": "This tests the simulator: calcium is as it draws it, in training and here",
    "texture": "This tests the simulator: ground glass is as it draws it, in training and here",
    "spiculation": "The spicules are our construction, on a real outline that was smoothed; no "
    "reader drew them",
    "diameter": "This tests the simulator: both sizes are the readers' outlines scaled, in "
    "surroundings that it drew",
}
SAME = (
    "Simulated CT, middle slice. Each pair starts from the solid nodule without calcium, whatever "
    "its readers rated, so it may look unlike the slice above; surroundings, noise and every grey "
    "value outside the white line are the same bit by bit."
)


@dataclass(frozen=True, eq=False)
class Proof:
    """What the biomarkers' model makes of one pair.

    Attributes:
        found: the two crops and where they differ.
        maps: of the kind's biomarker: before, after, and after − before.
        numbers: of ``counterfactuals.compare``.
    """

    found: Pair
    maps: cdam.Explanation
    numbers: dict[str, float]


@lru_cache(maxsize=64)
def proof(nodule_id: int, kind: str) -> Proof | None:
    """A bundled nodule's pair of one kind, computed once; None where nothing would change."""
    model, asked = model_of(MARKERS), []

    def ask(model: cdam.VisionModel, hu: np.ndarray, target: str) -> tuple[float, np.ndarray]:
        asked.append(cdam.explain(model, model.encode_image(to_image(hu)), target))
        return float(asked[-1].values[0]), asked[-1].scores[0]

    with slot():
        found = pair(by_id()[nodule_id], kind)
        if not found.changed.any():
            return None
        numbers = compare(model, found, kind, ask)
    before, after = asked
    maps = _panels.only(with_difference(join([after, before])), [1, 0, 2])
    return Proof(found, replace(maps, labels=("before", "after", "after − before")), numbers)


# ---- what is shown -------------------------------------------------------------------------------


def show(seen: Seen) -> None:
    """A closed drawer; nothing is computed before it is opened."""
    if seen.case.source != "phantom":
        return  # in a real scan nothing can be changed alone
    with st.expander(LABEL, icon=":material/compare:", key=KEY, on_change="rerun") as box:
        if not box.open:
            return
        kind = pick_kind()
        made = proof(seen.case.nodule.id, kind)
        if made is None:
            st.info("This change alters no pixel of this nodule's middle slice; choose another.")
        else:
            st.markdown(moved(kind, made.numbers))
            _maps(seen, kind, made)
        st.markdown(measured(kind))
        st.caption(SAME)


def pick_kind() -> str:
    """What is changed; named after the biomarker that it should move."""
    key = f"{KEY}.kind"
    st.session_state.setdefault(key, st.session_state.get(f"{key}.kept", next(iter(KINDS))))
    kind = st.segmented_control("What is changed", list(KINDS), required=True, key=key)
    st.session_state[f"{key}.kept"] = kind
    return kind


def moved(kind: str, numbers: dict[str, float]) -> str:
    """How far the output of one pair moved, and where its map did; Markdown."""
    before, after = numbers["before"], numbers["after"]
    expected = "up" if KINDS[kind].rises else "down"
    actual = "up" if after > before else "down" if after < before else "nowhere"
    verdict = "as it should" if actual == expected else f"though it should move {expected}"
    return (f"**{KINDS[kind].before} → {KINDS[kind].after}**: {kind} goes from "
            f"**{_number(before)}** to **{_number(after)}**, {actual} by "
            f"{_number(abs(after - before))} {unit_of(kind)}, {verdict}. "
            f"**{_percent(numbers['share'])}** of its map's change lies on the changed pixels, "
            f"which are **{_percent(numbers['pixels'])}** of the crop.")  # fmt: skip


def measured(kind: str) -> str:
    """The same over the test nodules, as the model's card states it; one sentence."""
    quality = cdam.MODELS[MARKERS]["quality"]["counterfactuals"][kind]

    def told(name: str, is_share: bool = True) -> str:
        factor, decimals = (100, 0) if is_share else (1, 2)
        value, low, high = (f"{factor * number:.{decimals}f}".replace("-", "−") for number in
                            (quality[name]["value"], *quality[name]["interval"]))  # fmt: skip
        return f"{value} % [{low}, {high}]" if is_share else f"{value} [{low}, {high}]"

    return plain(
        f"Measured on {quality['pairs']} such pairs of test nodules, with 95 % intervals over "
        f"patients: the output moves as it should in {told('moves')}, on average by "
        f"{told('by', False)} {unit_of(kind)}, and {told('share')} of the map's change lies on the "
        f"changed pixels, {told('pixels')} of the crop. {CAVEATS[kind]}."
    )


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _maps(seen: Seen, kind: str, made: Proof) -> None:
    """Both crops and where they differ; both maps and their change, on one printed scale."""
    scale, key = shared_scale(made.maps), f"{KEY}.maps"
    patch = clicked_patch(made.maps, key, index=2)
    bar = _panels.scale_bar(
        made.maps, seen.look, scale, f"One scale for all three maps of {kind}, in {unit_of(kind)}. "
        "White line: the pixels that changed.", ("lowers it", "raises it"),
    )  # fmt: skip
    first, second = _crops(made)
    sides = (KINDS[kind].before, KINDS[kind].after)
    words = [_panels.caption(badge, side, PHANTOM_STAMP, f"The crop {side}, simulated CT")
             for badge, side in zip(("before", "after"), sides, strict=True)]  # fmt: skip
    pictures = [first.view, second.view, second.view.copy()]
    pictures[2].paste(second.outlines, mask=second.outlines)
    words.append(_panels.caption(
        "", "Changed pixels", f"{_percent(made.numbers['pixels'])} of the crop · {PHANTOM_STAMP}",
        f"The crop {sides[1]} with a line around the changed pixels",
    ))  # fmt: skip
    for index, (on, title) in enumerate((
        (first, f"{kind} before"), (second, f"{kind} after"), (second, "Change of the map"),
    )):  # fmt: skip
        one, value = _panels.only(made.maps, [index]), made.maps.values[index]
        pictures += _panels.pictures_of(on, one, replace(seen.look, outlines=True), scale)[1:]
        note = f"{signed(value)} {unit_of(kind)}" if index == 2 else f"value {_number(value)}"
        words.append(_panels.caption("", title, f"{note} · {PHANTOM_STAMP}",
                                     _panels.alt_text(one, 0, title)))  # fmt: skip
    data = _panels.viewer_data(first, made.maps, seen.look, patch, scale, words[3:], bar, saw=False)
    data["panels"] = [{"src": _panels.data_url(picture), **each}
                      for picture, each in zip(pictures, words, strict=True)]  # fmt: skip
    _viewer.maps(data, key=key, on_patch=lambda: take_patch(key))


def _crops(made: Proof) -> list[Prepared]:
    """What the maps before and after are drawn on: what the model saw, and the changed pixels."""
    model = model_of(MARKERS)
    zoom = view_zoom(model.input_size)
    views = [_view(model, hu, zoom) for hu in made.found[:2]]
    size = (views[0].height, views[0].width)
    layer = outline_layer([fit_mask(made.found.changed.astype(np.uint8), size) > 0])
    return [Prepared(None, view, made.maps.values, None, {}, layer) for view in views]


def _view(model: cdam.VisionModel, hu: np.ndarray, zoom: int) -> Image.Image:
    return model.fit(to_image(hu), zoom=zoom).image
