"""Two more light components: points linked with patches, and the attention heads one by one.

Like those in ``_viewer``: no frames, text set as text, clicks come back as triggers.
"""

from collections.abc import Callable
from typing import Any

from pages._viewer import _component

_scatter = _component("scatter", "dom.js", "cells.css")
_heads = _component("heads", "dom.js", "cells.css")


def scatter(
    data: dict[str, Any],
    key: str,
    on_selection: Callable[[], None],
    on_patch: Callable[[], None],
) -> None:
    """Points and pictures, linked both ways.

    Args:
        data: see ``_attention_points.viewer_data``.
        key: of the widget; ``st.session_state[key]["selection"]`` is the shape drawn among the
            points, ``["patch"]`` the clicked [picture, patch].
        on_selection: called when a box or lasso was drawn, or the selection cleared.
        on_patch: called when a point or a patch was clicked.
    """
    _scatter(key=key, data=data, on_selection_change=on_selection, on_patch_change=on_patch)


def heads(data: dict[str, Any], key: str, on_patch: Callable[[], None]) -> None:
    """The maps of every head; hovering multiplies out a patch.

    Args:
        data: see ``_attention_heads.viewer_data``.
        key: of the widget; ``st.session_state[key]["patch"]`` is the clicked [row, col].
        on_patch: called when a patch was clicked.
    """
    _heads(key=key, data=data, on_patch_change=on_patch)
