"""What the page "Attention vs CDAM" is asked, and what it remembers between its runs."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import streamlit as st

import cdam_core as cdam
from cdam_core.pictures import DEFAULT_PALETTE
from pages import _state

# Choices that outlive a visit to another page, where Streamlit forgets widgets.
KEPT = ("set", "view", "colouring", "ask", "smooth", "path", "pairs")


@dataclass(frozen=True, eq=False)
class Question:
    """One class, in one picture, of one model."""

    model_id: str
    picture: _state.Picture
    target: int

    @property
    def model(self) -> cdam.VisionModel:
        """The shared model."""
        return _state.get_model(self.model_id)

    @property
    def prepared(self) -> _state.Prepared:
        """The picture as the model sees it."""
        return _state.prepare(self.model_id, self.picture)

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What tells it from other questions."""
        return self.model_id, self.picture.digest, self.target

    @property
    def set_id(self) -> str:
        """Of the set that holds this picture alone."""
        return f"one-{self.picture.digest[:16]}"

    def explain(self, method: str) -> cdam.Explanation:
        """The map of a method; remembered."""
        return _state.explain(self.model_id, self.picture, (self.target,), method)


def once(name: str, key: Hashable, make: Callable[[], Any]) -> Any:
    """What was made for this key the last time; of every name, only the last one is kept."""
    kept = st.session_state.setdefault("attention.once", {})
    if name not in kept or kept[name][0] != key:
        kept[name] = (key, make())
    return kept[name][1]


def palette() -> str:
    """The colours of signed maps, as chosen on another page."""
    return st.session_state.get("look", {}).get("palette", DEFAULT_PALETTE)


def restore() -> None:
    """Set widgets as they were before a visit to another page."""
    for name, value in st.session_state.get("attention.kept", {}).items():
        st.session_state.setdefault(f"attention.{name}", value)


def remember() -> None:
    """Keep what the widgets are set to."""
    now = {name: st.session_state[f"attention.{name}"] for name in KEPT
           if f"attention.{name}" in st.session_state}  # fmt: skip
    st.session_state["attention.kept"] = st.session_state.get("attention.kept", {}) | now
