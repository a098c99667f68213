"""The card of a nodule model: what is real, simulated and circular in it, how well it does."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from cdam_core.files import write_atomically
from cdam_core.nodules.pack import BIOMARKERS, Nodule
from cdam_core.nodules.phantom import Phantom
from cdam_core.scenes.card import sha256, write_json

__all__ = ["BANNER", "PROVENANCE_OF", "describe", "sha256", "write", "write_json"]

# Shown wherever a simulated nodule is.
BANNER = (
    "Simulated CT. Outlines and radiologists' ratings are real (LIDC-IDRI, CC BY 3.0); every grey "
    "value is computed. Texture and calcification were drawn from a reader's rating, so scores on "
    "these two test the simulator. Malignancy is the readers' opinion, not pathology, and follows "
    "size: area alone reaches 0.85. Demonstration only, not for clinical use. These are not the "
    "paper's results."
)
# What a model of simulated crops can have learnt each output from.
PROVENANCE_OF = {
    "diameter": "real outline",
    "sphericity": "real outline",
    "lobulation": "real outline",
    "spiculation": "real outline",
    "margin": "outline disagreement, plus texture",
    "subtlety": "size and contrast, partly simulated",
    "texture": "simulated density",
    "calcification": "simulated density",
    "malignancy": "real opinion, mostly size",
}
LIMITS = (
    "Trained on crops of 32 mm centred on a nodule that readers have outlined: finds no nodules.",
    "Nodules wider than 32 mm (about one in 25) do not fit the crop.",
    "Texture and calcification: one random reader's rating made the density, the mean of all "
    "readers is the label; what is measured is the simulator and the readers' agreement.",
    "The class token looks at the picture only once, in the last block; ordinary ViTs' do so in "
    "every block, and CDAM explains less of them.",
)
# What a side task adds to what a model has learnt from, in the words of its card.
SIDE_WORDS = {
    "shape": "eight features of the readers' outline in the central plane (size, axes, "
             "eccentricity, circularity, solidity, perimeter, the readers' disagreement)",
    "ratings": "the eight biomarkers, readers' means",
}  # fmt: skip
# What was aimed at on the test part, before anything was measured; a card says what was reached.
R2_AIMS = {"sphericity": 0.45, "margin": 0.45, "calcification": 0.45, "diameter": 0.9}
STRONGEST_AIMS = {"malignancy": 0.85, "biomarkers": 0.7}
UNITS = dict.fromkeys(BIOMARKERS, "rating points (1 to 5)") | {
    "calcification": "rating points (1 to 6)", "diameter": "mm",
}  # fmt: skip


def value_text(name: str, value: float) -> str:
    """A biomarker's value with its unit where it has one."""
    return f"{value:.1f} mm" if name == "diameter" else f"{value:.1f}"


def readers_text(nodule: Nodule, name: str) -> str:
    """The readers' mean and standard deviation of a rating or of "diameter", and how many."""
    found = nodule.by_reader(name)
    unit = " mm" if name == "diameter" else ""
    return f"{found.mean():.1f} ± {found.std(ddof=1):.1f}{unit} ({len(found)})"


