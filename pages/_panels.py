"""From explanations to what the viewer shows: pictures, one scale, numbers of the tooltip."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

import cdam_core as cdam
from cdam_core.maps import symmetric_scale
from cdam_core.pictures import DEFAULT_PALETTE, PALETTES, draw, legend, palette_for
from pages._state import Picture, Prepared
from pages._words import decimals_for, signed

COLOURED = 0.99  # share of the scores that the colours tell apart; the rest get the last colour
TIP_CLASSES = 3  # strongest classes on either side in the tooltip


@dataclass(frozen=True)
class Look:
    """How maps are drawn; none of it changes a score.

    Attributes:
        palette: id in ``PALETTES``.
        opacity: 0 to 1.
        smooth: interpolate between patches.
        outlines: draw the borders of known objects.
    """

    palette: str = DEFAULT_PALETTE
    opacity: float = 0.85
    smooth: bool = False
    outlines: bool = False


@dataclass(frozen=True, eq=False)
class Shown:
    """What a page shows of one picture: all that a file to take home may be made of.

    Attributes:
        page: "compare" | "concepts".
        model: the model that was asked.
        picture: the visitor's picture, as it was opened.
        prepared: what the model made of it; ``prepared.view`` is what the maps are drawn on.
        explanation: scores as the library gave them.
        drawn: the same as it is drawn: pixel scores summed to patches where the visitor wants so.
        look: how it is drawn.
        scale: |score| at full colour.
    """

    page: str
    model: cdam.VisionModel
    picture: Picture
    prepared: Prepared
    explanation: cdam.Explanation
    drawn: cdam.Explanation
    look: Look
    scale: float


def shared_scale(explanation: cdam.Explanation) -> float:
    """The one scale of all panels, from the patches that show picture rather than padding.

    A few patches often hold scores far above all others; up to that scale alone, the rest would
    look empty. The page and the file say where colours end and how large scores get.
    """
    return symmetric_scale([explanation.scores[:, explanation.content]], COLOURED)


def beyond_scale(explanation: cdam.Explanation, scale: float) -> str:
    """What to say of the scores that lie beyond the scale."""
    scores = explanation.scores[:, explanation.content]
    largest = scores.flat[np.abs(scores).argmax()]
    if abs(largest) <= scale:
        return ""
    end = signed(scale, decimals_for(scale))[1:]
    return f"1 % of the scores lie beyond ±{end}, up to {signed(largest, decimals_for(scale))}"


def data_url(picture: Image.Image) -> str:
    """A picture inside an address: nothing is stored on the server."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_panels(
    prepared: Prepared, explanation: cdam.Explanation, look: Look, scale: float
) -> list[str]:
    """Data URLs: what the model saw, then one map per target."""
    pictures = [prepared.view.copy()]
    pictures += [
        draw(prepared.view, explanation, index, scale, look.palette, look.opacity, look.smooth)
        for index in range(len(explanation.labels))
    ]
    if look.outlines and prepared.outlines is not None:
        for picture in pictures:
            picture.paste(prepared.outlines, mask=prepared.outlines)
    return [data_url(picture) for picture in pictures]


def scale_bar(explanation: cdam.Explanation, look: Look, scale: float) -> dict[str, str]:
    """The printed scale under the panels."""
    beyond = beyond_scale(explanation, scale)
    end = signed(scale, decimals_for(scale))
    notes = ["One scale for every map, the difference included. Score per patch, in logits."]
    notes += [f"{beyond}."] if beyond else []
    if explanation.simulated:
        card = cdam.MODELS.get(explanation.model_id, {})
        notes.append(f"Simulated training data: {card.get('simulated_note', 'no real pictures')}.")
    return {
        "src": data_url(legend(scale, palette_for(explanation.method, look.palette))),
        "alt": f"Colour scale from −{end[1:]} over zero to {end}",
        "low": f"speaks against  −{end[1:]}",
        "high": f"{end}  speaks for",
        "note": " ".join(notes),
    }


