"""Explanations in a form that somebody else can check: one ZIP of pictures, scores and settings.

    content = provenance.pack(model, image, [explanation])
    write_atomically(path, content)
    replay(path, image)  # in ``cdam_core.replaying``: computes it again and compares

What is in it is in docs/exports.md. Nothing of the picture itself is, unless asked for: only the
digest of its pixels; the maps then lie on plain grey. Its file name is not known here, and not
written. The same explanation gives the same bytes.
"""

import csv
import hashlib
import io
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from cdam_core import archive, pictures
from cdam_core.benchmarks import to_patches
from cdam_core.explanation import Explanation, as_text
from cdam_core.images import digest
from cdam_core.methods import METHODS
from cdam_core.models import MODELS, VisionModel
from cdam_core.pictures import DEFAULT_PALETTE, SAW
from cdam_core.regions import Region

FORMAT = "cdam-explanation-1"
RECORD, SCORES, PATCHES, CODE, PICTURE = (
    "explanation.json", "scores.npz", "patches.csv", "reproduce.py", "image.png"
)  # fmt: skip
ARRAYS = ("scores", "rest", "values")
PICTURE_FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True, eq=False)
class Drawing:
    """How the pictures are drawn; none of it changes a score.

    Attributes:
        palette, opacity, smooth: as in ``pictures.draw``.
        summed: draw pixel scores summed to patches.
        scales: per explanation, |score| at full colour for each target; None: one for all maps of
            an explanation, which tells 99 % of the scores apart.
        outlines: RGBA layer to put on every picture; see ``pictures.outline_layer``.
    """

    palette: str = DEFAULT_PALETTE
    opacity: float = 0.85
    smooth: bool = False
    summed: bool = False
    scales: tuple[tuple[float, ...], ...] | None = None
    outlines: Image.Image | None = field(default=None, repr=False)


def pack(
    model: VisionModel,
    image: Image.Image,
    explanations: Sequence[Explanation],
    *,
    fit: str = "pad",
    drawing: Drawing | None = None,
    regions: Sequence[Region] = (),
    sample: str | None = None,
    with_image: bool = False,
) -> bytes:
    """The ZIP of one picture: one or several explanations of it by one model.

    Args:
        model: that was asked.
        image: PIL RGB that was explained, as ``open_image`` or ``limit_side`` gave it.
        explanations: from ``explain``, at least one, with scores as the methods gave them.
        fit: how the image became the model's input.
        drawing: of the pictures.
        regions: drawn on the picture.
        sample: path of a bundled sample below the assets, which then is named; never anything else.
        with_image: put the picture itself in, too, and draw the maps on it, as is always done on a
            bundled sample.

    Returns:
        The file's bytes; the same explanations give the same.
    """
    drawing = drawing or Drawing()
    members = _concept_files(explanations)
    members |= {SCORES: _scores(explanations), PATCHES: _patches(explanations).encode()}
    shown = image if with_image or sample else None
    members |= _pictures(model, image.size, shown, explanations, fit, drawing)
    if with_image:
        members[PICTURE] = pictures.png(image)
    record = describe(model, image, explanations, fit=fit, drawing=drawing, regions=regions,
                      sample=sample)  # fmt: skip
    members[CODE] = as_python(record, model).encode()
    record["files"] = {name: sha256(content) for name, content in sorted(members.items())}
    members[RECORD] = _json(record)
    return archive.pack(members)


