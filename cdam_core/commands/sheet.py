"""``sheet``: maps of many pictures, methods, classes or concepts side by side."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cdam_core import sheets
from cdam_core.commands import FAILED, asking
from cdam_core.errors import BadImage, BadTarget
from cdam_core.files import write_atomically
from cdam_core.images import open_image
from cdam_core.methods import METHODS
from cdam_core.models import VisionModel
from cdam_core.nodules import sheets as nodule_sheets
from cdam_core.pictures import Tile
from cdam_core.provenance import Drawing
from cdam_core.targets import resolve


def add(commands: argparse._SubParsersAction) -> None:
    """Register the command."""
    command = commands.add_parser(
        "sheet",
        help="draw maps side by side, as in the paper's figures",
        description="Write one sheet as PNG and SVG: pictures against methods, classes and "
        "concepts, every map with its value and scale; of lung nodules, with the readers' mean.",
    )
    asking.add_source(command, f"|{nodule_sheets.PREFIX}…",
                      f"; or simulated crops of nodules: {nodule_sheets.EXPECTED}")  # fmt: skip
    asking.add_question(command, "the strongest one of each image; of nodules malignant, or "
                        "the eight biomarkers")  # fmt: skip
    command.add_argument(
        "--method", action="append", default=[], choices=METHODS,
        help="may be repeated (default: attention, cdam)",
    )  # fmt: skip
    command.add_argument(
        "--rows", default="images", choices=sheets.ROWS,
        help="what a line shows: an image, one method on it, or one target on it",
    )  # fmt: skip
    asking.add_look(command)
    command.add_argument("--out", type=Path, required=True, metavar="STEM",
                         help="STEM.png and STEM.svg are written")  # fmt: skip
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draw the sheet; 0, or 1 where images were left out."""
    methods = options.method or ["attention", "cdam"]
    settings = dict(asking.setting(text) for text in options.setting)
    if settings and len(methods) > 1:
        raise BadTarget("unknown-setting", "Settings arrived for several methods; give them with "
                        "a single --method.")  # fmt: skip
    METHODS[methods[0]].resolve_settings(settings)
    if str(options.source).startswith(nodule_sheets.PREFIX):
        return _nodules(options, methods, {methods[0]: settings})
    jobs = asking.jobs(options.source, tuple(options.target))
    concepts = asking.concepts(options.concept)
    model = asking.load(options)
    asked = [(*map(asking.target, job.targets), *concepts) for job in jobs]
    for each in filter(None, asked):
        resolve(model, each)
    drawing = Drawing(options.palette, smooth=options.smooth)
    found, failed = [], 0
    for number, (job, targets) in enumerate(zip(jobs, asked, strict=True), 1):
        try:
            image = open_image(job.image)
        except BadImage as error:
            failed += 1
            print(f"[{number}/{len(jobs)}] {job.name}: left out: {error}", flush=True)
            continue
        found += sheets.lines(model, [image], methods, [targets], rows=options.rows,
                              settings={methods[0]: settings}, fit=options.fit,
                              drawing=drawing)  # fmt: skip
        print(f"[{number}/{len(jobs)}] {job.name}", flush=True)
    if not found:
        raise BadImage("unreadable", "None of the images could be read; there is nothing to draw.")
    sheets.check_size(found)
    _write(options.out, model, found, sheets.draw, model.simulated)
    if failed:
        print(f"cdam: {failed} of {len(jobs)} images were left out.", file=sys.stderr)
    return FAILED if failed else 0


def _nodules(
    options: argparse.Namespace, methods: Sequence[str], settings: dict[str, dict[str, Any]]
) -> int:
    """The sheet of lung nodules; what cannot be drawn is said before anything is computed."""
    chosen = nodule_sheets.choose(str(options.source))
    if options.concept:
        raise BadTarget("unsupported", "A concept was asked for on lung nodules; expected --target "
                        "with outputs of a nodule model.")  # fmt: skip
    model = asking.load(options)
    found = nodule_sheets.lines(
        model, chosen, methods, [asking.target(text) for text in options.target],
        rows=options.rows, settings=settings,
        drawing=Drawing(options.palette, smooth=options.smooth),
        on_step=lambda done, total: print(f"[{done}/{total}] nodule {chosen[done - 1].id}",
                                          flush=True),
    )  # fmt: skip
    _write(options.out, model, found, nodule_sheets.draw, True)
    return 0


def _write(
    out: Path,
    model: VisionModel,
    found: Sequence[Sequence[Tile]],
    draw: Callable[[VisionModel, Sequence[Sequence[Tile]], str], bytes],
    simulated: bool,
) -> None:
    """Both files; simulated data says so in their names."""
    out.parent.mkdir(parents=True, exist_ok=True)
    stem = f"{out.name}-simulated" if simulated else out.name
    for file_format in ("png", "svg"):
        write_atomically(out.with_name(f"{stem}.{file_format}"), draw(model, found, file_format))
