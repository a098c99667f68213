"""Sets of pictures whose patches are pooled: the samples, a visitor's own, an allowed folder.

A visitor's pictures are decoded one by one, kept small and in memory, for this visit only. Folders
are those that an administrator named in the environment variable ``CDAM_FOLDERS``; a visitor picks
one from a list and never writes a path.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import streamlit as st
from PIL import Image

import cdam_core as cdam
from cdam_core.images import digest, place
from pages import _state
from pages._samples import samples

VARIABLE = "CDAM_FOLDERS"
MAX_PICTURES = 200  # of a set, as in the paper's figure
MAX_LISTED = 20_000  # files of a folder that are looked at
KEPT_SIDE = 336  # pixels of a visitor's picture that are kept
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures to pool.

    Attributes:
        id: tells it from other sets, contents included.
        label: shown to people.
        titles: one per picture.
        sources: each opens one picture, and may raise ``BadImage``.
        note: what a reader should know of it.
    """

    id: str
    label: str
    titles: tuple[str, ...]
    sources: tuple[Callable[[], Image.Image], ...]
    note: str = ""


# ---- samples -------------------------------------------------------------------------------------


def sample_set() -> PictureSet:
    """The scenes that ship with the app."""
    every = samples().values()
    return PictureSet(
        "samples", "the sample pictures", tuple(each.title for each in every),
        tuple(partial(cdam.open_image, each.file) for each in every),
    )  # fmt: skip


# ---- a visitor's own -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Own:
    """One picture of a visitor.

    Attributes:
        content: a PNG of it, at most ``KEPT_SIDE`` pixels long.
        digest: SHA-256 of its pixels.
    """

    content: bytes
    digest: str


def own_pictures() -> tuple[Own, ...]:
    """What the visitor has opened for this page."""
    return st.session_state.get("attention.own", ())


def own_set() -> PictureSet:
    """The visitor's own pictures."""
    own = own_pictures()
    together = hashlib.sha256("".join(each.digest for each in own).encode()).hexdigest()
    return PictureSet(
        f"own-{together[:16]}", "your pictures",
        tuple(f"Picture {number}" for number in range(1, len(own) + 1)),
        tuple(partial(cdam.open_image, each.content) for each in own),
    )  # fmt: skip


def take_uploads(uploaded: Sequence, on_step: Callable[[int, int], None]) -> list[str]:
    """Decode uploaded files one by one and drop each raw file at once.

    Returns:
        What was left out, one sentence each, by position and never by name.
    """
    own, problems = list(own_pictures()), []
    known = {each.digest for each in own}
    for position, file in enumerate(uploaded, 1):
        try:
            if len(own) >= MAX_PICTURES:
                problems.append(f"File {position} was left out: a set holds at most "
                                f"{MAX_PICTURES} pictures.")  # fmt: skip
            else:
                picture = _kept(_state.open_upload(file))
                if picture.digest in known:
                    problems.append(f"File {position} was left out: it is in the set already.")
                else:
                    own.append(picture)
                    known.add(picture.digest)
        except cdam.BadImage as error:
            problems.append(f"File {position} was left out: {error}")
        finally:
            _state.drop_raw_file(file)
        on_step(position, len(uploaded))
    st.session_state["attention.own"] = tuple(own)
    return problems


def _kept(image: Image.Image) -> Own:
    """A picture small enough to keep many of."""
    if max(image.size) > KEPT_SIDE:
        frame = place(image.size[::-1], (KEPT_SIDE, KEPT_SIDE))
        image = image.resize(frame.resized[::-1], Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return Own(buffer.getvalue(), digest(image))


def forget() -> None:
    """Forget the visitor's pictures and everything computed from them."""
    for name in ("attention.own", "attention.problems", "attention.once"):
        st.session_state.pop(name, None)
    stores = (_state.remembered(), *(st.session_state.get(f"attention.{name}", {})
                                     for name in ("maps", "views")))  # fmt: skip
    for store in stores:
        for key in [key for key in store if _is_of_own(key)]:
            del store[key]


def _is_of_own(key: tuple) -> bool:
    """Whether something was computed from a set of the visitor's own."""
    return any(isinstance(part, str) and part.startswith("own-") for part in key)


# ---- folders -------------------------------------------------------------------------------------


def folders() -> dict[str, Path]:
    """Name -> folder, for those that the administrator allows and that exist."""
    found: dict[str, Path] = {}
    for name in os.environ.get(VARIABLE, "").split(os.pathsep):
        path = Path(name.strip()).expanduser() if name.strip() else None
        if path is not None and path.is_dir():
            label, number = path.name or "folder", 2
            while label in found:
                label, number = f"{path.name} ({number})", number + 1
            found[label] = path.resolve()
    return found


def folder_set(label: str) -> PictureSet:
    """Up to ``MAX_PICTURES`` pictures of an allowed folder, evenly spread over it.

    Raises:
        BadImage: "unreadable" if there is no such folder any more, or no picture in it.
    """
    root = folders().get(label)
    files = sorted(_pictures_below(root)) if root is not None else []
    if not files:
        raise cdam.BadImage("unreadable", "This folder holds no pictures that could be opened; "
                            f"expected files ending in {', '.join(SUFFIXES)}.")  # fmt: skip
    chosen = [files[i * len(files) // MAX_PICTURES] for i in range(MAX_PICTURES)] \
        if len(files) > MAX_PICTURES else files
    state = "".join(f"{name}{_state_of(root / name)}" for name in chosen)
    told = f"{len(chosen)} of {len(files)} pictures, evenly spread over the folder."
    return PictureSet(
        f"folder-{hashlib.sha256(f'{root}{state}'.encode()).hexdigest()[:16]}",
        f"the folder {label}", tuple(chosen),
        tuple(partial(open_below, root, name) for name in chosen),
        told if len(chosen) < len(files) else "",
    )  # fmt: skip


def open_below(root: Path, name: str) -> Image.Image:
    """Open a picture of a folder.

    Raises:
        BadImage: "unreadable" also for anything that leads out of the folder, or is no plain file.
    """
    path = _plain_file(root, root / name)
    if path is None:
        raise cdam.BadImage("unreadable", "This picture is no longer in the folder.")
    return cdam.open_image(path)


def _plain_file(root: Path, path: Path) -> Path | None:
    """Where a path leads, if that is a plain file below the folder."""
    try:
        real = path.resolve(strict=True)
        return real if real.is_relative_to(root) and real.is_file() else None
    except (OSError, RuntimeError, ValueError):  # gone, a circle of links, no name at all
        return None


def _pictures_below(root: Path) -> Iterator[str]:
    """Names of pictures relative to a folder; links to elsewhere are passed over."""
    listed = 0
    for here, below, names in os.walk(root, followlinks=False):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            listed += 1
            if listed > MAX_LISTED:
                return
            path = Path(here) / name
            is_picture = not name.startswith(".") and path.suffix.lower() in SUFFIXES
            if is_picture and _plain_file(root, path) is not None:
                yield path.relative_to(root).as_posix()


def _state_of(path: Path) -> str:
    """Changes where the file does."""
    try:
        state = path.stat()
    except OSError:
        return ""
    return f"{state.st_mtime_ns}-{state.st_size}"
