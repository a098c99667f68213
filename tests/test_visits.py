"""Visits end in time and leave nothing behind: a real server in this process, so that it shows."""

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from pathlib import Path

import pytest
import requests
import streamlit as st
import uvicorn
from starlette.middleware import Middleware
from streamlit.runtime import Runtime, get_instance
from streamlit.runtime.app_session import AppSession
from websockets.exceptions import ConnectionClosed

import cdam_core as cdam
import pages
from cdam_core.images import digest
from pages import _cache, _errors, _gate, _headers, _operations, _state, _visits
from pages._gate import Gate, Limits
from pages._operations import READY, STOPPING, service
from pages._settings import Visits, parse
from scripts import load
from scripts.serving import free_port
from scripts.visitor import Visitor

# Streamlit leaves the event loop of a session that ended to the garbage collector.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"),
              pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]
FRAME = Path(pages.__file__).parent / "_frame.py"
FORGET = "Forget everything of my visit"


class Served:
    """The app in a thread of this process."""

    def __init__(self, settings):
        @contextlib.asynccontextmanager
        async def lifespan(_):
            self.loop = asyncio.get_running_loop()
            async with service.running(settings):
                yield {}

        app = st.App(FRAME, lifespan=lifespan, on_script_error=_errors.on_error, middleware=[
            Middleware(_headers.Headers), Middleware(_operations.Probes),
            Middleware(_visits.Activity)])  # fmt: skip
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.server = uvicorn.Server(uvicorn.Config(app, port=port, ws="websockets-sansio",
                                                    log_level="critical"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)


@pytest.fixture(scope="module")
def served():
    """With short times: a closed tab is kept for two seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_state, "warm", lambda: True)
        patch.setattr(cdam.VisionModel, "is_unfamiliar", lambda *_: False)
        patch.setattr(_errors, "prepare_logging", lambda *_: None)
        _cache.shelf.clear()
        found = Served(parse("[visits]\nkeep_closed_s = 2"))
        found.thread.start()
        until(lambda: found.server.started, 60)
        yield found
        found.server.should_exit = True
        found.thread.join(30)
        assert not found.thread.is_alive()
        Runtime._instance = None


def until(is_so, seconds=30.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def held(seed) -> list[weakref.ref]:
    """Everything of that visitor's picture that is in memory: the picture itself, the session."""
    mine = digest(cdam.open_image(load._png(seed)))
    found = []
    for each in gc.get_objects():
        kind = type(each)  # isinstance would ask objects that answer with a warning
        if kind is AppSession:
            picture = each.session_state.filtered_state.get("picture")
            is_mine = picture is not None and picture.digest == mine
        else:
            is_mine = kind is _state.Picture and each.digest == mine
        if is_mine:
            found.append(each)
    assert {type(each) for each in found} == {_state.Picture, AppSession}
    return [weakref.ref(each) for each in found]


def stores() -> tuple[int, int, int]:
    """Bytes of uploads, files to fetch, and what is owned by visits."""
    runtime = get_instance()
    return (_operations._bytes_of(runtime.uploaded_file_mgr),
            len(runtime.media_file_mgr._file_metadata), len(_cache.shelf.owners()))  # fmt: skip


@pytest.fixture
def come(served):
    """Visits: of an earlier one, or with a picture of one's own; closed when the test is over."""
    came = []

    def open_page(seed=None, earlier=""):
        visitor = Visitor(served.url, earlier=earlier)
        came.append(visitor)
        visitor.open()
        if seed is not None:
            visitor.upload(load._png(seed))
        assert visitor.screen.maps
        return visitor

    yield open_page
    for visitor in came:
        visitor.close()
    until(lambda: _visits.house.counts() == (0, 0))


def test_a_closed_tab_is_forgotten_though_nobody_else_comes(come):
    visitor = come(21)
    refs = held(21)
    assert _cache.shelf.owners() == {visitor.session}
    assert _visits.house.counts() == (1, 0)
    visitor.close()
    until(lambda: _visits.house.counts() == (0, 1))
    assert all(ref() for ref in refs)  # a short break loses nothing
    until(lambda: _visits.house.counts() == (0, 0))
    until(lambda: not any(ref() for ref in refs))
    assert stores() == (0, 0, 0)
    again = come(earlier=visitor.session)
    assert again.screen.sentences == [_visits.RESET]


def test_a_tab_that_is_left_open_is_forgotten_and_begins_anew(served, come):
    visitor = come(22)
    refs = held(22)
    usual = Visits()
    served.run(_visits.house.tidy(usual))
    assert _visits.house.counts() == (1, 0)  # it was used a moment ago
    session = get_instance()._session_mgr.get_active_session_info(visitor.session)
    session.client._websocket.scope[_visits.SEEN][0] -= 60 * usual.keep_idle_min
    del session
    served.run(_visits.house.tidy(usual))
    with pytest.raises(ConnectionClosed) as closed:  # upon which a browser connects again
        visitor._until_finished()
    assert closed.value.rcvd.code == _visits.GOING_AWAY
    until(lambda: not any(ref() for ref in refs))
    assert stores() == (0, 0, 0)
    again = come(earlier=visitor.session)
    assert again.screen.sentences == [_visits.SENTENCES[_visits.IDLE]]


def test_forgetting_takes_everything_of_a_visit_and_nothing_of_another(come):
    visitor, other = come(23), come(24)
    refs, others = held(23), held(24)
    with contextlib.suppress(ConnectionClosed):
        visitor.press(FORGET)
    with pytest.raises(ConnectionClosed):
        visitor._until_finished()
    until(lambda: not any(ref() for ref in refs))
    assert all(ref() for ref in others)
    assert _cache.shelf.owners() == {other.session}
    again = come(earlier=visitor.session)
    assert again.screen.sentences == [_visits.SENTENCES[_visits.FORGOTTEN]]


def test_alive_and_ready_until_it_is_to_stop(served, monkeypatch):
    page = {"Accept": "text/html,*/*"}

    def ask(path, **headers):
        return requests.get(served.url + path, headers=headers, timeout=30)

    assert (ask("/healthz").status_code, ask("/readyz").status_code) == (200, 200)
    assert ask("/", **page).status_code == 200
    assert service.state == READY
    monkeypatch.setattr(service, "state", STOPPING)
    assert (ask("/healthz").status_code, ask("/readyz").status_code) == (200, 503)
    turned_away = ask("/", **page)
    assert turned_away.status_code == 503
    assert _operations.STOP in turned_away.text
    assert ask("/media/abc.png", **page).status_code == 404  # a download of an open tab
    assert ask("/_stcore/health").status_code == 200  # an open tab goes on


def test_nothing_but_streamlits_own_files_may_be_kept_by_a_browser(served):
    page = requests.get(served.url, timeout=30)
    script = page.text.partition('crossorigin src="./')[2].partition('"')[0]
    private = ("", "/compare", "/media/abc.jpg", "/_stcore/host-config", "/healthz")
    for path in (*private, f"/{script}"):
        found = requests.get(served.url + path, timeout=30).headers
        assert (found["Cache-Control"] == "no-store") == (path in private), path
        for name, value in _headers.headers().items():
            assert found[name] == value, path
    assert script.endswith(".js")


def test_a_page_that_waits_says_how_many_are_before_it(come, monkeypatch):
    monkeypatch.setattr(_gate, "gate", Gate(Limits(cores=1)))
    visitor = come(27)
    with _gate.gate.turn():
        waits = threading.Thread(target=visitor.choose, args=("Head", "Head 4"))  # in a fragment
        waits.start()
        until(lambda: any("Waiting, next in line" in said for said in visitor.screen.words))
    waits.join(60)
    assert not waits.is_alive()
    assert visitor.screen.sentences == []


def test_stopping_refuses_new_jobs_and_waits_for_those_at_work(served, come, monkeypatch):
    monkeypatch.setattr(_gate, "gate", Gate(Limits(cores=1)))
    monkeypatch.setattr(service, "state", READY)
    visitor = come(26)
    with _gate.gate.turn():
        ending = asyncio.run_coroutine_threadsafe(service.stop(60), served.loop)
        until(lambda: service.state == STOPPING)
        until(lambda: _gate.gate._closed)
        assert requests.get(f"{served.url}/readyz", timeout=30).status_code == 503
        visitor.choose("Smooth", True)  # what needs no computing goes on
        visitor.choose("Head", "Head 3")
        assert "This server is about to stop." in visitor.screen.sentences[-1]
        assert not ending.done()
    assert ending.result(30) is True


def test_stopping_does_not_wait_for_ever(served, monkeypatch):
    monkeypatch.setattr(_gate, "gate", Gate(Limits(cores=1)))
    monkeypatch.setattr(service, "state", READY)
    with _gate.gate.turn():
        assert served.run(service.stop(0.05)) is False


def test_the_report_counts_what_is_there(come):
    come(25)
    until(lambda: _operations.report().open_tabs == 1)  # tabs of other tests are being closed
    found = _operations.report()
    assert (found.state, found.open_tabs, found.closed_tabs) == (READY, 1, 0)
    assert (found.at_work, found.waiting, found.uploads) == (0, 0, 0)
    assert 200 * 2**20 < found.memory < 8 * 2**30
    assert found.cache == _cache.shelf.bytes > 500_000
    assert "scenes" in found.models  # and what other tests have loaded
    assert found.versions["streamlit"] == st.__version__
