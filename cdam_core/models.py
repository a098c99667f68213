"""From pixels to the tokens entering the last block, and from names to models.

``wrap`` adapts a timm ViT that reads its answer from a class token; ``load_model`` finds one by
name. A ``VisionModel`` is read by many threads at once, so nothing is ever stored on it: no hooks,
no gradients, no caches. Where its last block is, ``architectures`` knows; what the methods need of
it is computed functionally, from ``Encoding``, the tokens that enter it.
"""

import copy
import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from cdam_core import architectures, checkpoints, devices, hub
from cdam_core.architectures import answers
from cdam_core.assets import assets_dir
from cdam_core.bank import EmbeddingBank
from cdam_core.errors import BadCheckpoint, BadImage, BadTarget
from cdam_core.images import Fitted, fit_image
from cdam_core.last_block import (
    Directions,
    LinearDirections,
    TokenSets,
    autograd_evidence,
    closed_form_evidence,
    is_plain,
    plain_answers,
)
from cdam_core.late_vit import LateClassTokenViT

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Largest relative difference between two float32 computations of the same quantity that is still
# called equal; differences of order 1e-6 are usual, a wrong formula gives order 1.
SELF_CHECK_TOLERANCE = 1e-3
# Patches of the largest image that is encoded; memory grows with them, time faster than that.
MAX_PATCHES = 2**13


@dataclass(frozen=True, eq=False)
class Encoding:
    """One image, encoded up to the last block; every question about it starts from here.

    Attributes:
        tokens: (1, P + N, d) tokens entering the last block (residual stream), without a graph;
            P prefix tokens ([CLS], registers), then N = rows * cols patch tokens in row order.
        grid: (rows, cols).
        content: (rows, cols) bool, False where more than half of a patch is padding.
    """

    tokens: Tensor
    grid: tuple[int, int]
    content: np.ndarray


