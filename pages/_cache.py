"""What has been computed from pictures: found again by SHA-256, within one budget of bytes.

One shelf serves all visits together. A key names the pixels by their digest, so two visits with the
same picture share what it costs; whoever computes a thing first computes it for all who wait for
it. Every thing has owners, the visits that asked for it, and goes with the last of them; what comes
from shipped pictures has none and stays. Beyond the budget, what was not asked for longest goes.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from PIL import Image

from pages._settings import settings

TICK = 0.1  # seconds between two looks at whether a thing is still wanted
HOUSE = ""  # owner of what comes from shipped pictures


def size_of(value: Any) -> int:
    """Bytes of the arrays, pictures and texts in a value; what is small beside them counts as 0."""
    if isinstance(value, Image.Image):
        return value.width * value.height * len(value.getbands())
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(size := getattr(value, "nbytes", None), int):
        return size
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    if is_dataclass(value) and not isinstance(value, type):
        return sum(size_of(getattr(value, each.name)) for each in fields(value))
    return 0


@dataclass(eq=False)
class _Thing:
    """One thing on the shelf, or on its way there."""

    owners: set[str]
    ready: threading.Event = field(default_factory=threading.Event)
    value: Any = None
    size: int = 0


class Shelf:
    """Things by key, the one asked for last at the end.

    Args:
        budget: bytes that all things together may have.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self._lock = threading.Lock()
        self._things: OrderedDict[Hashable, _Thing] = OrderedDict()
        self._coming: dict[Hashable, _Thing] = {}

    # ---- what can be seen ------------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """Bytes of everything that is kept."""
        with self._lock:
            return sum(thing.size for thing in self._things.values())

    def __len__(self) -> int:
        return len(self._things)

    def owners(self) -> set[str]:
        """The visits that own anything."""
        with self._lock:
            every = (*self._things.values(), *self._coming.values())
            return set().union(*(thing.owners for thing in every)) - {HOUSE}

    # ---- asking ----------------------------------------------------------------------------------

    def get(self, key: Hashable, make: Callable[[], Any], owner: str = HOUSE,
            check: Callable[[], None] = lambda: None) -> Any:  # fmt: skip
        """The thing with that key, made now where nobody has made it.

        Args:
            key: what it is, with the digest of every picture that it is made of.
            make: makes it; what it raises is raised here, and nothing is kept.
            owner: the visit that asks.
            check: called while another visit makes it; what it raises ends the waiting.
        """
        while True:
            with self._lock:
                if thing := self._things.get(key):
                    self._things.move_to_end(key)
                    thing.owners.add(owner)
                    return thing.value
                thing = self._coming.get(key)
                is_first = thing is None
                if is_first:
                    thing = self._coming[key] = _Thing({owner})
                else:
                    thing.owners.add(owner)
            if is_first:
                return self._make(key, thing, make)
            while not thing.ready.wait(TICK):  # then look again: it may have failed, or be gone
                check()

    def _make(self, key: Hashable, thing: _Thing, make: Callable[[], Any]) -> Any:
        try:
            value = make()
        except BaseException:
            self._arrive(key, thing, is_kept=False)
            raise
        thing.value, thing.size = value, size_of(value)
        self._arrive(key, thing, is_kept=thing.size <= self.budget)
        return value

    def _arrive(self, key: Hashable, thing: _Thing, is_kept: bool) -> None:
        with self._lock:
            if self._coming.get(key) is thing:
                del self._coming[key]
            if is_kept and thing.owners:  # somebody still wants it
                self._things[key] = thing
                self._fit()
        thing.ready.set()

    def _fit(self) -> None:
        size = sum(thing.size for thing in self._things.values())
        while size > self.budget:
            size -= self._things.popitem(last=False)[1].size

    # ---- forgetting ------------------------------------------------------------------------------

    def forget(self, owner: str, kind: str | None = None) -> None:
        """Take a visit's name off everything, or off keys that begin with ``kind``.

        What nobody else owns is gone; what is being made for it alone will not be kept.
        """
        with self._lock:
            for place in (self._things, self._coming):
                for key, thing in list(place.items()):
                    if kind is None or (isinstance(key, tuple) and key[0] == kind):
                        thing.owners.discard(owner)
                        if not thing.owners:
                            del place[key]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._things.clear()
            self._coming.clear()


shelf = Shelf(int(settings().computing.cache_mb * 2**20))
