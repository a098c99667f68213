"""Visits: how long one is kept, how it is forgotten, and what is said to who comes from an old one.

A visit is a browser tab: its pictures, maps and concepts live in the memory of one process.
Streamlit by itself keeps a closed tab's until another visitor comes and goes; here a task of the
server looks every few seconds. After a restart, or when its visit has ended, the browser connects
again by itself and names the old visit: then the page is drawn anew and says why, so that no old
map passes for the current one.

The only place that knows Streamlit's register of sessions.
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections import OrderedDict

import streamlit as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import Runtime, get_instance
from streamlit.runtime.app_session import AppSessionState
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.session_manager import SessionClient

from pages import _cache
from pages._settings import Visits

LOG = logging.getLogger("streamlit.cdam.visits")
PROTOCOL = "Sec-WebSocket-Protocol"  # "streamlit, <token>, <visit that the browser was in>"
DAY = 24 * 3600
SEEN = "cdam.seen"  # place of a connection's last message in its ASGI scope
GOING_AWAY = 1001  # what a browser is told when its visit ends: it connects again
LET_GO = 30.0  # seconds after a visit ended in which what it leaves is looked for
REMEMBERED = 1000  # ended visits of which is known why they ended

FORGOTTEN, IDLE, CLOSED = "forgotten", "idle", "closed"
RESET = (
    "**Please open your pictures again.** The server was restarted, or this tab was away for too "
    "long: what you had opened, computed and built here is gone, and this page has begun anew."
)
SENTENCES = {
    IDLE: "**Please open your pictures again.** Nothing was clicked here for a long time, so what "
    "you had opened, computed and built is gone, and this page has begun anew.",
    FORGOTTEN: "**Forgotten.** Pictures, maps, concepts and classes of your visit are gone from "
    "this server.",
}


# ---- the server's side ---------------------------------------------------------------------------


class Activity:
    """ASGI middleware that notes when a visitor's connection was last used."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        seen = scope[SEEN] = [time.monotonic()]

        async def noted_receive() -> Message:
            message = await receive()
            seen[0] = time.monotonic()
            return message

        async def noted_send(message: Message) -> None:
            seen[0] = time.monotonic()
            await send(message)

        await self.app(scope, noted_receive, noted_send)


class _Nobody(SessionClient):
    """The other end of a visit that is none."""

    def __init__(self) -> None:
        self.served = asyncio.Event()

    def write_forward_msg(self, msg: ForwardMsg) -> None:
        """Nobody reads it."""
        self.served.set()

    @property
    def client_context(self) -> None:
        """There is no connection."""


class House:
    """Forgets visits in time, without waiting for anybody to come or go."""

    def __init__(self) -> None:
        self._closed: dict[str, float] = {}  # id -> since when its tab is known to be closed
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._lets_go_until = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def counts(self) -> tuple[int, int]:
        """Visits in open tabs, and of closed tabs that are kept for a moment."""
        manager = _runtime()._session_mgr
        is_open = manager.num_active_sessions()
        return is_open, manager.num_sessions() - is_open

    def is_drawing(self) -> bool:
        """Whether the page of any open tab is being drawn."""
        return any(info.session._state == AppSessionState.APP_IS_RUNNING
                   for info in _runtime()._session_mgr.list_active_sessions())  # fmt: skip

    def why(self, visit: str) -> str | None:
        """Why that visit ended in this process; None: not known."""
        return self._ended.get(visit)

    async def keep(self, settings: Visits) -> None:
        """Look after the visits until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(5.0, settings.keep_closed_s / 4, settings.keep_idle_min * 15))
            try:
                await self.tidy(settings)
            except Exception:  # the next look must come, whatever this one met
                LOG.exception("Looking after the visits failed.")

    async def tidy(self, settings: Visits) -> None:
        """End what is due: tabs that are closed, or open and idle, for too long."""
        due, known = self._due(settings)
        for name, reason in due:
            await self.end(name, reason)
        if time.monotonic() < self._lets_go_until:  # a run that is ended may take some seconds
            await self.let_go()
        for name in _cache.shelf.owners() - known:  # left by a run that was just ending
            _cache.shelf.forget(name)

    def _due(self, settings: Visits) -> tuple[list[tuple[str, str]], set[str]]:
        """Which visits are to end, and why; and all that are known. No session is held longer."""
        manager, now = _runtime()._session_mgr, time.monotonic()
        active = {info.session.id: info for info in manager.list_active_sessions()}
        known = {info.session.id for info in manager.list_sessions()}
        self._closed = {name: self._closed.get(name, now) for name in known - set(active)}
        due = [(name, CLOSED) for name, since in self._closed.items()
               if now - since >= settings.keep_closed_s]  # fmt: skip
        due += [(name, IDLE) for name, info in active.items()
                if now - _last_message(info, now) >= 60 * settings.keep_idle_min]  # fmt: skip
        return due, known

    async def end(self, visit: str, reason: str) -> None:
        """Forget a visit and all that belongs to it; an open tab begins anew."""
        self._lets_go_until = time.monotonic() + LET_GO
        self._ended[visit] = reason
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        info = _runtime()._session_mgr.get_active_session_info(visit)
        _runtime().close_session(visit)
        _cache.shelf.forget(visit)
        if info is not None:
            await info.client._websocket.close(GOING_AWAY)

    async def let_go(self) -> None:
        """Have Streamlit drop what it still holds of ended visits.

        Its loop goes on naming the visit that it served last, with its last messages, until it
        serves another one: so it gets one, for a moment, with nobody in it.
        """
        client = _Nobody()
        nobody = _runtime().connect_session(client, {})
        session = _runtime()._session_mgr.get_active_session_info(nobody).session
        session._enqueue_forward_msg(ForwardMsg())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.served.wait(), 5)
        _runtime().close_session(nobody)
        await asyncio.to_thread(gc.collect)  # what was dropped refers to itself in circles

    def end_soon(self, visit: str, reason: str) -> None:
        """The same from a page, which then ends at its next step."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self.end(visit, reason), self._loop)


