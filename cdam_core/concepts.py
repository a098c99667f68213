"""Concepts: what a handful of example images have in common, as a vector that can be explained.

Source: Brocki, Binda, Chung, arXiv 2312.02364, Eq. 3 and 4: l_c is the mean latent of the examples
and the explained value is a similarity g(l, l_c) of an image's latent l to it. Larger always means
more similar, so the L2 distance enters with a minus sign.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import imagehash
import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from cdam_core.errors import BadConcept, BadImage, BadTarget
from cdam_core.files import write_atomically
from cdam_core.images import digest, open_image
from cdam_core.models import VisionModel

SIMILARITIES = ("dot", "cosine", "l2")
FEW_EXAMPLES = 5  # fewer than this many examples make an unreliable concept
EXAMPLES_PER_BATCH = 8
# Bits of a 64-bit perceptual hash in which two pictures may differ and still look the same.
NEAR_DUPLICATE_BITS = 4
# Leave-one-out cosines and correlations from which a concept or its map counts as stable, or at
# least as usable; below the second, single examples decide.
STABLE, USABLE = 0.97, 0.9
# Ranks among a model's known pictures from which a concept is called probably or perhaps there.
PROBABLE, POSSIBLE = 0.95, 0.75
# Distances below this share of the vector's length are rounding: there the L2 map is zero, where
# its direction would be noise.
SAME_POINT = 1e-5
FORMAT = "cdam-concept-1"
FORMAT_OF_MANY = "cdam-concepts-1"
MAX_FILE_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class Concept:
    """A direction in a model's latent space, built from example images; a target of ``explain``.

    Attributes:
        name: shown to people.
        vector: (d,) float32, the mean latent of the examples.
        similarity: "dot" | "cosine" | "l2"; the value is l . v, cos(l, v) or -|l - v|.
        model_id, weights_sha256: the model it belongs to.
        count: number of examples.
        digests: SHA-256 of every example's pixels.
        report: how reliable it is; see ``reliability``.
        examples: (n, d) float32 latents of the examples, in memory only; None once loaded.
    """

    name: str
    vector: np.ndarray
    similarity: str
    model_id: str
    weights_sha256: str
    count: int
    digests: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    examples: np.ndarray | None = None

    def __post_init__(self):
        if self.similarity not in SIMILARITIES:
            raise BadTarget("bad-setting", f"Similarity {self.similarity!r} arrived; expected "
                            f"one of {', '.join(SIMILARITIES)}.")  # fmt: skip
        vector = np.array(self.vector, np.float32)
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise BadConcept("damaged", "The concept's vector is no list of finite numbers; build "
                             "the concept again.")  # fmt: skip
        if self.similarity == "cosine" and not vector.any():
            raise BadConcept("zero-vector", "The concept's vector is zero, so it has no direction; "
                             "use other examples, or the dot product.")  # fmt: skip
        vector.setflags(write=False)
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "report", MappingProxyType(dict(self.report)))

    def check_model(self, model: VisionModel) -> None:
        """Raise ``BadConcept`` "other-model" unless the concept was built with this model."""
        if self.weights_sha256 != model.weights_sha256:
            raise BadConcept("other-model", f"This concept was built with model {self.model_id}, "
                             f"or with other weights of it, and model {model.id} is in use; build "
                             "it again with this model.")  # fmt: skip

    def using(self, similarity: str) -> "Concept":
        """The same concept with another similarity."""
        return replace(self, similarity=similarity)

    def description(self) -> dict[str, Any]:
        """What it is, JSON-able, for the record of an explanation."""
        return {
            "kind": "concept",
            "name": self.name,
            "similarity": self.similarity,
            "examples": self.count,
            "vector_sha256": hashlib.sha256(self.vector.tobytes()).hexdigest(),
        }

    # ---- arithmetic, on the vectors of dot-product concepts ----------------------------------

    def __neg__(self) -> "Concept":
        return _combine(f"not {self.name}", [(-1.0, self)])

    def __sub__(self, other: "Concept") -> "Concept":
        return _combine(f"{self.name} − {other.name}", [(1.0, self), (-1.0, other)])

    # ---- files -------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The concept as a safetensors file; the examples' latents are left out."""
        # One entry: several would be written in any order, and equal concepts be different files.
        metadata = {FORMAT: json.dumps(self._notes(), ensure_ascii=False)}
        return save({"vector": np.ascontiguousarray(self.vector)}, metadata)

    def _notes(self) -> dict[str, Any]:
        """Everything but the vector, JSON-able."""
        return {
            "name": self.name,
            "similarity": self.similarity,
            "model_id": self.model_id,
            "weights_sha256": self.weights_sha256,
            "count": self.count,
            "digests": list(self.digests),
            "report": dict(self.report),
        }

    def save(self, path: Path | str) -> None:
        """Write the concept in one step; nothing half-written is ever seen."""
        write_atomically(Path(path), self.to_bytes())


