"""What can be loaded here, and why not the rest: bundled, local folder, the hub's cache, the hub.

Beside the data flow. Files are recognised from names and shapes alone, so a long list is quick and
no weights are read; what only the weights show (NaN) is found when a model is loaded.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from cdam_core import architectures, checkpoints, hub, models
from cdam_core.assets import assets_dir
from cdam_core.errors import BadCheckpoint

PLACES = ("bundled", "folder", "cache")
COMPANIONS = (".txt", ".md")  # lie beside checkpoints and say something about them


@dataclass(frozen=True)
class Entry:
    """One model that was found.

    Attributes:
        source: what ``load_model`` takes.
        place: one of ``PLACES``.
        text: architecture and classes; or, in one sentence, why it cannot be loaded.
        loadable: whether ``load_model`` is expected to succeed.
    """

    source: str
    place: str
    text: str
    loadable: bool


def catalogue() -> list[Entry]:
    """Everything that was found without a network, bundled models first."""
    return [*bundled(), *in_folder(checkpoints.local_folder()), *in_cache()]


# ---- bundled -------------------------------------------------------------------------------------


def bundled() -> Iterator[Entry]:
    """The models that ship with the library."""
    for name, card in models.MODELS.items():
        yield _entry_of_card(name, "bundled", card, assets_dir() / "models")


def _entry_of_card(source: str, place: str, card, folder: Path) -> Entry:
    """A card describes its model; whether its weights lie beside it can be seen."""
    try:
        height, width = card["architecture"]["input_size"]
        text = f"{card['label']}; {_classes(len(card['class_names']))}, {height}x{width} px"
        files = [card["backbone"], card["weights"]]
    except (KeyError, TypeError, ValueError):
        return Entry(source, place, "The model card is incomplete; train the model again.", False)
    near = (folder, assets_dir() / "models")
    if not all(any((place_ / file).is_file() for place_ in near) for file in files):
        return Entry(source, place, "The weights that the model card names are missing.", False)
    return Entry(source, place, text, True)


def _classes(count: int) -> str:
    return f"{count} classes" if count else "no head (concepts and embeddings only)"


# ---- local folder --------------------------------------------------------------------------------


def in_folder(folder: Path | None) -> Iterator[Entry]:
    """Checkpoints and model cards of a folder, sub-folders left out; None: nothing.

    A source is the file's name, which ``load_model`` finds in the folder CDAM_MODELS. Texts and
    other JSON files are companions of checkpoints; any other file is tried and gets its sentence.
    """
    if folder is None or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or path.suffix in COMPANIONS:
            continue
        if path.suffix != ".json" and not _belongs_to_card(path):
            yield _entry_of_file(path.name, "folder", path)
        elif path.suffix == ".json" and (card := _card(path)):
            yield _entry_of_card(path.name, "folder", card, folder)


def _belongs_to_card(path: Path) -> bool:
    return _card(path.with_suffix(".json")).get("weights") == path.name


def _card(path: Path) -> dict:
    """A model card, or an empty one for any other file (JSON has many uses)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and "weights" in content else {}


def _entry_of_file(source: str, place: str, path: Path) -> Entry:
    try:
        found = checkpoints.recognise(path)
        architectures.find(found.module)
    except BadCheckpoint as error:
        return Entry(source, place, str(error), False)
    except OSError as error:
        return Entry(source, place, f"The file could not be read: {error.strerror}.", False)
    count, names = found.module.num_classes, found.facts.class_names
    if count and names and len(names) != count:
        reason = f"{len(names)} class names for {count} outputs; give one name per output."
        return Entry(source, place, reason, False)
    return Entry(source, place, f"{found.description}{_naming(count, names)}", True)


def _naming(count: int, names: tuple[str, ...] | None) -> str:
    if names or not count:
        return f"; {', '.join(names[:3])}, ..." if names and count else ""
    return "; ImageNet's classes" if count == 1000 else "; classes without names"


# ---- the hub -------------------------------------------------------------------------------------


def in_cache(cache: Path | None = None) -> Iterator[Entry]:
    """Models in the hub's cache; None: where huggingface_hub keeps it."""
    try:
        repositories = scan_cache_dir(cache).repos
    except (CacheNotFound, ValueError, OSError):
        return
    for repository in sorted(repositories, key=lambda each: each.repo_id):
        if repository.repo_type == "model":
            yield from _cached(repository.repo_id, _files(repository))


def _files(repository) -> list[Path]:
    """Weights of a cached repository, of its latest revision that has any."""
    revisions = sorted(repository.revisions, key=lambda each: each.last_modified, reverse=True)
    for revision in revisions:
        paths = [Path(file.file_path) for file in revision.files]
        weights = sorted(path for path in paths if path.suffix in checkpoints.SUFFIXES)
        if weights:
            return weights
    return []


def _cached(repository: str, weights: list[Path]) -> Iterator[Entry]:
    name = repository.removeprefix("timm/")
    if name == repository:
        for path in weights:
            yield _entry_of_file(str(path), "cache", path)
        return
    source = f"timm:{name}"
    if not weights:
        yield Entry(source, "cache", "The cache holds no weights of it.", False)
        return
    reason = architectures.why_not_by_name(name)
    yield Entry(source, "cache", reason or "pretrained weights in the hub's cache", not reason)


def hub_status(timeout: float = 3.0) -> tuple[bool, str]:
    """Whether the model hub answers, and what that means, in one sentence."""
    kind, text = hub.status(timeout)
    text = f"{text[0].upper()}{text[1:]}"
    if kind == "answers":
        return True, f"{text}: timm's pretrained models can be fetched."
    return False, (
        f"{text}; use what is listed, or put a checkpoint into the folder that "
        f"{checkpoints.FOLDER_VARIABLE} names."
    )
