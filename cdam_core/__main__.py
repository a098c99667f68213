"""The command line: ``python -m cdam_core explain | train | models``."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdam_core.errors import BadImage, BadTarget, CdamError
from cdam_core.explanation import Explanation, explain
from cdam_core.files import write_atomically
from cdam_core.images import FITS, digest, open_image
from cdam_core.maps import symmetric_scale
from cdam_core.methods import METHODS
from cdam_core.models import VisionModel, load_model
from cdam_core.pictures import DEFAULT_PALETTE, PALETTES, panel
from cdam_core.targets import Contrast, resolve, top_classes

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")
FAILED, WRONG_USE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 (some images failed) or 2 (wrong use)."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except CdamError as error:
        print(f"cdam: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("cdam: stopped; what is finished is kept, the same command goes on.", file=sys.stderr)
    except OSError as error:
        print(f"cdam: a file could not be read or written: {error.strerror}.", file=sys.stderr)
    return WRONG_USE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cdam_core", description=__doc__.split(":")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_explain(commands)
    _add_models(commands)
    _add_train(commands)
    return parser


# ---- explain -------------------------------------------------------------------------------------


def _add_explain(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "explain",
        help="explain images",
        description="Write a picture (PNG), the raw scores (NPZ, CSV) and what made them (JSON) "
        "for every image. Finished images are skipped, so a stopped run goes on.",
    )
    command.add_argument(
        "source", type=Path, metavar="IMAGE|FOLDER|TABLE.csv",
        help="an image, a folder of images, or a table with the columns image and target",
    )  # fmt: skip
    command.add_argument("--model", default="scenes", help="see 'models' (default: scenes)")
    command.add_argument(
        "--target", action="append", default=[], metavar="CLASS",
        help="class name or index; A~B contrasts two; may be repeated (default: the two strongest)",
    )  # fmt: skip
    command.add_argument("--method", default="cdam", choices=METHODS)
    command.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of the method; may be repeated",
    )  # fmt: skip
    command.add_argument("--fit", default="pad", choices=FITS, help="how an image becomes square")
    command.add_argument(
        "--palette", default=DEFAULT_PALETTE,
        choices=[name for name, palette in PALETTES.items() if palette.signed],
    )  # fmt: skip
    command.add_argument("--smooth", action="store_true", help="interpolate between patches")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--again", action="store_true", help="do finished images again")
    command.set_defaults(run=_run_explain)


@dataclass(frozen=True)
class _Job:
    """One image to explain; ``targets`` may be empty for the two strongest classes."""

    image: Path
    name: str
    targets: tuple[str, ...]


def _run_explain(options: argparse.Namespace) -> int:
    jobs = list(_jobs(options.source, tuple(options.target)))
    settings = dict(_setting(text) for text in options.setting)
    METHODS[options.method].resolve_settings(settings)
    model = load_model(options.model)
    for job in jobs:
        if job.targets:
            resolve(model, [_target(text) for text in job.targets])
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, job in enumerate(jobs, 1):
        if not options.again and _is_done(options.out / f"{job.name}.json", _request(job, options)):
            print(f"[{number}/{len(jobs)}] {job.name}: done before")
            continue
        try:
            text = _explain_one(model, job, options, settings)
        except BadImage as error:
            failed += 1
            text = f"left out: {error}"
        print(f"[{number}/{len(jobs)}] {job.name}: {text}", flush=True)
    if failed:
        print(f"cdam: {failed} of {len(jobs)} images were left out.", file=sys.stderr)
    return FAILED if failed else 0


def _request(job: _Job, options: argparse.Namespace) -> dict[str, object]:
    """What was asked of one image, JSON-able: the same request need not be answered again."""
    asked = ("model", "method", "fit", "palette", "smooth")
    return {name: getattr(options, name) for name in asked} | {
        "targets": list(job.targets), "settings": options.setting,
    }  # fmt: skip


def _is_done(record: Path, request: dict[str, object]) -> bool:
    try:
        return json.loads(record.read_text(encoding="utf-8"))["request"] == request
    except (OSError, ValueError, KeyError):
        return False


def _jobs(source: Path, targets: tuple[str, ...]) -> Iterator[_Job]:
    """The images that a path stands for, in a fixed order, with unique names."""
    if source.is_dir():
        paths = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise BadImage("unreadable", "The folder holds no images; expected files ending in "
                           f"{', '.join(IMAGE_SUFFIXES)}.")  # fmt: skip
        rows = [(path, targets) for path in paths]
    elif source.suffix.lower() == ".csv":
        rows = list(_table(source, targets))
    else:
        rows = [(source, targets)]
    used: set[str] = set()
    for path, wanted in rows:
        name, copies = path.stem, 1
        while name.casefold() in used:  # folders of some systems do not tell capitals apart
            copies += 1
            name = f"{path.stem}-{copies}"
        used.add(name.casefold())
        yield _Job(path, name, wanted)


def _table(source: Path, targets: tuple[str, ...]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    try:
        rows = list(csv.DictReader(io.StringIO(source.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise BadImage("unreadable", "The table is not readable; expected a CSV file in UTF-8 with "
                       "the columns image and target.") from None  # fmt: skip
    if not rows or "image" not in rows[0]:
        raise BadImage("unreadable", "The table has no rows or no column 'image'; expected the "
                       "columns image and, if wanted, target.")  # fmt: skip
    for row in rows:
        own = (row["target"],) if row.get("target") else ()
        yield source.parent / (row["image"] or ""), own or targets


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadTarget("bad-setting", "A setting without '=' arrived; expected NAME=VALUE.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _target(text: str) -> int | str | Contrast:
    first, contrast, second = text.partition("~")
    if contrast:
        return Contrast(_class(first), _class(second))
    return _class(text)


def _class(text: str) -> int | str:
    return int(text) if text.strip().isascii() and text.strip().isdigit() else text.strip()


def _explain_one(
    model: VisionModel, job: _Job, options: argparse.Namespace, settings: dict[str, object]
) -> str:
    image = open_image(job.image)
    encoding = model.encode_image(image, options.fit)
    targets = [_target(text) for text in job.targets]
    if not targets:
        targets = [index for index, _ in top_classes(model.logits(encoding), 2)]
    e = explain(model, encoding, targets, options.method, **settings)
    scale = symmetric_scale(e.scores)
    seen = model.fit(image, options.fit, zoom=2).image
    picture = panel(seen, e, scale, options.palette, smooth=options.smooth)
    _write(options.out, job.name, e, picture, {
        "image_sha256": digest(image), "notes": image.info["notes"], "fit": options.fit,
        "scale": scale, "request": _request(job, options),
    })  # fmt: skip
    return ", ".join(f"{label} {v:+.2f}" for label, v in zip(e.labels, e.values, strict=True))


def _write(out: Path, name: str, e: Explanation, picture: bytes, extra: dict[str, object]) -> None:
    """All files of one image; the JSON file comes last and marks the image as finished."""
    stem = f"{name}-simulated" if e.simulated else name
    write_atomically(out / f"{stem}.png", picture)
    write_atomically(out / f"{stem}.npz", e.to_npz())
    write_atomically(out / f"{stem}.csv", e.to_csv().encode())
    record = json.dumps(e.provenance() | extra, ensure_ascii=False, indent=1)
    write_atomically(out / f"{name}.json", record.encode())


# ---- models --------------------------------------------------------------------------------------


def _add_models(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("models", help="list what can be loaded")
    command.set_defaults(run=_run_models)


def _run_models(options: argparse.Namespace) -> int:
    from cdam_core import catalogue
    from cdam_core.checkpoints import FOLDER_VARIABLE, local_folder

    folder = local_folder()
    state = "not set" if folder is None else "" if folder.is_dir() else "not a folder"
    titles = {"bundled": "Bundled", "folder": f"Folder {FOLDER_VARIABLE}", "cache": "Hub's cache"}
    notes = {"folder": state}
    entries = catalogue.catalogue()
    for place, title in titles.items():
        here = [entry for entry in entries if entry.place == place]
        print(f"{title}: {notes.get(place) or ('' if here else 'nothing')}".rstrip())
        for entry in here:
            print(f"  {entry.source:30s} {'' if entry.loadable else 'NOT LOADABLE: '}{entry.text}")
    print(f"Hub: {catalogue.hub_status()[1]}")
    print("  timm:<architecture>            any Vision Transformer of timm with a class token")
    print("Files: a checkpoint (.pth, .ckpt, .safetensors) or a model card (.json), by its path")
    return 0


# ---- train ---------------------------------------------------------------------------------------


def _add_train(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("train", help="train a bundled model, or a head of your own")
    kinds = command.add_subparsers(required=True, metavar="MODEL")
    from cdam_core import training_head
    from cdam_core.scenes import training

    training.register(kinds)
    training_head.register(kinds)


if __name__ == "__main__":
    sys.exit(main())
