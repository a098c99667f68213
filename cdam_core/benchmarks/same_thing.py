"""Do two labels of ImageNet name the same thing? By WordNet, and by their words.

Brocki, Binda, Chung drop such pairs by a text-embedding service. Here: the path distance between
the two synsets in the noun graph of WordNet 3.0 (hypernyms and instances, both ways), as a table of
the 1000 classes that ``scripts/build_wordnet_distances.py`` computed; and, as synonyms can lie far
apart there (sunglass and sunglasses: 8), a name that both share once plural and spelling are
levelled.
"""

import hashlib
import lzma
import pkgutil
import re
from functools import cache

import numpy as np

from cdam_core.assets import assets_dir
from cdam_core.errors import BadData

# Up to this path distance two labels count as one thing: 1 is a kind and its special kind, 2 two
# kinds of one thing (laptop and notebook), 3 their children. From 4 on most pairs are two things
# that one may see side by side (keyboard and monitor, zucchini and cucumber).
DISTANCE = 3
CLASSES = 1000
FILE = "wordnet-distances.xz"
SHA256 = "29aa6a165f6e0659b946996c99170ee583374400349cf67dd16e3c993d73cf35"


def why_same(one: int, two: int, distance: int = DISTANCE) -> str:
    """Why two of ImageNet's classes name the same thing; "" where they do not.

    Args:
        one, two: class numbers, 0 to 999.
        distance: up to this path distance they do.
    """
    apart = int(distances()[one, two])
    if apart <= distance:
        return f"distance {apart}"
    shared = words_of(one) & words_of(two)
    return f"both are called {min(shared)}" if shared else ""


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
