"""Three light components without frames: panels of maps, the sample gallery, and bar lists.

Their scripts and styles lie beside this file; data goes in, and clicks come back as triggers.
Text is set as text in the browser, so class names and titles can never become markup.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

_FOLDER = Path(__file__).parent


def _component(name: str, *shared: str, folder: Path = _FOLDER) -> Callable[..., Any]:
    """Register the component of ``name.js`` and ``name.css``.

    Args:
        name: of its files.
        shared: files of this folder that stand before its own: ``dom.js``, ``cells.css``.
        folder: where its own files are.
    """
    files = [*(_FOLDER / each for each in shared), folder / f"{name}.js", folder / f"{name}.css"]
    script, style = (
        "\n".join(file.read_text(encoding="utf-8") for file in files if file.suffix == kind)
        for kind in (".js", ".css")
    )
    return st.components.v2.component(f"cdam_{name}", js=script, css=style)


_maps = _component("maps", "dom.js", "cells.css")
_gallery, _bars = _component("gallery", "dom.js"), _component("bars", "dom.js")


def maps(
    data: dict[str, Any],
    key: str,
    on_patch: Callable[[], None],
    on_region: Callable[[], None] | None = None,
) -> None:
    """Panels of one picture with a shared patch cursor.

    Args:
        data: "panels", "scale", "grid", "selected" and the numbers of the tooltip; see
            ``_panels.viewer_data``; where a region may be drawn, also "region": its description, or
            None.
        key: of the widget; ``st.session_state[key]["patch"]`` is the clicked [row, col], and
            ``["region"]`` the description of what was drawn, as the browser sent it.
        on_patch: called when a patch is clicked, or Enter is pressed on it.
        on_region: called when a region was drawn; None: none can be.
    """
    data = {"region": None, "draws": on_region is not None, **data}
    _maps(key=key, data=data, on_patch_change=on_patch,
          on_region_change=on_region or (lambda: None))  # fmt: skip


def gallery(
    items: list[dict[str, str]], chosen: str | None, key: str, on_sample: Callable[[], None]
) -> None:
    """Thumbnails to choose from.

    Args:
        items: dicts with "id", "title" and "src" (a data URL).
        chosen: id of the current one.
        key: of the widget; ``st.session_state[key]["sample"]`` is the clicked id.
        on_sample: called when one is chosen.
    """
    data = {"label": "Sample pictures", "items": items, "chosen": chosen}
    _gallery(key=key, data=data, on_sample_change=on_sample)


def bars(
    title: str,
    items: list[tuple[str, float, str]],
    full: float,
    key: str,
    colour: str = "",
    none: str = "None.",
) -> None:
    """A titled list of names with bars.

    Args:
        title: shown above the list and read out for it.
        items: (name, value, value as text).
        full: |value| of a full bar.
        key: of the widget.
        colour: of the bars; empty: the theme's.
        none: shown for an empty list.
    """
    rows = [{"name": name, "value": value, "text": text} for name, value, text in items]
    data = {"title": title, "items": rows, "full": full or 1, "colour": colour, "none": none}
    _bars(key=key, data=data)
