"""Which nodules are trained on, which choose between models, and which are measured once.

By patient: no patient is on two sides. The paper splits by nodule (section 5.1); that is offered
too, and says how many nodules it measures on whose patient was trained on.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from cdam_core.assets import assets_dir
from cdam_core.errors import BadScan
from cdam_core.nodules.pack import Nodule, load_nodules

SHARES = {"train": 0.7225, "val": 0.1275, "test": 0.15}  # the paper's
KINDS = ("patient", "nodule")


@dataclass(frozen=True)
class Split:
    """Three disjoint groups of nodules.

    Attributes:
        kind: "patient" or "nodule".
        seed: which of the many possible ones.
        train, val, test: ids of nodules, ascending.
        leaked: nodules to measure on whose patient is also trained on; 0 by patient.
    """

    kind: str
    seed: int
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
    leaked: int = 0

    @property
    def words(self) -> str:
        """What the split guarantees or leaks, in one sentence."""
        if self.kind == "patient":
            return "Split by patient: nobody's nodules are both trained on and measured on."
        return (f"Split by nodule, as in the paper: {self.leaked} of {len(self.test)} nodules "
                "measured on come from patients who were also trained on, so the numbers are "
                "too good for new patients.")  # fmt: skip

    def rows(self, nodules: Sequence[Nodule], part: str) -> np.ndarray:
        """Positions in ``nodules`` of a part ("train", "val", "test"); absent ones are left out."""
        wanted = set(getattr(self, part))
        return np.array([i for i, nodule in enumerate(nodules) if nodule.id in wanted], int)


def make_split(nodules: Sequence[Nodule], kind: str = "patient", seed: int = 0) -> Split:
    """Split nodules by ``SHARES``, with the same share of malignant ones in every part.

    Whole groups (patients, or single nodules) are dealt out in a random order, the largest first,
    each to the part that then is nearest to what it should hold of both labels.

    Raises:
        BadScan: "wrong-type" for another kind.
    """
    if kind not in KINDS:
        raise BadScan("wrong-type", f"Another kind of split was asked for; expected one of "
                      f"{', '.join(KINDS)}.")  # fmt: skip
    groups = defaultdict(list)
    for nodule in nodules:
        groups[nodule.patient_id if kind == "patient" else nodule.id].append(nodule)
    total = np.bincount([nodule.malignant for nodule in nodules], minlength=2)
    wanted = np.outer(list(SHARES.values()), total)  # (parts, labels)
    held = np.zeros_like(wanted)
    dealt: list[list[Nodule]] = [[] for _ in SHARES]
    order = np.random.default_rng([seed, KINDS.index(kind)]).permutation(len(groups))
    shuffled = [list(groups.values())[i] for i in order]
    for members in sorted(shuffled, key=len, reverse=True):
        counts = np.bincount([nodule.malignant for nodule in members], minlength=2)
        # how much nearer the part comes to its due, relative to its size
        missing = np.clip(wanted - held, 0, None)
        part = int(((missing * counts).sum(1) / wanted.sum(1)).argmax())
        held[part] += counts
        dealt[part] += members
    train, val, test = (tuple(sorted(nodule.id for nodule in part)) for part in dealt)
    trained = {nodule.patient_id for nodule in dealt[0]}
    leaked = sum(nodule.patient_id in trained for nodule in dealt[2])
    return Split(kind, seed, train, val, test, leaked)


def as_json(split: Split) -> str:
    """The stored form."""
    content = {"kind": split.kind, "seed": split.seed, "leaked": split.leaked,
               **{part: list(getattr(split, part)) for part in SHARES}}  # fmt: skip
    return json.dumps(content) + "\n"


@cache
def load_split() -> Split:
    """The stored split by patient, which the bundled models were trained and measured on.

    Raises:
        BadScan: "damaged" if the file is missing or is not of the bundled nodules.
    """
    try:
        content = json.loads(stored_path().read_text(encoding="utf-8"))
        parts = {part: tuple(content[part]) for part in SHARES}
        split = Split(content["kind"], content["seed"], **parts, leaked=content["leaked"])
    except (OSError, ValueError, KeyError, TypeError):
        split = None
    known = {nodule.id for nodule in load_nodules()}
    if split is None or {*split.train, *split.val, *split.test} != known:
        raise BadScan("damaged", "The stored split is missing or of other nodules; expected "
                      "assets/nodules/split.json. Install again.")  # fmt: skip
    return split


def stored_path() -> Path:
    """Where the stored split lies."""
    return assets_dir() / "nodules" / "split.json"
