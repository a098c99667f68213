"""The model card: what was trained, on what, how well it does, and what it must not be used for."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from cdam_core.files import write_atomically
from cdam_core.late_vit import LateClassTokenViT
from cdam_core.scenes.classes import CLASS_NAMES, RESERVED_CLASSES
from cdam_core.scenes.drawings import DRAWING_SETS, training_sets
from cdam_core.scenes.tokens import MEAN, STD

LIMITS = (
    "Knows drawings of its 40 classes in composed scenes, nothing else: no model for photographs.",
    "This model's class token looks at the picture only once, in the last block; ordinary ViTs' do "
    "so in every block, and CDAM explains less of them.",
    "Objects smaller than about a quarter of the picture's side are often missed.",
)


def describe(model: LateClassTokenViT, side: int) -> dict:
    """The part of the card that does not depend on a training run."""
    return {
        "id": "scenes",
        "label": "Everyday objects (composed drawings)",
        "description": "Tells which of 40 everyday things are in a picture composed of drawings, "
                       "several at a time. Trained on image-level labels only, so where its "
                       "evidence lies was never taught; known object masks let anyone check it.",
        "targets": "40 classes; each logit says whether the class is present",
        "simulated": True,
        "simulated_note": "scenes are composed drawings, not photographs",
        "architecture": {
            "class": "LateClassTokenViT",
            "trained_blocks": len(model.blocks) - model.backbone_depth,
            "num_classes": len(CLASS_NAMES),
            "input_size": [side, side],
        },
        "backbone": "backbone.safetensors",
        "class_names": list(CLASS_NAMES),
        "reserved_classes": list(RESERVED_CLASSES),
        "mean": list(MEAN),
        "std": list(STD),
        "fit": "pad",
        "data": {
            "kind": "scenes of 1 to 4 drawings on procedural backgrounds, composed on the fly",
            "supervision": "which classes are present (image-level); masks only to measure",
            "drawings": {DRAWING_SETS[name].package + "@" + DRAWING_SETS[name].version:
                         DRAWING_SETS[name].licence for name in training_sets()},
        },
        "licence": "MIT",
        "provenance": "Last block, class token, norms and head trained here from random weights on "
                      "the frozen backbone; see backbone.json for the backbone.",
        "notices": "assets/NOTICE.md",
        "limits": list(LIMITS),
    }


def write(out: Path, model: LateClassTokenViT, settings: dict, images_seen: int,
          steps: int) -> None:
    """Write the trained weights (fp16) and the card, each in one step.

    Entries that this function does not know, such as the quality, are dropped: they speak of
    other weights.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    weights = out.with_suffix(".safetensors")
    state = {name: value.detach().half().contiguous()
             for name, value in model.trained_state().items()}
    write_atomically(weights, save(state))
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
    content = describe(model, settings["side"]) | {
        "weights": weights.name,
        "weights_sha256": sha256(weights),
        "training_command": f"python -m cdam_core train scenes {options}",
        "settings": settings,
        "seed": settings["seed"],
        "images_seen": images_seen,
        "steps": steps,
    }
    write_json(out, content)


def sha256(path: Path) -> str:
    """Hash of a file, as cards state it."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_json(path: Path, content: dict) -> None:
    """Write a card in one step."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def load_trained(card: Path, model: LateClassTokenViT) -> dict:
    """Load a card's trained weights into ``model`` and return the card.

    Raises:
        SystemExit: if the card or its weights are missing, damaged or of another architecture.
    """
    try:
        content = json.loads(Path(card).read_text(encoding="utf-8"))
        state = load_file(Path(card).parent / content["weights"])
        wanted = model.trained_state()
        if set(state) != set(wanted) or any(state[k].shape != wanted[k].shape for k in wanted):
            raise ValueError("the weights are of another architecture")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise SystemExit(f"cannot go on from {Path(card).name}: {error}") from None
    with torch.no_grad():
        model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    return content | {"images_seen": content.get("images_seen", 0)}