def describe(
    model: VisionModel,
    image: Image.Image,
    explanations: Sequence[Explanation],
    *,
    fit: str = "pad",
    drawing: Drawing | None = None,
    regions: Sequence[Region] = (),
    sample: str | None = None,
) -> dict[str, Any]:
    """What made the explanations, JSON-able: all that is needed to compute them again.

    Arguments as for ``pack``. The time that it took is left out: it is no part of the result.
    """
    first, drawing = explanations[0], drawing or Drawing()
    card = MODELS.get(model.id, {})
    return {
        "format": FORMAT,
        "simulated": first.simulated,
        "simulated_note": card.get("simulated_note") if first.simulated else None,
        "model": {
            "id": model.id,
            "weights_sha256": model.weights_sha256,
            "input_size": list(model.input_size),
            "patch_size": list(model.patch_size),
            "mean": list(model.mean),
            "std": list(model.std),
            "pool": model.pool,
            "half": model.half,
            "dtype": str(next(model.module.parameters()).dtype).removeprefix("torch."),
        },
        "image": {
            "sha256": digest(image),
            "size": [image.height, image.width],
            "reduced_to": image.info.get("reduced_to"),
            "notes": list(image.info.get("notes", ())),
            "sample": sample,
        },
        "preprocessing": {"fit": fit, "interpolation": "bicubic"},
        "explanations": [
            _description(key, explanation, _concept_names(explanations))
            for key, explanation in zip(keys(explanations), explanations, strict=True)
        ],
        "picture": {
            "palette": drawing.palette,
            "opacity": drawing.opacity,
            "smooth": drawing.smooth,
            "summed": drawing.summed,
            "outlines": drawing.outlines is not None,
            "zoom": pictures.view_zoom(model.input_size),
            "scales": [list(ends) for ends in _scales(explanations, drawing)],
        },
        "regions": [region.description() for region in regions],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """What is installed here of all that enters a score."""
    from cdam_core import __version__

    packages = ("torch", "timm", "numpy", "pillow")
    return {"cdam_core": __version__, "python": platform.python_version()} | {
        name: version(name) for name in packages
    }


def keys(explanations: Sequence[Explanation]) -> list[str]:
    """A name for each: its method, numbered where it comes again."""
    found: list[str] = []
    for explanation in explanations:
        name, count = explanation.method, 1
        while name in found:
            count += 1
            name = f"{explanation.method}-{count}"
        found.append(name)
    return found


def array_names(key: str, count: int) -> dict[str, str]:
    """Name in the NPZ of each of ``ARRAYS``; a single explanation needs no prefix."""
    prefix = "" if count == 1 else f"{key}."
    return {name: f"{prefix}{name}" for name in ARRAYS}


def per_patch(explanation: Explanation) -> Explanation:
    """The same explanation with pixel scores summed within every patch."""
    if explanation.scores.shape[1:] == explanation.grid:
        return explanation
    summed = [to_patches(each, explanation.grid) for each in explanation.scores]
    return replace(explanation, scores=np.array(summed, np.float32))


def file_stem(explanations: Sequence[Explanation], name: str) -> str:
    """How a file of results is called: with the stamp of simulated data where due."""
    return f"{name}-simulated" if explanations[0].simulated else name


# ---- parts of the record -------------------------------------------------------------------------


def _description(
    key: str, explanation: Explanation, concept_names: dict[str, str]
) -> dict[str, Any]:
    made = explanation.provenance()
    for elsewhere in ("seconds", "model", "simulated", "versions"):
        del made[elsewhere]
    made["targets"] = [_with_file(target, concept_names) for target in made["targets"]]
    return {"key": key, "labels": list(explanation.labels), **made,
            "seed": explanation.settings.get("seed")}  # fmt: skip


def _with_file(target: dict[str, Any], concept_names: dict[str, str]) -> dict[str, Any]:
    if target["kind"] == "contrast":
        return target | {side: _with_file(target[side], concept_names) for side in ("a", "b")}
    if target["kind"] == "concept":
        return target | {"file": concept_names[_identity(target)]}
    return target


def _identity(description: dict[str, Any]) -> str:
    return json.dumps(description, sort_keys=True)


def _concepts(explanations: Sequence[Explanation]) -> dict[str, Any]:
    """Identity -> concept, each once, in the order they are first used."""
    return {_identity(concept.description()): concept
            for explanation in explanations for concept in explanation.concepts}  # fmt: skip


def _concept_names(explanations: Sequence[Explanation]) -> dict[str, str]:
    return {identity: f"concept-{number}.safetensors"
            for number, identity in enumerate(_concepts(explanations), 1)}  # fmt: skip


def _concept_files(explanations: Sequence[Explanation]) -> dict[str, bytes]:
    names = _concept_names(explanations)
    return {names[identity]: concept.to_bytes()
            for identity, concept in _concepts(explanations).items()}  # fmt: skip


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False).encode()


def sha256(content: bytes) -> str:
    """SHA-256 (hex) of a file's content."""
    return hashlib.sha256(content).hexdigest()


# ---- scores --------------------------------------------------------------------------------------


def _scores(explanations: Sequence[Explanation]) -> bytes:
    arrays = {"content": explanations[0].content}
    for key, explanation in zip(keys(explanations), explanations, strict=True):
        for name, stored in array_names(key, len(explanations)).items():
            arrays[stored] = getattr(explanation, name)
    return archive.pack_arrays(arrays)


