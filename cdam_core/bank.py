"""Is a picture like the ones a model was trained on? A bank of embeddings to compare with.

A model that knows drawings of forty things draws confident maps of nonsense on a photograph. The
bank holds the embeddings of scenes that the model was not trained on but could have been, and
says how far a new picture is from them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cdam_core.errors import BadCheckpoint
from cdam_core.files import write_atomically


@dataclass(frozen=True, eq=False)
class EmbeddingBank:
    """Embeddings of familiar pictures, and how far is too far from them.

    The statistic is Fisher's linear discriminant between the bank and a set of photographs: the
    embedding minus the bank's mean, projected on the direction in which photographs lie, in
    standard deviations of familiar pictures. 0 is typical of the bank; the larger, the more
    unfamiliar. (Plain distances to the nearest entries find few photographs: to the class token
    most of them look like a scene of nothing it knows.) ``threshold`` was set on fresh scenes
    alone.

    Args:
        codes: (n, d) int8; times ``scale`` (d,) they are the embeddings.
        scale: (d,) float32.
        direction: (d,) float32.
        threshold: distances above it are unfamiliar.
    """

    codes: np.ndarray
    scale: np.ndarray
    direction: np.ndarray
    threshold: float

    def __post_init__(self):
        object.__setattr__(self, "_mean", self.embeddings().mean(0))

    def __len__(self) -> int:
        return len(self.codes)

    def embeddings(self) -> np.ndarray:
        """(n, d) float32, as ``model.embed`` gave them up to the rounding of the codes."""
        return self.codes.astype(np.float32) * self.scale

    def distance(self, embedding) -> float | np.ndarray:
        """How far a picture is from the bank, towards photographs.

        Args:
            embedding: (d,) or (B, d), as ``model.embed`` gives it (array or tensor).

        Returns:
            One number, or (B,), in standard deviations of familiar pictures.
        """
        rows = np.atleast_2d(np.asarray(embedding, np.float32))
        distances = (rows - self._mean) @ self.direction
        return float(distances[0]) if np.ndim(embedding) == 1 else distances

    def is_unfamiliar(self, embedding) -> bool | np.ndarray:
        """Whether the distance is above the threshold; (d,) to bool, (B, d) to (B,) bool."""
        flagged = self.distance(embedding) > self.threshold
        return bool(flagged) if np.ndim(embedding) == 1 else flagged

    def save(self, path: Path | str) -> None:
        """Write the bank in one step."""
        tensors = {"codes": self.codes, "scale": self.scale, "direction": self.direction}
        write_atomically(Path(path), save(tensors, {"threshold": repr(float(self.threshold))}))

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
                tensors = (file.get_tensor(name) for name in ("codes", "scale", "direction"))
                return cls(*tensors, float(file.metadata()["threshold"]))
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise BadCheckpoint("damaged", "The model's bank of embeddings is damaged; restore the "
                                "file or calibrate it again.") from None

    @classmethod
    def build(cls, embeddings: np.ndarray, strangers: np.ndarray, fresh: np.ndarray,
              false_alarms: float = 0.03, ridge: float = 0.02) -> "EmbeddingBank":
        """A bank of embeddings, its threshold calibrated on other, equally familiar ones.

        Args:
            embeddings: (n, d) to keep.
            strangers: (s, d) of pictures that should be noticed.
            fresh: (m, d) of pictures of the bank's kind that are not in it.
            false_alarms: share of ``fresh`` above the threshold.
            ridge: added to the shared covariance, as a fraction of its mean variance.
        """
        shared = (np.cov(embeddings.T) + np.cov(strangers.T)) / 2
        shared += ridge * np.trace(shared) / len(shared) * np.eye(len(shared))
        direction = np.linalg.solve(shared, strangers.mean(0) - embeddings.mean(0))
        direction /= (fresh @ direction).std()
        scale = (np.abs(embeddings).max(0) / 127).astype(np.float32).clip(1e-12)
        codes = np.round(embeddings / scale).astype(np.int8)
        unset = cls(codes, scale, direction.astype(np.float32), np.inf)
        threshold = float(np.quantile(unset.distance(fresh), 1 - false_alarms))
        return cls(codes, scale, unset.direction, threshold)
