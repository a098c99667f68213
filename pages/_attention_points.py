"""From patches to points: what is plotted against what, in which colours, and what is selected."""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdam_core.mechanism import LOUD, Patches
from pages._words import decimals_for, percent, signed

STEPS = 65535  # a coordinate is sent as one of so many positions on its axis
MARGIN = 0.04  # of the range, beyond the outermost point
MAX_CORNERS = 400  # of a lasso
PANELS = 4  # pictures that a selection in a set lights
# Okabe and Ito's colours, then Tol's; told apart by people with any kind of colour vision. Beyond
# these a group is grey, and can still be shown alone by its legend entry.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a000", "#882255",
           "#44aa99", "#999933", "#aa4499", "#6699cc")  # fmt: skip
GREY = "#8a9499"
FOR, AGAINST = "#d94801", "#2171b5"  # of the standard palette of the maps


@dataclass(frozen=True)
class View:
    """What is plotted against what.

    Attributes:
        id: its name.
        label: shown to people.
        x, y: names of the two, short.
        x_axis, y_axis: with their units.
        needs: method beside plain CDAM that it shows, if any.
        per_head: whether a patch is one point per head.
        split: whether it needs the split into heads and paths.
    """

    id: str
    label: str
    x: str
    y: str
    x_axis: str
    y_axis: str
    needs: str = ""
    per_head: bool = False
    split: bool = False


ATTENTION_AXIS = "Attention on the patch (mean over heads)"
VIEWS: dict[str, View] = {
    view.id: view
    for view in (
        View("cdam", "Attention and CDAM", "Attention", "CDAM", ATTENTION_AXIS, "CDAM (logits)"),
        View("integrated_cdam", "Attention and Integrated CDAM", "Attention", "Integrated CDAM",
             ATTENTION_AXIS, "Integrated CDAM (logits)", needs="integrated_cdam"),
        View("smooth_cdam", "Attention and Smooth CDAM", "Attention", "Smooth CDAM",
             ATTENTION_AXIS, "Smooth CDAM (logits)", needs="smooth_cdam"),
        View("relevance", "Per head: attention and relevance", "Attention", "Relevance",
             "Attention of one head", "Relevance (logits per unit of attention)", per_head=True,
             split=True),
        View("evidence", "Per head: attention and evidence", "Attention", "Evidence",
             "Attention of one head", "Attention × relevance (logits)", per_head=True, split=True),
        View("paths", "Value path and key path", "Value path", "Key path",
             "What the patch says when attended (value path, logits)",
             "How it draws attention (key path, logits)", split=True),
    )
}  # fmt: skip
COLOURINGS = {"evidence": "Evidence", "picture": "Picture", "class": "Class", "head": "Head"}


@dataclass(frozen=True, eq=False)
class Points:
    """n points and what they stand for.

    Attributes:
        id: of what is plotted; a selection belongs to it.
        x, y: (n,) coordinates, as the browser gets them.
        range: (x0, x1, y0, y1) of the axes.
        picture, patch: (n,) number of the picture and of the patch in it.
        group: (n,) number of the colour.
        groups: (name, colour) of each.
    """

    id: str
    x: np.ndarray
    y: np.ndarray
    range: tuple[float, float, float, float]
    picture: np.ndarray
    patch: np.ndarray
    group: np.ndarray
    groups: tuple[tuple[str, str], ...]


# ---- points --------------------------------------------------------------------------------------


def points_of(
    pictures: Sequence[Patches], view: View, colouring: str, titles: Sequence[str], identity: str
) -> Points:
    """The points of a view.

    Args:
        pictures: their patches.
        view: what is plotted.
        colouring: id in ``COLOURINGS``.
        titles: one per picture of the set.
        identity: of the pictures, model and target.
    """
    pairs = [coordinates(each, view) for each in pictures]
    heads = [len(each.by_value) if view.per_head else 1 for each in pictures]
    x, y = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    picture = np.concatenate([
        np.full(n * len(each.index), each.number) for n, each in zip(heads, pictures, strict=True)
    ])
    patch = np.concatenate([np.tile(p.index, n) for n, p in zip(heads, pictures, strict=True)])
    group, groups = _groups(pictures, view, colouring, titles, y)
    low_x, high_x = _range(x)
    low_y, high_y = _range(y)
    name = hashlib.sha256(f"{identity}.{view.id}".encode()).hexdigest()[:16]
    return Points(
        name, _snap(x, low_x, high_x), _snap(y, low_y, high_y), (low_x, high_x, low_y, high_y),
        picture.astype(np.uint16), patch.astype(np.uint16), group.astype(np.uint8), groups,
    )  # fmt: skip


def coordinates(patches: Patches, view: View) -> tuple[np.ndarray, np.ndarray]:
    """(n,) or (H, n) coordinates of one picture's patches."""
    if view.id == "relevance":
        return patches.head_attention, patches.by_value + patches.by_key
    if view.id == "evidence":
        return patches.head_attention, patches.evidence
    if view.id == "paths":
        by_path = (patches.by_value, patches.by_key)
        return tuple((patches.head_attention * each).sum(0) for each in by_path)
    return patches.attention, patches.scores[view.needs or "cdam"]