def load_concept(source: Path | str | bytes, model: VisionModel | None = None) -> Concept:
    """Read a concept that ``Concept.save`` wrote.

    Args:
        source: path of the file, or its content.
        model: refuse a concept of another model; None: checked when it is explained.

    Raises:
        BadConcept: "damaged" or "other-model".
    """
    return _load(source, model, _parse_one)[0]


def concepts_to_bytes(concepts: Sequence[Concept]) -> bytes:
    """Several concepts as one safetensors file, for ``load_concepts``."""
    notes = json.dumps([concept._notes() for concept in concepts], ensure_ascii=False)
    vectors = {f"vector.{i}": np.ascontiguousarray(c.vector) for i, c in enumerate(concepts)}
    return save(vectors, {FORMAT_OF_MANY: notes})


def load_concepts(source: Path | str | bytes, model: VisionModel | None = None) -> list[Concept]:
    """Read what ``Concept.save`` or ``concepts_to_bytes`` wrote; arguments as ``load_concept``.

    Raises:
        BadConcept: "damaged" or "other-model"; then none of them is returned.
    """
    return _load(source, model, _parse_any)


_Parts = list[tuple[dict[str, Any], np.ndarray]]


def _load(
    source: Path | str | bytes, model: VisionModel | None, parse: Callable[[bytes], _Parts]
) -> list[Concept]:
    try:
        content = source if isinstance(source, bytes) else _small_file(Path(source))
        concepts = [_concept(notes, vector) for notes, vector in parse(content)]
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError,
            RecursionError):  # fmt: skip
        raise BadConcept("damaged", "The file is no readable concept; expected a .safetensors file "
                         "that this program saved.") from None  # fmt: skip
    if model is not None:
        for concept in concepts:
            concept.check_model(model)
    return concepts


def _concept(notes: Mapping[str, Any], vector: np.ndarray) -> Concept:
    report = dict(notes["report"])
    reliability_words(report)  # a stranger's report must be one that pages can put into words
    return Concept(
        name=str(notes["name"])[:200],
        vector=vector,
        similarity=notes["similarity"],
        model_id=str(notes["model_id"]),
        weights_sha256=str(notes["weights_sha256"]),
        count=int(notes["count"]),
        digests=tuple(map(str, notes["digests"])),
        report=report,
    )


def _small_file(path: Path) -> bytes:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError("too large for a concept")
    return path.read_bytes()


def _parse_one(content: bytes) -> _Parts:
    return [(json.loads(_metadata(content)[FORMAT]), load(content)["vector"])]


def _parse_any(content: bytes) -> _Parts:
    metadata = _metadata(content)
    if FORMAT_OF_MANY not in metadata:
        return _parse_one(content)
    vectors = load(content)
    notes = json.loads(metadata[FORMAT_OF_MANY])
    if not notes:
        raise ValueError("no concept at all")
    return [(note, vectors[f"vector.{i}"]) for i, note in enumerate(notes)]


def _metadata(content: bytes) -> dict[str, str]:
    if len(content) > MAX_FILE_BYTES:
        raise ValueError("too large for a concept")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header["__metadata__"]


# ---- building ----------------------------------------------------------------------------------


