"""``explain``: one ZIP per picture and one table over all, resumable."""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cdam_core import series
from cdam_core.commands import FAILED, asking
from cdam_core.errors import BadImage
from cdam_core.explanation import as_text
from cdam_core.files import write_atomically
from cdam_core.images import digest, open_image
from cdam_core.methods import METHODS
from cdam_core.models import VisionModel
from cdam_core.provenance import Drawing, file_stem

TABLE = "table.csv"


def add(commands: argparse._SubParsersAction) -> None:
    """Register the command."""
    command = commands.add_parser(
        "explain",
        help="explain images",
        description="Write one ZIP for every image (pictures, raw scores, and what made them; see "
        "'replay') and one table over all. Finished images are skipped, so a stopped run goes on.",
    )
    asking.add_source(command)
    asking.add_question(command, "the two strongest")
    command.add_argument("--method", default="cdam", choices=METHODS)
    asking.add_look(command)
    command.add_argument("--with-image", action="store_true", help="put the image into its ZIP")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--again", action="store_true", help="do finished images again")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Explain all images; 0, or 1 where some were left out."""
    jobs = asking.jobs(options.source, tuple(options.target))
    question = series.Question(
        (), options.method, dict(asking.setting(text) for text in options.setting), options.fit,
        Drawing(options.palette, smooth=options.smooth), options.with_image,
    )  # fmt: skip
    METHODS[options.method].resolve_settings(question.settings)
    concepts = asking.concepts(options.concept)
    model = asking.load(options)
    asked = [replace(question, targets=(*map(asking.target, job.targets), *concepts))
             for job in jobs]  # fmt: skip
    for each in asked:
        each.check(model)
    options.out.mkdir(parents=True, exist_ok=True)
    return _answer_all(model, jobs, asked, options)


def _answer_all(
    model: VisionModel,
    jobs: Sequence[asking.Job],
    asked: Sequence[series.Question],
    options: argparse.Namespace,
) -> int:
    place = options.out / TABLE
    before = [] if options.again else _rows_before(place)
    write_atomically(place, series.table(before).encode())  # a line cut off by a stop is gone
    rows: list[series.Row] = []
    for number, (job, question) in enumerate(zip(jobs, asked, strict=True), 1):
        request = _request(model, question, job.targets, options.concept)
        known = series.finished(before, request).get(as_text(job.name), [])
        found, text = _answer_one(model, job, question, request, options.out, known)
        if found is not known:
            with place.open("a", encoding="utf-8", newline="") as file:
                file.write(series.table(found, with_header=False))
        rows += found
        print(f"[{number}/{len(jobs)}] {job.name}: {text}", flush=True)
    write_atomically(place, series.table(rows).encode())
    failed = sum(row["status"] != series.DONE for row in rows)
    if failed:
        print(f"cdam: {failed} of {len(jobs)} images were left out.", file=sys.stderr)
    return FAILED if failed else 0


def _rows_before(place: Path) -> list[series.Row]:
    try:
        return series.read_table(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return []


def _request(
    model: VisionModel, question: series.Question, targets: Sequence[str], concepts: Sequence[str]
) -> str:
    """A short name of what is asked: answered under that name, it need not be answered again."""
    vectors = [hashlib.sha256(Path(part).read_bytes()).hexdigest()
               for text in concepts for part in text.split("~")]  # fmt: skip
    drawing = question.drawing
    asked = [model.weights_sha256, list(model.input_size), model.pool, model.half, list(targets),
             list(concepts), vectors, question.method, dict(question.settings), question.fit,
             question.with_image, drawing.palette, drawing.smooth]  # fmt: skip
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _is_there(out: Path, row: series.Row) -> bool:
    return (out / Path(row["file"]).name).is_file()


def _answer_one(
    model: VisionModel,
    job: asking.Job,
    question: series.Question,
    request: str,
    out: Path,
    known: list[series.Row],
) -> tuple[list[series.Row], str]:
    """Lines of the table, and what to say; ``known`` itself where it was done before."""
    try:
        image = open_image(job.image)
        if known and known[0]["image_sha256"] == digest(image) and _is_there(out, known[0]):
            return known, "done before"
        explanation, content = series.answer(model, image, question)
    except BadImage as error:
        return [series.left_out(job.name, error.reason, request)], f"left out: {error}"
    name = f"{file_stem([explanation], job.name)}.zip"
    write_atomically(out / name, content)
    told = zip(explanation.labels, explanation.values, strict=True)
    rows = series.rows_of(job.name, image, explanation, name, request)
    return rows, ", ".join(f"{label} {value:+.2f}" for label, value in told)
