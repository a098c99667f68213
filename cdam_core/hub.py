"""The model hub, asked politely: does it answer, is a model's file in its local cache, fetch it.

The hub's own client repeats every question for most of a minute before it gives up, which a
hospital without a way out should not wait for at every click.
"""

import hashlib
import io
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
from huggingface_hub import constants, hf_hub_download, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound, EntryNotFoundError
from tqdm import tqdm

from cdam_core.errors import BadCheckpoint

ADDRESS_VARIABLE = "HF_ENDPOINT"
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# A file that is there if timm's models are: the paper's backbone.
PROBE = "timm/vit_small_patch8_224.dino/resolve/main/config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CACHED = "hub:"  # "hub:<owner>/<name>/<file>": a file in the local cache, without saying where
_YES = ("1", "on", "yes", "true")  # as huggingface_hub reads its switches


def status(timeout: float = 3.0) -> tuple[str, str]:
    """Whether the model hub answers: "answers", "refuses" or "silent", and a part of a sentence.

    Asks for one small file of timm's, without downloading it. Honours HF_ENDPOINT and the proxies
    of the environment. A mirror may lack that file and have others: it "refuses", and is worth a
    try; a gateway that answers in place of the hub (status 5xx) is silence.

    Args:
        timeout: in seconds, of connecting and of answering.
    """
    switched_off = [name for name in OFFLINE_VARIABLES if os.environ.get(name, "").lower() in _YES]
    if switched_off:
        return "silent", f"the model hub is switched off by {switched_off[0]}"
    address = os.environ.get(ADDRESS_VARIABLE, constants.ENDPOINT).rstrip("/")
    if not address.startswith(("https://", "http://")):
        return "silent", f"{ADDRESS_VARIABLE} is no address of a model hub"
    try:
        request = urllib.request.Request(f"{address}/{PROBE}", method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout):
            return "answers", "the model hub answers"
    except urllib.error.HTTPError as error:
        with error:
            kind = "refuses" if error.code < 500 else "silent"
            return kind, f"the model hub is there but refuses (status {error.code})"
    except (OSError, ValueError):
        return "silent", "the model hub cannot be reached from here"


def is_on_hub(name: str) -> bool:
    """Whether timm fetches this architecture's weights from the hub (a few have other sources)."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(config and config.hf_hub_id)


def cached_weights(name: str) -> Path | None:
    """The weights of a timm model in the hub's cache, or None.

    Args:
        name: of the architecture, with or without a tag.
    """
    repository, files = _place(name)
    for file in files:
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
    return None


def in_cache(cache: Path | None = None) -> Iterator[tuple[str, dict[str, Path]]]:
    """Repositories of models in the local cache, each with its files of the latest revision.

    Args:
        cache: another folder than the hub client's.

    Yields:
        "owner/name", and name -> path of its files.
    """
    try:
        repositories = scan_cache_dir(cache).repos
    except (CacheNotFound, ValueError, OSError):
        return
    for repository in sorted(repositories, key=lambda each: each.repo_id):
        if repository.repo_type == "model":
            revisions = sorted(repository.revisions, key=lambda each: each.last_modified)
            files: dict[str, Path] = {}
            for revision in revisions:
                files |= {each.file_path.relative_to(revision.snapshot_path).as_posix():
                          Path(each.file_path) for each in revision.files}  # fmt: skip
            yield repository.repo_id, files


def cached_file(source: str) -> Path | None:
    """The file that a source names, "hub:<owner>/<name>/<file>"; None where it is not there."""
    for repository, files in in_cache():
        start = f"{CACHED}{repository}/"
        if source.startswith(start):
            return files.get(source.removeprefix(start))
    return None


def _place(name: str) -> tuple[str, tuple[str, ...]]:
    """Repository of a timm model, and the files that may hold its weights, best first."""
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # a tag that timm does not know
        config = None
    if not config or not config.hf_hub_id:
        return "", ()
    files = (config.hf_hub_filename, *WEIGHTS) if config.hf_hub_filename else WEIGHTS
    return config.hf_hub_id.split("@")[0], files


def page_of(name: str) -> str:
    """Address of the page where a person finds a timm model's files."""
    return f"{constants.ENDPOINT}/{_place(name)[0]}"


def download(name: str, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetch a timm model's weights into the hub's cache, where everybody on this computer finds it.

    Args:
        name: of the architecture, with its tag.
        on_progress: called with (bytes so far, bytes in all) as they come; raising in it stops, and
            what has come is kept for the next time.

    Returns:
        Path of the file in the cache.

    Raises:
        BadCheckpoint: "unreachable", or "damaged" where the file does not have the checksum that
            the hub states.
    """
    kind, text = status()
    if kind == "silent":
        raise BadCheckpoint("unreachable", f"The weights cannot be fetched: {text}.")
    repository, files = _place(name)
    for file in files:
        try:
            path = Path(hf_hub_download(repository, file, tqdm_class=_bar(on_progress)))
        except EntryNotFoundError:
            continue
        except OSError as error:  # the hub's and the network's own errors are all of this kind
            raise BadCheckpoint(
                "unreachable",
                f"The model hub broke off ({type(error).__name__}); try again later.",
            ) from None
        require_checksum(path)
        return path
    raise BadCheckpoint("unreachable", "The model hub does not have the weights of this model.")


def _bar(on_progress: Callable[[int, int], None] | None) -> type[tqdm]:
    """A progress bar that calls instead of drawing."""

    class Silent(tqdm):
        def __init__(self, *args, **options):
            options.pop("name", None)  # the hub's own bars have one
            super().__init__(*args, **(options | {"file": io.StringIO(), "disable": False}))

        def update(self, n=1):
            shown = super().update(n)
            if on_progress:
                on_progress(int(self.n), int(self.total or 0))
            return shown

    return Silent


def require_checksum(path: Path) -> None:
    """Compare a file of the cache with the SHA-256 under which it was fetched.

    The cache keeps large files under their SHA-256, as the hub stated it, and links to them. Where
    links are not possible the checksum is not kept, and nothing is compared.

    Raises:
        BadCheckpoint: "damaged".
    """
    kept = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", kept.name):
        return
    with kept.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != kept.name:
        raise BadCheckpoint(
            "damaged",
            "The fetched weights do not have the checksum that the model hub stated; delete them "
            "from the hub's cache and fetch them again.",
        )
