"""Print how close the measures come to the plain forward pass on as many images.

    python scripts/speed_measures.py [--threads N] [--repeat N] [--steps N]

Each ratio is plain seconds over measure's seconds, in one run, best of several rounds that take
turns; plain means the model's own forward on the same number of images in batches of the same size.
The measure's seconds include the blur, the masks and one more encoding.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import cdam_core as cdam  # noqa: E402
from cdam_core import benchmarks  # noqa: E402
from cdam_core.methods.blocks import images_per_batch  # noqa: E402

BOUND = ">= 0.85"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
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
