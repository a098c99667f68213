"""Computing a recorded explanation again, and saying whether the same comes out.

The ZIP may come from a stranger: every entry of it that is used is checked first, no file that it
names is opened unless it is a bundled one, and its pictures and code are never looked at.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cdam_core import archive
from cdam_core.architectures import takes_any_size
from cdam_core.assets import assets_dir
from cdam_core.concepts import Concept, load_concept
from cdam_core.errors import BadRecord
from cdam_core.explanation import Explanation, explain
from cdam_core.images import FITS, digest, limit_side, open_image
from cdam_core.methods import METHODS
from cdam_core.models import MODELS, VisionModel, load_model
from cdam_core.provenance import (
    ARRAYS,
    FORMAT,
    PICTURE,
    RECORD,
    SCORES,
    array_names,
    keys,
    sha256,
    versions,
)
from cdam_core.targets import Contrast

TOLERANCE = 1e-5  # of the largest |score|: up to here two computations are the same
MAX_EXPLANATIONS = 64
MAX_TARGETS = 5000
MAX_SIDE = 1024  # pixels of a model's input; more would need more memory than a check is worth
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, eq=False)
class Record:
    """A ZIP that was read and found sound.

    Attributes:
        facts: content of explanation.json; what replaying uses of it has been checked.
        arrays: per explanation, "scores", "rest" and "values" as recorded.
        concepts: file name -> concept.
        image: the picture's file, where the ZIP holds it.
    """

    facts: Mapping[str, Any]
    arrays: tuple[Mapping[str, np.ndarray], ...]
    concepts: Mapping[str, Concept]
    image: bytes | None


@dataclass(frozen=True)
class Difference:
    """How far one explanation comes out from what was recorded.

    Attributes:
        key: its name in the record.
        scores: largest |difference| of scores, as a share of the largest recorded |score|;
            infinite where the shapes differ.
        values: the same of the explained values.
        is_bit_equal: whether every number is the same to the last bit.
    """

    key: str
    scores: float
    values: float
    is_bit_equal: bool

    @property
    def is_small(self) -> bool:
        """Within ``TOLERANCE``."""
        return self.scores <= TOLERANCE and self.values <= TOLERANCE


@dataclass(frozen=True)
class Replay:
    """What computing a record again showed.

    Attributes:
        is_same_image, is_same_weights: whether the digests are those of the record.
        differences: one per explanation.
        versions: package -> (recorded, here), of those that differ.
    """

    is_same_image: bool
    is_same_weights: bool
    differences: tuple[Difference, ...]
    versions: Mapping[str, tuple[str, str]]

    @property
    def is_identical(self) -> bool:
        """Same picture, same weights, and no score that differs by more than rounding."""
        same_input = self.is_same_image and self.is_same_weights
        return same_input and all(each.is_small for each in self.differences)

    @property
    def is_bit_equal(self) -> bool:
        """Identical to the last bit."""
        return self.is_identical and all(each.is_bit_equal for each in self.differences)

    def words(self) -> list[str]:
        """What came out, one sentence each, the verdict first."""
        if self.is_bit_equal:
            lines = ["identical (bit-equal)"]
        elif self.is_identical:
            largest = max(each.scores for each in self.differences)
            lines = [f"identical (largest difference {largest:.1e} of the largest score)"]
        else:
            lines = ["different", *self._reasons()]
        if self.versions:
            told = (f"{name} {then} (here {now})" for name, (then, now) in self.versions.items())
            lines.append(f"recorded with other versions: {', '.join(told)}")
        return lines

    def _reasons(self) -> list[str]:
        lines = []
        if not self.is_same_image:
            lines.append("the picture is another one: the digests of the pixels differ")
        if not self.is_same_weights:
            lines.append("the model is another one: the digests of the weights differ")
        for each in self.differences:
            if math.isinf(each.scores):
                lines.append(f"{each.key}: the maps have another shape")
            elif not each.is_small:
                lines.append(f"{each.key}: scores differ by up to {each.scores:.1e} of the largest "
                             f"one, values by up to {each.values:.1e}")  # fmt: skip
        return lines


def replay(
    source: bytes | str | Path,
    image: Image.Image | bytes | str | Path | None = None,
    model: VisionModel | str | Path | None = None,
    *,
    on_step: Callable[[int, int], None] | None = None,
) -> Replay:
    """Compute a recorded explanation again and compare.

    Args:
        source: the ZIP, by its content or its path.
        image: the picture that was explained; None where the ZIP holds it, or names a bundled one.
        model: the model that was asked, or where to load it from; None: by the recorded id, for
            bundled models and those of the hub.
        on_step: called with (done, total) between the explanations; raising in it cancels.

    Raises:
        BadRecord: the ZIP is damaged, unsafe, of another kind, or needs an image or a model.
        BadImage, BadCheckpoint, BadConcept, BadTarget: what is needed is not there.
    """
    record = read(source)
    picture = _picture(record, image)
    network = _model(record.facts["model"], model)
    made, differences = record.facts["explanations"], []
    for number, (each, arrays) in enumerate(zip(made, record.arrays, strict=True)):
        if on_step:
            on_step(number, len(made))
        again = _explain(network, picture, each, record)
        differences.append(_difference(each["key"], arrays, again))
    then, now = record.facts["versions"], versions()
    return Replay(
        digest(picture) == record.facts["image"]["sha256"],
        network.weights_sha256 == record.facts["model"]["weights_sha256"],
        tuple(differences),
        {name: (then[name], now[name]) for name in now if then.get(name, now[name]) != now[name]},
    )


def _picture(record: Record, image: Image.Image | bytes | str | Path | None) -> Image.Image:
    facts = record.facts["image"]
    if image is None and record.image is not None:
        image = record.image
    if image is None and facts["sample"]:
        bundled = {path.relative_to(assets_dir()).as_posix(): path
                   for path in assets_dir().glob("*/*.jpg")}  # fmt: skip
        image = bundled.get(facts["sample"])
    if image is None:
        raise BadRecord("needs-image", "The file does not hold the picture; give the picture that "
                        "was explained.")  # fmt: skip
    picture = image if isinstance(image, Image.Image) else open_image(image)
    return limit_side(picture, facts["reduced_to"]) if facts["reduced_to"] else picture


def _model(facts: Mapping[str, Any], given: VisionModel | str | Path | None) -> VisionModel:
    if isinstance(given, VisionModel):
        return given
    known = facts["id"]
    if given is None and known not in MODELS and not known.startswith("timm:"):
        raise BadRecord("needs-model", "The model of this record was loaded from a file; give that "
                        "file.")  # fmt: skip
    size, source = tuple(facts["input_size"]), known if given is None else given
    model = load_model(source, pool=facts["pool"])
    if tuple(model.input_size) != size:
        model = _at_size(model, source, facts, size)
    return model.on(next(model.module.parameters()).device, facts["half"])


def _at_size(
    model: VisionModel, source: str | Path, facts: Mapping[str, Any], size: tuple[int, int]
) -> VisionModel:
    """Positions are interpolated for every picture, or once for all in the weights."""
    if takes_any_size(model.module) and model.weights_sha256 == facts["weights_sha256"]:
        return model.at_size(size)
    return load_model(source, size, facts["pool"])


def _explain(
    model: VisionModel, picture: Image.Image, made: Mapping[str, Any], record: Record
) -> Explanation:
    targets = [_target(model, target, record.concepts) for target in made["targets"]]
    names = {setting.name for setting in METHODS[made["method"]].settings}
    settings = {name: value for name, value in made["settings"].items() if name in names}
    fit = record.facts["preprocessing"]["fit"]
    return explain(model, picture, targets, made["method"], fit=fit, **settings)


def _target(
    model: VisionModel, target: Mapping[str, Any], concepts: Mapping[str, Concept]
) -> int | str | Concept | Contrast:
    if target["kind"] == "contrast":
        return Contrast(*(_target(model, target[side], concepts) for side in ("a", "b")))
    if target["kind"] == "concept":
        return concepts[target["file"]]
    index, names = target["index"], model.class_names
    same_place = index < len(names) and names[index] == target["name"]
    return index if same_place else target["name"]


def _difference(key: str, then: Mapping[str, np.ndarray], now: Explanation) -> Difference:
    if then["scores"].shape != now.scores.shape:
        return Difference(key, math.inf, math.inf, False)
    is_equal = all(np.array_equal(then[name], getattr(now, name), equal_nan=True)
                   for name in ARRAYS)  # fmt: skip
    scores, values = (_relative(then[name], getattr(now, name)) for name in ("scores", "values"))
    return Difference(key, scores, values, is_equal)


def _relative(then: np.ndarray, now: np.ndarray) -> float:
    """Largest |difference|, as a share of the largest |number| of before."""
    difference = float(np.abs(then.astype(np.float64) - now).max(initial=0))
    scale = float(np.abs(then).max(initial=0))
    return difference / scale if scale else 0.0 if difference == 0 else math.inf


# ---- reading -------------------------------------------------------------------------------------


def read(source: bytes | str | Path) -> Record:
    """Read a ZIP of ``provenance.pack``, checking everything that replaying will use.

    Raises:
        BadRecord: with one sentence.
        BadConcept: a concept in it is damaged.
    """
    members = archive.unpack(source)
    facts = _facts(members)
    _check_files(facts, members)
    arrays = archive.unpack_arrays(members[SCORES])
    concepts = {name: load_concept(content) for name, content in members.items()
                if name.endswith(".safetensors")}  # fmt: skip
    try:
        _check_facts(facts, concepts)
        recorded = tuple(_recorded(each, len(facts["explanations"]), arrays)
                         for each in facts["explanations"])  # fmt: skip
    except (_Wrong, KeyError, TypeError, ValueError, AttributeError, OverflowError,
            RecursionError):  # fmt: skip
        raise _damaged("an entry is missing or of the wrong kind") from None
    return Record(facts, recorded, concepts, members.get(PICTURE))


class _Wrong(Exception):
    """An entry is not what it should be."""


def _require(condition: bool) -> None:
    if not condition:
        raise _Wrong


def _damaged(what: str) -> BadRecord:
    return BadRecord("damaged", f"The record cannot be used: {what}; expected the ZIP as this "
                     "program wrote it.")  # fmt: skip


def _facts(members: Mapping[str, bytes]) -> dict[str, Any]:
    if RECORD not in members or SCORES not in members:
        raise _damaged(f"{RECORD} or {SCORES} is missing")
    try:
        facts = json.loads(members[RECORD], parse_constant=_refuse_constant)
        named = facts["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(f"{RECORD} is not readable") from None
    if named != FORMAT:
        raise BadRecord("other-version", "The record is of another kind or a later version; "
                        "expected one of this version of the program.")  # fmt: skip
    return facts


def _check_files(facts: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """What is in the ZIP must be what the record says was put in."""
    recorded = facts.get("files")
    there = {name: sha256(content) for name, content in members.items() if name != RECORD}
    if recorded != there:
        raise _damaged("the files in the ZIP are not those that were put in")


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _check_facts(facts: Mapping[str, Any], concepts: Mapping[str, Concept]) -> None:
    model, image = facts["model"], facts["image"]
    _require(isinstance(model["id"], str) and _is_digest(model["weights_sha256"]))
    _require(_are_sides(model["input_size"], MAX_SIDE))
    _require(model["pool"] in ("token", "avg") and isinstance(model["half"], bool))
    _require(_is_digest(image["sha256"]))
    _require(image["sample"] is None or isinstance(image["sample"], str))
    _require(image["reduced_to"] is None or _is_whole(image["reduced_to"], 16, 20_000))
    _require(facts["preprocessing"]["fit"] in FITS)
    _require(all(isinstance(v, str) for pair in facts["versions"].items() for v in pair))
    made = facts["explanations"]
    _require(isinstance(made, list) and 1 <= len(made) <= MAX_EXPLANATIONS)
    for each in made:
        _require(isinstance(each["key"], str) and each["method"] in METHODS)
        _require(isinstance(each["settings"], dict) and isinstance(each["targets"], list))
        _require(1 <= len(each["targets"]) <= MAX_TARGETS)
        for target in each["targets"]:
            _check_target(target, concepts)
    _require([each["key"] for each in made] == keys([_Named(each["method"]) for each in made]))


@dataclass(frozen=True)
class _Named:
    """Something with a method, as ``keys`` looks at it."""

    method: str


def _check_target(target: Mapping[str, Any], concepts: Mapping[str, Concept]) -> None:
    if target["kind"] == "contrast":
        for side in (target["a"], target["b"]):
            _require(side["kind"] != "contrast")
            _check_target(side, concepts)
    elif target["kind"] == "concept":
        _require(target["file"] in concepts)
    else:
        _require(target["kind"] == "class" and isinstance(target["name"], str))
        _require(_is_whole(target["index"], 0, 2**31))


def _recorded(
    made: Mapping[str, Any], count: int, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    found = {name: arrays[stored] for name, stored in array_names(made["key"], count).items()}
    targets = len(made["targets"])
    _require(found["scores"].ndim == 3 and all(len(each) == targets for each in found.values()))
    _require(found["rest"].shape == found["values"].shape == (targets,))
    _require(all(each.dtype == np.float32 for each in found.values()))
    _require(bool(np.isfinite(found["scores"]).all() and np.isfinite(found["values"]).all()))
    return found


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= _HEX


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _are_sides(value: Any, high: int) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_whole(v, 1, high) for v in value)

