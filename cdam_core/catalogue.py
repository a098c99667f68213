"""What can be loaded here, and why not the rest: bundled, photographs, local folder, hub's cache.

Beside the data flow. Files are recognised from names and shapes alone, so a long list is quick and
no weights are read; what only the weights show (NaN) is found when a model is loaded.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from cdam_core import architectures, checkpoints, hub, models
from cdam_core.assets import assets_dir
from cdam_core.errors import BadCheckpoint

PLACES = ("bundled", "photographs", "folder", "cache")
# What a server offers, where an administrator decides: sources as ``load_model`` takes them, commas
# between them; not set: everything that is found.
ONLY_VARIABLE = "CDAM_ONLY_MODELS"
BYTES_PER_WEIGHT = 4  # as timm publishes them


@dataclass(frozen=True)
class Photographs:
    """A model of photographs that is worth a click: an ImageNet-1k head, read from a class token.

    Attributes:
        source: what ``load_model`` takes.
        label: a few words for a list.
        megabytes: size of its weights; 0: told by its structure.
        on_hub: whether the model hub has it with its head; else its file has to be given.
    """

    source: str
    label: str
    megabytes: int = 0
    on_hub: bool = True

    @property
    def name(self) -> str:
        """Name of the architecture in timm, with its tag."""
        return self.source.removeprefix("timm:")


# Small ones first. CaiT's class token joins late, so its maps hold all that the answer knows.
PHOTOGRAPHS = (
    Photographs("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", "ViT-Ti/16", 23),
    Photographs("timm:cait_xxs24_224.fb_dist_in1k", "CaiT-XXS", 48),
    Photographs("timm:vit_small_patch16_224.augreg_in21k_ft_in1k", "ViT-S/16", 88),
    Photographs("timm:deit3_small_patch16_224.fb_in22k_ft_in1k", "DeiT III S", 88),
    Photographs("timm:vit_small_patch8_224.dino", "DINO ViT-S/8", 87, on_hub=False),
)
COMPANIONS = (".txt", ".md")  # lie beside checkpoints and say something about them


OF_CROPS = "nodules-"  # ids of models that look at crops of CT begin so


@dataclass(frozen=True)
class Entry:
    """One model that was found.

    Attributes:
        source: what ``load_model`` takes.
        place: one of ``PLACES``.
        text: architecture and classes; or, in one sentence, why it cannot be loaded.
        loadable: whether ``load_model`` is expected to succeed; for one to be fetched, once it is.
        label: a few words for a list.
        fetch_bytes: about how much has to be fetched from the model hub first; 0: it is here.
    """

    source: str
    place: str
    text: str
    loadable: bool
    label: str = ""
    fetch_bytes: int = 0


def catalogue() -> list[Entry]:
    """Everything that is known without a network, bundled models first, each source once."""
    found = [*bundled(), *photographs(), *in_folder(checkpoints.local_folder()), *in_cache()]
    return list({entry.source: entry for entry in reversed(found)}.values())[::-1]


def offered() -> list[Entry]:
    """What a list for visitors shows, as far as the administrator allows it.

    That is what can be loaded, and the photographs whose file has to be given first. Models of
    crops of CT are left out unless the administrator names them: of any other picture they would
    make a confident map of nonsense.
    """
    only = os.environ.get(ONLY_VARIABLE, "").strip()
    wanted = [source.strip() for source in only.split(",") if source.strip()]
    shown = [each for each in catalogue() if each.loadable or each.place == "photographs"]
    if not only:
        shown = [each for each in shown if not each.source.startswith(OF_CROPS)]
    found = {entry.source: entry for entry in shown}
    for source in wanted:
        if source not in found and source.startswith("timm:"):
            found[source] = _entry_of_photographs(Photographs(source, source.removeprefix("timm:")))
    if not only:
        # A file that stands for one of the photographs is offered as that.
        names = {photo.name for photo in PHOTOGRAPHS}
        twice = [source for source in found if Path(source).stem in names
                 and found[source].place == "folder"]  # fmt: skip
        return [entry for source, entry in found.items() if source not in twice]
    return [found[source] for source in dict.fromkeys(wanted) if source in found]


# ---- photographs ---------------------------------------------------------------------------------


def photographs() -> Iterator[Entry]:
    """The curated models of photographs, fetched or not."""
    for photo in PHOTOGRAPHS:
        yield _entry_of_photographs(photo)


def _entry_of_photographs(photo: Photographs) -> Entry:
    """A given file goes before the hub's cache, and that before the hub, as in ``load_model``."""
    given = checkpoints.given_for(photo.name)
    if given is not None:
        found = _entry_of_file(photo.source, "photographs", given)
        return replace(found, label=photo.label)
    if not photo.on_hub:
        return Entry(photo.source, "photographs", how_to_give(photo), False, photo.label)
    # What is curated is known to be supported: a test asks each of them.
    reason = None if photo.megabytes else architectures.why_not_by_name(photo.name)
    if reason:
        return Entry(photo.source, "photographs", reason, False, photo.label)
    if hub.cached_weights(photo.name) is not None:
        text = "pretrained weights in the hub's cache"
        return Entry(photo.source, "photographs", text, True, photo.label)
    size = photo.megabytes * 10**6 or weight_bytes(photo.name)
    text = f"{size / 1e6:.0f} MB to be fetched from the model hub once"
    return Entry(photo.source, "photographs", text, True, photo.label, size)