def build_concept(
    model: VisionModel,
    images: Iterable[Image.Image | bytes | str | Path],
    name: str = "concept",
    similarity: str = "dot",
    fit: str = "pad",
    on_step: Callable[[int, int], None] | None = None,
) -> Concept:
    """The mean latent of example images (Eq. 3).

    Args:
        model: embeds the examples, exactly as images to be explained are.
        images: PIL images, or files (bytes or paths) that ``open_image`` reads. Unreadable ones are
            left out and listed in ``report["left_out"]`` by position, counted from 1.
        name: shown to people.
        similarity: "dot" (the paper's choice) | "cosine" | "l2".
        fit: how an example becomes the model's input; see ``VisionModel.preprocess``.
        on_step: called with (done, total) after every batch; raising in it cancels.

    Returns:
        ``Concept`` with its reliability report.

    Raises:
        BadConcept: "too-few" without a single example, "unreadable" if none of them can be read,
            "zero-vector".
    """
    pictures, left_out = _readable(list(images))
    if not pictures:
        raise _no_examples(left_out)
    latents = _embed(model, pictures, fit, on_step)
    return concept_of_latents(
        model,
        latents,
        name,
        similarity,
        digests=tuple(digest(picture) for picture in pictures),
        report={"left_out": left_out, "near_duplicates": near_duplicates(pictures)},
    )


def concept_of_latents(
    model: VisionModel,
    latents: np.ndarray,
    name: str,
    similarity: str = "dot",
    digests: tuple[str, ...] = (),
    report: Mapping[str, Any] | None = None,
) -> Concept:
    """A concept from latents (n, d) that ``model.embed`` gave."""
    latents = np.asarray(latents, np.float32)
    return Concept(
        name, latents.mean(0, dtype=np.float64).astype(np.float32), similarity, model.id,
        model.weights_sha256, len(latents), digests, {**(report or {}), **reliability(latents)},
        latents,
    )  # fmt: skip


def _readable(
    sources: Sequence[Image.Image | bytes | str | Path],
) -> tuple[list[Image.Image], list[dict[str, Any]]]:
    """The pictures, and position and reason of what is none."""
    pictures, left_out = [], []
    for position, source in enumerate(sources, 1):
        try:
            picture = source if isinstance(source, Image.Image) else open_image(source)
            pictures.append(picture.convert("RGB"))
        except BadImage as error:
            left_out.append({"position": position, "reason": error.reason, "message": str(error)})
    return pictures, left_out


def _no_examples(left_out: list[dict[str, Any]]) -> BadConcept:
    if not left_out:
        return BadConcept("too-few", "No example image arrived; a concept needs at least one, and "
                          f"{FEW_EXAMPLES} or more to be reliable.")  # fmt: skip
    positions = ", ".join(str(entry["position"]) for entry in left_out)
    return BadConcept("unreadable", f"None of the examples can be read (numbers {positions}); give "
                      "PNG, JPEG, TIFF, WebP, BMP or GIF files.")  # fmt: skip


def _embed(
    model: VisionModel,
    pictures: list[Image.Image],
    fit: str,
    on_step: Callable[[int, int], None] | None,
) -> np.ndarray:
    """(n, d) float32 latents."""
    rows = []
    for start in range(0, len(pictures), EXAMPLES_PER_BATCH):
        batch = pictures[start : start + EXAMPLES_PER_BATCH]
        pixels = torch.cat([model.preprocess(picture, fit) for picture in batch])
        rows.append(model.embed(pixels).float().cpu().numpy())
        if on_step is not None:
            on_step(start + len(batch), len(pictures))
    return np.concatenate(rows)


def near_duplicates(pictures: Sequence[Image.Image]) -> list[tuple[int, int]]:
    """Pairs of positions, counted from 1, that look the same by a perceptual hash."""
    hashes = [imagehash.phash(picture) for picture in pictures]
    return [
        (i + 1, j + 1)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if hashes[i] - hashes[j] <= NEAR_DUPLICATE_BITS
    ]


# ---- reliability ---------------------------------------------------------------------------------


def reliability(latents: np.ndarray) -> dict[str, Any]:
    """How much a concept hangs on single examples.

    Args:
        latents: (n, d) latents of the examples.

    Returns:
        "examples": n; "few": fewer than ``FEW_EXAMPLES``; "leave_one_out": per example the cosine
        between the vector with and without it (empty for one example); "odd_one": position,
        counted from 1, of the example that changes the vector most, or None.
    """
    latents = np.asarray(latents, np.float64)
    n, total = len(latents), latents.sum(0)
    report: dict[str, Any] = {"examples": n, "few": n < FEW_EXAMPLES}
    if n < 2:
        return report | {"leave_one_out": [], "odd_one": None}
    without = (total - latents) / (n - 1)
    cosines = [_cosine(total / n, each) for each in without]
    return report | {"leave_one_out": cosines, "odd_one": int(np.argmin(cosines)) + 1}


