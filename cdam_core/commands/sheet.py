"""``sheet``: maps of many pictures, methods, classes or concepts side by side."""

import argparse
import sys
from pathlib import Path

from cdam_core import sheets
from cdam_core.commands import FAILED, asking
from cdam_core.errors import BadImage, BadTarget
from cdam_core.files import write_atomically
from cdam_core.images import open_image
from cdam_core.methods import METHODS
from cdam_core.provenance import Drawing
from cdam_core.targets import resolve


def add(commands: argparse._SubParsersAction) -> None:
    """Register the command."""
    command = commands.add_parser(
        "sheet",
        help="draw maps side by side, as in the paper's figures",
        description="Write one sheet as PNG and SVG: pictures against methods, classes and "
        "concepts, every map with its value and scale.",
    )
    asking.add_source(command)
    asking.add_question(command, "the strongest one of each image")
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
    options.out.parent.mkdir(parents=True, exist_ok=True)
    stem = f"{options.out.name}-simulated" if model.simulated else options.out.name
    for file_format in ("png", "svg"):
        place = options.out.with_name(f"{stem}.{file_format}")
        write_atomically(place, sheets.draw(model, found, file_format))
    if failed:
        print(f"cdam: {failed} of {len(jobs)} images were left out.", file=sys.stderr)
    return FAILED if failed else 0
