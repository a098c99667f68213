"""What a list of nodules shows at once: a thumbnail of each, and which training nodules are alike.

Both take minutes to compute and are therefore kept in one file, which
``scripts/build_nodules_browse.py`` makes. Alike are nodules whose embeddings by the malignancy
model point the same way; only nodules that the model was trained on are compared with.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from cdam_core.assets import assets_dir
from cdam_core.errors import BadScan
from cdam_core.nodules.pack import load_nodules

THUMBNAIL = 48  # pixels a side
COLUMNS = 32  # thumbnails in a row of the sheet
MODEL = "nodules-malignancy"  # whose embeddings
ALIKE = 3  # nearest training nodules that a distance is measured to
USUAL = 0.97  # of the training nodules are within the usual distance
QUALITY = 80  # of the sheet, a JPEG


@dataclass(frozen=True, eq=False)
class Browse:
    """The file's content.

    Attributes:
        ids: of the nodules with a thumbnail, in the sheet's order.
        sheet: PIL "L", ``COLUMNS`` thumbnails in a row: the phantom's central planes.
        trained: ids of the nodules with an embedding.
        embeddings: (trained, d) float32, length 1.
        weights_sha256: of the model that made them.
    """

    ids: tuple[int, ...]
    sheet: Image.Image
    trained: tuple[int, ...]
    embeddings: np.ndarray
    weights_sha256: str

    def thumbnail(self, nodule_id: int) -> Image.Image | None:
        """PIL RGB of a nodule's central plane; None: it has none."""
        if nodule_id not in self.ids:
            return None
        row, col = divmod(self.ids.index(nodule_id), COLUMNS)
        left, top = col * THUMBNAIL, row * THUMBNAIL
        return self.sheet.crop((left, top, left + THUMBNAIL, top + THUMBNAIL)).convert("RGB")

    def nearest(
        self, embedding: np.ndarray, count: int = 5, without: Sequence[int] = ()
    ) -> list[tuple[int, float]]:
        """Training nodules that look alike to the model.

        Args:
            embedding: (d,) as ``VisionModel.latent`` gives it.
            count: how many.
            without: ids to leave out, such as the nodule itself and others of its patient.

        Returns:
            (id, cosine of the angle between the embeddings), the most alike first.
        """
        unit = np.asarray(embedding, np.float32) / max(float(np.linalg.norm(embedding)), 1e-12)
        cosines = self.embeddings @ unit
        order = (int(k) for k in np.argsort(-cosines, kind="stable"))
        kept = [k for k in order if self.trained[k] not in without]
        return [(self.trained[k], float(cosines[k])) for k in kept[:count]]


    def distance(self, embedding: np.ndarray) -> float:
        """How unlike the training nodules a crop is to the model.

        Args:
            embedding: (d,) as ``VisionModel.latent`` gives it.

        Returns:
            1 − the mean cosine with the ``ALIKE`` nearest training nodules: 0 the same, 1 at right
            angles.
        """
        return 1 - float(np.mean([cosine for _, cosine in self.nearest(embedding, ALIKE)]))

    @cached_property
    def usual_distance(self) -> float:
        """Within which ``USUAL`` of the training nodules lie of those of other patients.

        Taken from the nodules themselves, so it follows the model that made the embeddings.
        """
        of = {nodule.id: nodule.patient_id for nodule in load_nodules()}
        patients = np.array([of[number] for number in self.trained])
        cosines = self.embeddings @ self.embeddings.T
        cosines[patients[:, None] == patients] = -np.inf
        nearest = np.sort(cosines, axis=1)[:, -ALIKE:]
        return float(np.quantile(1 - nearest.mean(1), USUAL))


def stored_path() -> Path:
    """Where the file lies."""
    return assets_dir() / "nodules" / "browse.npz"


@cache
def load_browse() -> Browse:
    """The bundled file.

    Raises:
        BadScan: "not-found" or "damaged".
    """
    return read_browse(stored_path())


def read_browse(path: Path) -> Browse:
    """Read a file as ``to_bytes`` makes it.

    Raises:
        BadScan: "not-found" or "damaged".
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            with Image.open(io.BytesIO(file["sheet"].tobytes()), formats=["JPEG"]) as picture:
                sheet = picture.convert("L")
            return Browse(tuple(file["ids"].tolist()), sheet, tuple(file["trained"].tolist()),
                          _unit(file["embeddings"]), str(file["weights_sha256"]))  # fmt: skip
    except FileNotFoundError:
        raise BadScan("not-found", "The file of thumbnails is missing; expected assets/nodules/"
                      "browse.npz. Install again.") from None  # fmt: skip
    except Exception:  # a damaged archive raises whatever its first broken part leads to
        raise BadScan("damaged", "The file of thumbnails is damaged; expected one that scripts/"
                      "build_nodules_browse.py has written. Install again.") from None  # fmt: skip


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def sheet_of(thumbnails: dict[int, np.ndarray]) -> Image.Image:
    """PIL "L" with all thumbnails, id -> (48, 48) uint8, ``COLUMNS`` in a row."""
    rows = -(-len(thumbnails) // COLUMNS)
    sheet = np.zeros((rows * THUMBNAIL, COLUMNS * THUMBNAIL), np.uint8)
    for number, picture in enumerate(thumbnails.values()):
        row, col = divmod(number, COLUMNS)
        sheet[row * THUMBNAIL : (row + 1) * THUMBNAIL,
              col * THUMBNAIL : (col + 1) * THUMBNAIL] = picture  # fmt: skip
    return Image.fromarray(sheet)


def to_bytes(
    ids: Sequence[int], sheet: Image.Image | bytes, embeddings: dict[int, np.ndarray],
    weights_sha256: str,
) -> bytes:  # fmt: skip
    """The file's content.

    Args:
        ids: of the nodules on the sheet, in its order.
        sheet: as ``sheet_of`` makes it, or the JPEG that another such file holds.
        embeddings: id -> (d,).
        weights_sha256: of the model that made the embeddings.
    """
    packed, buffer = io.BytesIO(), io.BytesIO()
    if isinstance(sheet, bytes):
        packed.write(sheet)
    else:
        sheet.save(packed, "JPEG", quality=QUALITY)
    np.savez_compressed(
        buffer, ids=np.array(ids, np.int16), sheet=np.frombuffer(packed.getvalue(), np.uint8),
        trained=np.array(list(embeddings), np.int16),
        embeddings=_unit(np.stack(list(embeddings.values()))).astype(np.float16),
        weights_sha256=np.array(weights_sha256),
    )  # fmt: skip
    return buffer.getvalue()