def describe(settings, data, job, trained_layers: int) -> dict:
    """The card without what is measured after training.

    Args:
        settings: ``training.Settings``.
        data: ``training.Data``.
        job: ``training.Job``.
        trained_layers: parameter tensors that were trained.
    """
    simulated = isinstance(job.source, Phantom)
    options = " ".join(f"--{name.replace('_', '-')} {value}"
                       for name, value in asdict(settings).items())  # fmt: skip
    return {
        "id": f"nodules-{settings.task}",
        **_words(settings.task),
        "simulated": simulated,
        "simulated_note": "simulated CT of real nodule outlines, not patients' scans",
        "banner": BANNER if simulated else None,
        "architecture": {"class": "LateClassTokenViT", "trained_blocks": 1,
                         "input_size": [settings.side, settings.side]},
        "backbone": "backbone.safetensors",
        "fit": "pad",
        "licence": "MIT; outlines and ratings of LIDC-IDRI under CC BY 3.0",
        "notices": "assets/nodules/LICENSE-LIDC.md",
        "provenance": "Last block, class token and norms trained on from those of the scenes "
                      "model with the checksum started_from_sha256, head from random weights; all "
                      "other layers are those of the backbone, see backbone.json.",
        "data": {
            "nodules": "862 of LIDC-IDRI: first scan of a patient, 3 or 4 readers, median "
                       "malignancy other than 3",
            "source": repr(job.source) if simulated else "real CT of LIDC-IDRI",
            "split": data.split.words,
            "counts": {part: len(data.rows(part)) for part in ("train", "val", "test")},
        },
        "real": "outlines, sizes, slice thickness, ratings" if simulated else "everything",
        "simulated_parts": "every grey value" if simulated else "nothing",
        "learnt_besides": side_words(settings.side_task),
        "made_of": {name: PROVENANCE_OF[name] for name in _outputs(settings.task)},
        "limits": list(LIMITS),
        "not_the_papers": "Other images, another split and another network than in the CDAM paper: "
                          "the numbers cannot be compared with its 0.85.",
        "training_command": f"python -m cdam_core train nodules {options}",
        "settings": asdict(settings),
        "trained_layers": trained_layers,
        "seed": settings.seed,
    }  # fmt: skip


def side_words(side_task: str) -> str:
    """What was learnt besides, and that no map was taught by it."""
    if side_task == "none":
        return "nothing"
    parts = " and ".join(SIDE_WORDS[name] for name in side_task.split("+"))
    return (f"{parts}; by outputs that the finished model does not have. Numbers, not places: "
            "where the evidence lies was never taught.")


def aims(task: str, quality: dict) -> list[dict]:
    """Every aim of a task beside what was measured, met or not.

    Args:
        task: "malignancy" or "biomarkers".
        quality: of the card; ``test`` and ``maps`` are read.
    """
    strongest = [shares["strongest"]["value"] for shares in quality["maps"].values()]
    found = [("strongest patch on the nodule" + (", mean of eight" if len(strongest) > 1 else ""),
              STRONGEST_AIMS[task], round(sum(strongest) / len(strongest), 4))]
    if task == "biomarkers":
        found += [(f"R² {name}", aim, quality["test"][name]["model"]["r2"]["value"])
                  for name, aim in R2_AIMS.items()]  # fmt: skip
    return [{"what": what, "aim": aim, "measured": value, "met": value >= aim}
            for what, aim, value in found]  # fmt: skip


def _outputs(task: str) -> tuple[str, ...]:
    return ("malignancy",) if task == "malignancy" else BIOMARKERS


def _words(task: str) -> dict:
    if task == "malignancy":
        return {
            "label": "Lung nodules: malignancy (simulated CT)",
            "description": "Tells how malignant radiologists would call a lung nodule, from a crop "
                           "of simulated CT with a real outline.",
            "targets": "the logit of malignant (its sigmoid is the probability), and benign, its "
                       "negative",
            "class_names": ["benign", "malignant"],
        }  # fmt: skip
    return {
        "label": "Lung nodules: biomarkers (simulated CT)",
        "description": "Estimates eight ratings of a lung nodule as the mean of its readers would "
                       "be, from a crop of simulated CT with a real outline.",
        "targets": "seven ratings from 1 to 5 (calcification to 6, where 6 is absent) and the "
                   "diameter in mm: values, not logits",
        "class_names": list(BIOMARKERS),
        "units": UNITS,
    }  # fmt: skip


def write(out: Path, module: nn.Module, content: dict, trained: Collection[str] = ()) -> None:
    """Write the trained weights (fp16) and the card, each in one step.

    Args:
        out: the card; the weights lie beside it.
        module: a ``LateClassTokenViT``.
        content: of the card.
        trained: parameters that are written even if they are the backbone's.
    """
    weights, own = out.with_suffix(".safetensors"), module.trained_state()
    state = {name: value.detach().half().contiguous()
             for name, value in module.state_dict().items() if name in own or name in trained}
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise ValueError("the trained weights do not fit half precision")
    write_atomically(weights, save(state))
    layout = content["architecture"] | {"num_classes": len(content["class_names"])}
    write_json(out, content | {
        "architecture": layout, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
        "weights": weights.name, "weights_sha256": sha256(weights),
    })  # fmt: skip
