"""Running the server: is it alive, is it ready, how it ends, and what an administrator can see.

``/healthz`` answers as long as the process does; ``/readyz`` once everything is warm, and no more
when the server is about to stop. Both say nothing else, to anybody.
"""

import asyncio
import contextlib
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import streamlit as st
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.runtime import get_instance

import cdam_core
from pages import _access, _cache, _errors, _gate, _state, _visits
from pages._settings import Settings, settings

LOG = logging.getLogger("streamlit.cdam.operations")
HEALTHZ, READYZ = "/healthz", "/readyz"
PARTS = ("/_stcore/", "/media/", "/static/", "/component/")  # what a page that is open asks for
WARMING, READY, STOPPING = "warming up", "ready", "stopping"
NO_MODEL = "the bundled model cannot be loaded"
STOP = (
    "This server is about to stop, and will most likely be back in a minute. Please try again then."
)
LAST_WORDS = 15.0  # seconds, however late it is, for pages to draw what has just been computed
QUIET = 10  # looks in a row at which no page is drawn: between two runs of one it may seem so
PACKAGES = ("streamlit", "torch", "timm", "numpy", "pillow")


class Service:
    """What this process is at.

    Attributes:
        state: one of the words above, or why it is not ready.
        since: when it began, in seconds since 1970.
    """

    def __init__(self) -> None:
        self.state = WARMING
        self.since = time.time()

    @contextlib.asynccontextmanager
    async def running(self, given: Settings) -> AsyncIterator[None]:
        """Warm up; inside, serve and look after the visits; end gracefully on SIGTERM."""
        is_warm = await asyncio.to_thread(_state.warm)
        _errors.prepare_logging(given.log.format)  # again: the web server has its own ideas
        keeping = asyncio.create_task(_visits.house.keep(given.visits))
        stopping = _on_sigterm(lambda: self.stop(given.computing.stop_s))
        self.state = READY if is_warm else NO_MODEL
        LOG.info("Ready." if is_warm else "Not ready: %s.", *([] if is_warm else [NO_MODEL]))
        try:
            yield
        finally:
            self.state = STOPPING
            keeping.cancel()
            stopping()

    async def stop(self, patience: float) -> bool:
        """Take no new jobs, and wait until those at work are done; whether they all were."""
        self.state, begun = STOPPING, time.monotonic()
        at_work, waiting = _gate.gate.counts()
        LOG.info("Stopping: %d jobs at work, %d in line.", at_work, waiting)
        is_done = await asyncio.to_thread(_gate.gate.close, patience)
        end = max(begun + patience, time.monotonic() + LAST_WORDS)
        quiet = 0
        while _visits.house.counts()[0] and quiet < QUIET and time.monotonic() < end:
            await asyncio.sleep(0.1)
            quiet = 0 if _visits.house.is_drawing() else quiet + 1
        LOG.info("Every job is done." if is_done else "Jobs are cut off after %.0f s.",
                 *([] if is_done else [patience]))  # fmt: skip
        return is_done


def _on_sigterm(work: Callable[[], Any]) -> Callable[[], None]:
    """Have ``work`` awaited before SIGTERM does what it did before; a second one does it at once.

    Returns:
        Puts things back as they were.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # signals are the main thread's
    loop, before, begun = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM), []

    def go_on() -> None:
        if callable(before):
            before(signal.SIGTERM, None)

    async def finish() -> None:
        try:
            await work()
        finally:
            go_on()

    def handle(number: int, frame: FrameType | None) -> None:
        if begun:
            go_on()
        begun.append(number)
        if len(begun) == 1:
            loop.call_soon_threadsafe(lambda: begun.append(loop.create_task(finish())))

    signal.signal(signal.SIGTERM, handle)
    return lambda: signal.signal(signal.SIGTERM, before) and None


service = Service()


class Probes:
    """ASGI middleware: answers the two probes, and turns new visits away while it is stopping."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _access.path_below(scope) if scope["type"] == "http" else ""
        if path == HEALTHZ:
            await PlainTextResponse("ok\n")(scope, receive, send)
        elif path == READYZ:
            status = 200 if service.state == READY else 503
            await PlainTextResponse(f"{service.state}\n", status)(scope, receive, send)
        elif service.state == STOPPING and _opens_page(scope, path):
            await _access.refuse(_access.Refused(503, STOP), scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _opens_page(scope: Scope, path: str) -> bool:
    """Whether a browser begins a visit with this request, rather than going on with one."""
    return (path != "" and not path.startswith(PARTS) and scope["method"] == "GET"
            and "text/html" in Headers(scope=scope).get("accept", ""))  # fmt: skip


# ---- what an administrator can see ---------------------------------------------------------------


def is_for_visitor() -> bool:
    """Whether the visitor is an administrator; where nobody has a name, whoever sits here."""
    access = settings().access
    # Behind a proxy that asks for no names, everybody seems to sit here.
    came = {name.lower() for name in st.context.headers}
    if access.identity == "open" and came & {"x-forwarded-for", "forwarded"}:
        return False
    return _access.is_administrator(_access.user(), access)


@dataclass(frozen=True)
class Report:
    """Numbers about this process; nothing of any visitor."""

    state: str
    started: float
    open_tabs: int
    closed_tabs: int
    at_work: int
    waiting: int
    memory: int
    cache: int
    cache_budget: int
    uploads: int
    media: int
    models: tuple[str, ...]
    versions: dict[str, str]
    errors: tuple[_errors.Met, ...]


def report() -> Report:
    """How this process is doing now; sizes in bytes, ``started`` in seconds since 1970."""
    runtime = get_instance()
    versions = {"CDAM Explorer": cdam_core.__version__, "Python": platform.python_version()}
    return Report(
        service.state, service.since, *_visits.house.counts(), *_gate.gate.counts(), memory(),
        _cache.shelf.bytes, _cache.shelf.budget, _bytes_of(runtime.uploaded_file_mgr),
        _bytes_of(runtime.media_file_mgr._storage), _state.loaded_models(),
        versions | {name: version(name) for name in PACKAGES}, _errors.recent(),
    )  # fmt: skip


def _bytes_of(store: Any) -> int:
    """Bytes in one of Streamlit's stores of files."""
    families = store.get_stats(store.stats_families).values()
    return sum(each.byte_length for family in families for each in family)


def memory() -> int:
    """Bytes of memory that this process holds; else the most that it held; 0 where none tells."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:  # Windows
        return 0
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024
