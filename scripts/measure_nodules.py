"""Measure a nodule model and write the numbers on its card, beside those of simple rivals.

On the test part of the stored split, with 95 % intervals over patients: the model's predictions,
those of logistic regression or ridge on the readers' true outline (and density), where the maps
lie; for the biomarkers, pairs of crops that differ in one thing; then training again with other
seeds, and on other splits by patient, each compared with its rivals on the same nodules.

    python scripts/measure_nodules.py assets/models/nodules-malignancy.json [--seeds 5] [--splits 5]
    python scripts/measure_nodules.py assets/models/nodules-biomarkers.json --parts counterfactuals

Reads the tokens and states of ``python -m cdam_core train nodules`` from ``--work`` and computes
what is missing.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cdam_core.models import load_model  # noqa: E402
from cdam_core.nodules import baselines, counterfactuals, quality, training  # noqa: E402
from cdam_core.nodules.card import aims, write_json  # noqa: E402
from cdam_core.nodules.pack import BIOMARKERS, load_nodules  # noqa: E402
from cdam_core.nodules.phantom import Phantom  # noqa: E402
from cdam_core.nodules.splits import load_split  # noqa: E402

SHAPE = slice(0, len(baselines.SHAPE_FEATURES))
PARTS = ("test", "counterfactuals", "splits", "seeds")
RIVALS = {"log(area)": slice(0, 1), "shape": SHAPE, "shape and density": slice(None)}


def features_of(work: Path, nodules) -> np.ndarray:
    """(nodules, 12), kept in the work folder."""
    path = work / "features.npy"
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        np.save(path, baselines.features(Phantom(), nodules))
    return np.load(path)


def rivals(data: training.Data, features: np.ndarray, column: int) -> dict[str, np.ndarray]:
    """Predictions of every rival for the test part, for one target."""
    train, val, test = (data.rows(part) for part in ("train", "val", "test"))
    classify = data.targets.shape[1] == 1
    return {name: baselines.predicted(features[:, chosen], data.targets[:, column], train, val,
                                      classify)[test]
            for name, chosen in RIVALS.items()}


def measures_of(task: str) -> dict:
    """Name -> measure of (predictions, truth)."""
    if task == "malignancy":
        return {"accuracy": quality.accuracy, "auc": quality.auc}
    return {"r2": quality.r_squared, "mae": quality.mean_error}


def on_test(task: str, data: training.Data, found: np.ndarray, features: np.ndarray) -> dict:
    """Model and rivals, each with an interval, by target."""
    patients = [data.nodules[row].patient_id for row in data.rows("test")]
    truth, table = data.targets[data.rows("test")], {}
    for column, target in enumerate(("malignant",) if task == "malignancy" else BIOMARKERS):
        guesses = {"model": found[:, column], **rivals(data, features, column)}
        table[target] = {
            who: {name: quality.with_interval(measure, patients, guess, truth[:, column])
                  for name, measure in measures_of(task).items()}
            for who, guess in guesses.items()
        }
    return table


def maps(trainer: training.Trainer, card: Path) -> dict:
    """Where the maps of the written model lie, on the test part."""
    model, rows = load_model(card), trainer.data.rows("test")
    targets = ["malignant"] if trainer.settings.task == "malignancy" else list(BIOMARKERS)
    encodings = [trainer.network.encode(model, row) for row in rows]
    return quality.measure_maps(model, encodings, [trainer.data.nodules[row] for row in rows],
                                targets)


def of_pairs(card: Path, nodules) -> dict:
    """The biomarkers' model on pairs of the test part that differ in one thing."""
    model, ids = load_model(card), load_split().test
    measured, found = [nodule for nodule in nodules if nodule.id in ids], {}
    for kind in counterfactuals.KINDS:
        print(f"pairs: {kind}", flush=True)
        found[kind] = counterfactuals.measure(model, measured, kind)
    return found


def spread(values: list[float]) -> dict:
    """Mean, standard deviation and 95 % interval (Student) of repeated runs."""
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = stats.t.ppf(0.975, len(values) - 1) * deviation / np.sqrt(len(values))
    return {"runs": [round(value, 4) for value in values], "mean": round(mean, 4),
            "sd": round(deviation, 4), "interval": [round(mean - half, 4), round(mean + half, 4)]}


def over_seeds(task: str, runs: Iterable[training.Trainer]) -> dict:
    """The same split, other seeds; one after the other, because each holds all views' tokens."""
    scores = [training.scores_of(task, *training.predictions(run, "test")) for run in runs]
    return {name: spread([each[name] for each in scores]) for name in scores[0]}


def paired(runs: Iterable[training.Trainer], features: np.ndarray) -> dict:
    """Malignancy on other splits: the model's number minus each rival's on the same nodules.

    The splits share nodules, so the interval over them is too narrow, if anything.
    """
    differences: dict[str, list[float]] = {}
    for run in runs:
        found, truth = (part[:, 0] for part in training.predictions(run, "test"))
        for who, guess in rivals(run.data, features, 0).items():
            for name, measure in measures_of("malignancy").items():
                gain = measure(found, truth) - measure(guess, truth)
                differences.setdefault(f"{name} minus that of {who}", []).append(gain)
    return {name: spread(values) for name, values in differences.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("card", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/nodules"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    card = json.loads(args.card.read_text(encoding="utf-8"))
    settings = training.Settings(**card["settings"])
    nodules, classify = load_nodules(), settings.task == "malignancy"

    def fit(**changes) -> training.Trainer:
        print(f"{settings.task}: {changes or 'as it is'}", flush=True)
        return training.fit(training.BUNDLED, replace(settings, **changes), Phantom(), nodules,
                            args.work)

    def keep(**entries) -> None:
        card.setdefault("quality", {}).update(entries)
        write_json(args.card, card)

    if "counterfactuals" in args.parts and not classify:
        keep(counterfactuals=of_pairs(args.card, nodules))
    if "test" in args.parts:
        trainer = fit()
        found, _ = training.predictions(trainer, "test")
        keep(test=on_test(settings.task, trainer.data, found, features_of(args.work, nodules)),
             maps=maps(trainer, args.card), intervals="95 %, bootstrap over patients",
             nodules_measured=len(found))
        keep(aims=aims(settings.task, card["quality"]))
    if "splits" in args.parts and classify and args.splits > 1:
        keep(splits=paired((fit(split_seed=k) for k in range(args.splits)),
                           features_of(args.work, nodules)))
    if "seeds" in args.parts and args.seeds > 1:
        keep(seeds=over_seeds(settings.task, (fit(seed=k) for k in range(args.seeds))))
    print(json.dumps(card["quality"], indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
