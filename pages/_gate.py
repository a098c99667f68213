"""The one gate in front of all computing: a few jobs at a time, the rest wait their turn."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SLOTS = max(1, (os.cpu_count() or 2) - 1)
PATIENCE = 30  # seconds that a job waits before the visitor is asked to try again

_free = threading.BoundedSemaphore(SLOTS)


class Busy(Exception):
    """All slots stayed taken; the message is for the visitor."""

    def __init__(self):
        super().__init__("Many people are computing here right now. Please try again in a minute.")


@contextmanager
def slot() -> Iterator[None]:
    """Hold one of the slots while computing.

    Raises:
        Busy: none became free in time.
    """
    if not _free.acquire(timeout=PATIENCE):
        raise Busy
    try:
        yield
    finally:
        _free.release()
