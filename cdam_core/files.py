"""Writing files so that nobody ever sees half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, to be written; it takes the place of ``path`` at the end.

    Args:
        path: where the file is to be; its folder exists.

    Raises:
        OSError: as the file system says; nothing is left behind, nor if the writer fails.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one step.

    Args:
        path: where the file is to be; its folder exists.
        content: all of it.

    Raises:
        OSError: as the file system says; nothing is left behind.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)
