"""One question, many pictures: a ZIP for each and one table over all.

The command line and the app ask here, so both give the same files. Names of pictures come from the
caller and go into the table only.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from cdam_core import provenance
from cdam_core.benchmarks import compactness
from cdam_core.concepts import Concept
from cdam_core.explanation import Explanation, as_text, explain
from cdam_core.images import digest
from cdam_core.maps import counted
from cdam_core.methods import METHODS
from cdam_core.models import Encoding, VisionModel
from cdam_core.targets import Contrast, resolve, top_classes

STRONGEST = 2  # classes explained where no target was named
COLUMNS = ("image", "status", "target", "value", "sum_for", "sum_against", "compactness",
           "strongest_row", "strongest_col", "method", "model", "file", "image_sha256",
           "request")  # fmt: skip
DONE, LEFT_OUT = "done", "left out"


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of every picture.

    Attributes:
        targets: as for ``explain``; none: the strongest classes of each picture.
        method: id in ``METHODS``.
        settings: of the method.
        fit: how a picture becomes the model's input.
        drawing: of the pictures in the ZIP.
        with_image: put the picture itself into its ZIP.
    """

    targets: tuple[int | str | Concept | Contrast, ...] = ()
    method: str = "cdam"
    settings: Mapping[str, Any] = field(default_factory=dict)
    fit: str = "pad"
    drawing: provenance.Drawing = field(default_factory=provenance.Drawing)
    with_image: bool = False

    def check(self, model: VisionModel) -> None:
        """Raise now what would be wrong with every picture: ``BadTarget``, ``BadConcept``."""
        METHODS[self.method].resolve_settings(self.settings)
        if self.targets:
            resolve(model, self.targets)
        else:
            model.require_head()


def answer(
    model: VisionModel,
    image: Image.Image,
    question: Question,
    encoding: Encoding | None = None,
) -> tuple[Explanation, bytes]:
    """The explanation of one picture, and its ZIP.

    Args:
        model: to ask.
        image: as ``open_image`` gave it.
        question: what to ask.
        encoding: of the image, fitted as the question says; None: made where it is needed.

    Raises:
        BadImage, BadTarget, BadConcept: as ``explain``.
    """
    asked: Any = question.targets
    if encoding is None and (not asked or METHODS[question.method].needs == "encoding"):
        encoding = model.encode_image(image, question.fit)
    if not asked:
        asked = [index for index, _ in top_classes(model.logits(encoding), STRONGEST)]
    given = encoding if METHODS[question.method].needs == "encoding" else image
    explanation = explain(model, given, list(asked), question.method, fit=question.fit,
                          **question.settings)  # fmt: skip
    content = provenance.pack(model, image, [explanation], fit=question.fit,
                              drawing=question.drawing, with_image=question.with_image)  # fmt: skip
    return explanation, content


# ---- the table -----------------------------------------------------------------------------------

Row = dict[str, str]


def rows_of(
    name: str, image: Image.Image, explanation: Explanation, file: str, request: str = ""
) -> list[Row]:
    """Lines of the table for one picture, one per target.

    Args:
        name: of the picture.
        image: that was explained.
        explanation: of it.
        file: name of its ZIP.
        request: what tells this question from others.
    """
    shared = {"image": as_text(name), "status": DONE, "method": explanation.method,
              "model": explanation.model_id, "file": file, "image_sha256": digest(image),
              "request": request}  # fmt: skip
    patches = provenance.per_patch(explanation)
    found = zip(explanation.labels, explanation.values, patches.scores,
                counted(explanation.scores, explanation.content), strict=True)  # fmt: skip
    return [shared | _numbers(label, value, scores, explanation.content, inside)
            for label, value, scores, inside in found]  # fmt: skip


def _numbers(
    label: str, value: float, scores: np.ndarray, content: np.ndarray, inside: np.ndarray
) -> Row:
    inside = np.asarray(inside, np.float64)
    top = np.where(content, scores, -np.inf)
    row, col = np.unravel_index(int(top.argmax()), top.shape)
    compact = compactness(inside)
    return {
        "target": as_text(label),
        "value": repr(float(value)),
        "sum_for": f"{inside[inside > 0].sum():.6g}",
        "sum_against": f"{inside[inside < 0].sum():.6g}",
        "compactness": "" if np.isnan(compact) else f"{compact:.6g}",
        "strongest_row": str(row + 1),
        "strongest_col": str(col + 1),
    }


def left_out(name: str, reason: str, request: str = "") -> Row:
    """The line of a picture that could not be explained."""
    return {"image": as_text(name), "status": f"{LEFT_OUT}: {reason}", "request": request}


def table(rows: Iterable[Row], with_header: bool = True) -> str:
    """Lines as CSV; what is not known stays empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    if with_header:
        writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read_table(text: str) -> list[Row]:
    """Lines that ``table`` wrote; cut off or foreign ones are passed over."""
    found = csv.DictReader(io.StringIO(text))
    if tuple(found.fieldnames or ()) != COLUMNS:
        return []
    return [row for row in found if None not in row and None not in row.values()]


def finished(rows: Sequence[Row], request: str) -> dict[str, list[Row]]:
    """Name of a picture -> its lines, of those that the same question was answered for."""
    done: dict[str, list[Row]] = {}
    for row in rows:
        if row["request"] == request and row["status"] == DONE:
            done.setdefault(row["image"], []).append(row)
    return done
