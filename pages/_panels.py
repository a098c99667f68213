"""From explanations to what the viewer shows: pictures, one scale, numbers of the tooltip."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

import cdam_core as cdam
from cdam_core.maps import counted
from cdam_core.methods import METHODS
from cdam_core.pictures import (
    COLOURED,  # noqa: F401 - for pages that scale several explanations together
    DEFAULT_PALETTE,
    draw,
    legend,
    palette_for,
    shared_scale,
)
from cdam_core.provenance import per_patch
from pages._state import Picture, Prepared
from pages._words import decimals_for, signed

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


# ---- scores --------------------------------------------------------------------------------------


def is_per_pixel(explanation: cdam.Explanation) -> bool:
    """Whether the scores are those of pixels; else of patches."""
    return explanation.scores.shape[1:] != explanation.grid


def counted_scores(explanation: cdam.Explanation) -> np.ndarray:
    """(T, patches or pixels) scores, those of padding left out."""
    return counted(explanation.scores, explanation.content)


def only(explanation: cdam.Explanation, indices: Sequence[int]) -> cdam.Explanation:
    """The same for some of its targets, in the order of the indices."""
    picked = list(indices)
    return replace(
        explanation, scores=explanation.scores[picked], rest=explanation.rest[picked],
        values=explanation.values[picked],
        labels=tuple(explanation.labels[i] for i in picked),
        targets=tuple(explanation.targets[i] for i in picked),
    )  # fmt: skip


# ---- one scale -----------------------------------------------------------------------------------


def beyond_scale(explanation: cdam.Explanation, scale: float) -> str:
    """What to say of the scores that lie beyond the scale."""
    scores = counted_scores(explanation)
    largest = scores.flat[np.abs(scores).argmax()]
    if abs(largest) <= scale:
        return ""
    end, most = number_text(scale, scale, False), number_text(largest, scale)
    if METHODS[explanation.method].signed:
        return f"1 % of the scores lie beyond ±{end}, up to {most}"
    return f"1 % of the scores lie beyond {end}, up to {most.removeprefix('+')}"


def number_text(value: float, scale: float, with_sign: bool = True) -> str:
    """A score with as many digits as its scale needs."""
    text = signed(float(value), decimals_for(scale))
    return text if with_sign else text.lstrip("+−")


def scale_bar(
    explanation: cdam.Explanation,
    look: Look,
    scale: float,
    note: str,
    ends: tuple[str, str] = ("speaks against", "speaks for"),
) -> dict[str, str]:
    """The printed scale under the panels.

    Args:
        explanation: as it is drawn.
        look, scale: how it is drawn.
        note: what a score is, in one or two sentences.
        ends: words for the ends of a signed scale.
    """
    colours, end = palette_for(explanation.method, look.palette), number_text(scale, scale, False)
    notes = [note]
    if beyond := beyond_scale(explanation, scale):
        notes.append(f"{beyond}.")
    if explanation.simulated:
        card = cdam.MODELS.get(explanation.model_id, {})
        notes.append(f"Simulated training data: {card.get('simulated_note', 'no real pictures')}.")
    words = {
        "alt": f"Colour scale from −{end} over zero to +{end}",
        "low": f"{ends[0]}  −{end}", "zero": "0", "high": f"+{end}  {ends[1]}",
    } if colours.signed else {
        "alt": f"Colour scale from zero to {end}", "low": "0", "zero": "", "high": end,
    }  # fmt: skip
    return {"src": data_url(legend(scale, colours)), "note": " ".join(notes), **words}


# ---- pictures ------------------------------------------------------------------------------------


def data_url(picture: Image.Image) -> str:
    """A picture inside an address: nothing is stored on the server."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_panels(
    prepared: Prepared, explanation: cdam.Explanation, look: Look, scale: float, saw: bool = True
) -> list[str]:
    """Data URLs of ``pictures_of``, without what the model saw where it is shown elsewhere."""
    pictures = pictures_of(prepared, explanation, look, scale)
    return [data_url(picture) for picture in (pictures if saw else pictures[1:])]


def pictures_of(
    prepared: Prepared, explanation: cdam.Explanation, look: Look, scale: float
) -> list[Image.Image]:
    """What the model saw, then one map per target."""
    pictures = [prepared.view.copy()]
    pictures += [
        draw(prepared.view, explanation, index, scale, look.palette, look.opacity, look.smooth)
        for index in range(len(explanation.labels))
    ]
    if look.outlines and prepared.outlines is not None:
        for picture in pictures:
            picture.paste(prepared.outlines, mask=prepared.outlines)
    return pictures


