"""A light component without frames: the maps of one method, each with its printed scale.

Script and style lie beside this file. Text is set as text in the browser, never as markup.
"""

from pathlib import Path
from typing import Any

from pages._viewer import _component

_card = _component("card", "dom.js", "cells.css", folder=Path(__file__).parent)


def card(data: dict[str, Any], key: str) -> None:
    """Maps side by side; hovering shows the scores of a patch.

    Args:
        data: "panels", "grid", "content", "decimals" and "values"; see ``_methods_cards``.
        key: of the widget.
    """
    _card(key=key, data=data)
