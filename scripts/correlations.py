"""How far attention, CDAM, relevance propagation and token ablation agree on a set of pictures.

    python scripts/correlations.py                          # samples and test scenes, 60 pictures
    python scripts/correlations.py FOLDER --model NAME      # pictures of your own
    python scripts/correlations.py --figure pairs.png       # and the pair plot

Every picture is asked about its strongest answer. Printed are Pearson correlations of all patches
together and as a mean over pictures, each with a 95 % interval from drawing pictures 2000 times,
beside those that the paper's authors published in their repository (ViT-S/8 with DINO, 1000
pictures of ImageNet's validation set, all patches together). Token ablation takes one forward pass
per patch, so this takes minutes: with ``--keep DIR`` it can be stopped and goes on where it was.
"""

import argparse
import io
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cdam_core as cdam  # noqa: E402
from cdam_core.assets import assets_dir  # noqa: E402
from cdam_core.benchmarks import to_patches  # noqa: E402
from cdam_core.files import write_atomically  # noqa: E402
from cdam_core.images import digest  # noqa: E402
from cdam_core.mechanism import (  # noqa: E402
    Agreement,
    correlation_table,
    interval_text,
    pair_plot,
)
from cdam_core.methods import METHODS  # noqa: E402

ASKED = ("token_ablation", "cdam", "relevance_propagation", "attention")
# Of the paper's authors: pair plot of their repository, all patches together.
AUTHORS = {
    ("token_ablation", "cdam"): 0.44,
    ("token_ablation", "relevance_propagation"): 0.34,
    ("token_ablation", "attention"): 0.10,
    ("cdam", "relevance_propagation"): 0.47,
    ("cdam", "attention"): 0.12,
    ("relevance_propagation", "attention"): 0.75,
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")


def pictures(folder: Path | None, count: int) -> list[Callable[[], Image.Image]]:
    """What opens each picture: of a folder, or the samples and then the test scenes."""
    if folder is not None:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        return [lambda path=path: cdam.open_image(path) for path in files[:count]]
    samples = sorted((assets_dir() / "scenes").glob("*.jpg"))
    archive = zipfile.ZipFile(ROOT / "tests" / "data" / "scenes_test.zip")
    scenes = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
    every = [lambda path=path: cdam.open_image(path) for path in samples]
    every += [lambda name=name: cdam.open_image(archive.read(name)) for name in scenes]
    return every[:count]


def maps_of(
    model: cdam.VisionModel,
    sources: Sequence[Callable[[], Image.Image]],
    methods: Sequence[str],
    keep: Path | None = None,
) -> dict[str, list[np.ndarray]]:
    """Method -> one flat map per picture, padding left out; finished pictures are read back."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for number, source in enumerate(sources, 1):
        image = source()
        sides = "x".join(map(str, model.input_size))
        name = "-".join((model.weights_sha256[:16], sides, digest(image)[:16], *methods)) + ".npz"
        file = None if keep is None else keep / name
        if file is not None and file.is_file():
            with np.load(file) as archive:
                maps = {each: archive[each] for each in methods}
            words = "done before"
        else:
            maps, words = one_picture(model, image, methods)
            if file is not None:
                keep.mkdir(parents=True, exist_ok=True)
                buffer = io.BytesIO()
                np.savez(buffer, **maps)
                write_atomically(file, buffer.getvalue())
        for each in methods:
            found[each].append(maps[each])
        print(f"[{number}/{len(sources)}] {words}", file=sys.stderr, flush=True)
    return found


def one_picture(
    model: cdam.VisionModel, image: Image.Image, methods: Sequence[str]
) -> tuple[dict[str, np.ndarray], str]:
    """Flat maps of the strongest answer, and its name."""
    target = int(model.logits(model.encode_image(image)).argmax())
    maps = {}
    for name in methods:
        e = cdam.explain(model, image, target, name)
        maps[name] = to_patches(e.scores[0], e.grid)[e.content]
    return maps, model.class_names[target]


def line(pair: tuple[str, str], found: Agreement) -> str:
    """One pair as a line of a table in Markdown."""
    names = " – ".join(METHODS[name].label for name in pair)
    theirs = AUTHORS.get(pair) or AUTHORS.get(pair[::-1])
    cells = [interval_text(found.pooled), interval_text(found.mean)]
    return f"| {names} | {' | '.join(cells)} | {'–' if theirs is None else f'{theirs:.2f}'} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="default: samples and test scenes")
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--size", type=int, help="side of the input in pixels (default: the "
                        "model's own); token ablation costs its fourth power")  # fmt: skip
    parser.add_argument("--pictures", type=int, default=60, help="at most (default: 60)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=ASKED)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="remember finished pictures there")
    parser.add_argument("--figure", type=Path, help="write the pair plot there (.png, .svg, .pdf)")
    args = parser.parse_args()
    model = cdam.load_model(args.model)
    if args.size:
        model = model.at_size((args.size, args.size))
    sources = pictures(args.folder, args.pictures)
    maps = maps_of(model, sources, args.methods, args.keep)
    print(f"Model {model.id} at {' x '.join(map(str, model.input_size))} px, weights "
          f"{model.weights_sha256[:16]}, {len(sources)} pictures, "
          f"{sum(map(len, maps[args.methods[0]]))} patches, strongest answer of each.\n")
    print("| pair | all patches together | mean over pictures | paper's authors, all patches |")
    print("|---|---|---|---|")
    for pair, found in correlation_table(maps).items():
        print(line(pair, found))
    if args.figure:
        title = f"Model {model.id}, {len(sources)} pictures"
        args.figure.write_bytes(pair_plot(maps, title, args.figure.suffix[1:].lower()))


if __name__ == "__main__":
    main()
