"""Print the speed ratios that the project promises, measured in one run on this machine.

    python scripts/speed.py [--threads N] [--repeat N]

Every time is the best of several rounds in which all measurements take turns; every ratio
compares two times of the same run, so it does not depend on how fast the machine is. ViT-S/8 has
random weights: speed does not depend on them.
"""

import argparse
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
from streamlit.testing.v1 import AppTest
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cdam_core as cdam  # noqa: E402
from cdam_core.nodules import Plane  # noqa: E402

ARCHITECTURE = "vit_small_patch8_224"
# Answered at once, without signs, and by pixels from a job.
SHOWN = ("cdam", "attention", "input_x_gradient")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"machine: {machine()}, {options.threads} torch threads, torch {torch.__version__}")
    print_rows(vit_rows(options.repeat))
    print_rows(bundled_rows(options.repeat))
    print_rows(page_rows(options.repeat))
    print_rows(nodules_rows(options.repeat))


def machine() -> str:
    """Processor and number of cores."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"


def best_seconds(runs: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """The best time of every run, in ``repeat`` rounds that take turns, after one warm-up round.

    Taking turns exposes all of them to the same load of the machine; the best time is the one that
    other work disturbed least.
    """
    best = dict.fromkeys(runs, float("inf"))
    for turn in range(repeat + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def textbook_cdam(module: nn.Module, pixels: Tensor, target: int) -> Tensor:
    """One forward and one backward pass of the whole model, as published code does it."""
    kept = {}
    hook = module.blocks[-1].norm1.register_forward_hook(
        lambda _, __, out: kept.setdefault("tokens", out)
    )
    value = module(pixels.clone().requires_grad_(True))[0, target]
    hook.remove()
    kept["tokens"].retain_grad()
    value.backward()
    tokens = kept["tokens"]
    return (tokens.detach() * tokens.grad).sum(-1)[0, 1:]


def vit_rows(repeat: int) -> list[tuple[str, float, float, str]]:
    """Rows (what, seconds, ratio, bound) of a ViT-S/8 with 1000 classes at 224 px."""
    module = (
        timm.create_model(ARCHITECTURE, pretrained=False, num_classes=1000)
        .eval()
        .requires_grad_(False)
    )
    model = cdam.wrap(module)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    encoding = model.encode(pixels)

    def plain() -> None:
        with torch.inference_mode():
            module(pixels)

    def ready(method: str) -> Callable[[], object]:
        return lambda: cdam.explain(model, encoding, 3, method)

    best = best_seconds(
        {
            "forward": plain,
            "textbook": lambda: textbook_cdam(module, pixels, 3),
            "all": lambda: cdam.explain(model, pixels, cdam.ALL),
            **{name: ready(name) for name in ("cdam", "integrated_cdam", "smooth_cdam")},
        },
        repeat,
    )
    forward = best["forward"]
    return [
        (f"{ARCHITECTURE}: one plain forward pass", forward, 1.0, ""),
        ("textbook CDAM, one class", best["textbook"], best["textbook"] / forward, ""),
        ("maps of 1000 classes, encoding included", best["all"], best["all"] / forward, "<= 1.35"),
        ("1000 x textbook / maps of 1000 classes", best["all"],
         1000 * best["textbook"] / best["all"], ">= 1500"),
        ("CDAM, one class, ready encoding", best["cdam"], best["cdam"] / forward, ""),
        ("integrated CDAM, 50 steps, ready encoding", best["integrated_cdam"],
         best["integrated_cdam"] / forward, "<= 0.10"),
        ("smooth CDAM, 50 samples, ready encoding", best["smooth_cdam"],
         best["smooth_cdam"] / forward, "<= 1.2"),
    ]  # fmt: skip


def bundled_rows(repeat: int) -> list[tuple[str, float, float, str]]:
    """Rows of the bundled model at the size shown by default."""
    model = cdam.load_model("scenes")
    pixels = torch.randn(1, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    encoding = model.encode(pixels)
    best = best_seconds(
        {
            "encode": lambda: model.encode(pixels),
            "all": lambda: cdam.explain(model, encoding, cdam.ALL),
        },
        repeat,
    )
    return [
        (f"scenes at {model.input_size} px: encode", best["encode"], 1.0, "<= 300 ms"),
        ("scenes: maps of all classes, ready encoding", best["all"],
         best["all"] / best["encode"], ""),
    ]  # fmt: skip


def page_rows(repeat: int) -> list[tuple[str, float, float, str]]:
    """Rows of redrawing the page "Compare classes" without a browser, after a change of opacity.

    The whole page is run, the sidebar included; the app itself redraws a part of it. All maps are
    there before, so the time must not depend on what they cost.
    """
    logging.disable(logging.WARNING)  # Streamlit's remarks on running without a server
    runs = {name: redraw(name) for name in SHOWN}
    best = best_seconds(runs, repeat)
    return [
        (f"page, redraw: {name}", best[name], best[name] / best[SHOWN[0]], "<= 100 ms")
        for name in SHOWN
    ]


def nodules_rows(repeat: int) -> list[tuple[str, float, float, str]]:
    """Rows of redrawing the page "Lung nodules": another slice, another pair, another opacity."""
    app = AppTest.from_file(str(ROOT / "pages" / "_frame.py"), default_timeout=600)
    app.session_state["frame"] = True
    app.switch_page(str(ROOT / "pages" / "nodules.py")).run()
    case = app.session_state["nodules.case"]
    turns = {"slice": 0, "pair": 0, "opacity": 0}

    def change(what: str) -> None:
        turns[what] += 1
        odd = turns[what] % 2
        if what == "slice":
            app.session_state["nodules.plane"] = (case.key, Plane(float(odd)))
        elif what == "pair":
            app.selectbox(key="nodules.b").set_value(("texture", "lobulation")[odd])
        else:
            app.slider(key="opacity").set_value((40, 60)[odd])
        app.run()

    best = best_seconds({what: partial(change, what) for what in turns}, repeat)
    return [
        (f"page Lung nodules, redraw: another {what}", best[what], best[what] / best["pair"],
         "<= 100 ms")
        for what in turns
    ]  # fmt: skip


def redraw(method: str) -> Callable[[], object]:
    """Open the page with a method; returns what changes the opacity to and fro."""
    app = AppTest.from_file(str(ROOT / "pages" / "_frame.py"), default_timeout=600)
    app.query_params["method"] = method
    app.run()

    def change() -> None:
        slider = app.slider(key="opacity")
        slider.set_value(60 if slider.value == 40 else 40)
        app.run()

    return change


def print_rows(rows: list[tuple[str, float, float, str]]) -> None:
    """One line per measurement."""
    for what, seconds, ratio, bound in rows:
        print(f"{what:52s} {seconds * 1e3:9.1f} ms   ratio {ratio:9.3f}   {bound}")


if __name__ == "__main__":
    main()
