"""Made-up runs of a benchmark, for tests of what is made of their results."""

import io
import json
from pathlib import Path

import numpy as np

from cdam_core.benchmarks.results import RANDOM, arrow, schema

ABOUT = {
    "format": 1, "finished": True, "protocol": "default", "seed": 0,
    "model": {"id": "scenes", "weights_sha256": "cd" * 32, "input_size": [336, 336],
              "simulated": True},
    "data": {"id": "scenes:pairs", "digest": "ab" * 32, "pictures": 6, "is_imagenet": False,
             "held_out": 0, "notes": {}},
    "perturbation": {"blur_sigma": 14.0, "blur_sigma_relative": 14 / 336, "steps": 20,
                     "boxes": 100, "rankings": 10},
    "engine": {"name": "local", "device": "cpu"},
    "images": {"asked": 6, "done": 6, "broken": [{"image": "x.png", "reason": "truncated"}]},
    "settings": {"smooth_cdam": {"n": 50, "at": "tokens"}},
    "tuning": {"smooth_cdam": {"chosen": 0.1}}, "left_out": {"partial_lrp": "why"},
}  # fmt: skip


def row(image, output, method, measure, value, target=None, x=(), curve=(), seconds=0.5):
    target = output if target is None else target
    return {"image": image, "target": target, "output": output,
            "kind": "right" if target == output else "wrong", "method": method,
            "measure": measure, "value": value, "x": list(x), "curve": list(curve),
            "seconds": seconds}  # fmt: skip


def table(rows):
    return arrow()[0].Table.from_pylist(rows, schema=schema())


def parquet(rows) -> bytes:
    buffer = io.BytesIO()
    arrow()[1].write_table(table(rows), buffer)
    return buffer.getvalue()


def write(folder: Path, rows, about=ABOUT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.parquet").write_bytes(parquet(rows))
    (folder / "run.json").write_text(json.dumps(about), "utf-8")
    return folder


def pairs(images=6, methods=("cdam", "integrated_cdam", "attention", "partial_lrp"), seed=0,
          steps=20, sizes=9, names=None):  # fmt: skip
    """Rows as a run on pictures of two things has them; every curve's area is its value."""
    draw, rows = np.random.default_rng(seed), []
    fractions, boxes = np.linspace(0, 1, steps + 1), np.arange(1, sizes + 1)
    for number in range(images):
        name = names[number] if names else f"pair-{number:03}"
        for output, other in (("zebra", "elephant"), ("elephant", "zebra")):
            for place, method in enumerate(methods):
                for target in (output, other):
                    lead = (1.0 if target == output else -0.3) * (1 - 0.2 * place)
                    drop = np.clip(lead + draw.normal(0, 0.2), -1, 1)
                    mif = 9 * (1 - fractions) ** (1 + 2 * max(drop, -0.4))
                    lif = 9 * (1 - fractions ** (1 + 2 * max(drop, -0.4)))
                    box = 0.6 * drop * np.exp(-boxes / 12) + draw.normal(0, 0.02, sizes)
                    for measure, x, curve in (("mif", fractions, mif), ("lif", fractions, lif),
                                              ("fidelity", fractions, lif - mif),
                                              ("box", boxes, box)):  # fmt: skip
                        scale = 1 if measure == "box" else 100
                        area = np.trapezoid(curve, scale * x)
                        rows.append(row(name, output, method, measure, area, target, x, curve))
                    if target == output:
                        rows.append(row(name, output, method, "compactness", draw.random()))
                        rows.append(row(name, output, method, "strongest_on_target", 1.0))
                        rows.append(row(name, output, method, "mass_inside", draw.random()))
            mean = 9 * (1 - fractions) ** 1.1
            area = np.trapezoid(mean, 100 * fractions)
            rows += [row(name, output, RANDOM, "mif", area, None, fractions, mean),
                     row(name, output, RANDOM, "lif", area, None, fractions, mean),
                     row(name, output, RANDOM, "fidelity", 0.0, None, fractions, 0 * mean),
                     row(name, output, RANDOM, "random_sd", 12.0)]  # fmt: skip
    return rows