def without_one(concept: Concept) -> list[Concept]:
    """The concept rebuilt n times, each time without one of its examples.

    Raises:
        BadConcept: "too-few" for fewer than two examples, or once their latents are gone.
    """
    if concept.examples is None or len(concept.examples) < 2:
        raise BadConcept("too-few", "Leaving one example out needs at least two, in the same visit "
                         "in which the concept was built.")  # fmt: skip
    n, total = len(concept.examples), concept.examples.sum(0, dtype=np.float64)
    return [
        replace(concept, vector=(total - row) / (n - 1), count=n - 1, examples=None)
        for row in concept.examples.astype(np.float64)
    ]


def similarity_of(concept: Concept, latents: np.ndarray) -> np.ndarray:
    """(n,) similarities of latents (n, d), such as ``model.embed`` gives, to a concept."""
    known = similarities(torch.from_numpy(np.array(latents, np.float32)), [concept])
    return known[:, 0].numpy()


def rank_in_bank(concept: Concept, value: float, entries: np.ndarray) -> float:
    """Share of a model's known pictures that are less similar to the concept than a value.

    Args:
        concept: the concept.
        value: similarity of the image in question.
        entries: (n, d) embeddings, such as ``model.bank.embeddings()``.

    Returns:
        0 (least similar of all) to 1 (most similar of all).
    """
    return float((similarity_of(concept, entries) < value).mean())


def map_correlations(
    whole: np.ndarray, without: np.ndarray, content: np.ndarray | None = None
) -> list[float]:
    """How alike a concept's map stays when one example is dropped.

    Args:
        whole: (rows, cols) map of the concept.
        without: (n, rows, cols) maps of ``without_one(concept)``, on the same image.
        content: (rows, cols) bool, False on padding, which is left out.

    Returns:
        Pearson correlation per dropped example; 0 where one of the two maps is constant.
    """
    inside = np.ones(whole.shape, bool) if content is None else content
    centred = [each[inside].astype(np.float64) - each[inside].mean() for each in (whole, *without)]
    return [_cosine(centred[0], each) for each in centred[1:]]


# ---- the same in words ---------------------------------------------------------------------------


def reliability_words(report: Mapping[str, Any]) -> list[str]:
    """A report as sentences, the most important one first; cautious about unknown entries."""
    count = report.get("examples", 0)
    sentences = []
    if report.get("few"):
        sentences.append(
            f"Only {count} example{'s' if count != 1 else ''}: below {FEW_EXAMPLES}, chance "
            "resemblances weigh heavily. Add more."
        )
    if cosines := report.get("leave_one_out"):
        sentences.append(_stability_words(min(cosines), report.get("odd_one")))
    for one, two in report.get("near_duplicates", ()):
        sentences.append(f"Examples {one} and {two} look the same, so they count twice.")
    left_out = [str(entry["position"]) for entry in report.get("left_out", ())]
    if left_out:
        sentences.append(f"Left out, because unreadable: number {', '.join(left_out)}.")
    return sentences


def _stability_words(lowest: float, odd_one: int | None) -> str:
    change = f"leaving out any one example keeps a cosine of {_at_least(lowest)} or more"
    if lowest >= STABLE:
        return f"Stable: {change}."
    verdict = "Usable" if lowest >= USABLE else "Unstable"
    return f"{verdict}: {change}; example {odd_one} changes it most."


def map_words(correlations: Sequence[float]) -> str:
    """What dropping one example does to the map, as one sentence."""
    if not correlations:
        return "With a single example, nothing can be said about how stable the map is."
    lowest, worst = min(correlations), int(np.argmin(correlations)) + 1
    if lowest >= STABLE:
        return ("The map is stable: whichever example is left out, it stays the same to a "
                f"correlation of {_at_least(lowest)} or more.")  # fmt: skip
    if lowest >= USABLE:
        return (f"The map is fairly stable: without example {worst}, the correlation with it is "
                f"{_at_least(lowest)}.")  # fmt: skip
    return (f"The map hangs on example {worst}: without that one, the correlation with it is only "
            f"{_at_least(lowest)}.")  # fmt: skip


def _at_least(value: float) -> str:
    """Two digits, rounded down, so that "or more" holds."""
    return f"{np.floor(100 * value + 1e-9) / 100:.2f}"