def _runtime() -> Runtime:
    return get_instance()


def _last_message(info, otherwise: float) -> float:
    return info.client._websocket.scope.get(SEEN, [otherwise])[0]


house = House()


def draw_again(visit: str) -> bool:
    """Have the page of an open tab drawn again, to say what happened outside; False: no tab."""
    info = _runtime()._session_mgr.get_active_session_info(visit)
    if info is not None:
        info.session.request_rerun(None)
    return info is not None


def prepare(settings: Visits) -> None:
    """Leave closed tabs to the house: Streamlit's own limit comes later, if the house fails."""
    config.set_option("server.disconnectedSessionTTL", round(settings.keep_closed_s) + 60)


# ---- the page's side -----------------------------------------------------------------------------


@st.fragment(run_every=DAY)
def _watch() -> None:
    """Nothing to see; it makes the browser ask for the whole page when it is connected again.

    A browser does so by itself only where something on the page is drawn from time to time.
    Elsewhere it would go on showing what an earlier server has sent.
    """


def begin() -> None:
    """To be called by the frame, above the page: tell who comes from a visit that is no more."""
    _watch()
    if "visit" not in st.session_state:
        st.session_state["visit"] = _sentence_for(_earlier_visit())
        if st.session_state["visit"]:  # also for who does not see the top of the page
            st.toast(st.session_state["visit"], icon=":material/restart_alt:", duration="long")
    if sentence := st.session_state["visit"]:
        said, answer = st.columns([12, 1], vertical_alignment="center")
        if sentence == SENTENCES[FORGOTTEN]:
            said.success(sentence, icon=":material/delete_forever:")
        else:
            said.warning(sentence, icon=":material/restart_alt:")
        answer.button("OK", key="visit.ok", on_click=_noted)


def offer_to_forget() -> None:
    """The button that ends this visit."""
    st.button("Forget everything of my visit", key="visit.forget", type="tertiary",
              icon=":material/delete_forever:", on_click=_forget,
              help="Pictures, maps, concepts, classes and models of this tab are removed from the "
              "server at once. Closing the tab does the same after a while.")  # fmt: skip


def _noted() -> None:
    st.session_state["visit"] = ""


def _forget() -> None:
    context = get_script_run_ctx()
    if context is not None:
        house.end_soon(context.session_id, FORGOTTEN)
    if job := st.session_state.pop("job", None):
        job.stop()


def _sentence_for(earlier: str) -> str:
    return SENTENCES.get(house.why(earlier), RESET) if earlier else ""


def _earlier_visit() -> str:
    """Id of the visit that the browser was in, where this one is another."""
    context = get_script_run_ctx()
    named = st.context.headers.get(PROTOCOL, "").split(",")
    earlier = named[2].strip() if len(named) > 2 else ""
    return earlier if context is not None and earlier != context.session_id else ""
