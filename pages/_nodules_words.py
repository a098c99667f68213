"""What the page "Lung nodules" says: the banner, how to read each output, and what is not known."""

import math

import numpy as np

import cdam_core as cdam
from cdam_core.nodules import BIOMARKERS, Nodule
from cdam_core.nodules.card import BANNER, PROVENANCE_OF, UNITS, readers_text, value_text
from pages._words import plain, signed

PHANTOM_STAMP = "SIMULATED CT"
REAL_STAMP = "RESEARCH USE ONLY · NOT A MEDICAL DEVICE"
REAL_BANNERS = {
    "dicom": "This scan is real; the models were trained on simulated CT alone, and how well they "
    "do on real CT was not measured. Research use only, not a medical device. Of the models:",
    "own": "This picture is yours; the models were trained on simulated CT alone, and how well "
    "they do on real CT was not measured. Research use only, not a medical device. Of the models:",
}

# One sentence per output: what its numbers mean, and where on the nodule to look.
HOW_TO_READ = {
    "malignant": "Orange speaks for malignant, blue for benign; a whole orange body is size "
    "speaking, an orange rim its shape.",
    "subtlety": "1 extremely subtle to 5 obvious. Look at the contrast of the nodule with what is "
    "around it: orange is where it stands out.",
    "calcification": "A code: 6 is no calcium, 1 to 5 are kinds of it. Look for bright grains, a "
    "core or a shell: blue there is calcium lowering the value.",
    "sphericity": "1 linear to 5 round. Look at the whole outline: blue on a long side or a tip is "
    "what keeps it from being round.",
    "margin": "1 poorly defined to 5 sharp. Look at the edge, not at the body: an orange edge is "
    "read as sharp, a blue one as blurred.",
    "lobulation": "1 none to 5 marked. Look at bulges and notches of the outline: orange there is "
    "read as lobes.",
    "spiculation": "1 none to 5 marked. Look at spicules, thin lines from the edge into the lung: "
    "orange on them raises the value.",
    "texture": "1 ground glass, 3 part-solid, 5 solid. Look at the body: orange is where it is "
    "read as solid, blue as ground glass.",
    "diameter": "Largest extent in mm. Look at the body: the more of it is orange, the larger it "
    "is read.",
}

GENERAL = """
**Sign and colour.** A patch in orange (standard colours) raises the output, one in blue lowers it,
and what has no colour made no difference in the model's last block. *Malignant* is the model's
logit: above 0 it leans towards malignant. *Benign* is the same number with the other sign, and its
map is the negative of the other. The eight biomarkers are values, not logits: seven ratings as the
mean of the readers would be, and a diameter in mm.

**Scales.** Each biomarker has its own printed scale, because their units differ. The maps of two
that are compared share one.

**Windows** change what you see of the slice. The models always get −1000 to 400 HU.

**Slices.** What was measured of the models is about the middle slice. They were trained on slices
up to 2 mm from it; explanations of others, and of coronal and sagittal ones, are shown as they are.

**What the maps do not tell.** They are no proof of cause, they show the last block only, and a
wrong answer gets a map as clear as a right one. The models find no nodules: they were trained on
crops around nodules that readers had outlined, and answer just as firmly about anything else.
"""

NEAREST = (
    "Training nodules whose embedding by the malignancy model points most nearly the same way, "
    "other nodules of the same patient left out: what the answer leans on. The number is the "
    "cosine; 1 is the same direction. Labels are the readers' opinion. Each map is that of "
    "malignant, on a scale of its own."
)


def stamp(source: str) -> str:
    """What stands on every picture."""
    return PHANTOM_STAMP if source == "phantom" else REAL_STAMP


def banner(source: str) -> str:
    """What stands above every nodule."""
    return f"{REAL_BANNERS[source]} {BANNER}" if source in REAL_BANNERS else BANNER