def rank_words(rank: float) -> str:
    """A rank among known pictures as a sentence with its verdict."""
    percent = f"{100 * rank:.0f} %"
    if rank >= PROBABLE:
        return f"Probably there: more similar than {percent} of the model's known pictures."
    if rank >= POSSIBLE:
        return f"Perhaps there: more similar than {percent} of the model's known pictures."
    return f"No clear sign of it: more similar than only {percent} of the model's known pictures."


def _cosine(one: np.ndarray, two: np.ndarray) -> float:
    norms = np.linalg.norm(one) * np.linalg.norm(two)
    return float(one @ two / norms) if norms > 0 else 0.0


# ---- algebra -------------------------------------------------------------------------------------


def mean_concept(concepts: Sequence[Concept], name: str = "mean") -> Concept:
    """The mean of dot-product concepts."""
    return _combine(name, [(1 / len(concepts), concept) for concept in concepts])


def minus_mean_of_others(concept: Concept, others: Sequence[Concept]) -> Concept:
    """A dot-product concept less the mean of others, which removes what all images share."""
    rest = [other for other in others if other is not concept]
    if not rest:
        raise BadConcept("too-few", "There is no other concept to subtract; build a second one.")
    share = -1 / len(rest)
    return _combine(
        f"{concept.name} − others", [(1.0, concept), *((share, other) for other in rest)]
    )


def _combine(name: str, terms: Sequence[tuple[float, Concept]]) -> Concept:
    """A weighted sum of vectors; only dot products are linear in the vector."""
    concepts = [concept for _, concept in terms]
    first = concepts[0]
    if any(concept.similarity != "dot" for concept in concepts):
        raise BadConcept("not-linear", "Only dot-product concepts can be added and subtracted; for "
                         "cosine and L2 use a Contrast of two concepts.")  # fmt: skip
    if len({concept.weights_sha256 for concept in concepts}) > 1:
        raise BadConcept("other-model", "These concepts belong to different models; build them "
                         "with one.")  # fmt: skip
    vector = sum(weight * concept.vector.astype(np.float64) for weight, concept in terms)
    return Concept(name, vector, "dot", first.model_id, first.weights_sha256,
                   sum(concept.count for concept in concepts))  # fmt: skip


# ---- values and gradients ------------------------------------------------------------------------


def similarities(latents: Tensor, concepts: Sequence[Concept]) -> Tensor:
    """(B, K) similarities g(l, l_c) of latents (B, d) to K concepts; differentiable."""
    columns = [_similarity(latents, concept) for concept in concepts]
    return torch.stack(columns, dim=1)


def _similarity(latents: Tensor, concept: Concept) -> Tensor:
    vector = torch.tensor(concept.vector).to(latents)
    if concept.similarity == "dot":
        return latents @ vector
    if concept.similarity == "cosine":
        return latents @ vector / (torch.linalg.vector_norm(latents, dim=1) * vector.norm())
    distance = torch.linalg.vector_norm(latents - vector, dim=1)
    return -torch.where(distance > SAME_POINT * vector.norm(), distance, distance.detach())


def similarity_gradients(latents: Tensor, concepts: Sequence[Concept]) -> Tensor:
    """(B, K, d): dg/dl, in closed form.

    l_c for the dot product; l_c / (|l| |l_c|) - cos * l / |l|^2 for the cosine;
    -(l - l_c) / |l - l_c| for L2, and zero where l = l_c.
    """
    return torch.stack([_similarity_gradient(latents, concept) for concept in concepts], dim=1)


def _similarity_gradient(latents: Tensor, concept: Concept) -> Tensor:
    vector = torch.tensor(concept.vector).to(latents)
    if concept.similarity == "dot":
        return vector.expand_as(latents)
    if concept.similarity == "cosine":
        length = torch.linalg.vector_norm(latents, dim=1, keepdim=True)
        cosine = (latents @ vector)[:, None] / (length * vector.norm())
        return vector / (length * vector.norm()) - cosine * latents / length**2
    difference = latents - vector
    distance = torch.linalg.vector_norm(difference, dim=1, keepdim=True)
    apart = distance > SAME_POINT * vector.norm()
    return -torch.where(apart, difference / distance.clamp_min(1e-30), 0.0)