def _patches(explanations: Sequence[Explanation]) -> str:
    """One line per explanation, target and patch; pixel scores are summed within the patch."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "method", "target", "value", "row", "col", "content", "score"])
    for key, explanation in zip(keys(explanations), map(per_patch, explanations), strict=True):
        for label, value, scores in zip(
            explanation.labels, explanation.values, explanation.scores, strict=True
        ):
            start = [explanation.model_id, key, as_text(label), repr(float(value))]
            for (row, col), score in np.ndenumerate(scores):
                shows = int(explanation.content[row, col])
                writer.writerow([*start, row, col, shows, repr(float(score))])
    return out.getvalue()


# ---- pictures ------------------------------------------------------------------------------------


def _scales(explanations: Sequence[Explanation], drawing: Drawing) -> list[tuple[float, ...]]:
    if drawing.scales is not None:
        return [tuple(map(float, ends)) for ends in drawing.scales]
    drawn = map(per_patch, explanations) if drawing.summed else explanations
    return [(pictures.shared_scale(each),) * len(each.labels) for each in drawn]


def _pictures(
    model: VisionModel,
    size: tuple[int, int],
    image: Image.Image | None,
    explanations: Sequence[Explanation],
    fit: str,
    drawing: Drawing,
) -> dict[str, bytes]:
    """The maps in every format; without the image, on plain grey of its (width, height)."""
    saw = SAW if image is not None else "The picture is not included"
    image = image or Image.new("RGB", size, "grey")
    view = model.fit(image, fit, zoom=pictures.view_zoom(model.input_size)).image
    scales = _scales(explanations, drawing)
    drawn = [per_patch(each) if drawing.summed else each for each in explanations]
    look = {"palette": drawing.palette, "opacity": drawing.opacity, "smooth": drawing.smooth,
            "outlines": drawing.outlines, "saw": saw}  # fmt: skip
    is_panel = len(drawn) == 1 and len(set(scales[0])) == 1
    note = "Colours end at the printed scale; up to 1 % of the scores lie beyond."

    def draw(file_format: str) -> bytes:
        if is_panel:
            note_of_one = pictures.beyond_scale(drawn[0], scales[0][0])
            return pictures.panel(view, drawn[0], scales[0][0], scale_note=note_of_one,
                                  file_format=file_format, **look)  # fmt: skip
        return pictures.sheet(view, drawn, scales, scale_note=note, file_format=file_format, **look)

    stem = file_stem(explanations, "maps")
    return {f"{stem}.{file_format}": draw(file_format) for file_format in PICTURE_FORMATS}


# ---- the same in Python --------------------------------------------------------------------------


def as_python(record: dict[str, Any], model: VisionModel) -> str:
    """Code that computes the explanations again.

    Args:
        record: from ``describe``.
        model: that was asked; tells which class names are unambiguous.

    Returns:
        A script whose last line leaves the explanation in ``e``, or a list of them in ``found``.
        Concepts are read from the files of the ZIP.
    """
    lines = ["import cdam_core as cdam", ""]
    sample, image = record["image"]["sample"], record["image"]
    if sample:
        lines[1:1] = ["from cdam_core.assets import assets_dir"]
    lines.append(_model_line(record["model"]))
    if sample:
        lines.append(f"image = cdam.open_image(assets_dir() / {sample!r})")
    else:
        lines.append('image = cdam.open_image("picture.png")  # your picture')
    if image["reduced_to"]:
        lines.append(f"image = cdam.limit_side(image, {image['reduced_to']})")
    lines.append(f"# SHA-256 of its pixels: {image['sha256']}")
    made = record["explanations"]
    variables = _concept_lines(made, lines)
    calls = [_call(each, record["preprocessing"]["fit"], model, variables) for each in made]
    if len(calls) == 1:
        lines.append(f"e = {calls[0]}")
        lines.append("# e.scores, e.values, e.labels")
    else:
        lines += ["found = [", *(f"    {call}," for call in calls), "]"]
    return "\n".join(lines) + "\n"


def _model_line(model: dict[str, Any]) -> str:
    known, size = model["id"], tuple(model["input_size"])
    usual = tuple(MODELS.get(known, {}).get("architecture", {}).get("input_size", ()))
    more = "" if known in MODELS else f", pool={model['pool']!r}"
    after = "" if size == usual else f".at_size({size})"
    after += '.on("cpu", half=True)' if model["half"] else ""
    if known in MODELS or known.startswith("timm:"):
        return f"model = cdam.load_model({known!r}{more}){after}"
    return f'model = cdam.load_model("checkpoint.pth"{more}){after}  # the file of model {known}'


def _concept_lines(made: Sequence[dict[str, Any]], lines: list[str]) -> dict[str, str]:
    """File -> variable; a line that reads each is added."""
    variables: dict[str, str] = {}
    for each in made:
        for target in each["targets"]:
            for side in (target["a"], target["b"]) if target["kind"] == "contrast" else (target,):
                if side["kind"] == "concept" and side["file"] not in variables:
                    name = f"concept_{len(variables) + 1}"
                    variables[side["file"]] = name
                    lines.append(f"{name} = cdam.load_concept({side['file']!r}, model)")
    return variables


def _call(
    made: dict[str, Any], fit: str, model: VisionModel, variables: dict[str, str]
) -> str:  # fmt: skip
    targets = ", ".join(_target_code(target, model, variables) for target in made["targets"])
    method = METHODS[made["method"]]
    changed = {
        setting.name: made["settings"][setting.name]
        for setting in method.settings
        if made["settings"].get(setting.name, setting.default) != setting.default
    }
    changed |= {} if fit == "pad" else {"fit": fit}
    settings = "".join(f", {name}={value!r}" for name, value in changed.items())
    return f"cdam.explain(model, image, [{targets}], {method.id!r}{settings})"


def _target_code(target: dict[str, Any], model: VisionModel, variables: dict[str, str]) -> str:
    if target["kind"] == "contrast":
        sides = (_target_code(target[side], model, variables) for side in ("a", "b"))
        return f"cdam.Contrast({', '.join(sides)})"
    if target["kind"] == "concept":
        return variables[target["file"]]
    is_unique = model.class_names.count(target["name"]) == 1
    return repr(target["name"] if is_unique else target["index"])