# ---- patches -------------------------------------------------------------------------------------


def tooltip(
    explanation: cdam.Explanation, scale: float, every: cdam.Explanation | None = None
) -> dict[str, Any]:
    """The numbers of every patch, small enough to be sent along; hovering asks nobody.

    Args:
        explanation: what is shown; pixel scores are summed to patches.
        scale: |score| at full colour.
        every: the map of every class, for the classes a patch speaks for and against most.
    """
    patches = per_patch(explanation)
    decimals = decimals_for(shared_scale(patches) if is_per_pixel(explanation) else scale)
    data = {
        "decimals": decimals,
        "signed": METHODS[explanation.method].signed,
        "names": [],
        "content": explanation.content.ravel().astype(int).tolist(),
        "shown": [
            {"name": label, "values": np.round(scores.ravel(), decimals).tolist()}
            for label, scores in zip(patches.labels, patches.scores, strict=True)
        ],
        "supported": [],
        "opposed": [],
    }
    if every is not None:
        flat = np.round(every.scores.reshape(len(every.scores), -1), decimals)
        data |= {"names": list(every.labels), "supported": _largest(flat, 1),
                 "opposed": _largest(-flat, -1)}  # fmt: skip
    return data


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
    explanation: cdam.Explanation, patch: tuple[int, int], count: int
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """(label, score) a patch speaks for most, and against most; strongest first."""
    scores = explanation.scores[:, patch[0], patch[1]]
    order = np.argsort(-scores, kind="stable")
    named = [(explanation.labels[c], float(scores[c])) for c in order]
    supported = [item for item in named[:count] if item[1] > 0]
    opposed = [item for item in named[::-1][:count] if item[1] < 0]
    return supported, opposed


def strongest_patch(explanation: cdam.Explanation, index: int) -> tuple[int, int]:
    """(row, col) of the highest score of one target, padding left out."""
    patches = per_patch(only(explanation, [index]))
    scores = np.where(explanation.content, patches.scores[0], -np.inf)
    row, col = np.unravel_index(int(scores.argmax()), scores.shape)
    return int(row), int(col)


def bar_colours(method: str, look: Look) -> tuple[str, str]:
    """Colours of bars against and for, from the palette of the maps."""
    stops = palette_for(method, look.palette).stops
    return stops[1], stops[-2]


# ---- all of it -----------------------------------------------------------------------------------


def viewer_data(
    prepared: Prepared,
    explanation: cdam.Explanation,
    look: Look,
    patch: tuple[int, int],
    scale: float,
    captions: Sequence[dict[str, str]],
    bar: dict[str, str],
    every: cdam.Explanation | None = None,
    saw: bool = True,
) -> dict[str, Any]:
    """Everything that the viewer component needs; JSON-able.

    Args:
        prepared: what the model saw.
        explanation: as it is drawn.
        look, scale: how it is drawn.
        patch: (row, col) of the selected one.
        captions: per map, what is printed above it and read out: see ``caption``.
        bar: of ``scale_bar``.
        every: the map of every class, where the tooltip names classes.
        saw: begin with what the model saw.
    """
    rows, cols = explanation.grid
    sources = draw_panels(prepared, explanation, look, scale, saw)
    view = caption("", "What the model saw", f"{rows} × {cols} patches",
                   "The picture as the model saw it")  # fmt: skip
    return {
        "panels": [
            {"src": source, **words}
            for source, words in zip(sources, [view, *captions] if saw else captions, strict=True)
        ],
        "scale": bar,
        "grid": [rows, cols],
        "selected": list(patch),
        "label": f"Patches of all maps, {rows} rows and {cols} columns. Arrow keys move, Enter "
        "inspects a patch, Escape leaves.",
        **tooltip(explanation, scale, every),
    }


def caption(badge: str, title: str, note: str, alt: str) -> dict[str, str]:
    """What stands above a panel, and what is read out for its picture."""
    return {"badge": badge, "title": title, "note": note, "alt": alt}


def alt_text(explanation: cdam.Explanation, index: int, title: str) -> str:
    """What is read out for a map: whose it is, and where it is strongest."""
    row, col = strongest_patch(explanation, index)
    return f"Map of {title}; strongest in row {row + 1}, column {col + 1}"
