"""The quiet controls that pages share: method, colours, opacity, borders; and what is kept of them.

Streamlit forgets a widget that is not drawn. What is chosen here is therefore kept under a key of
its own and set again on the next page that has the same control.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import streamlit as st

import cdam_core as cdam
from cdam_core.methods import METHODS
from cdam_core.pictures import DEFAULT_PALETTE, PALETTES
from pages import _methods_cards, _state
from pages._panels import Look

COSTS = ("instant", "seconds", "minutes")
# The models of the app read their answer from a class token.
OFFERED = [name for name in METHODS if METHODS[name].pooling != "avg"]
# Cheap ones first, so that something is there at once.
BY_COST = sorted(OFFERED, key=lambda name: COSTS.index(METHODS[name].cost))
# They share the closed form, and plain CDAM's answers for all classes at once speak for them all.
VARIANTS = [name for name in OFFERED if name == "cdam" or name.endswith("_cdam")]
VARIANTS_FIRST = [*VARIANTS, *(name for name in BY_COST if name not in VARIANTS)]
SIGNED_PALETTES = [name for name, palette in PALETTES.items() if palette.signed]
LOOK = ("method", "palette", "opacity", "smooth", "summed", "outlines")  # keys of widgets


def restore() -> None:
    """Set the controls as they were before a visit to another page; before they are drawn."""
    defaults = {"palette": DEFAULT_PALETTE, "opacity": round(100 * Look.opacity)}
    for key, value in (defaults | st.session_state.get("look", {})).items():
        st.session_state.setdefault(key, value)


def remember() -> None:
    """Keep what was chosen; after the controls are drawn."""
    chosen = {key: st.session_state[key] for key in LOOK if key in st.session_state}
    st.session_state["look"] = st.session_state.get("look", {}) | chosen


def pick_method(
    allowed: Sequence[str],
    key: str,
    width: int,
    label: Callable[[str], str] = lambda name: METHODS[name].label,
) -> str:
    """Which method's maps are shown."""
    return st.selectbox(
        "Method", allowed, format_func=label, key=key, width=width,
        help="  \n".join(f"**{METHODS[m].label}**: {METHODS[m].summary}" for m in allowed),
    )  # fmt: skip


def method_with_cost(model_id: str) -> Callable[[str], str]:
    """Method -> its name and what it costs here, for lists."""
    labels = {name: f"{row.label} · {cost_words(model_id, name)}" for name, row in METHODS.items()}
    return labels.__getitem__


def cost_words(model_id: str, method: str) -> str:
    """What a method costs; measured here where it has run before this visit began."""
    costs = st.session_state.setdefault(f"costs.{model_id}", {})
    # Told once per visit: labels that change under the visitor's hand confuse.
    if method not in costs:
        costs[method] = _methods_cards.cost_words(model_id, method)
    return costs[method]


def pick_palette(width: int, has_signs: bool = True) -> str:
    """The colours of signed maps."""
    return st.selectbox(
        "Colours", SIGNED_PALETTES, format_func=lambda name: PALETTES[name].label,
        key="palette", width=width, disabled=not has_signs,
        help="Zero always has the neutral colour. The standard colours suit the colour-blind. Maps "
        "without signs are always purple.",
    )  # fmt: skip


def pick_opacity(width: int) -> float:
    """How strongly maps cover the picture, 0 to 1."""
    return st.slider("Opacity", 0, 100, step=5, format="%d %%", key="opacity", width=width) / 100


def pick_summed(is_per_pixel: bool) -> bool:
    """Whether pixel maps are shown as if they were patch maps; not asked where there are none."""
    return is_per_pixel and st.toggle(
        "Sum pixels to patches", key="summed",
        help="Every patch gets the sum of its pixels; what is measured here follows.",
    )  # fmt: skip


def pick_outlines(prepared: _state.Prepared) -> bool:
    """Whether known objects get their borders drawn; not asked where none are known."""
    return prepared.outlines is not None and st.toggle(
        "Outlines", key="outlines", help="Draw the true borders of the objects."
    )


def class_labels(model: cdam.VisionModel) -> list[str]:
    """Names of classes for lists; a name that several classes share gets its number."""
    names = model.class_names
    count = Counter(names)
    return [f"{name} (class {i})" if count[name] > 1 else name for i, name in enumerate(names)]