def _range(values: np.ndarray) -> tuple[float, float]:
    """Ends of an axis that holds all values and zero."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    spread = (high - low) or 1.0
    return (low - MARGIN * spread if low < 0 else low), high + MARGIN * spread


def _snap(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as the browser gets them, so that both find the same points in a box."""
    steps = np.rint((np.asarray(values, np.float64) - low) / (high - low) * STEPS)
    return low + (high - low) * steps / STEPS


def _groups(
    pictures: Sequence[Patches], view: View, colouring: str, titles: Sequence[str], y: np.ndarray
) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    """(n,) group of every point, and the groups' names and colours."""
    if colouring == "evidence":
        bound = LOUD * np.abs(y).max()
        group = np.where(y > bound, 0, np.where(y < -bound, 1, 2))
        return group, (("for", FOR), ("against", AGAINST), (f"within {percent(LOUD)}", GREY))
    if colouring == "head":
        every = [_heads_of(each, view) for each in pictures]
        count = max(len(each.head_attention) for each in pictures)
        names = [f"Head {head + 1}" for head in range(count)]
        return _limited(np.concatenate(every), names)
    if colouring == "class":
        names = list(dict.fromkeys(each.label for each in pictures))
        numbers = [names.index(each.label) for each in pictures]
    else:
        names = [titles[each.number] for each in pictures]
        numbers = list(range(len(pictures)))
    sizes = [coordinates(each, view)[0].size for each in pictures]
    return _limited(np.repeat(numbers, sizes), names)


def _heads_of(patches: Patches, view: View) -> np.ndarray:
    """Head of every point; of a patch that is one point, the one that contributes most."""
    heads, count = patches.head_attention.shape
    if view.per_head:
        return np.repeat(np.arange(heads), count)
    strength = patches.evidence if len(patches.by_value) else patches.head_attention
    return np.abs(strength).argmax(0)


