"""Scenes turned into backbone tokens, kept in a ring buffer on disk for the trainer.

The backbone is frozen, so a scene has to pass it once only; the trained last block then reads the
same tokens many times. Producers run beside the trainer and overwrite the oldest scenes.
"""

from pathlib import Path

import numpy as np
import torch

from cdam_core.late_vit import EMBED_DIM
from cdam_core.scenes.classes import CLASS_NAMES

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as the backbone was trained with
STD = (0.229, 0.224, 0.225)


def to_pixels(images) -> torch.Tensor:
    """(B, side, side, 3) uint8 pictures to (B, 3, side, side) normalised pixels."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def to_labels(scenes) -> np.ndarray:
    """(B, classes) uint8: 1 where the class is present. The only supervision there is."""
    labels = np.zeros((len(scenes), len(CLASS_NAMES)), np.uint8)
    for row, scene in enumerate(scenes):
        labels[row, list(scene.labels)] = 1
    return labels


class TokenStore:
    """A ring buffer of backbone tokens and labels in one folder.

    Args:
        folder: where the arrays lie.
        capacity: number of scenes that it holds; None opens an existing store for reading.
        n_tokens: rows per scene, the backbone's class token included.
        dim: width of a token.

    Raises:
        SystemExit: if the folder holds a store of another size.
    """

    def __init__(self, folder: Path, capacity: int | None = None, n_tokens: int = 257,
                 dim: int = EMBED_DIM):
        folder = Path(folder)
        mode = "r" if capacity is None else "r+"
        if capacity is not None and not (folder / "written.npy").exists():
            folder.mkdir(parents=True, exist_ok=True)
            for name, dtype, shape in (("tokens", np.float16, (capacity, n_tokens, dim)),
                                       ("labels", np.uint8, (capacity, len(CLASS_NAMES))),
                                       ("written", np.int64, (1,))):
                np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        self.tokens = np.lib.format.open_memmap(folder / "tokens.npy", mode)
        self.labels = np.lib.format.open_memmap(folder / "labels.npy", mode)
        self._written = np.lib.format.open_memmap(folder / "written.npy", mode)
        if capacity is not None and self.tokens.shape != (capacity, n_tokens, dim):
            raise SystemExit(f"{folder.name} holds scenes of another size: remove it, or give "
                             "another --work folder")

    @property
    def written(self) -> int:
        """Scenes written so far, overwritten ones included."""
        return int(self._written[0])

    def __len__(self) -> int:
        return min(self.written, len(self.labels))

    def add(self, tokens: torch.Tensor, labels: np.ndarray) -> None:
        """Append scenes; tokens (B, 1 + N, d), labels (B, classes)."""
        slots = (self.written + np.arange(len(labels))) % len(self.labels)
        self.tokens[slots] = tokens.half().numpy()
        self.labels[slots] = labels
        self._written[0] += len(labels)


def produce(model, generator, store: TokenStore, total: int | None = None, batch: int = 8) -> None:
    """Compose, encode and store scenes; endlessly if ``total`` is None."""
    while total is None or store.written < total:
        scenes = [generator.scene() for _ in range(batch)]
        with torch.inference_mode():
            tokens = model.backbone_tokens(to_pixels([scene.image for scene in scenes]))
        store.add(tokens, to_labels(scenes))
