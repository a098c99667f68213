"""Sheets of nodules as in the paper's Figures 12, 13 and S6–S8: a line per nodule.

    nodules = choose("nodules:test:6")
    content = draw(model, lines(model, nodules, ["cdam"]), "svg")

The crops are the phantom's, so every sheet is stamped as simulated, whatever the model. Beside the
model's value stands what the readers say; every map has a scale of its own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from PIL import Image

from cdam_core import pictures, sheets
from cdam_core.errors import BadScan, BadTarget
from cdam_core.explanation import Explanation
from cdam_core.maps import counted, symmetric_scale
from cdam_core.methods import METHODS
from cdam_core.models import VisionModel
from cdam_core.nodules.card import BANNER, readers_text, value_text
from cdam_core.nodules.crops import PIXEL_MM, SIDE, to_image
from cdam_core.nodules.pack import BIOMARKERS, Nodule, load_nodules
from cdam_core.nodules.phantom import Phantom
from cdam_core.nodules.splits import load_split
from cdam_core.pictures import Tile
from cdam_core.provenance import Drawing

PREFIX = "nodules:"  # a source that begins so names bundled nodules
EXPECTED = f"{PREFIX}ID,ID,… or {PREFIX}PART:COUNT (train, val or test)"
OPINION = ("malignant", "benign")  # outputs that are logits; readers rate malignancy
NOTE = ("Every map has a scale of its own, printed under it; up to 1 % of the scores lie beyond "
        "it. Readers: mean ± standard deviation (how many); malignancy from 1 to 5.")  # fmt: skip
_IDS = re.compile(r"[0-9]{1,6}(,[0-9]{1,6})*")
_PART = re.compile(r"(train|val|test):([0-9]{1,6})")


# ---- which nodules -------------------------------------------------------------------------------


def choose(written: str) -> tuple[Nodule, ...]:
    """The bundled nodules that a text names.

    Args:
        written: "nodules:3,56" (in this order, doubled ones once), or "nodules:test:6": so many of
            a part of the stored split, malignant and benign in turns, the lowest ids first.

    Raises:
        BadScan: "wrong-type" for any other text, "not-found" for nodules that are not there.
    """
    asked = written.removeprefix(PREFIX)
    if _IDS.fullmatch(asked):
        return _by_id([int(each) for each in asked.split(",")])
    if match := _PART.fullmatch(asked):
        return _of_part(match[1], int(match[2]))
    raise BadScan("wrong-type", f"No ids of nodules arrived after '{PREFIX}'; expected "
                  f"{EXPECTED}, without spaces.")  # fmt: skip


def _by_id(ids: Sequence[int]) -> tuple[Nodule, ...]:
    known = {nodule.id: nodule for nodule in load_nodules()}
    unknown = [number for number in dict.fromkeys(ids) if number not in known]
    if unknown:
        raise BadScan("not-found", f"There is no nodule {unknown[0]} among the {len(known)} "
                      "bundled ones; expected ids that the page 'Lung nodules' shows, or "
                      f"{PREFIX}test:6 for some of them.")  # fmt: skip
    return tuple(known[number] for number in dict.fromkeys(ids))


def _of_part(part: str, count: int) -> tuple[Nodule, ...]:
    wanted = set(getattr(load_split(), part))
    if not 1 <= count <= len(wanted):
        raise BadScan("not-found", f"{count} nodules were asked for; expected 1 to {len(wanted)}, "
                      f"as many as the part '{part}' holds.")  # fmt: skip
    ordered = sorted((n for n in load_nodules() if n.id in wanted), key=lambda n: n.id)
    by_label = [[n for n in ordered if n.malignant == label] for label in (True, False)]
    in_turns = [n for pair in zip_longest(*by_label) for n in pair if n is not None]
    return tuple(in_turns[:count])


# ---- lines ---------------------------------------------------------------------------------------


def lines(
    model: VisionModel,
    nodules: Sequence[Nodule],
    methods: Sequence[str],
    targets: Sequence[sheets.Target] = (),
    *,
    rows: str = "images",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    drawing: Drawing | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[list[Tile]]:
    """The pictures of a sheet; the first of a line is the crop as the model saw it.

    Args:
        model: one of malignancy or of biomarkers.
        nodules: whose simulated crops, middle slice.
        methods: ids in ``METHODS``; one that is the same for every target is drawn once.
        targets: none: all eight biomarkers, or malignant.
        rows, settings, drawing, on_step: as in ``sheets.lines``.

    Raises:
        BadTarget: a model of something else, an unknown method, setting or target, or more maps
            than a sheet can hold.
    """
    sheets.check_question(methods, rows)
    answers = outputs(model)
    asked = list(targets) or answers
    source, found = Phantom(), []
    for number, nodule in enumerate(nodules, 1):
        image = to_image(source.crop(nodule))
        explanations = sheets.explanations(model, image, methods, asked, "pad", settings or {})
        found += _lines_of_one(model, nodule, image, explanations, rows, drawing or Drawing())
        if number == 1:  # every nodule has as many lines as the first
            sheets.check_size(found * len(nodules))
        if on_step:
            on_step(number, len(nodules))
    return found


def outputs(model: VisionModel) -> list[str]:
    """What a nodule model is asked when nothing else is said.

    Raises:
        BadTarget: "unsupported" for a model of something else.
    """
    names = set(model.class_names)
    if names and names <= set(BIOMARKERS):
        return [name for name in BIOMARKERS if name in names]
    if names == set(OPINION):
        return [OPINION[0]]
    raise BadTarget("unsupported", "A model of something else than lung nodules arrived; expected "
                    "nodules-malignancy, nodules-biomarkers or one that 'train nodules' has "
                    "written, given by --model.")  # fmt: skip


def draw(model: VisionModel, found: Sequence[Sequence[Tile]], file_format: str = "png") -> bytes:
    """Lines as a file, "png" | "svg" | "pdf", stamped as simulated; equal lines, equal bytes."""
    return pictures.tiles(found, f"Model {model.id}", True, f"{NOTE}\n{BANNER}", file_format)


def _lines_of_one(
    model: VisionModel,
    nodule: Nodule,
    image: Image.Image,
    explanations: Sequence[Explanation],
    rows: str,
    drawing: Drawing,
) -> list[list[Tile]]:
    view = model.fit(image, zoom=pictures.view_zoom(model.input_size)).image
    called = "malignant" if nodule.malignant else "benign"
    saw = Tile(view, f"Nodule {nodule.id}\nsimulated CT, {SIDE * PIXEL_MM:.0f} mm wide\n"
               f"readers call it {called}")  # fmt: skip
    maps = [_maps(view, nodule, each, drawing) for each in explanations]
    return sheets.arrange(saw, maps, len(explanations[0].labels), rows)


def _maps(
    view: Image.Image, nodule: Nodule, explanation: Explanation, drawing: Drawing
) -> list[Tile]:
    method, tiles = METHODS[explanation.method], []
    for index, label in enumerate(explanation.labels if method.class_specific else [None]):
        # Of each output by itself: a rating and a length have no common unit.
        scores = counted(explanation.scores[index : index + 1], explanation.content)
        scale = symmetric_scale([scores], pictures.COLOURED)
        picture = pictures.draw(view, explanation, index, scale, drawing.palette,
                                drawing.opacity, drawing.smooth)  # fmt: skip
        title = method.label
        if label is not None:
            title += f": {label}\n{_said(nodule, label, float(explanation.values[index]))}"
        tiles.append(pictures.map_tile(picture, explanation, scale, title, drawing.palette))
    return tiles


def _said(nodule: Nodule, label: str, value: float) -> str:
    """The model's value, and the readers' where they rate the same."""
    if label in BIOMARKERS:
        return f"value {value_text(label, value)}\nreaders {readers_text(nodule, label)}"
    signed = f"{value:+.2f}".replace("-", "−")
    if label in OPINION:
        return f"logit {signed}\nreaders' malignancy {readers_text(nodule, 'malignancy')}"
    return f"value {signed}"