@dataclass(frozen=True, eq=False)
class VisionModel:
    """A frozen ViT with a class token, ready to be explained; build it with ``wrap``.

    Attributes:
        module: the timm module in eval mode, without gradients; never changed after ``wrap``.
        id: name used in results ("scenes", "timm:<architecture>", "custom").
        class_names: names of the head's outputs; empty for a backbone without a head.
        mean, std: per-channel normalisation of pixels in [0, 1].
        input_size: (height, width) in pixels that ``preprocess`` produces.
        patch_size: (height, width) in pixels of what one patch token stands for.
        pool: how the answer is read: "token", from the class token, or "avg", from the average of
            all patches, which ``pooled_cdam`` and the gradient methods explain.
        closed_form: True where the closed form of CDAM applies (see ``methods.cdam``).
        bank: embeddings of the training data, or None; tells an unfamiliar picture.
        simulated: True for a model of simulated data; pictures and reports are stamped.
        half: True where the blocks before the last compute in 16 bits; see ``on``.
        units: class name -> unit of that output, of a model whose outputs are no logits.
    """

    module: nn.Module
    id: str
    class_names: list[str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: tuple[int, int]
    patch_size: tuple[int, int]
    pool: str
    closed_form: bool
    bank: EmbeddingBank | None = None
    simulated: bool = False
    half: bool = False
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)

    # ---- geometry -------------------------------------------------------------------------------

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of patches at ``input_size``."""
        return self.grid_of(self.input_size)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: the class token and any registers."""
        return architectures.find(self.module, self.pool).prefix

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 over the names and values of all weights: which model this is, exactly."""
        hashed = hashlib.sha256()
        for name, value in sorted(self.module.state_dict().items()):
            hashed.update(name.encode())
            hashed.update(value.detach().cpu().contiguous().numpy())
        return hashed.hexdigest()

    def grid_of(self, size: Sequence[int]) -> tuple[int, int]:
        """(rows, cols) of patches for a (height, width) in pixels."""
        return tuple(int(side) // patch for side, patch in zip(size, self.patch_size, strict=True))

    # ---- image to pixels ------------------------------------------------------------------------

    def fit(self, image: Image.Image, fit: str = "pad", zoom: int = 1) -> Fitted:
        """The picture exactly as the model sees it, before normalisation.

        Args:
            image: PIL RGB.
            fit: "pad" with the mean colour, "crop" or "stretch" to ``input_size``.
            zoom: the same geometry at ``zoom`` times the size, for drawing sharp pictures.

        Returns:
            ``Fitted`` with ``image`` of ``input_size * zoom`` and the box of real content in it.
        """
        fill = tuple(round(255 * value) for value in self.mean)
        height, width = self.input_size
        return fit_image(image, (height * zoom, width * zoom), fit, fill)

    def normalise(self, image: Image.Image) -> Tensor:
        """A PIL RGB image to (1, 3, H, W) float32 pixels with the model's mean and std."""
        values = torch.from_numpy(np.asarray(image.convert("RGB"), np.float32) / 255)
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return ((values - mean) / std).permute(2, 0, 1)[None].contiguous()

    def preprocess(self, image: Image.Image, fit: str = "pad") -> Tensor:
        """A PIL image to the (1, 3, H, W) float32 pixels the model expects.

        Args:
            image: PIL image; converted to RGB.
            fit: "pad" (with the mean colour) | "crop" | "stretch"; a square image comes out the
                same for all three.
        """
        return self.normalise(self.fit(image, fit).image)

    # ---- pixels to tokens, latents and logits ---------------------------------------------------

    def encode(self, pixels: Tensor, content: np.ndarray | None = None) -> Encoding:
        """Run everything up to the last block, once per image.

        Args:
            pixels: (1, 3, H, W), normalised.
            content: (rows, cols) bool, False on padding; None: all of it is content.

        Returns:
            ``Encoding``; frozen, without a graph.

        Raises:
            BadImage: "wrong-shape" or "not-finite".
        """
        pixels = self.check_pixels(pixels, single=True)
        with torch.inference_mode(False), torch.no_grad():
            tokens = self._tokens_entering(pixels)
        grid = self.grid_of(pixels.shape[-2:])
        content = np.ones(grid, bool) if content is None else np.asarray(content, bool)
        return Encoding(tokens, grid, content)

    def encode_image(self, image: Image.Image, fit: str = "pad") -> Encoding:
        """Fit, normalise and encode a PIL image; padding is remembered in ``content``."""
        fitted = self.fit(image, fit)
        return self.encode(self.normalise(fitted.image), self.content_patches(fitted))

    def content_patches(self, fitted: Fitted) -> np.ndarray:
        """(rows, cols) bool: patches at least half covered by the picture, not by padding."""
        height, width = self.input_size
        inside = np.zeros((height, width), bool)
        top, left, bottom, right = fitted.content
        inside[top:bottom, left:right] = True
        (rows, cols), (p, q) = self.grid, self.patch_size
        return inside[: rows * p, : cols * q].reshape(rows, p, cols, q).mean((1, 3)) >= 0.5

    def embed(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pixels to (B, d) latents l: the [CLS] row after the final norm."""
        with torch.no_grad():
            pixels = self.check_pixels(pixels)
            tokens = self._tokens_entering(pixels)
        return self._answers(tokens, self.grid_of(pixels.shape[-2:]))[0]

    def logits(self, encoding: Encoding) -> Tensor:
        """(C,) class scores of an encoded image.

        Raises:
            BadTarget: "no-head" for a backbone without a classifier.
        """
        self.require_head()
        return self._answers(encoding.tokens, encoding.grid)[1][0]

    def values(self, encoding: Encoding, directions: Directions) -> Tensor:
        """(C,) explained values of an encoded image."""
        return directions.values(*self._answers(encoding.tokens, encoding.grid))[0]

    def require_head(self) -> None:
        """Raise ``BadTarget`` if the model has no classifier."""
        if not self.class_names:
            raise BadTarget(
                "no-head",
                f"Model {self.id} has no classifier, so it has no classes to "
                "explain; train a linear head on it, or explain a concept instead.",
            )

    def is_unfamiliar(self, encoding: Encoding) -> bool | None:
        """Is the image far from what the model was trained on? None: not known for this model."""
        if self.bank is None:
            return None
        return bool(self.bank.is_unfamiliar(self.latent(encoding).float().cpu().numpy()))

    def latent(self, encoding: Encoding) -> Tensor:
        """(d,) what ``embed`` gives, of an encoded image."""
        return self._answers(encoding.tokens, encoding.grid)[0][0]

    def last_norm(self, tokens: Tensor) -> Tensor:
        """T: tokens (B, M, d) entering the last block, after its first LayerNorm."""
        return architectures.normed(self.module, tokens)

    def _answers(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Latents (B, d) and logits (B, C) of tokens (B, M, d) entering the last block."""
        with torch.no_grad():
            normed = self.last_norm(tokens)
            if self.closed_form:
                return plain_answers(self.module, tokens[:, 0], TokenSets.of(normed))
            return answers(self.module, tokens, normed, grid)

    # ---- the same model elsewhere ---------------------------------------------------------------

    def at_size(self, size: Sequence[int]) -> "VisionModel":
        """The same model for images of another size; weights are shared, positions interpolated.

        Args:
            size: (height, width) in pixels, multiples of the patch size.

        Raises:
            BadImage: "wrong-shape" for a size that the model does not take, "too-many-pixels" for
                one of more than ``MAX_PATCHES`` patches.
        """
        size = tuple(int(side) for side in size)
        self._require_size(size)
        return dataclasses.replace(self, input_size=size)

    def on(self, device: str | torch.device = devices.AUTO, half: bool = False) -> "VisionModel":
        """The same model on another device.

        Args:
            device: "auto" (a CUDA card where there is one), "cpu", "cuda", ...
            half: compute the blocks before the last in 16 bits (float16 on CUDA, else bfloat16),
                the residual stream, the last block, the head and all scores in 32. Scores then
                differ by a few percent of the strongest one (docs/models.md has the measured
                numbers). Meant for graphics cards: on processors without instructions for bfloat16
                it is slower.

        Raises:
            BadCheckpoint: "unsupported" for a device that is not here.
        """
        module = _frozen_copy(self.module).to(devices.find(device))
        return dataclasses.replace(self, module=module, half=half)

    # ---- internals ------------------------------------------------------------------------------

    def _tokens_entering(self, pixels: Tensor) -> Tensor:
        """(B, M, d) tokens entering the last attention's norm, in the precision of the weights."""
        if not self.half:
            return architectures.tokens_entering(self.module, pixels)
        kind = pixels.device.type
        with torch.autocast(kind, dtype=torch.float16 if kind == "cuda" else torch.bfloat16):
            tokens = architectures.tokens_entering(self.module, pixels)
        return tokens.to(pixels.dtype)

    def _require_size(self, size: tuple[int, int]) -> None:
        if architectures.takes_any_size(self.module):
            fits = all(
                side >= patch and side % patch == 0
                for side, patch in zip(size, self.patch_size, strict=True)
            )
            expected = f"multiples of the patch size {self.patch_size}"
        else:
            fits, expected = size == self.input_size, f"exactly {self.input_size}"
        if not fits:
            raise BadImage(
                "wrong-shape",
                f"Pixels of height and width {size} arrived; this model expects {expected}.",
            )
        rows, cols = self.grid_of(size)
        if rows * cols > MAX_PATCHES:
            raise BadImage(
                "too-many-pixels",
                f"{size[0]} x {size[1]} pixels make {rows} x {cols} patches; expected at most "
                f"{MAX_PATCHES}, so choose a smaller size.",
            )

    def check_pixels(self, pixels: Tensor, single: bool = False) -> Tensor:
        """Pixels on the model's device and in its dtype.

        Args:
            pixels: (B, 3, H, W), normalised; a size that the model takes.
            single: whether exactly one image is expected.

        Raises:
            BadImage: "wrong-shape" or "not-finite".
        """
        if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1] != 3:
            arrived = tuple(getattr(pixels, "shape", ())) or type(pixels).__name__
            raise BadImage(
                "wrong-shape",
                f"Pixels of shape {arrived} arrived; expected a tensor "
                "(B, 3, height, width) as model.preprocess gives.",
            )
        if single and len(pixels) != 1:
            raise BadImage(
                "wrong-shape",
                f"{len(pixels)} images arrived at once; explain and encode one at a time, "
                "or use embed for many.",
            )
        self._require_size(tuple(pixels.shape[-2:]))
        if not torch.isfinite(pixels).all():
            raise BadImage(
                "not-finite",
                "The pixels hold NaN or infinite values; expected finite "
                "numbers, normalised with the model's mean and std.",
            )
        like = next(self.module.parameters())
        return pixels.to(like.device, like.dtype)