def how_to_give(photo: Photographs) -> str:
    """Which file to put where, in one sentence, for a model that cannot be fetched."""
    variable = checkpoints.FOLDER_VARIABLE
    folder = f"the folder that {variable} names"
    if checkpoints.local_folder() is None:
        folder = f"a folder of your choice, and name it in the environment variable {variable}"
    if not photo.on_hub:
        return (
            f"Put its published checkpoint with the linear head, as {photo.name}.ckpt, into "
            f"{folder}; the model hub has this backbone without a head for ImageNet."
        )
    return (
        f"Put the file model.safetensors of {hub.page_of(photo.name)}, as "
        f"{photo.name}.safetensors, into {folder}."
    )


@cache
def weight_bytes(name: str) -> int:
    """About the size of a timm model's file, from its structure; nothing is asked or fetched."""
    values = architectures.outline(name).state_dict().values()
    return BYTES_PER_WEIGHT * sum(value.numel() for value in values)


def fetch(source: str, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Fetch a model of the hub once, for everybody on this computer; without a network, say how.

    Args:
        source: "timm:<architecture>"; anything else is here already.
        on_progress: as ``hub.download``.

    Raises:
        BadCheckpoint: "unreachable" with which file to put where, or "damaged".
    """
    photo = next((each for each in PHOTOGRAPHS if each.source == source), None)
    photo = photo or Photographs(source, source)
    if not source.startswith("timm:") or checkpoints.given_for(photo.name):
        return
    if hub.cached_weights(photo.name) is not None:
        return
    try:
        hub.download(photo.name, on_progress)
    except BadCheckpoint as error:
        if error.reason != "unreachable":
            raise
        raise BadCheckpoint("unreachable", f"{error} {how_to_give(photo)}") from None


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
        if (card := checkpoints.card_in(path)) is not None:
            return _entry_of_card(source, place, card, path.parent)
        found = checkpoints.recognise(path)
        architectures.find(found.module, found.facts.pool)
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
    for repository, files in hub.in_cache(cache):
        weights = {name: path for name, path in sorted(files.items())
                   if path.suffix in checkpoints.SUFFIXES}  # fmt: skip
        yield from _cached(repository, weights)


def _cached(repository: str, weights: dict[str, Path]) -> Iterator[Entry]:
    name = repository.removeprefix("timm/")
    if name == repository:
        for file, path in weights.items():  # never its path: visitors read the source
            yield _entry_of_file(f"{hub.CACHED}{repository}/{file}", "cache", path)
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
