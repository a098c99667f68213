"""Crops as a network takes them, and the frozen backbone's tokens of them, computed once.

A nodule is shown in several views. View 0 is the one that is measured and explained: the central
plane as it is. The others are for training: another plane within 2 mm, turned and mirrored, and,
for a phantom, with other surroundings. What a view is follows from the nodule and its number
alone, so tokens can be kept in shards and a stopped run goes on.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdam_core.errors import BadScan
from cdam_core.files import write_atomically
from cdam_core.images import fit_image
from cdam_core.late_vit import PATCH_SIZE, LateClassTokenViT
from cdam_core.methods.blocks import first_tokens
from cdam_core.nodules.crops import MIDDLE, NoduleSource, Plane, to_image
from cdam_core.nodules.pack import Nodule
from cdam_core.nodules.phantom import Phantom

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as the backbone was trained with
STD = (0.229, 0.224, 0.225)
OFFSETS_MM = (-2.0, -1.0, 0.0, 1.0, 2.0)
SHARD = 64  # nodules in one file
PROGRESS_SECONDS = 10.0


def view_hu(source: NoduleSource, nodule: Nodule, view: int) -> np.ndarray:
    """(64, 64) HU of a nodule's view.

    Raises:
        BadScan: if the source has no such crop.
    """
    if view == 0:
        return source.crop(nodule, MIDDLE)
    rng = np.random.default_rng([nodule.id, view])
    if isinstance(source, Phantom):
        source = replace(source, seed=source.seed + view)
    hu = source.crop(nodule, Plane(float(rng.choice(OFFSETS_MM))))
    hu = np.rot90(hu, rng.integers(4))
    return np.ascontiguousarray(hu[:, ::-1] if rng.random() < 0.5 else hu)


def to_pixels(crops: Sequence[np.ndarray], side: int, mean=MEAN, std=STD) -> Tensor:
    """(B, 3, side, side) normalised pixels of (64, 64) HU crops, as ``VisionModel`` makes them."""
    pictures = [np.asarray(_enlarged(to_image(hu), side), np.float32) / 255 for hu in crops]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return ((pixels - mean) / std).contiguous()


def _enlarged(picture: Image.Image, side: int) -> Image.Image:
    return fit_image(picture, (side, side), "pad", (0, 0, 0)).image


# ---- tokens --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenCache:
    """The backbone's tokens of views, in shards in one folder.

    Attributes:
        folder: where they lie; made if missing.
        encode: (B, 3, side, side) pixels to (B, 1 + N, d) tokens.
        key: what the tokens depend on besides the nodule and view: source and backbone.
        side: pixels of the network's input.
    """

    folder: Path
    encode: Callable[[Tensor], Tensor]
    key: str
    side: int

    def read(self, source: NoduleSource, nodules: Sequence[Nodule], view: int) -> np.ndarray:
        """(nodules, 1 + N, d) float16 tokens; computes and keeps what is not there yet.

        Raises:
            BadScan: if the source lacks one of the crops.
        """
        started = said = time.monotonic()
        parts = []
        for start in range(0, len(nodules), SHARD):
            part = nodules[start : start + SHARD]
            parts.append(self._shard(source, part, view))
            now = time.monotonic()
            if now - said > PROGRESS_SECONDS:
                said = now
                print(f"view {view}: tokens of {start + len(part)} of {len(nodules)} nodules, "
                      f"{now - started:.0f} s", flush=True)  # fmt: skip
        return np.concatenate(parts)

    def _shard(self, source: NoduleSource, part: Sequence[Nodule], view: int) -> np.ndarray:
        asked = json.dumps([self.key, self.side, view, [nodule.id for nodule in part]])
        path = self.folder / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.npy"
        if path.is_file():
            return np.load(path, allow_pickle=False)
        tokens = self._encoded([view_hu(source, nodule, view) for nodule in part])
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, as_npy(tokens))
        return tokens

    def _encoded(self, crops: list[np.ndarray], batch: int = 8) -> np.ndarray:
        found = []
        for start in range(0, len(crops), batch):
            with torch.inference_mode():
                found.append(self.encode(to_pixels(crops[start : start + batch], self.side)))
        return torch.cat(found).half().cpu().numpy()


def as_npy(array: np.ndarray) -> bytes:
    """An array as a file of numpy's."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_crops(
    source: NoduleSource, nodules: Sequence[Nodule]
) -> tuple[list[Nodule], list[tuple[Nodule, BadScan]]]:
    """The nodules of which the source has every plane of training, and the others with reasons."""
    if isinstance(source, Phantom):
        return list(nodules), []
    good, bad = [], []
    for nodule in nodules:
        try:
            for offset in (min(OFFSETS_MM), max(OFFSETS_MM)):
                source.crop(nodule, Plane(offset))
            good.append(nodule)
        except BadScan as error:
            bad.append((nodule, error))
    return good, bad


def backbone_cache(
    folder: Path, model: LateClassTokenViT, backbone_sha256: str, source: NoduleSource, side: int,
    blocks: int | None = None,
) -> TokenCache:
    """Tokens of the bundled backbone for crops of one source.

    Args:
        folder, side: as for ``TokenCache``.
        model: whose backbone.
        backbone_sha256: of its weights.
        source: of the crops.
        blocks: how many of the backbone's blocks the tokens have left; None: all.

    Raises:
        BadScan: "wrong-type" if the side does not suit the backbone.
    """
    if side < 4 * PATCH_SIZE or side % PATCH_SIZE:
        raise BadScan("wrong-type", f"Crops of {side} pixels were asked for; expected a multiple "
                      f"of {PATCH_SIZE}, at least {4 * PATCH_SIZE}.")  # fmt: skip
    key = f"{source!r} {backbone_sha256}"
    if blocks in (None, model.backbone_depth):
        return TokenCache(folder, model.backbone_tokens, key, side)

    def encode(pixels: Tensor) -> Tensor:
        tokens = first_tokens(model, pixels)
        for block in model.blocks[:blocks]:
            tokens = block(tokens)
        return tokens

    return TokenCache(folder, encode, f"{key} {blocks} blocks", side)
