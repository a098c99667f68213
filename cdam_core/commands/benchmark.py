"""``benchmark``: methods against measures on a data set; resumable."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdam_core.architectures import takes_any_size
from cdam_core.benchmarks import outputs, same_thing
from cdam_core.benchmarks.datasets import BUILT_IN, REAL_OF_TIMM, Data, open_data
from cdam_core.benchmarks.engines import ENGINES
from cdam_core.benchmarks.measuring import GROUPS
from cdam_core.benchmarks.runner import (
    PAPERS_HELD_OUT,
    PAPERS_METHODS,
    PAPERS_SIDE,
    PROTOCOLS,
    RUN,
    Ask,
    Progress,
    methods_for,
    run,
)
from cdam_core.commands import FAILED, asking
from cdam_core.errors import BadData, BadTarget
from cdam_core.models import VisionModel

# Options that say how to compute, not what; --resume takes the others from the folder.
HOW = ("out", "resume", "engine", "address", "workers", "threads", "device", "run")


def add(commands: argparse._SubParsersAction) -> None:
    """Register the command."""
    command = commands.add_parser(
        "benchmark",
        help="measure methods on a data set",
        description="Write results.parquet (one row per image, target, output, method and measure) "
        "and run.json (everything needed to repeat it). The same command goes on where it was "
        "stopped; with other methods, measures or a larger limit it adds to what is there.",
    )
    asking.add_model(command)
    _add_data(command)
    _add_question(command)
    _add_engine(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--resume", action="store_true",
                         help="go on with the run in DIR, by its own options")  # fmt: skip
    command.set_defaults(run=start)


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data", default="scenes:pairs", metavar="DATA",
        help=f"{', '.join(BUILT_IN)}, a ZIP of scenes, or a folder with one folder per class "
        "(default: scenes:pairs)",
    )  # fmt: skip
    command.add_argument("--labels", type=Path, metavar="FILE",
                         help="a table of pictures and classes, for a folder without class folders")
    command.add_argument(
        "--real", nargs="?", const=REAL_OF_TIMM, metavar="FILE",
        help="take the validation images of ImageNet with two or more different things, by the "
        "labels of ImageNet-ReaL (default: timm's copy)",
    )  # fmt: skip
    command.add_argument("--distance", type=int, default=same_thing.DISTANCE, metavar="STEPS",
                         help="up to this path distance in WordNet two labels name the same thing "
                         f"(default: {same_thing.DISTANCE})")  # fmt: skip
    command.add_argument("--embedder", type=Path, metavar="FOLDER",
                         help="a text-embedding model (sentence-transformers) on this machine, to "
                         "compare the labels' names by, too")  # fmt: skip
    command.add_argument("--similarity", type=float, default=same_thing.SIMILARITY,
                         help="above this cosine of their embeddings they name the same thing "
                         f"(default: {same_thing.SIMILARITY})")  # fmt: skip
    command.add_argument("--limit", type=int, metavar="N", help="at most so many pictures")
    command.add_argument("--seed", type=int, default=0)


def _add_question(command: argparse.ArgumentParser) -> None:
    command.add_argument("--methods", default="all", metavar="LIST",
                         help="all, paper, or ids with commas between them (default: all)")
    command.add_argument("--measures", default="all", metavar="LIST",
                         help=f"all, or some of {','.join(GROUPS)} (default: all)")  # fmt: skip
    command.add_argument("--protocol", default="default", choices=PROTOCOLS,
                         help="paper: the settings behind the paper's tables, at "
                         f"{PAPERS_SIDE} pixels")  # fmt: skip
    command.add_argument("--steps", type=int, default=100, help="of the curves (default: 100)")
    command.add_argument("--boxes", type=int, default=100, help="per box size (default: 100)")
    command.add_argument("--rankings", type=int, default=10, help="random orders (default: 10)")
    command.add_argument("--blur", type=float, default=14.0, metavar="PIXELS",
                         help="standard deviation of the blur (default: 14)")  # fmt: skip
    command.add_argument(
        "--tune", type=int, metavar="N",
        help="choose the noise of smoothgrad and smooth_cdam on so many held-out pictures, at most "
        f"half of all (default: {PAPERS_HELD_OUT} with --protocol paper, else none)",
    )  # fmt: skip
    command.add_argument("--tune-steps", type=int, default=20, help="of the curves on those")
    command.add_argument("--setting", action="append", default=[], metavar="METHOD.NAME=VALUE",
                         help="a setting of a method; may be repeated")  # fmt: skip


def _add_engine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--engine", default="local", choices=ENGINES)
    command.add_argument("--address", help="of a running Ray cluster")
    command.add_argument("--workers", type=int, metavar="N",
                         help="pictures at once (default: as many as there are cores)")  # fmt: skip
    command.add_argument("--threads", type=int, default=1, metavar="N",
                         help="cores per picture (default: 1)")  # fmt: skip


def start(options: argparse.Namespace) -> int:
    """Run it; 0, or 1 where pictures were left out."""
    if options.resume:
        _take_options(options)
    ask = _ask(options, ("cdam",))  # what is wrong is said before a model is loaded
    ask.check()
    engine = _engine(options)
    model = _model(options)
    judge = same_thing.Judge(options.distance, options.embedder, options.similarity)
    data = open_data(model, options.data, options.labels, options.real, judge, options.seed)
    _tell(data)
    told = {name: str(value) if isinstance(value, Path) else value
            for name, value in vars(options).items() if name not in HOW}  # fmt: skip
    summary = run(model, data, options.out, _ask(options, methods_for(model)), engine, _progress,
                  told)  # fmt: skip
    made = outputs.write(options.out)
    repeats = json.loads((options.out / RUN).read_text(encoding="utf-8"))["engine"]["repeats"]
    print(f"the same rows come out again {repeats}")
    for method, why in summary.left_out.items():
        print(f"{method}: left out: {why}")
    print(f"{summary.images} pictures, {summary.rows} rows in {summary.results.name}; "
          f"tables.md, tables.csv and {(len(made) - 2) // 2} figures")
    if summary.broken:
        print(f"cdam: {len(summary.broken)} of {len(summary.broken) + summary.images} pictures "
              "were left out.", file=sys.stderr)  # fmt: skip
    return FAILED if summary.broken else 0


def _take_options(options: argparse.Namespace) -> None:
    """The options of the run in the folder, in place."""
    try:
        asked = json.loads((options.out / RUN).read_text(encoding="utf-8"))["asked"]
        for name in vars(options).keys() - {*HOW}:
            is_path = name in ("labels", "embedder") and asked[name] is not None
            setattr(options, name, Path(asked[name]) if is_path else asked[name])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadData("not-found", "There is no run in this folder to go on with; expected the "
                      "folder of a run that was started by this command.") from None  # fmt: skip


def _ask(options: argparse.Namespace, every: Sequence[str]) -> Ask:
    named = {"all": tuple(every), "paper": PAPERS_METHODS}
    return Ask(
        methods=named.get(options.methods) or _listed(options.methods),
        measures=GROUPS if options.measures == "all" else _listed(options.measures),
        protocol=options.protocol, steps=options.steps, boxes=options.boxes,
        rankings=options.rankings, blur_sigma=options.blur, seed=options.seed,
        limit=options.limit, held_out=options.tune, tuning_steps=options.tune_steps,
        settings=_settings(options.setting),
    )  # fmt: skip


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))


def _settings(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        method, dot, rest = text.partition(".")
        if not dot:
            raise BadTarget("bad-setting", "A setting without a method arrived; expected "
                            "METHOD.NAME=VALUE.")  # fmt: skip
        name, value = asking.setting(rest)
        found.setdefault(method, {})[name] = value
    return found


def _engine(options: argparse.Namespace) -> Any:
    for name in ("workers", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise BadTarget("bad-setting", f"--{name} expects at least 1.")
    more = {"address": options.address} if options.engine == "ray" else {}
    return ENGINES[options.engine](workers=options.workers, threads=options.threads, **more)


def _model(options: argparse.Namespace) -> VisionModel:
    """At the paper's size where the protocol is the paper's and no other was asked for."""
    model = asking.load(options)
    if options.size is None and options.protocol == "paper" and takes_any_size(model.module):
        model = model.at_size((PAPERS_SIDE, PAPERS_SIDE))
    return model


def _tell(data: Data) -> None:
    print(f"{data.id}: {len(data.items)} pictures")
    pairs = data.notes.get("dropped_pairs")
    if pairs is not None:
        print(f"{data.notes['images']} images, {data.notes['with_several_labels']} with several "
              f"labels; {len(pairs)} pairs of labels name the same thing (up to "
              f"{data.notes['wordnet_distance']} steps apart in WordNet, or by name) and were "
              "dropped; run.json lists them")  # fmt: skip
    if data.notes.get("missing"):
        print(f"{data.notes['missing']} of {data.notes['listed']} pictures of the table of labels "
              "are not in the folder")  # fmt: skip


def _progress(step: Progress) -> None:
    what = f"{step.image}: left out: {step.note}" if step.note else step.image or "at work"
    print(f"[{step.stage} {step.done}/{step.total}] {what}, {_words(step.seconds_left)} left",
          file=sys.stderr, flush=True)  # fmt: skip


def _words(seconds: float) -> str:
    if math.isnan(seconds):
        return "time not known yet"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
