"""Sheets of maps as in the paper's figures: pictures against methods, classes or concepts.

    lines = sheets.lines(model, images, ["attention", "cdam"], ["zebra", "elephant"])
    content = sheets.draw(model, lines, "svg")

With rows="images" a line is a picture (Figures 1, 3, 4, 5 and S3–S5); with "methods" it is one
method on one picture, and its targets stand side by side (Figure 6); with "targets" the other way
round. Every map has its value and its scale.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from cdam_core import pictures
from cdam_core.concepts import Concept
from cdam_core.errors import BadTarget
from cdam_core.explanation import Explanation, explain
from cdam_core.methods import METHODS
from cdam_core.models import VisionModel
from cdam_core.pictures import Tile
from cdam_core.provenance import Drawing
from cdam_core.targets import Contrast, top_classes

ROWS = ("images", "methods", "targets")
FORMATS = ("png", "svg", "pdf")
MAX_LINES, MAX_COLUMNS = 60, 20
NOTE = "Maps of one picture and method share a scale; up to 1 % of the scores lie beyond it."

Target = int | str | Concept | Contrast


def lines(
    model: VisionModel,
    images: Sequence[Image.Image],
    methods: Sequence[str],
    targets: Sequence[Sequence[Target]] | None = None,
    *,
    rows: str = "images",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    fit: str = "pad",
    drawing: Drawing | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[list[Tile]]:
    """The pictures of a sheet, line by line; the first of a line is what the model saw.

    Args:
        model: to ask.
        images: PIL RGB.
        methods: ids in ``METHODS``; one that is the same for every target is drawn once.
        targets: per image; None, or an empty one: its strongest class, as in Figures S3–S5.
        rows: what a line is: one of ``ROWS``.
        settings: per method.
        fit: how an image becomes the model's input.
        drawing: how maps are drawn.
        on_step: called with (done, total) after every image; raising in it cancels.

    Raises:
        BadTarget: an unknown method, setting or target, or more maps than a sheet can hold.
    """
    check_question(methods, rows)
    found: list[list[Tile]] = []
    for number, image in enumerate(images):
        asked = targets[number] if targets is not None else ()
        told = explanations(model, image, methods, asked, fit, settings or {})
        found += _lines_of_one(model, image, told, rows, fit, drawing or Drawing())
        check_size(found)
        if on_step:
            on_step(number + 1, len(images))
    return found


def draw(model: VisionModel, found: Sequence[Sequence[Tile]], file_format: str = "png") -> bytes:
    """Lines as a file, "png" | "svg" | "pdf"; equal lines give equal bytes."""
    return pictures.tiles(found, f"Model {model.id}", model.simulated, NOTE, file_format)


def explanations(
    model: VisionModel,
    image: Image.Image,
    methods: Sequence[str],
    targets: Sequence[Target],
    fit: str,
    settings: Mapping[str, Mapping[str, Any]],
) -> list[Explanation]:
    """One per method, of the same picture and targets; arguments as in ``lines``."""
    encoding = model.encode_image(image, fit)
    asked = list(targets) or [top_classes(model.logits(encoding), 1)[0][0]]
    return [
        explain(model, encoding if METHODS[method].needs == "encoding" else image, asked, method,
                fit=fit, **settings.get(method, {}))
        for method in methods
    ]  # fmt: skip


def _lines_of_one(
    model: VisionModel,
    image: Image.Image,
    told: Sequence[Explanation],
    rows: str,
    fit: str,
    drawing: Drawing,
) -> list[list[Tile]]:
    view = model.fit(image, fit, zoom=pictures.view_zoom(model.input_size)).image
    saw = Tile(view, pictures.SAW)
    maps = [_maps(view, each, drawing) for each in told]
    return arrange(saw, maps, len(told[0].labels), rows)


def arrange(saw: Tile, maps: Sequence[Sequence[Tile]], count: int, rows: str) -> list[list[Tile]]:
    """The lines of one picture.

    Args:
        saw: what the model saw; stands first in every line.
        maps: per method, one per target, or one for all of them.
        count: how many targets.
        rows: one of ``ROWS``.
    """
    if rows == "images":
        return [[saw, *(tile for line in maps for tile in line)]]
    if rows == "methods":
        return [[saw, *line] for line in maps]
    return [[saw, *(line[min(index, len(line) - 1)] for line in maps)] for index in range(count)]


def _maps(view: Image.Image, explanation: Explanation, drawing: Drawing) -> list[Tile]:
    method, scale = METHODS[explanation.method], pictures.shared_scale(explanation)
    tiles = []
    for index, label in enumerate(explanation.labels if method.class_specific else [None]):
        picture = pictures.draw(view, explanation, index, scale, drawing.palette,
                                drawing.opacity, drawing.smooth)  # fmt: skip
        value = f"{explanation.values[index]:+.2f}".replace("-", "−")
        title = method.label if label is None else f"{method.label}\n{label}, value {value}"
        tiles.append(pictures.map_tile(picture, explanation, scale, title, drawing.palette))
    return tiles


def check_question(methods: Sequence[str], rows: str) -> None:
    """Raise ``BadTarget`` for an unknown method, ``ValueError`` for unknown rows."""
    if rows not in ROWS:
        raise ValueError(f"rows is {rows!r}; expected one of {', '.join(ROWS)}")
    for method in methods:
        if method not in METHODS:
            raise BadTarget("unknown-method", "There is no such method; the methods are "
                            f"{', '.join(METHODS)}.")  # fmt: skip


def check_size(found: Sequence[Sequence[Tile]]) -> None:
    """Raise ``BadTarget`` for more maps than a sheet can hold."""
    if len(found) > MAX_LINES or max(map(len, found)) > MAX_COLUMNS:
        raise BadTarget("unsupported", f"A sheet of more than {MAX_LINES} lines or {MAX_COLUMNS} "
                        "columns was asked for; make several smaller ones.")  # fmt: skip
