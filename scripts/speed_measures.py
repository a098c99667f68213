"""Print how close the measures come to the plain forward pass on as many images.

    python scripts/speed_measures.py [--threads N] [--repeat N] [--steps N]
    python scripts/speed_measures.py --run [--workers N] [--pictures N]   # whole benchmark runs

Each ratio is plain seconds over measure's seconds, in one run, best of several rounds that take
turns; plain means the model's own forward on the same number of images in batches of the same size.
The measure's seconds include the blur, the masks and one more encoding. With ``--run``, a whole
benchmark run (reading, maps of three methods, measures, files) is compared with the plain forward
pass on as many images as it showed to the model, by one worker, and the same run by several.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import cdam_core as cdam  # noqa: E402
from cdam_core import benchmarks, threads  # noqa: E402
from cdam_core.benchmarks import datasets, engines, runner  # noqa: E402
from cdam_core.methods.blocks import images_per_batch  # noqa: E402

BOUND = ">= 0.85"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--run", action="store_true", help="whole benchmark runs")
    parser.add_argument("--workers", type=int, default=threads.cores())
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--size", type=int, help="side of the input of the scenes model")
    given = parser.parse_args()
    if given.run:
        print_run(given)
        return
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    vit = timm.create_model("vit_small_patch8_224", pretrained=False, num_classes=1000)
    models = {"ViT-S/8": cdam.wrap(vit)}
    if "scenes" in cdam.MODELS:
        models["scenes"] = cdam.load_model("scenes")
    for title, model in models.items():
        print_ratios(title, model, given.repeat, given.steps)


def print_ratios(title: str, model: cdam.VisionModel, repeat: int, steps: int) -> None:
    """Two lines: fidelity and box sensitivity."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, *model.input_size, generator=draw)
    scores = np.random.default_rng(0).normal(size=model.grid)
    runs = {
        "fidelity": lambda on_step: benchmarks.fidelity(
            model, pixels, scores, 0, steps=steps, on_step=on_step
        ),
        "box_sensitivity": lambda on_step: benchmarks.box_sensitivity(
            model, pixels, scores, 0, sizes=[2, 4], n_boxes=steps, on_step=on_step
        ),
    }
    for name, run in runs.items():
        counted = []
        run(lambda done, total, counted=counted: counted.append(total))
        count = counted[-1]
        plain, measure = best(
            [lambda n=count: forwards(model, pixels, n), lambda run=run: run(None)], repeat
        )
        print(f"{title:8s} {name:16s} {count:4d} images  {count / measure:6.1f} images/s"
              f"  plain {count / plain:6.1f}  ratio {plain / measure:5.2f}  {BOUND}",
              flush=True)  # fmt: skip


def print_run(given: argparse.Namespace) -> None:
    """One worker against the plain forward pass, and several workers against one."""
    torch.set_num_threads(1)
    model = cdam.load_model("scenes")
    if given.size:
        model = model.at_size((given.size, given.size))
    data = datasets.open_data(model, "scenes:pairs")
    ask = runner.Ask(("cdam", "attention", "integrated_cdam"), ("fidelity", "box"),
                     steps=given.steps, boxes=given.steps, limit=given.pictures)  # fmt: skip
    pixels = torch.randn(1, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    one, count = one_run(model, data, ask, 1)
    (plain,) = best([lambda: forwards(model, pixels, count)], 1)
    print(f"run, 1 worker: {count} images, {count / one:.1f} images/s  plain {count / plain:.1f}"
          f"  ratio {plain / one:.2f}  {BOUND}", flush=True)  # fmt: skip
    if given.workers > 1:
        several, _ = one_run(model, data, ask, given.workers)
        print(f"run, {given.workers} workers: {count / several:.1f} images/s  "
              f"{one / several:.2f} times one worker")  # fmt: skip


def one_run(
    model: cdam.VisionModel, data: datasets.Data, ask: runner.Ask, workers: int
) -> tuple[float, int]:
    """Seconds of a whole run, and how many perturbed images it showed to the model."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        runner.run(model, data, Path(folder), ask, engines.Local(workers))
        seconds = time.perf_counter() - started
        about = json.loads((Path(folder) / runner.RUN).read_text("utf-8"))
    return seconds, about["work"]["perturbed_images"]


def forwards(model: cdam.VisionModel, pixels: torch.Tensor, count: int) -> None:
    """The model's own forward on ``count`` images in the measures' batches."""
    size = images_per_batch(model, pixels.shape[-2:], with_graph=False)
    with torch.inference_mode():
        for start in range(0, count, size):
            model.module(pixels.expand(min(size, count - start), -1, -1, -1).contiguous())


def best(runs: list[Callable[[], object]], repeat: int) -> list[float]:
    """The best time of every run, in rounds that take turns."""
    times = [float("inf")] * len(runs)
    for _ in range(repeat):
        for index, run in enumerate(runs):
            started = time.perf_counter()
            run()
            times[index] = min(times[index], time.perf_counter() - started)
    return times


if __name__ == "__main__":
    main()