# ---- adapting a module --------------------------------------------------------------------------


def wrap(
    module: nn.Module,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    pool: str | None = None,
    model_id: str = "custom",
    input_size: tuple[int, int] | None = None,
    bank: EmbeddingBank | None = None,
    simulated: bool = False,
    units: Mapping[str, str] | None = None,
) -> VisionModel:
    """Adapt a timm ViT that reads its answer from a class token.

    The given module is left as it is: the adapter holds a copy in eval mode, without gradients,
    that shares its weights. A self-check on random input compares the adapter with the module's
    own forward, and the closed form of CDAM with autograd; where only the latter disagrees, the
    methods use autograd.

    Args:
        module: a network of timm with a class token; see ``architectures`` and docs/models.md.
        class_names: one name per output; None: "class 0", "class 1", ...
        mean, std: normalisation; None: the module's ``pretrained_cfg``, else ImageNet's.
        pool: "token" reads the class token of a backbone without a head that averages its patches
            by default (DINOv3); "avg" explains a model that averages its patches, by the variant
            ``pooled_cdam``; None: as the module does by itself, which must be by a class token.
        model_id: name used in results.
        input_size: (height, width); None: the size the module was built for.
        bank: embeddings of the training data.
        simulated: whether the model was trained on simulated data.
        units: class name -> unit, where outputs are no logits.

    Raises:
        BadCheckpoint: "unsupported" with what was found and what was expected.
    """
    architectures.find(module, pool)  # refuses what cannot be explained
    module = _frozen_copy(module)
    if pool is not None:
        module.global_pool = pool
    config = getattr(module, "pretrained_cfg", None) or {}
    size = tuple(input_size or architectures.input_size_of(module))
    model = VisionModel(
        module,
        model_id,
        _names(module, class_names),
        tuple(mean or config.get("mean") or IMAGENET_MEAN),
        tuple(std or config.get("std") or IMAGENET_STD),
        size,
        patch_size=(1, 1),
        pool=pool or "token",
        closed_form=False,
        bank=bank,
        simulated=simulated,
        units=dict(units or {}),
    )
    return _checked(model)


