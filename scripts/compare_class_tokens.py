"""With and without a late class token: the same training of a nodule model, and its maps.

Without, the class row of the last block is the backbone's own, which has looked at the picture in
every frozen block. Recipe and split are those on the model's card; everything is measured on the
test part, with 95 % intervals over patients.

    python scripts/compare_class_tokens.py assets/models/nodules-malignancy.json [--seeds 3]

Reads the tokens and states of ``python -m cdam_core train nodules`` from ``--work`` and computes
what is missing; writes ``assets/results/nodules-class-token-TASK.json``.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cdam_core.late_vit import OwnClassTokenViT  # noqa: E402
from cdam_core.models import wrap  # noqa: E402
from cdam_core.nodules import quality, training  # noqa: E402
from cdam_core.nodules.card import write_json  # noqa: E402
from cdam_core.nodules.pack import load_nodules  # noqa: E402
from cdam_core.nodules.phantom import Phantom  # noqa: E402


class OwnTokenNetwork(training.LateNetwork):
    """The bundled backbone with its own class token."""

    architecture = OwnClassTokenViT


KINDS = {"late class token": training.LateNetwork, "the backbone's own": OwnTokenNetwork}


def of_seed(run: training.Trainer) -> dict:
    """The numbers of one run."""
    found = training.scores_of(run.settings.task, *training.predictions(run, "test"))
    return {"best_epoch": run.best_epoch, "validation_loss": round(run.best_loss, 4),
            **{name: round(value, 4) for name, value in found.items()}}  # fmt: skip


def measured(runs: Iterator[training.Trainer]) -> dict:
    """Predictions and maps of the first seed with intervals, and of every seed the numbers."""
    first = next(runs)
    names = training.TASKS[first.settings.task]
    rows = first.data.rows("test")
    nodules = [first.data.nodules[row] for row in rows]
    side = (first.settings.side, first.settings.side)
    model = wrap(first.finish(), names, first.network.mean, first.network.std, input_size=side,
                 simulated=True)  # fmt: skip
    encodings = [first.network.encode(model, row) for row in rows]
    return {
        "test": training.intervals_of(first, "test"),
        "maps": quality.measure_maps(model, encodings, nodules, [
            name for name in names if name != "benign"]),
        "nodules_measured": len(nodules),
        "seeds": [of_seed(first), *map(of_seed, runs)],
    }  # fmt: skip


def main() -> None:
    """Train both ways, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("card", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/nodules"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    settings = training.Settings(**json.loads(args.card.read_text(encoding="utf-8"))["settings"])
    nodules, found = load_nodules(), {}
    for kind, network in KINDS.items():
        print(f"{settings.task}: {kind}", flush=True)

        def fit(seed: int, network=network) -> training.Trainer:
            return training.fit(
                training.BUNDLED, replace(settings, seed=seed), Phantom(), nodules, args.work,
                make=lambda _, asked: network(asked, training.output_count(asked)),
            )

        found[kind] = measured(map(fit, range(args.seeds)))
    out = ROOT / "assets/results" / f"nodules-class-token-{settings.task}.json"
    out.parent.mkdir(exist_ok=True)
    write_json(out, {
        "simulated": True, "intervals": "95 %, bootstrap over patients, first seed",
        "command": f"python scripts/compare_class_tokens.py assets/models/{args.card.name} "
                   f"--seeds {args.seeds}",
        "settings": vars(settings), "found": found,
    })  # fmt: skip
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