def _limited(
    numbers: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    """The largest groups in colours of their own, all others together in grey."""
    largest = [number for number, _ in Counter(numbers.tolist()).most_common(len(COLOURS))]
    kept = sorted(largest)
    place = {number: index for index, number in enumerate(kept)}
    group = np.array([place.get(number, len(kept)) for number in range(len(names))])[numbers]
    groups = [(names[number], colour) for number, colour in zip(kept, COLOURS, strict=False)]
    if len(kept) < len(set(numbers.tolist())):
        groups.append(("all others", GREY))
    return group, tuple(groups)


# ---- selection -----------------------------------------------------------------------------------


def checked_shape(sent: Any) -> dict[str, Any] | None:
    """A box or lasso that a browser sent; None for none, and for anything that is no shape."""
    try:
        if sent["kind"] == "box":
            box = [float(each) for each in sent["box"]]
            fits = len(box) == 4 and np.isfinite(box).all()
            return {"kind": "box", "box": box} if fits else None
        if sent["kind"] == "lasso":
            polygon = [[float(x), float(y)] for x, y in sent["polygon"][:MAX_CORNERS]]
            fits = len(polygon) > 2 and np.isfinite(polygon).all()
            return {"kind": "lasso", "polygon": polygon} if fits else None
    except (TypeError, ValueError, KeyError, OverflowError):
        pass
    return None


def selected(points: Points, shape: Mapping[str, Any]) -> np.ndarray:
    """(n,) bool: the points inside a shape."""
    if shape["kind"] == "box":
        x0, x1, y0, y1 = shape["box"]
        return (points.x >= x0) & (points.x <= x1) & (points.y >= y0) & (points.y <= y1)
    return inside(shape["polygon"], points.x, points.y)


def inside(polygon: Sequence[Sequence[float]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,) bool: whether points lie inside a polygon, by the even-odd rule."""
    odd = np.zeros(x.shape, bool)
    before = polygon[-1]
    for corner in polygon:
        (x1, y1), (x0, y0) = corner, before
        if y1 != y0:
            crosses = (y1 > y) != (y0 > y)
            odd ^= crosses & (x < (x0 - x1) * (y - y1) / (y0 - y1) + x1)
        before = corner
    return odd


def chosen_patches(points: Points, hit: np.ndarray) -> dict[int, set[int]]:
    """Picture -> its patches with a selected point; most patches first."""
    pairs = np.unique(np.stack([points.picture[hit], points.patch[hit]], 1), axis=0)
    found: dict[int, set[int]] = {}
    for picture, patch in pairs.tolist():
        found.setdefault(picture, set()).add(patch)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def selection_words(
    pictures: Sequence[Patches], chosen: Mapping[int, set[int]], method: str = "cdam"
) -> str:
    """What the selected patches hold, in one sentence."""
    if not chosen:
        return "No patch is in the selection."
    totals, inside_it, count, every = np.zeros(3), np.zeros(3), 0, 0
    for each in pictures:
        picked = np.isin(each.index, list(chosen.get(each.number, ())))
        scores = np.asarray(each.scores[method], np.float64)
        parts = np.stack([each.attention / each.attention.sum(), scores.clip(0), (-scores).clip(0)])
        totals += parts.sum(1)
        inside_it += parts[:, picked].sum(1)
        count, every = count + int(picked.sum()), every + len(picked)
    shares = np.divide(inside_it, totals, out=np.zeros(3), where=totals > 0)
    where = f" in {len(chosen)} of {len(pictures)} pictures" if len(pictures) > 1 else ""
    return (
        f"**{count}** of {every} patches are selected{where}. They hold **{percent(shares[0])}** "
        f"of the attention on patches, **{percent(shares[1])}** of the evidence for the answer and "
        f"**{percent(shares[2])}** of the evidence against it."
    )


# ---- what the component is given -----------------------------------------------------------------


def viewer_data(
    points: Points,
    view: View,
    grid: tuple[int, int],
    titles: Sequence[str],
    panels: Sequence[Mapping[str, Any]],
    selection: Mapping[str, Any],
    marked: tuple[int, int] | None,
) -> dict[str, Any]:
    """Everything that the scatter component needs; JSON-able.

    Args:
        points: what to plot.
        view: its names.
        grid: (rows, cols) of every picture.
        titles: one per picture of the set.
        panels: pictures beside the points: "picture", "title", "note", "src", "alt".
        selection: "version" and "shape".
        marked: (picture, patch), or None.
    """
    x0, x1, y0, y1 = points.range
    colours = hashlib.sha256(repr(points.groups).encode()).hexdigest()[:8]
    return {
        "id": f"{points.id}.{colours}.{len(points.x)}",
        "count": len(points.x),
        "x": _packed(np.rint((points.x - x0) / (x1 - x0) * STEPS), np.uint16),
        "y": _packed(np.rint((points.y - y0) / (y1 - y0) * STEPS), np.uint16),
        "range": list(points.range),
        "picture": _packed(points.picture, np.uint16),
        "patch": _packed(points.patch, np.uint16),
        "group": _packed(points.group, np.uint8),
        "groups": [{"name": name, "colour": colour} for name, colour in points.groups],
        "grid": list(grid),
        "titles": list(titles),
        "perHead": view.per_head,
        "xName": view.x, "yName": view.y, "xLabel": view.x_axis, "yLabel": view.y_axis,
        "label": f"{len(points.x)} points: {view.x} across, {view.y} up. Arrow keys move a cursor, "
        "Shift and arrow keys draw a box, Enter selects, Escape clears.",
        "panelsLabel": f"Patches of the pictures, {grid[0]} rows and {grid[1]} columns. Arrow keys "
        "move, Enter finds the patch among the points, Escape leaves.",
        "panels": list(panels),
        "selection": dict(selection),
        "marked": None if marked is None else list(marked),
    }  # fmt: skip


def _packed(values: np.ndarray, kind: type) -> str:
    little = np.asarray(values).astype(np.dtype(kind).newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode()


def csv_of(pictures: Sequence[Patches], titles: Sequence[str], made: str) -> str:
    """One line per patch: everything that the views plot, with what made it in a leading line."""
    methods = list(pictures[0].scores)
    heads = len(pictures[0].by_value)
    columns = ["picture", "target", "row", "col", "attention", *methods]
    for name in ("attention", "value_relevance", "key_relevance"):
        columns += [f"head_{head + 1}_{name}" for head in range(heads)]
    lines = [f"# {made}", ",".join(columns)]
    for each in pictures:
        numbers = np.concatenate([
            each.attention[None], *(each.scores[name][None] for name in methods),
            each.head_attention[:heads], each.by_value, each.by_key,
        ])  # fmt: skip
        start = f"{_cell(titles[each.number])},{_cell(each.label)}"
        for index, values in zip(each.index.tolist(), numbers.T.tolist(), strict=True):
            row, col = divmod(index, each.grid[1])
            lines.append(",".join([start, str(row), str(col), *(repr(v) for v in values)]))
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that neither ends its cell nor becomes a formula in a spreadsheet."""
    safe = f"'{text}" if text[:1] in "=+-@\t\r" else text
    return '"' + safe.replace('"', '""') + '"'


def patch_words(patches: Patches, patch: int, method: str = "cdam") -> str:
    """Attention and score of one patch."""
    place = np.flatnonzero(patches.index == patch)
    row, col = divmod(patch, patches.grid[1])
    where = f"Row {row + 1}, column {col + 1}"
    if not place.size:
        return f"{where} is padding around the picture and is not counted."
    scores = patches.scores[method]
    score, attention = float(scores[place[0]]), float(patches.attention[place[0]])
    share = attention / float(patches.attention.max())
    return (f"{where}: attention {attention:.4f}, {percent(share)} of the largest; CDAM "
            f"{signed(score, decimals_for(float(np.abs(scores).max())))}.")  # fmt: skip