def tooltip(
    explanation: cdam.Explanation, every: cdam.Explanation, scale: float
) -> dict[str, Any]:
    """The numbers of every patch, small enough to be sent along; hovering asks nobody."""
    decimals = decimals_for(scale)
    flat = np.round(every.scores.reshape(len(every.scores), -1), decimals)
    return {
        "decimals": decimals,
        "names": list(every.labels),
        "content": explanation.content.ravel().astype(int).tolist(),
        "shown": [
            {"name": label, "values": np.round(scores.ravel(), decimals).tolist()}
            for label, scores in zip(explanation.labels, explanation.scores, strict=True)
        ],
        "supported": _largest(flat, 1),
        "opposed": _largest(-flat, -1),
    }


def _largest(scores: np.ndarray, sign: int) -> list[list[tuple[int, float]]]:
    """Per patch, (class, sign * score) of its few largest positive scores (classes, patches)."""
    count = min(TIP_CLASSES, len(scores))
    some = np.argpartition(-scores, count - 1, axis=0)[:count]
    values = np.take_along_axis(scores, some, axis=0)
    order = np.argsort(-values, axis=0, kind="stable")
    classes = np.take_along_axis(some, order, axis=0).T.tolist()
    values = np.take_along_axis(values, order, axis=0).T.tolist()
    return [
        [(c, sign * v) for c, v in zip(*pair, strict=True) if v > 0]
        for pair in zip(classes, values, strict=True)
    ]


def patch_bars(
    every: cdam.Explanation, patch: tuple[int, int], count: int
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """(class, score) a patch speaks for most, and against most; strongest first."""
    scores = every.scores[:, patch[0], patch[1]]
    order = np.argsort(-scores, kind="stable")
    named = [(every.labels[c], float(scores[c])) for c in order]
    supported = [item for item in named[:count] if item[1] > 0]
    opposed = [item for item in named[::-1][:count] if item[1] < 0]
    return supported, opposed


def strongest_patch(explanation: cdam.Explanation, index: int) -> tuple[int, int]:
    """(row, col) of the highest score of one target, padding left out."""
    scores = np.where(explanation.content, explanation.scores[index], -np.inf)
    row, col = np.unravel_index(int(scores.argmax()), scores.shape)
    return int(row), int(col)


def bar_colours(look: Look) -> tuple[str, str]:
    """Colours of bars against and for, from the palette of the maps."""
    stops = PALETTES[look.palette].stops
    return stops[1], stops[-2]


def viewer_data(
    prepared: Prepared,
    explanation: cdam.Explanation,
    every: cdam.Explanation,
    look: Look,
    patch: tuple[int, int],
    scale: float,
) -> dict[str, Any]:
    """Everything that the viewer component needs; JSON-able."""
    sources = draw_panels(prepared, explanation, look, scale)
    panels = [
        {
            "src": sources[0],
            "badge": "",
            "title": "What the model saw",
            "note": f"{explanation.grid[0]} × {explanation.grid[1]} patches",
            "alt": "The picture as the model saw it",
        }
    ]
    for index, source in enumerate(sources[1:]):
        panels.append({"src": source, **_caption(explanation, index)})
    return {
        "panels": panels,
        "scale": scale_bar(explanation, look, scale),
        "grid": list(explanation.grid),
        "selected": list(patch),
        "label": f"Patches of all maps, {explanation.grid[0]} rows and {explanation.grid[1]} "
        "columns. Arrow keys move, Enter inspects a patch, Escape leaves.",
        **tooltip(explanation, every, scale),
    }


def _caption(explanation: cdam.Explanation, index: int) -> dict[str, str]:
    label, target = explanation.labels[index], explanation.targets[index]
    value = signed(explanation.values[index])
    row, col = strongest_patch(explanation, index)
    alt = f"Map of {label}, logit {value}; strongest in row {row + 1}, column {col + 1}"
    if target["kind"] == "contrast":
        return {"badge": "A − B", "title": label, "note": f"difference {value}", "alt": alt}
    badge = ("A", "B")[index] if index < 2 else ""
    return {"badge": badge, "title": label, "note": f"logit {value}", "alt": alt}
