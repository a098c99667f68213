"""From maps to pictures: the only place where scores become colours.

Zero always gets the neutral colour and panels that are compared share one printed scale. Colours
clip only what lies beyond the scale. Figures are drawn without a browser and without pyplot, whose
global state is not safe with several users.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import get_data_path, rcParams
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font
from PIL import Image, ImageDraw
from scipy import ndimage

from cdam_core.maps import counted, symmetric_scale, to_map
from cdam_core.methods import METHODS

if TYPE_CHECKING:
    from cdam_core.explanation import Explanation
    from cdam_core.regions import Region

GREY_LOW, GREY_RANGE = 55, 0.55  # black becomes 55, white 195
# Names inside an SVG would be random otherwise: the same result must give the same bytes.
rcParams["svg.hashsalt"] = "cdam"

TILE, TILE_GAP, TILE_SCALE = 2.4, 0.12, 0.42  # inches: of a picture, beside it, below it
COLOURED = 0.99  # share of the scores that the colours tell apart; the rest get the last colour
VIEW_SIDE = 448  # pixels of a picture in files and on the screen, about
SAW = "What the model saw"  # printed above the picture
FAINT = 0.08  # |score| / scale below which a patch gets no mark
LEVELS = 511  # odd, so that exactly one colour is zero's


@dataclass(frozen=True)
class Palette:
    """Colours from -scale over zero to +scale (signed), or from zero to +scale (unsigned).

    Attributes:
        id: name in code and files.
        label: name shown to people.
        stops: colours, evenly spaced; in a signed palette the middle one is zero's.
        signed: which kind it is.
    """

    id: str
    label: str
    stops: tuple[str, ...]
    signed: bool = True

    def colormap(self) -> LinearSegmentedColormap:
        """The palette as matplotlib's colormap."""
        return LinearSegmentedColormap.from_list(self.id, self.stops, LEVELS)

    def table(self) -> np.ndarray:
        """(LEVELS, 3) uint8 colours; read-only."""
        return _table(self)

    def strength(self) -> np.ndarray:
        """(LEVELS,) |score| / scale of every colour, 0 to 1."""
        return np.abs(np.linspace(-1 if self.signed else 0, 1, LEVELS))

    def neutral(self) -> tuple[int, int, int]:
        """The RGB colour of zero."""
        return tuple(int(v) for v in self.table()[LEVELS // 2 if self.signed else 0])


@cache
def _table(palette: Palette) -> np.ndarray:
    colours = palette.colormap()(np.linspace(0, 1, LEVELS))[:, :3]
    table = np.rint(colours * 255).astype(np.uint8)
    table.setflags(write=False)
    return table


# Blue and orange differ for every common kind of colour blindness; lightness is symmetric.
PALETTES: dict[str, Palette] = {
    palette.id: palette
    for palette in (
        Palette(
            "blue_orange",
            "Blue – orange",
            ("#08306b", "#2171b5", "#9ecae1", "#f7f7f7", "#fdbe85", "#d94801", "#7f2704"),
        ),
        Palette(
            "paper",
            "Paper (black at zero)",
            ("#a6f0ff", "#29b6e8", "#06527a", "#000000", "#8a3b00", "#f58220", "#ffd9a0"),
        ),
        Palette("purple", "Purple", ("#f7f7f7", "#bcbddc", "#756bb1", "#3f007d"), signed=False),
    )
}
DEFAULT_PALETTE = "blue_orange"


def palette_for(method: str, chosen: str = DEFAULT_PALETTE) -> Palette:
    """The chosen signed palette, or the unsigned one for a method without signs."""
    return PALETTES[chosen] if METHODS[method].signed else PALETTES["purple"]


def _position(score_map: np.ndarray, scale: float, palette: Palette) -> np.ndarray:
    """Scores to positions 0..LEVELS-1 in the palette; what lies beyond the scale is clipped."""
    unit = np.clip(np.nan_to_num(np.asarray(score_map, np.float32) / scale), -1, 1)
    middle = LEVELS // 2
    if palette.signed:
        return np.rint(middle + unit * middle).astype(np.intp)
    return np.rint(np.clip(unit, 0, 1) * (LEVELS - 1)).astype(np.intp)


def colourise(score_map: np.ndarray, scale: float, palette: Palette) -> np.ndarray:
    """Scores (H, W) to colours (H, W, 3) uint8; zero becomes ``palette.neutral()``."""
    return palette.table()[_position(score_map, scale, palette)]


def overlay(
    image: Image.Image,
    score_map: np.ndarray,
    scale: float,
    palette: Palette,
    opacity: float = 0.85,
    fade: bool = True,
    content: np.ndarray | None = None,
) -> Image.Image:
    """Colours over a greyed image of reduced contrast, so that they show on white and on black.

    Args:
        image: PIL RGB of the map's size: exactly what the model saw.
        score_map: (H, W) scores.
        scale: |score| at full colour.
        palette: colours.
        opacity: 0 (image alone) to 1.
        fade: True lets the image show where the score is near zero (opacity grows with the square
            root of |score|); False covers all of it evenly.
        content: (H, W) bool, False on padding, which is hatched grey instead.

    Returns:
        PIL RGB of the same size.
    """
    # Colour and opacity depend on the position in the palette alone, so both are looked up.
    alpha = opacity * np.sqrt(palette.strength()) if fade else np.full(LEVELS, opacity)
    paint = (palette.table() * alpha[:, None]).astype(np.float32)
    keep = (1 - alpha).astype(np.float32)
    position = _position(score_map, scale, palette)
    grey = GREY_LOW + GREY_RANGE * np.asarray(image.convert("L"), np.float32)
    grey *= keep.take(position)
    mixed = paint.take(position, axis=0)
    mixed += grey[..., None]
    if content is not None:
        mixed = np.where(content[..., None], mixed, _hatching(mixed.shape[:2])[..., None])
    return Image.fromarray(np.rint(mixed, out=mixed).astype(np.uint8))


def _hatching(size: tuple[int, int]) -> np.ndarray:
    """(H, W) grey diagonal stripes: no picture here."""
    rows, cols = np.indices(size)
    return np.where((rows + cols) // 6 % 2, 150.0, 165.0)


def outline(picture: Image.Image, mask: np.ndarray, width: int = 2) -> Image.Image:
    """Draw the border of a mask (H, W) bool: white with a dark rim, readable on every colour."""
    layer = outline_layer([mask], width)
    outlined = picture.convert("RGB")
    outlined.paste(layer, mask=layer)
    return outlined


def outline_layer(masks: Sequence[np.ndarray], width: int = 2) -> Image.Image:
    """The borders of masks (H, W) bool as one RGBA layer, to be pasted on many pictures."""
    pixels = np.zeros((*np.shape(masks[0]), 4), np.uint8)
    for mask in np.asarray(masks, bool):
        inner = ndimage.binary_dilation(mask, iterations=width) & ~mask
        rim = ndimage.binary_dilation(mask, iterations=2 * width) & ~mask & ~inner
        pixels[rim] = (20, 20, 20, 255)
        pixels[inner] = (255, 255, 255, 255)
    return Image.fromarray(pixels)


def outline_region(picture: Image.Image, region: Region) -> Image.Image:
    """Draw the border of a region: white with a dark rim, readable on every colour."""
    corners = region.points
    if region.kind == "box":
        (top, left), (bottom, right) = corners
        corners = ((top, left), (top, right), (bottom, right), (bottom, left))
    # A corner on the very edge of the picture must still be seen.
    line = [(1 + col * (picture.width - 3), 1 + row * (picture.height - 3)) for row, col in corners]
    outlined = picture.convert("RGB")
    for colour, width in (((20, 20, 20), 6), ((255, 255, 255), 2)):
        ImageDraw.Draw(outlined).line([*line, *line[:2]], colour, width, joint="curve")
    return outlined


def legend(scale: float, palette: Palette, size: tuple[int, int] = (14, 360)) -> Image.Image:
    """A bar of the palette's colours, (height, width) = size; the numbers are printed beside it."""
    low = -scale if palette.signed else 0.0
    return Image.fromarray(
        colourise(np.tile(np.linspace(low, scale, size[1]), (size[0], 1)), scale, palette)
    )


def draw(
    image: Image.Image,
    explanation: Explanation,
    index: int,
    scale: float,
    palette: str = DEFAULT_PALETTE,
    opacity: float = 0.85,
    smooth: bool = False,
) -> Image.Image:
    """The overlay of one target's map on what the model saw.

    Args:
        image: PIL RGB that the model saw (``model.fit(image).image``), at any size.
        explanation: from ``explain``.
        index: which of its targets.
        scale: |score| at full colour; see ``maps.symmetric_scale``.
        palette: id in ``PALETTES``; methods without signs have their own.
        opacity: 0 to 1.
        smooth: interpolate between patches instead of showing them as they are.
    """
    size = (image.height, image.width)
    score_map = to_map(explanation.scores[index], size, "smooth" if smooth else "nearest")
    content = None
    if not explanation.content.all():
        content = to_map(explanation.content, size) > 0.5
    colours = palette_for(explanation.method, palette)
    return overlay(image, score_map, scale, colours, opacity, content=content)


def shared_scale(explanation: Explanation) -> float:
    """The one scale of all maps of an explanation, from what shows picture rather than padding.

    A few patches often hold scores far above all others; up to that scale alone, the rest would
    look empty. Whoever draws with it says where colours end; see ``beyond_scale``.
    """
    return symmetric_scale([counted(explanation.scores, explanation.content)], COLOURED)


def beyond_scale(explanation: Explanation, scale: float) -> str:
    """What to say of the scores that lie beyond the scale; empty where none do."""
    scores = counted(explanation.scores, explanation.content)
    largest = scores.flat[np.abs(scores).argmax()]
    if abs(largest) <= scale:
        return ""
    if METHODS[explanation.method].signed:
        return f"1 % of the scores lie beyond ±{scale:.3g}, up to {largest:+.3g}"
    return f"1 % of the scores lie beyond {scale:.3g}, up to {largest:.3g}"


def view_zoom(input_size: Sequence[int]) -> int:
    """How many times its own size a model's input is drawn; whole, so that patches stay sharp."""
    return max(1, round(VIEW_SIDE / max(input_size)))


def mark_negative(
    picture: Image.Image, scores: np.ndarray, scale: float, content: np.ndarray | None = None
) -> Image.Image:
    """Put a minus sign on every patch with evidence against, for print without colours.

    Opposite scores are equally dark, so black and white print needs this second cue.

    Args:
        picture: PIL RGB, as ``draw`` makes it.
        scores: (rows, cols) per patch; of a pixel map, summed to patches.
        scale: |score| at full colour; patches below ``FAINT`` of it stay unmarked.
        content: (rows, cols) bool, False on padding, which stays unmarked.

    Returns:
        A marked copy.
    """
    marked = picture.convert("RGB")
    pixels, grey = np.array(marked), np.asarray(marked.convert("L"), np.float32)
    rows, cols = scores.shape
    high, wide = picture.height / rows, picture.width / cols
    against = scores < -FAINT * scale
    if content is not None:
        against &= content
    for row, col in np.argwhere(against):
        middle, half = (row + 0.5) * high, max(1.0, 0.07 * high) / 2
        # To whole pixels by adding a half, for half a pixel would round to nothing.
        top, bottom = int(middle - half + 0.5), max(int(middle + half + 0.5), int(middle) + 1)
        left, right = int((col + 0.25) * wide), int((col + 0.75) * wide) + 1
        is_dark = grey[top:bottom, left:right].mean() < 128
        pixels[top:bottom, left:right] = 255 if is_dark else 0
    return Image.fromarray(pixels)


def panel(
    image: Image.Image,
    explanation: Explanation,
    scale: float,
    palette: str = DEFAULT_PALETTE,
    opacity: float = 0.85,
    smooth: bool = False,
    file_format: str = "png",
    scale_note: str = "",
    outlines: Image.Image | None = None,
    saw: str = SAW,
) -> bytes:
    """Image and maps side by side with one printed scale, as a file.

    Args:
        image: PIL RGB that the model saw.
        explanation: from ``explain``; one map per target is drawn.
        scale: |score| at full colour, shared by all maps.
        palette, opacity, smooth: as in ``draw``.
        file_format: "png" | "svg" | "pdf".
        scale_note: what to say of the scale, such as a quantile beyond which colours are clipped.
        outlines: RGBA layer of the image's size to put on everything; see ``outline_layer``.
        saw: printed above the image.

    Returns:
        The file's bytes. Method, target, value, model and scale are printed on it.
    """
    count = 1 + len(explanation.labels)
    figure = Figure(figsize=(3.1 * count + 0.6, 4.0), dpi=160, layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    _show(axes[0], _with(outlines, image), saw)
    for index, (axis, label) in enumerate(zip(axes[1:], explanation.labels, strict=True)):
        picture = draw(image, explanation, index, scale, palette, opacity, smooth)
        _show(axis, _with(outlines, picture), f"{label}\nvalue {explanation.values[index]:+.2f}")
    _colour_bar(figure, axes, explanation, scale, palette, scale_note)
    stamp = "  ·  SIMULATED DATA" if explanation.simulated else ""
    title = f"{METHODS[explanation.method].label}  ·  model {explanation.model_id}{stamp}"
    figure.suptitle(_literal(title), fontsize=11)
    return figure_file(figure, file_format)


def sheet(
    image: Image.Image,
    explanations: Sequence[Explanation],
    scales: Sequence[Sequence[float]],
    palette: str = DEFAULT_PALETTE,
    opacity: float = 0.85,
    smooth: bool = False,
    outlines: Image.Image | None = None,
    scale_note: str = "",
    file_format: str = "png",
    saw: str = "",
) -> bytes:
    """Many methods on one sheet: a line per method, a column per target, a scale under each map.

    Args:
        image: PIL RGB that the model saw.
        explanations: of the same picture and targets, one per method.
        scales: per explanation, |score| at full colour for each of its targets.
        palette, opacity, smooth: as in ``draw``.
        outlines: RGBA layer of the image's size to put on everything; see ``outline_layer``.
        scale_note: what to say of the scales.
        file_format: "png" | "svg" | "pdf".
        saw: printed above the image, after the method.

    Returns:
        The file's bytes. Methods, targets, values, model and scales are printed on it.
    """
    lines = []
    for explanation, ends in zip(explanations, scales, strict=True):
        title = "\n".join(filter(None, (METHODS[explanation.method].label, saw)))
        line = [Tile(_with(outlines, image), title)]
        for index, scale in enumerate(ends):
            picture = draw(image, explanation, index, scale, palette, opacity, smooth)
            title = f"{explanation.labels[index]}, value {explanation.values[index]:+.2f}"
            line.append(map_tile(_with(outlines, picture), explanation, scale, title, palette))
        lines.append(line)
    first = explanations[0]
    return tiles(lines, f"Model {first.model_id}", first.simulated, scale_note, file_format)


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of a sheet.

    Attributes:
        picture: PIL RGB.
        title: printed above it.
        scale: |score| at full colour, printed under it with a bar; None: it is no map.
        palette: of the bar.
    """

    picture: Image.Image
    title: str
    scale: float | None = None
    palette: Palette | None = None


def map_tile(
    picture: Image.Image, explanation: Explanation, scale: float, title: str,
    palette: str = DEFAULT_PALETTE,
) -> Tile:  # fmt: skip
    """A drawn map with its scale."""
    return Tile(picture, title, scale, palette_for(explanation.method, palette))


def tiles(
    lines: Sequence[Sequence[Tile | None]],
    title: str,
    simulated: bool,
    note: str = "",
    file_format: str = "png",
) -> bytes:
    """Lines of pictures as one file; every map has a bar with its ends under it.

    Args:
        lines: of pictures; None leaves a place empty, and short lines end early.
        title: printed above everything, with the stamp of simulated data where due.
        simulated: whether the model was trained on simulated data.
        note: a second line of the title.
        file_format: "png" | "svg" | "pdf".
    """
    stamp = "  ·  SIMULATED DATA" if simulated else ""
    columns = max(map(len, lines))
    width = columns * (TILE + TILE_GAP) + TILE_GAP
    head = _wrapped(f"{title}{stamp}\n{note}".rstrip(), int(width / 0.09))
    titles = [[_wrapped(tile.title, 34) if tile else "" for tile in line] for line in lines]
    above = [0.1 + 0.16 * max(each.count("\n") + 1 for each in line) for line in titles]
    high = TILE * max(t.picture.height / t.picture.width for line in lines for t in line if t)
    top = 0.15 + 0.2 * (head.count("\n") + 1)
    height = top + sum(above) + len(lines) * (high + TILE_SCALE)
    figure = Figure(figsize=(width, height), dpi=130)
    figure.text(0.5, 1 - 0.08 / height, _literal(head), fontsize=11, ha="center", va="top")
    for line, texts, room in zip(lines, titles, above, strict=True):
        top += room
        for index, (tile, text) in enumerate(zip(line, texts, strict=True)):
            if tile is None:
                continue
            left = TILE_GAP + index * (TILE + TILE_GAP)
            place = (left / width, 1 - (top + high) / height, TILE / width, high / height)
            axis = figure.add_axes(place)
            _show(axis, tile.picture, text)
            if tile.scale is not None:
                _small_scale(axis, tile.scale, tile.palette)
        top += high + TILE_SCALE
    return figure_file(figure, file_format)


def _wrapped(text: str, length: int) -> str:
    return "\n".join(textwrap.fill(part, max(length, 12)) for part in text.splitlines())


def scale_ends(scale: float, palette: Palette) -> tuple[str, str]:
    """The ends of a colour scale as text."""
    return (f"−{scale:.2g}", f"+{scale:.2g}") if palette.signed else ("0", f"{scale:.2g}")


def _small_scale(axis, scale: float, palette: Palette) -> None:
    """A bar of colours under a map, with its ends."""
    bar = axis.inset_axes((0.0, -0.09, 1.0, 0.05))
    bar.imshow(legend(scale, palette), aspect="auto")
    bar.set_axis_off()
    for place, end in zip((0.0, 1.0), scale_ends(scale, palette), strict=True):
        axis.text(place, -0.105, end, transform=axis.transAxes, fontsize=8, va="top",
                  ha="left" if place == 0 else "right")  # fmt: skip


def _with(layer: Image.Image | None, picture: Image.Image) -> Image.Image:
    if layer is None:
        return picture
    picture = picture.copy()
    picture.paste(layer, mask=layer)
    return picture


def _show(axis, picture: Image.Image, title: str) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(_literal(title), fontsize=10)
    axis.set_axis_off()


def _literal(text: str) -> str:
    """Class names are text, not formulas."""
    return printable(text).replace("$", r"\$")


def font_file(bold: bool = False) -> Path:
    """The font of figures and reports, which knows most alphabets; it comes with matplotlib."""
    return Path(get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"


@cache
def _known_characters() -> frozenset[int]:
    return frozenset(get_font(str(font_file())).get_charmap())


def printable(text: str) -> str:
    """Text with an empty box for every character that the font lacks, such as Chinese ones."""
    known = _known_characters()
    return "".join(c if ord(c) in known or c == "\n" else "□" for c in text)


def _colour_bar(figure, axes, explanation, scale, palette, note) -> None:
    colours = palette_for(explanation.method, palette)
    low = -scale if colours.signed else 0.0
    shades = ScalarMappable(Normalize(low, scale), colours.colormap())
    bar = figure.colorbar(shades, ax=list(axes), location="bottom", fraction=0.06, aspect=50)
    bar.set_ticks([low, 0, scale] if colours.signed else [0, scale])
    ends = [f"{low:+.3g} (against)", "0", f"{scale:+.3g} (for)"]
    bar.set_ticklabels(ends if colours.signed else ["0", f"{scale:.3g}"])
    unit = "patch" if explanation.scores.shape[1:] == explanation.grid else "pixel"
    bar.set_label(f"score per {unit}{', ' + note if note else ''}", fontsize=9)


def figure_file(figure: Figure, file_format: str, transparent: bool = False) -> bytes:
    """A figure as "png" | "svg" | "pdf", without a date: the same figure gives the same bytes."""
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(file_format)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_format, transparent=transparent, metadata=metadata)
    return buffer.getvalue()


def png(picture: Image.Image) -> bytes:
    """A PIL image as the bytes of a PNG file, without metadata."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