def tag(output: str) -> str:
    """What a model can have learnt an output from."""
    return PROVENANCE_OF["malignancy" if output in ("malignant", "benign") else output]


# ---- numbers -------------------------------------------------------------------------------------


def probability(logit: float) -> float:
    """The share that a logit stands for."""
    return 1 / (1 + math.exp(-float(np.clip(logit, -50, 50))))


def malignancy_sentence(explanation: cdam.Explanation, nodule: Nodule | None) -> str:
    """The model's answer, and the readers' beside it."""
    logit = float(explanation.values[0])
    side = "malignant" if logit > 0 else "benign"
    text = (f"The model leans towards **{side}**: logit {signed(logit)}, "
            f"that is {100 * probability(logit):.0f} % malignant.")  # fmt: skip
    if nodule is None:
        return text
    opinions = ", ".join(str(int(value)) for value in nodule.by_reader("malignancy"))
    called = "malignant" if nodule.malignant else "benign"
    return (f"{text} Its readers call it **{called}**: median {nodule.malignancy:g} of "
            f"{plain(opinions)} on the scale from 1 to 5.")  # fmt: skip


def familiarity(distance: float, usual: float) -> str:
    """How far a crop is from the training nodules, and what that means."""
    numbers = f"(distance to the nearest three {distance:.2f}; usual among them: up to {usual:.2f})"
    if distance > usual:
        return ("This crop is unlike the simulated nodules that the malignancy model has learnt "
                f"from {numbers}. Its answers and maps would mean little here.")  # fmt: skip
    return ("To the malignancy model this crop is no further from its training nodules than they "
            f"are from each other {numbers}. That is no proof that it knows real CT: it has learnt "
            "from simulated density only.")  # fmt: skip


def quality_sentence() -> str:
    """How often the malignancy model is right, beside the size of the nodule alone."""
    rows = cdam.MODELS["nodules-malignancy"]["quality"]["test"]["malignant"]
    count = cdam.MODELS["nodules-malignancy"]["quality"]["nodules_measured"]

    def told(row: str) -> str:
        found = rows[row]["accuracy"]
        low, high = found["interval"]
        return f"{found['value']:.2f} [{low:.2f}, {high:.2f}]"

    return (f"On {count} simulated nodules of patients it was not trained on, the model is right "
            f"in {told('model')}; log(area) alone in {told('log(area)')} (95 % intervals).")


def accuracy_of(name: str) -> str:
    """How well a biomarker is learnt, beside the simple rival that is handed the outline."""
    rows = cdam.MODELS["nodules-biomarkers"]["quality"]["test"][name]
    own, rival = rows["model"]["r2"]["value"], rows["shape and density"]["r2"]["value"]
    return f"{own:.2f} / {rival:.2f}".replace("-", "−")


def table(explanation: cdam.Explanation, nodule: Nodule | None) -> str:
    """A line per biomarker: value, readers, what it was learnt from, how to read it."""
    head = ["Biomarker", "Model", "Readers: mean ± SD (n)", "Learnt from", "R² / rival"]
    lines = [head, [":--", "--:", "--:", ":--", "--:"]]
    for name, value in zip(BIOMARKERS, explanation.values, strict=True):
        readers = "not known" if nodule is None else readers_text(nodule, name)
        lines.append([f"**{name}**", value_text(name, value), readers, tag(name),
                      accuracy_of(name)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def reading() -> str:
    """A sentence per biomarker; a list, because a phone has no room for it in the table."""
    return "\n".join(f"- **{name}**: {HOW_TO_READ[name]}" for name in BIOMARKERS)


def units_differ(a: str, b: str) -> bool:
    """Whether the difference of two biomarkers mixes ratings and lengths."""
    return unit_of(a) != unit_of(b)


def unit_of(name: str) -> str:
    """Of a biomarker's scores."""
    return short_unit(UNITS[name])


def short_unit(unit: str) -> str:
    """Without the range in brackets."""
    return unit.partition(" (")[0]
