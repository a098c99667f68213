"""Two more light components: a picture to draw a box on, and small pictures to choose or remove.

Like those in ``_viewer``: no frames, text set as text, clicks come back as triggers.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pages._viewer import _component

_crop, _thumbs = _component("crop", "dom.js"), _component("thumbs", "dom.js")


@dataclass(frozen=True)
class Thumb:
    """One small picture.

    Attributes:
        id: sent back by a click.
        title: shown on hovering and read out.
        srcs: data URLs; several make a strip.
        text: printed below it.
        note: printed smaller, below the text.
        say: read out instead of the title.
        blank: printed where there is no picture.
    """

    id: str
    title: str
    srcs: tuple[str, ...] = ()
    text: str = ""
    note: str = ""
    say: str = ""
    blank: str = ""


def crop(
    src: str, label: str, key: str, on_box: Callable[[], None],
    planned: tuple[float, float, float, float] | None = None, wide: bool = False,
) -> None:
    """A picture to draw a box on.

    Args:
        src: data URL of the picture.
        label: read out for it.
        key: of the widget; ``st.session_state[key]["box"]`` is [left, top, right, bottom] as
            fractions of the picture.
        on_box: called when a box has been drawn.
        planned: a box to show dashed.
        wide: as wide as the page, and for small boxes, too.
    """
    data = {"src": src, "label": label, "planned": list(planned) if planned else None,
            "wide": wide}  # fmt: skip
    _crop(key=key, data=data, on_box_change=on_box)


def thumbs(
    items: list[Thumb],
    label: str,
    key: str,
    kind: str = "list",
    size: str = "small",
    title: str = "",
    chosen: str = "",
    removable: bool = False,
    on_choose: Callable[[], None] | None = None,
    on_remove: Callable[[], None] | None = None,
) -> None:
    """Small pictures.

    Args:
        items: what to show.
        label: read out for all of them.
        key: of the widget; ``st.session_state[key]["choose"]`` or ``["remove"]`` is an id.
        kind: "list" (look, remove) | "choice" (one is chosen) | "buttons" (each can be pressed).
        size: "small" | "medium" | "cards" | "pairs" (strips of two) | "large".
        title: printed above; empty for none.
        chosen: id of the chosen one.
        removable: a list with a cross on every picture.
        on_choose, on_remove: called after a click.
    """
    data: dict[str, Any] = {
        "items": [asdict(item) for item in items], "label": label, "kind": kind, "size": size,
        "title": title, "chosen": chosen, "removable": removable,
    }  # fmt: skip
    _thumbs(key=key, data=data, on_choose_change=on_choose or _nothing,
            on_remove_change=on_remove or _nothing)  # fmt: skip


def _nothing() -> None:
    """A component's trigger needs a callback even where nobody listens."""
