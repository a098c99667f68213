"""Where example pictures come from: files, a ZIP with a folder per class, an allowed folder.

Everything is decoded in memory, one picture at a time; no name in a ZIP is ever used as a path.
What cannot be used is told in one sentence by its position, never by its name.
"""

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

import cdam_core as cdam
from pages import _attention_sets, _state
from pages._attention_sets import SUFFIXES
from pages._concepts_desk import Example, make_example
from pages._gate import slot
from pages._teach_desk import MAX_CLASSES, MAX_EXAMPLES

MAX_MEMBERS = 2000  # of a ZIP
MAX_CONTENT = 256 * 2**20  # bytes of its pictures, unpacked
MAX_PICTURE = 32 * 2**20  # bytes of one of them, unpacked
MAX_TOLD = 8  # sentences about single pictures

Found = tuple[dict[str, list[Example]], list[str]]  # class -> pictures; what was left out
OnStep = Callable[[int, int], None]


def uploads(files: Sequence, name: str, on_step: OnStep) -> Found:
    """Decode uploaded files for one class, and drop each raw file at once."""
    examples, problems = [], []
    for position, file in enumerate(files, 1):
        try:
            if len(examples) < MAX_EXAMPLES:
                image = _state.open_upload(file)
                examples.append(make_example(image, f"own picture {position}"))
            else:
                problems.append(f"File {position} was left out: a class holds at most "
                                f"{MAX_EXAMPLES} pictures.")  # fmt: skip
        except cdam.BadImage as error:
            problems.append(f"File {position}: {error}")
        finally:
            _state.drop_raw_file(file)
        on_step(position, len(files))
    return {name: examples}, _told(problems)


def from_zip(content: bytes, on_step: OnStep) -> Found:
    """The pictures of a ZIP; the folder that holds a picture is its class."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [entry for entry in archive.infolist() if _is_picture(entry.filename)]
            if problem := _why_not(entries):
                return {}, [problem]
            by_class: dict[str, list[zipfile.ZipInfo]] = {}
            for entry in entries:
                by_class.setdefault(PurePosixPath(entry.filename).parent.name, []).append(entry)
            return _read_all(by_class, lambda entry: _open_member(archive, entry), on_step)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OSError,
            RuntimeError, KeyError, UnicodeError):  # fmt: skip
        return {}, ["The file is no readable ZIP; expected one with a folder of pictures per "
                    "class."]  # fmt: skip


def _why_not(entries: Sequence[zipfile.ZipInfo]) -> str:
    """Why a ZIP is not read, in one sentence; sizes are limited whatever its directory claims."""
    if len(entries) > MAX_MEMBERS or sum(entry.file_size for entry in entries) > MAX_CONTENT:
        return (f"The ZIP holds more than {MAX_MEMBERS} pictures or {MAX_CONTENT // 2**20} MB; "
                "choose fewer pictures.")  # fmt: skip
    if any(entry.flag_bits & 1 for entry in entries):
        return "The ZIP is encrypted; expected one without a password."
    if not entries:
        return ("The ZIP holds no pictures in folders; expected a folder per class, with files "
                f"ending in {', '.join(SUFFIXES)}.")  # fmt: skip
    return ""


def _is_picture(name: str) -> bool:
    """A picture in a folder, and not what systems put beside it."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return len(parts) > 1 and not hidden and name.lower().endswith(SUFFIXES)


def _open_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo):
    if entry.file_size > MAX_PICTURE:
        raise cdam.BadImage("too-many-bytes", "the file is larger than "
                            f"{MAX_PICTURE // 2**20} MB; expected a smaller one.")  # fmt: skip
    try:
        with archive.open(entry) as file:  # reading ends at the size that was checked
            content = file.read(entry.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        raise cdam.BadImage("unreadable", "it is damaged inside the ZIP.") from None
    return cdam.open_image(content)


def from_folder(label: str, on_step: OnStep) -> Found:
    """The pictures of a folder that the administrator allows; its folders are the classes.

    Pictures that lie in it directly are a class of the folder's own name.
    """
    root = _attention_sets.folders().get(label)
    names = sorted(_attention_sets._pictures_below(root)) if root is not None else []
    if not names:
        return {}, ["This folder holds no pictures that could be opened; expected files ending in "
                    f"{', '.join(SUFFIXES)}."]  # fmt: skip
    by_class: dict[str, list[str]] = {}
    for name in names:
        by_class.setdefault(PurePosixPath(name).parent.name or label, []).append(name)
    return _read_all(by_class, lambda name: _attention_sets.open_below(root, name), on_step)


def _read_all(by_class: Mapping[str, Sequence], open_one: Callable, on_step: OnStep) -> Found:
    """Up to ``MAX_EXAMPLES`` pictures of each class, evenly spread over what is there."""
    names = sorted(by_class)[:MAX_CLASSES]
    chosen = {name: _spread(by_class[name]) for name in names}
    total, done = sum(map(len, chosen.values())), 0
    found: dict[str, list[Example]] = {}
    problems = []
    for name, members in chosen.items():
        for position, member in enumerate(members, 1):
            try:
                with slot():
                    image = open_one(member)
                found.setdefault(name, []).append(make_example(image, f"picture {position}"))
            except cdam.BadImage as error:
                problems.append(f"{name}, picture {position}: {error}")
            done += 1
            on_step(done, total)
    return found, _told(problems) + _left_out(by_class, names)


def _spread(members: Sequence) -> list:
    count = min(len(members), MAX_EXAMPLES)
    return [members[i * len(members) // count] for i in range(count)]


def _left_out(by_class: Mapping[str, Sequence], names: Sequence[str]) -> list[str]:
    words = []
    if len(by_class) > len(names):
        words.append(f"Only the first {MAX_CLASSES} of {len(by_class)} folders were read.")
    many = [name for name in names if len(by_class[name]) > MAX_EXAMPLES]
    if many:
        words.append(f"Of each class at most {MAX_EXAMPLES} pictures were read, evenly spread over "
                     "its folder; the command line takes all of them.")  # fmt: skip
    return words


def _told(problems: list[str]) -> list[str]:
    """The first sentences, and how many more there are."""
    more = len(problems) - MAX_TOLD
    return problems[:MAX_TOLD] + ([f"{more} more pictures were left out."] if more > 0 else [])
