"""How much may come in: bytes of one file, of one visit, of one person in a minute, of everybody.

Counted before a file is read, so that no more than that ever lies in memory, whatever a browser
says. Who is refused gets a status that machines understand, and a sentence on the page.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import streamlit as st
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.runtime import get_instance
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages import _visits
from pages._access import path_below, user_of
from pages._settings import Uploads

UPLOAD = "/_stcore/upload_file/"  # then visit and file
MB = 2**20
MINUTE = 60.0  # seconds
SOON = 10  # seconds in which files that have arrived are read


@dataclass(frozen=True)
class Refusal:
    """Why a file is not taken.

    Attributes:
        status: of HTTP.
        sentence: for the visitor.
        wait: seconds after which it may be tried again; None: never like this.
    """

    status: int
    sentence: str
    wait: int | None = None


class Minute:
    """What each one has sent within the last minute.

    Args:
        most: bytes that one may send.
        now: a clock, in seconds.
    """

    def __init__(self, most: float, now: Callable[[], float] = time.monotonic):
        self.most, self._now = most, now
        self._sent: dict[str, deque[tuple[float, int]]] = {}

    def wait(self, owner: str, size: int) -> float:
        """Seconds until so many bytes more are within bounds; 0: they are now."""
        self._forget_what_is_old()
        sent = self._sent.get(owner, ())
        over = sum(each for _, each in sent) + size - self.most
        if over <= 0:
            return 0.0
        for when, each in sent:  # the oldest make room first
            over -= each
            if over <= 0:
                return when + MINUTE - self._now()
        return MINUTE

    def count(self, owner: str, size: int) -> None:
        """Note what is being sent."""
        self._sent.setdefault(owner, deque()).append((self._now(), size))

    def _forget_what_is_old(self) -> None:
        before = self._now() - MINUTE
        for owner in list(self._sent):
            sent = self._sent[owner]
            while sent and sent[0][0] <= before:
                sent.popleft()
            if not sent:
                del self._sent[owner]


class Intake:
    """ASGI middleware in front of uploads.

    Args:
        app: what is behind it.
        limits: what the administrator decided.
    """

    def __init__(self, app: ASGIApp, limits: Uploads):
        self.app, self.limits = app, limits
        self._minute = Minute(limits.minute_mb * MB)
        self._arriving: dict[str, int] = {}  # visit -> bytes on their way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_below(scope) if scope["type"] == "http" else ""
        if not path.startswith(UPLOAD) or scope["method"] != "PUT":
            await self.app(scope, receive, send)
            return
        visit = path.removeprefix(UPLOAD).split("/")[0]
        size, owner = _stated_size(scope), user_of(scope) or visit
        refusal = self._refusal(visit, owner, size)
        if refusal is not None:
            tell(visit, refusal.sentence)
            headers = {"Retry-After": str(refusal.wait)} if refusal.wait else {}
            answer = PlainTextResponse(refusal.sentence, refusal.status, headers)
            await answer(scope, receive, send)
            return
        self._minute.count(owner, size)
        self._arriving[visit] = self._arriving.get(visit, 0) + size
        try:
            await self.app(scope, receive, send)
        finally:
            self._arriving[visit] -= size
            if not self._arriving[visit]:
                del self._arriving[visit]

    def _refusal(self, visit: str, owner: str, size: int | None) -> Refusal | None:
        """Why a file of that size is not taken now; None: it is."""
        limits = self.limits
        if size is None:
            return Refusal(411, "The size of a file has to be stated before it is sent.")
        if size > limits.file_mb * MB:
            return Refusal(413, f"That file was not taken: one file may have {limits.file_mb} MB. "
                           "Please save a smaller copy.")  # fmt: skip
        waiting = _waiting()
        own = waiting.get(visit, 0) + self._arriving.get(visit, 0)
        if own + size > limits.session_mb * MB:
            return _too_many(f"{limits.session_mb} MB of files may wait here at once", SOON)
        if sum(waiting.values()) + sum(self._arriving.values()) + size > limits.all_mb * MB:
            return _too_many("many people are sending files here right now", SOON)
        if wait := ceil(self._minute.wait(owner, size)):
            return _too_many(f"{limits.minute_mb} MB may be sent within a minute", wait)
        return None


def _too_many(reason: str, wait: int) -> Refusal:
    sentence = f"Not every file was taken: {reason}. Please send the rest in {wait} seconds."
    return Refusal(429, sentence, wait)


def _stated_size(scope: Scope) -> int | None:
    """Bytes of the request, as its head says; the server lets no more through."""
    stated = Headers(scope=scope).get("content-length", "")
    return int(stated) if stated.isascii() and stated.isdigit() else None


def _waiting() -> dict[str, int]:
    """Visit -> bytes of files that have arrived and that no page has read yet."""
    stored = get_instance().uploaded_file_mgr.file_storage
    return {visit: sum(len(file.data) for file in list(files.values()))
            for visit, files in list(stored.items())}  # fmt: skip


# ---- what the visitor reads ----------------------------------------------------------------------

_told: dict[str, str] = {}  # visit -> sentence that its page is to show


def tell(visit: str, sentence: str) -> None:
    """Have a visit's page say something that happened outside of it."""
    _told[visit] = sentence
    if not _visits.draw_again(visit):
        _told.pop(visit, None)


def show() -> None:
    """What there is to say to this visitor, once."""
    context = get_script_run_ctx()
    sentence = _told.pop(context.session_id, None) if context is not None else None
    if sentence:
        st.warning(sentence)