def _frozen_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters share memory with the original but need no gradient."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    shared |= {id(b): b.detach() for b in module.buffers()}
    return copy.deepcopy(module, shared).eval()


def _names(module: nn.Module, class_names: Sequence[str] | None) -> list[str]:
    count = module.num_classes
    names = list(class_names) if class_names is not None else [f"class {i}" for i in range(count)]
    if len(names) != count:
        raise BadCheckpoint(
            "mismatch",
            f"{len(names)} class names arrived for a head with {count} "
            "outputs; give one name per output.",
        )
    return names


def _checked(model: VisionModel) -> VisionModel:
    """The model with what a run on random pixels shows: its patches, and which formulas hold.

    Raises:
        BadCheckpoint: "damaged" or "unsupported".
    """
    module = model.module
    noise = torch.randn(1, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    noise = noise.to(next(module.parameters()))
    with torch.no_grad():
        try:
            tokens = architectures.tokens_entering(module, noise)
        except (AssertionError, RuntimeError) as error:  # timm's own, where the size does not fit
            height, width = model.input_size
            raise BadCheckpoint(
                "unsupported",
                f"This {type(module).__name__} does not run on images of {height} x {width} pixels "
                f"({type(error).__name__}); expected the input size that it was built for.",
            ) from None
        count = tokens.shape[1] - model.num_prefix_tokens
        patch = architectures.patch_size_of(module, model.input_size, count)
        model = dataclasses.replace(model, patch_size=patch)
        ours = answers(module, tokens, model.last_norm(tokens), model.grid)[1]
        theirs = module(noise)
    if not torch.isfinite(theirs).all():
        raise BadCheckpoint(
            "damaged",
            "The model answers with NaN or infinite values on random "
            "pixels; expected finite weights. Export the checkpoint again.",
        )
    if not _close(ours, theirs):
        raise BadCheckpoint(
            "unsupported",
            f"The last block of this {type(module).__name__} does not feed its attention with the "
            "norm of its input alone, so its tokens cannot be explained; expected a block as timm "
            "builds it.",
        )
    if model.pool == "token":
        architectures.check_reading(module, tokens, model.grid)
    plain = is_plain(module) and _closed_form_agrees(model)
    return dataclasses.replace(model, closed_form=plain)


def _closed_form_agrees(model: VisionModel) -> bool:
    """Compare the closed form with autograd on a few random tokens and directions."""
    module = model.module
    like, width = next(module.parameters()), module.embed_dim
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, model.num_prefix_tokens + 9, width, generator=draw).to(like)
    directions = LinearDirections(torch.randn(3, width, generator=draw).to(like))
    with torch.no_grad():
        normed = model.last_norm(tokens)
    fast = closed_form_evidence(module, tokens[:, 0], TokenSets.of(normed), directions)
    slow = autograd_evidence(module, tokens, normed, directions)
    whole = fast.tokens.clone()
    whole[:, 0] += fast.query
    return _close(whole, slow.tokens) and _close(fast.values, slow.values)


