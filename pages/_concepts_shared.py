"""A folder of concepts that everyone on this server sees, where an administrator has set one up.

The folder is named by the environment variable ``CDAM_CONCEPTS``. Files are only ever added: their
names are made here, from a cleaned name and the content's hash, so that no name can leave the
folder and two people who save the same name both keep their concept.
"""

import hashlib
import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

import cdam_core as cdam
from cdam_core.files import write_atomically

VARIABLE = "CDAM_CONCEPTS"
SUFFIX = ".safetensors"
MAX_FILES = 500
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


def folder() -> Path | None:
    """The shared folder, or None where there is none."""
    name = os.environ.get(VARIABLE, "").strip()
    path = Path(name).expanduser() if name else None
    return path.resolve() if path is not None and path.is_dir() else None


def save(concept: cdam.Concept) -> str | None:
    """Add a concept to the folder; returns what went wrong, in one sentence."""
    root = folder()
    if root is None:
        return "There is no shared folder on this server."
    try:
        if len(list(root.glob(f"*{SUFFIX}"))) >= MAX_FILES:
            return f"The shared folder is full ({MAX_FILES} concepts); please ask its keeper."
        content = concept.to_bytes()
        path = _free_path(root, concept.name, content)
        if path is not None:
            write_atomically(path, content)
    except OSError:
        return "The concept could not be written to the shared folder; please ask its keeper."
    return None


def saved() -> dict[str, cdam.Concept]:
    """File name -> concept, in the order of their names; unreadable files are passed over."""
    root = folder()
    if root is None:
        return {}
    found = {}
    for path in sorted(root.glob(f"*{SUFFIX}"))[:MAX_FILES]:
        if path.name.startswith(".") or not path.resolve().is_relative_to(root):
            continue
        try:
            state = path.stat()
            found[path.name] = _read(path, state.st_mtime_ns, state.st_size)
        except (OSError, cdam.BadConcept):
            continue
    return dict(sorted(found.items(), key=lambda item: item[1].name.casefold()))


@lru_cache(maxsize=MAX_FILES)
def _read(path: Path, changed: int, size: int) -> cdam.Concept:
    return cdam.load_concept(path)


def _free_path(root: Path, name: str, content: bytes) -> Path | None:
    """Where the content goes; None where exactly it is there already."""
    sha = hashlib.sha256(content).hexdigest()
    for length in (8, 64):
        path = root / f"{safe_name(name)}-{sha[:length]}{SUFFIX}"
        if not path.resolve().is_relative_to(root):
            raise OSError("outside the shared folder")
        if not path.exists():
            return path
        if path.read_bytes() == content:
            return None
    return None


def safe_name(name: str) -> str:
    """A name without anything that a file system could take for more than a name."""
    text = unicodedata.normalize("NFKC", name[:1000])
    text = re.sub(r"[^\w \-]", "_", text)
    text = " ".join(text.split()).strip(" ._-")[:60]
    while len(text.encode()) > 150:  # systems count bytes, names in other scripts have more
        text = text[:-1]
    text = text.strip(" ._-") or "concept"
    return f"concept {text}" if DEVICES.fullmatch(text) else text
