"""A light component without frames: slices of CT by slider, mouse wheel and keys.

All slices are sent once; scrolling, windows and outlines ask the server nothing. Script and style
lie beside this file. Text is set as text in the browser, never as markup.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pages._viewer import _component

_ct = _component("ct", "dom.js", folder=Path(__file__).parent)


def ct(data: dict[str, Any], key: str, on_plane: Callable[[], None]) -> None:
    """Slices of one crop.

    Args:
        data: see ``_nodules_slices.viewer_data``.
        key: of the widget; ``st.session_state[key]["plane"]`` is the [axis, number] of the slice
            that is to be explained.
        on_plane: called when the visitor asks for that.
    """
    _ct(key=key, data=data, on_plane_change=on_plane)