def _close(one: Tensor, two: Tensor) -> bool:
    scale = two.abs().max().clamp_min(torch.finfo(two.dtype).tiny)
    return bool((one - two).abs().max() <= SELF_CHECK_TOLERANCE * scale)


# ---- finding a model ----------------------------------------------------------------------------


BUNDLED = ("scenes", "nodules-malignancy", "nodules-biomarkers")


def _bundled_cards() -> dict[str, Mapping]:
    """Cards of the bundled models; one whose file is missing is left out, not fatal."""
    folder = assets_dir() / "models"
    return {
        name: MappingProxyType(_read_card(folder / f"{name}.json"))
        for name in BUNDLED
        if (folder / f"{name}.json").is_file()
    }


def load_model(
    source: str | Path, input_size: tuple[int, int] | None = None, pool: str | None = None
) -> VisionModel:
    """Load a model to explain.

    Args:
        source: an id in ``MODELS``; "timm:<architecture>" (a file of that name in the folder
            CDAM_MODELS, else pretrained weights from the model hub or its local cache);
            "hub:<owner>/<name>/<file>", a file in that cache; the path of
            a model card (.json) that the training commands write; or the path of a checkpoint, or
            its name in the folder CDAM_MODELS (see ``checkpoints``).
        input_size: (height, width) in pixels; None: the model's own. Position embeddings are
            interpolated for another size.
        pool: as ``wrap``.

    Returns:
        ``VisionModel``. Load once and share: it is safe to read from many threads.

    Raises:
        BadCheckpoint: with a reason and one sentence.
    """
    source = str(source)
    if source in MODELS:
        return _from_card(MODELS[source], assets_dir() / "models", input_size, pool)
    if source.startswith("timm:"):
        return _from_timm(source, input_size, pool)
    is_cached = source.startswith(hub.CACHED)
    path = hub.cached_file(source) if is_cached else checkpoints.find(source)
    if path is not None and path.suffix == ".json" and path.is_file():
        return _from_card(_read_card(path), path.parent, input_size, pool)
    if path is not None:
        return _from_checkpoint(path, input_size, pool)
    raise BadCheckpoint(
        "unknown-model",
        "No such model; expected one of "
        f"{', '.join(MODELS)}, timm:<architecture>, or the path of a checkpoint or a model card "
        "(.json). Run 'python -m cdam_core models' to list what can be loaded.",
    )


def _from_checkpoint(
    path: Path, input_size: tuple[int, int] | None, pool: str | None = None
) -> VisionModel:
    if (card := checkpoints.card_in(path)) is not None:
        return _from_card(card, path.parent, input_size, pool)
    found = checkpoints.load(path)
    module, facts = found.module, found.facts
    names = facts.class_names if module.num_classes else None
    if names is None and module.num_classes == 1000:
        names = imagenet_names()
    model = wrap(module, names, facts.mean, facts.std, model_id=facts.identity,
                 input_size=input_size, pool=pool or facts.pool)  # fmt: skip
    is_elsewhere = input_size is None and facts.used_size not in (None, model.input_size)
    return _at_stated_size(model, facts.used_size) if is_elsewhere else model


def _at_stated_size(model: VisionModel, size: tuple[int, int]) -> VisionModel:
    try:
        return model.at_size(size)
    except BadImage as error:
        raise BadCheckpoint("damaged", f"The file states an impossible size: {error}") from None


