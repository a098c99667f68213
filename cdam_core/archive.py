"""Files of many parts: ZIP and NPZ archives that repeat byte for byte, and are read with suspicion.

Beside the data flow: names and bytes, nothing of what they mean. Archives come from strangers, so
nothing is ever extracted, no member's name is used as a path, sizes are limited whatever the
directory claims, and arrays are read without pickle.
"""

import io
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np

from cdam_core.errors import BadRecord

MAX_FILE = 64 * 2**20  # bytes of an archive
MAX_MEMBERS = 200
MAX_CONTENT = 256 * 2**20  # bytes of all members together, unpacked
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a ZIP can hold: the same content, the same bytes
_ARRAYS = {np.dtype(np.float32), np.dtype(np.bool_)}
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OSError,
               RuntimeError, KeyError, MemoryError, UnicodeError)  # fmt: skip
_EXPECTED = "expected a ZIP as this program writes it"


# ---- writing -------------------------------------------------------------------------------------


def pack(members: Mapping[str, bytes]) -> bytes:
    """A ZIP of named contents, sorted by name, without times: equal contents give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, members[name])
    return buffer.getvalue()


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A compressed NPZ file of arrays, for ``numpy.load``; equal arrays give equal bytes."""
    members = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
        members[f"{name}.npy"] = buffer.getvalue()
    return pack(members)


# ---- reading -------------------------------------------------------------------------------------


def unpack(source: bytes | str | Path) -> dict[str, bytes]:
    """The members of a ZIP by name.

    Args:
        source: the file's bytes, or its path.

    Raises:
        BadRecord: no such file, no ZIP, folders or odd names in it, encrypted, damaged, or larger
            than the limits of this module, packed or unpacked.
    """
    content = source if isinstance(source, bytes) else _read(Path(source))
    if len(content) > MAX_FILE:
        raise _too_large()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            _check(entries)
            return {entry.filename: _member(archive, entry) for entry in entries}
    except BadRecord:
        raise
    except _UNREADABLE:
        raise BadRecord("unreadable", f"The file is no readable ZIP; {_EXPECTED}.") from None


def pick(content: bytes, names: Collection[str]) -> dict[str, bytes]:
    """Members of a ZIP by the last part of their names, wherever in it they lie; nothing else.

    Args:
        content: the file's bytes.
        names: of the members that are wanted; those that are not there are left out.

    Raises:
        BadRecord: no ZIP, damaged or encrypted, one of the names twice, or larger than the limits
            of this module.
    """
    if len(content) > MAX_FILE:
        raise _too_large()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = [entry for entry in archive.infolist()
                     if PurePosixPath(entry.filename).name in names]  # fmt: skip
            if sum(entry.file_size for entry in found) > MAX_CONTENT:
                raise _too_large()
            last = [PurePosixPath(entry.filename).name for entry in found]
            if len(set(last)) < len(last) or any(entry.flag_bits & 1 for entry in found):
                raise BadRecord("unsafe", "The ZIP is encrypted, or holds one of its files twice; "
                                f"{_EXPECTED}.")  # fmt: skip
            return {name: _member(archive, entry)
                    for name, entry in zip(last, found, strict=True)}  # fmt: skip
    except BadRecord:
        raise
    except _UNREADABLE:
        raise BadRecord("unreadable", f"The file is no readable ZIP; {_EXPECTED}.") from None


def unpack_arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file by name: float32 or bool, finite or not.

    Raises:
        BadRecord: no NPZ, other types (also pickled objects), or sizes that do not fit.
    """
    members = unpack(content)
    try:
        return {name.removesuffix(".npy"): _array(member) for name, member in members.items()}
    except (ValueError, TypeError, EOFError, KeyError, MemoryError, SyntaxError, RecursionError,
            tokenize.TokenError):  # fmt: skip
        raise BadRecord("damaged", "The scores are no plain arrays of numbers; expected the NPZ "
                        "file that this program writes.") from None  # fmt: skip


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE + 1)
    except OSError:
        raise BadRecord("unreadable", f"There is no readable file there; {_EXPECTED}.") from None


def _check(entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    if len(names) > MAX_MEMBERS or sum(entry.file_size for entry in entries) > MAX_CONTENT:
        raise _too_large()
    odd = any(not name or set(name) & set('/\\:*?"<>|\0') or name.startswith(".") for name in names)
    if odd or len(set(names)) < len(names) or any(entry.flag_bits & 1 for entry in entries):
        raise BadRecord("unsafe", "The ZIP holds folders, doubled or unsafe names, or encrypted "
                        f"parts; {_EXPECTED}.")  # fmt: skip


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:  # reading ends at the size that was checked
        return file.read(entry.file_size)


def _too_large() -> BadRecord:
    return BadRecord("too-large", f"The file is larger than the {MAX_FILE / 2**20:.0f} MB (or "
                     f"{MAX_CONTENT / 2**20:.0f} MB unpacked) that a result may have; {_EXPECTED}.")


def _array(content: bytes) -> np.ndarray:
    """One .npy file; the header is believed only where it fits the bytes that follow."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0}[version]  # fmt: skip
    shape, is_fortran, dtype = read(file)
    values = content[file.tell() :]
    if dtype not in _ARRAYS or is_fortran or len(values) != prod(shape) * dtype.itemsize:
        raise ValueError("not an array that this program writes")
    return np.frombuffer(values, dtype).reshape(shape)
