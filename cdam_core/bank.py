"""Is a picture like the ones a model was trained on? A bank of embeddings to compare with.

A model that knows drawings of forty things draws confident maps of nonsense on a photograph. The
bank holds the embeddings of scenes that the model was not trained on but could have been, and
says how far a new picture is from them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cdam_core.errors import BadCheckpoint


@dataclass(frozen=True, eq=False)
class EmbeddingBank:
    """Embeddings of familiar pictures and the distance from which one is called unfamiliar.

    The statistic is the mean cosine distance (1 − cosine) of an embedding to its ``neighbours``
    nearest entries, after the bank's mean has been taken off; 0 is "the same direction as
    something known", 1 is "no direction in common". ``threshold`` was set on fresh scenes alone,
    so that about one in ``1 / false_alarms`` of them is called unfamiliar.

    Args:
        codes: (n, d) int8; times ``scale`` (d,) they are the embeddings.
        scale: (d,) float32.
        neighbours: how many nearest entries count.
        threshold: distances above it are unfamiliar.
    """

    codes: np.ndarray
    scale: np.ndarray
    neighbours: int
    threshold: float

    def __post_init__(self):
        entries = self.embeddings()
        mean = entries.mean(0)
        object.__setattr__(self, "_mean", mean)
        object.__setattr__(self, "_directions", _directions(entries - mean))

    def __len__(self) -> int:
        return len(self.codes)

    def embeddings(self) -> np.ndarray:
        """(n, d) float32, as ``model.embed`` gave them up to the rounding of the codes."""
        return self.codes.astype(np.float32) * self.scale

    def distance(self, embedding) -> float | np.ndarray:
        """How far a picture is from everything in the bank.

        Args:
            embedding: (d,) or (B, d), as ``model.embed`` gives it (array or tensor).

        Returns:
            One number, or (B,), in 0..2.
        """
        rows = np.atleast_2d(np.asarray(embedding, np.float32))
        cosines = _directions(rows - self._mean) @ self._directions.T
        nearest = np.partition(cosines, -self.neighbours, axis=1)[:, -self.neighbours:]
        distances = 1 - nearest.mean(1)
        return float(distances[0]) if np.ndim(embedding) == 1 else distances

    def is_unfamiliar(self, embedding) -> bool | np.ndarray:
        """Whether the distance is above the threshold; (d,) to bool, (B, d) to (B,) bool."""
        flagged = self.distance(embedding) > self.threshold
        return bool(flagged) if np.ndim(embedding) == 1 else flagged

    def save(self, path: Path | str) -> None:
        """Write the bank through a temporary name."""
        path = Path(path)
        partial = path.with_suffix(".partial")
        save_file({"codes": self.codes, "scale": self.scale}, partial,
                  {"neighbours": str(self.neighbours), "threshold": repr(float(self.threshold))})
        partial.chmod(0o644)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path | str) -> "EmbeddingBank":
        """Read a bank.

        Raises:
            BadCheckpoint: "unreadable" if there is none, "damaged" if it is not a bank.
        """
        if not Path(path).is_file():
            raise BadCheckpoint("unreadable", "The model's bank of embeddings is missing beside "
                                "its card; restore the file or calibrate it again.")
        try:
            with safe_open(path, "numpy") as file:
                notes = file.metadata()
                return cls(file.get_tensor("codes"), file.get_tensor("scale"),
                           int(notes["neighbours"]), float(notes["threshold"]))
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise BadCheckpoint("damaged", "The model's bank of embeddings is damaged; restore the "
                                "file or calibrate it again.") from None

    @classmethod
    def build(cls, embeddings: np.ndarray, fresh: np.ndarray, neighbours: int = 5,
              false_alarms: float = 0.03) -> "EmbeddingBank":
        """A bank of embeddings, its threshold calibrated on other, equally familiar ones.

        Args:
            embeddings: (n, d) to keep.
            fresh: (m, d) of pictures of the same kind that are not in the bank.
            neighbours: how many nearest entries count.
            false_alarms: share of ``fresh`` above the threshold.
        """
        scale = (np.abs(embeddings).max(0) / 127).astype(np.float32).clip(1e-12)
        codes = np.round(embeddings / scale).astype(np.int8)
        open_bank = cls(codes, scale, neighbours, np.inf)
        threshold = float(np.quantile(open_bank.distance(fresh), 1 - false_alarms))
        return cls(codes, scale, neighbours, threshold)


def _directions(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