def _read_card(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadCheckpoint(
            "unreadable",
            "The model card is not readable JSON; expected a card as "
            "the training commands write it.",
        ) from None


def _from_card(
    card: Mapping, folder: Path, input_size: tuple[int, int] | None, pool: str | None
) -> VisionModel:
    if pool not in (None, "token"):
        raise BadCheckpoint(
            "unsupported",
            f"The pooling {pool!r} arrived for a model that reads its answer from a class token of "
            "its last block alone; leave it out.",
        )
    try:
        layout = card["architecture"]
        module = LateClassTokenViT(
            len(card["class_names"]), trained_blocks=layout["trained_blocks"]
        )
        state = _weights(folder, card["backbone"]) | _weights(folder, card["weights"])
        module.load_state_dict({key: value.float() for key, value in state.items()})
        bank = EmbeddingBank.load(_beside_card(folder, card["bank"])) if card.get("bank") else None
        size = tuple(input_size or layout["input_size"])
        names, mean, std = card["class_names"], card["mean"], card["std"]
        identity, simulated = card["id"], bool(card.get("simulated"))
        units = card.get("units")
    except KeyError as error:
        raise BadCheckpoint(
            "damaged",
            f"The model card lacks the entry {error}; expected a card as "
            "the training commands write it.",
        ) from None
    except RuntimeError:
        raise BadCheckpoint(
            "mismatch",
            "The weights do not fit the architecture named on the model "
            "card; expected the files that were written together.",
        ) from None
    model = wrap(
        module, names, mean, std, model_id=identity, input_size=size, bank=bank,
        simulated=simulated, units=units,
    )  # fmt: skip
    if card.get("whole_sha256") not in (None, model.weights_sha256):
        raise BadCheckpoint(
            "mismatch",
            "The file was made on another backbone than the one that ships with this version; "
            "expected the same weights. Train the head again with this version.",
        )
    return model


def _beside_card(folder: Path, name: str) -> Path:
    """A file that a card names: beside it, or the bundled one of that name (many share those)."""
    path = next((p for p in (folder / name, assets_dir() / "models" / name) if p.is_file()), None)
    if path is None:
        raise BadCheckpoint(
            "unreadable",
            "A file that the model card names is missing beside it; restore it or train the model "
            "again.",
        )
    return path


def _weights(folder: Path, name: str) -> dict[str, Tensor]:
    path = _beside_card(folder, name)
    try:
        return load_file(path)
    except Exception:  # safetensors raises its own error type for every kind of damage
        raise BadCheckpoint(
            "damaged",
            f"The weights file {path.name} is damaged; restore it or train the model again.",
        ) from None


def _from_timm(
    source: str, input_size: tuple[int, int] | None, pool: str | None
) -> VisionModel:
    name = source.removeprefix("timm:")
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise BadCheckpoint("unknown-model", f"timm knows no architecture of that name.{hint}")
    given = checkpoints.given_for(name)
    if given is not None:
        return dataclasses.replace(_from_checkpoint(given, input_size, pool), id=source)
    reason = architectures.why_not_by_name(name, pool)  # refuse before anything is downloaded
    if reason:
        raise BadCheckpoint("unsupported", reason)
    try:
        source_of_weights = _require_weights(name)
        options = architectures.size_options(name, input_size)
        module = timm.create_model(name, pretrained=True, **source_of_weights, **options)
    except BadCheckpoint:
        raise
    except RuntimeError:  # no weights at all, or of one size that timm does not resize
        wanted = " of this input size; leave it out" if input_size else "; choose another name"
        raise BadCheckpoint(
            "unsupported",
            f"There are no pretrained weights of {name}{wanted}, or give the path of a checkpoint.",
        ) from None
    except Exception as error:  # hub, network and cache each raise their own kinds of errors
        raise BadCheckpoint(
            "unreachable",
            f"The weights of {name} could not be fetched from the "
            f"model hub ({type(error).__name__}); connect to the network once, or "
            "use a bundled model.",
        ) from None
    return wrap(module, _names_by_timm(module), model_id=source, input_size=input_size, pool=pool)


def _names_by_timm(module: nn.Module) -> tuple[str, ...] | None:
    """ImageNet's names for ImageNet's outputs; None for any others."""
    return imagenet_names() if module.num_classes == 1000 else None


def _require_weights(name: str) -> dict[str, Any]:
    """Arguments of ``create_model`` that take the weights from the cache, or refuse at once."""
    cached = hub.cached_weights(name)
    if cached is not None:
        hub.require_checksum(cached)
        return {"pretrained_cfg_overlay": {"file": str(cached)}}
    kind, text = hub.status() if hub.is_on_hub(name) else ("answers", "")
    if kind == "silent":
        raise BadCheckpoint(
            "unreachable",
            f"The weights of {name} are not in the local cache and {text}; connect to the network "
            "once, use a bundled model, or give the path of a checkpoint.",
        )
    return {}


@cache
def imagenet_names() -> tuple[str, ...]:
    """ImageNet-1k's class names in output order, from timm's own list; the first synonym each."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(i).split(",")[0] for i in range(1000))


# id -> card: label, description, targets, licence, provenance, simulated, quality ...
MODELS: dict[str, Mapping[str, Any]] = _bundled_cards()
