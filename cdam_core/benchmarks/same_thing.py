"""Do two labels of ImageNet name the same thing? By WordNet, and by their words.

Brocki, Binda, Chung drop such pairs by a text-embedding service. Here: the path distance between
the two synsets in the noun graph of WordNet 3.0 (hypernyms and instances, both ways), as a table of
the 1000 classes that ``scripts/build_wordnet_distances.py`` computed; and, as synonyms can lie far
apart there (sunglass and sunglasses: 8), a name that both share once plural and spelling are
levelled; and, if one is given, a text-embedding model on this machine.
"""

import hashlib
import lzma
import pkgutil
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from cdam_core.assets import assets_dir
from cdam_core.errors import BadData
from cdam_core.models import imagenet_names

# Up to this path distance two labels count as one thing: 1 is a kind and its special kind, 2 two
# kinds of one thing (laptop and notebook), 3 their children. From 4 on most pairs are two things
# that one may see side by side (keyboard and monitor, zucchini and cucumber).
DISTANCE = 3
SIMILARITY = 0.8
CLASSES = 1000
FILE = "wordnet-distances.xz"
SHA256 = "29aa6a165f6e0659b946996c99170ee583374400349cf67dd16e3c993d73cf35"


@dataclass(frozen=True)
class Judge:
    """Tells whether two of ImageNet's classes name the same thing.

    Attributes:
        distance: up to this path distance in WordNet they do.
        embedder: folder of a text-embedding model as the package sentence-transformers reads it; by
            it they do, too, where the cosine of their names' embeddings is above ``similarity``, as
            in the paper. None: without.
        similarity: threshold of the cosine, -1 to 1; depends on the model.
    """

    distance: int = DISTANCE
    embedder: Path | None = None
    similarity: float = SIMILARITY

    def why(self, one: int, two: int) -> str:
        """Why two classes, numbers 0 to 999, name the same thing; "" where they do not."""
        apart = int(distances()[one, two])
        if apart <= self.distance:
            return f"distance {apart}"
        shared = words_of(one) & words_of(two)
        if shared:
            return f"both are called {min(shared)}"
        if self.embedder is None:
            return ""
        alike = float(self.similarities[one, two])
        return f"similarity {alike:.2f}" if alike > self.similarity else ""

    @cached_property
    def similarities(self) -> np.ndarray:
        """(1000, 1000) cosines of the embedded class names.

        Raises:
            BadData: the package is not installed, or the folder holds no such model.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise BadData("missing-package", "Comparing names by a text-embedding model needs the "
                          "package sentence-transformers; install it, or leave the model out."
                          ) from None  # fmt: skip
        try:
            model = SentenceTransformer(str(self.embedder), local_files_only=True, device="cpu")
        except Exception:  # of a dozen kinds, from several packages
            raise BadData("unreadable", "This folder holds no text-embedding model; expected one "
                          "as the package sentence-transformers saves it.") from None  # fmt: skip
        vectors = np.asarray(model.encode(list(imagenet_names())), np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors @ vectors.T


@cache
def distances() -> np.ndarray:
    """(1000, 1000) uint8 path distances between ImageNet's classes; read-only.

    Raises:
        BadData: "unreadable" where the table is not the one that was shipped.
    """
    try:
        upper = lzma.decompress((assets_dir() / FILE).read_bytes())
    except (OSError, lzma.LZMAError, EOFError):
        upper = b""
    if hashlib.sha256(upper).hexdigest() != SHA256:
        raise BadData("unreadable", "The table of WordNet distances is missing or damaged; install "
                      "this package again.")  # fmt: skip
    whole = np.zeros((CLASSES, CLASSES), np.uint8)
    whole[np.triu_indices(CLASSES, 1)] = np.frombuffer(upper, np.uint8)
    whole |= whole.T
    whole.setflags(write=False)
    return whole


@cache
def words_of(index: int) -> frozenset[str]:
    """All names of a class, levelled: small letters, no marks, no plural."""
    names = _table("imagenet_synset_to_lemma.txt")[synsets()[index]]
    return frozenset(filter(None, map(level, names.split(","))))


def level(name: str) -> str:
    """A name without what does not tell things apart: capitals, marks and spaces, plural."""
    words = re.findall(r"[a-z0-9]+", name.casefold())
    return "".join(_singular(word) for word in words)


def _singular(word: str) -> str:
    for ending in ("sses", "shes", "ches", "xes"):
        if word.endswith(ending):
            return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


@cache
def synsets() -> tuple[str, ...]:
    """ImageNet-1k's synset ids ("n01440764"), in output order."""
    return tuple(timms_file("imagenet_synsets.txt").split())


@cache
def _table(name: str) -> dict[str, str]:
    """A table of timm's: synset, tab, text."""
    pairs = (line.split("\t", 1) for line in timms_file(name).splitlines() if "\t" in line)
    return dict(pairs)


def timms_file(name: str) -> str:
    """A file on ImageNet that timm brings along; ``BadData`` where this version has none."""
    try:
        return pkgutil.get_data("timm.data", f"_info/{name}").decode()
    except (OSError, AttributeError):
        raise BadData("not-found", "This version of timm brings no such list of ImageNet; expected "
                      "timm 1.0.15 or newer.") from None  # fmt: skip
