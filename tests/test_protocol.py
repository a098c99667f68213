"""What the server itself refuses, asked by hand instead of by a browser."""

import signal
import socket
from pathlib import Path

import pytest
import requests
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from pages import _visits
from scripts import load
from scripts.serving import App
from scripts.visitor import UPLOAD, Refused, Visitor


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with App(tmp_path_factory.mktemp("app"), env={"OMP_NUM_THREADS": "1"}) as running:
        yield running
    log = running.log.read_text()
    assert "Ready." in log
    assert "Stopping: 0 jobs at work, 0 in line." in log  # on SIGTERM, before anything is closed
    assert "Every job is done." in log
    assert running.process.returncode == -signal.SIGTERM
    assert "Traceback" not in log
    assert "secret-name" not in log


@pytest.fixture
def visitor(app):
    came = Visitor(app.url)
    came.open()
    yield came
    came.close()


def test_a_visitor_without_a_browser_gets_right_maps(visitor):
    import cdam_core as cdam

    visitor.upload(load._png(5))
    visitor.choose(load.A, visitor.screen.choices[load.A].options[7])
    visitor.choose("Head", "Head 2")
    model = cdam.load_model("scenes")
    encoding = model.encode_image(cdam.open_image(load._png(5)))
    assert load.difference(model, encoding, load.Seen(5, 1, visitor.screen.maps)) == ""
    # and the check would notice another head, another picture, another class
    assert "off by" in load.difference(model, encoding, load.Seen(5, 2, visitor.screen.maps))
    other = model.encode_image(cdam.open_image(load._png(6)))
    assert "off by" in load.difference(model, other, load.Seen(6, 1, visitor.screen.maps))
    maps = visitor.screen.maps
    one, two = maps["shown"][:2]
    one["values"], two["values"] = two["values"], one["values"]
    assert "off by" in load.difference(model, encoding, load.Seen(5, 1, maps))


def test_a_file_above_the_limit_is_refused_by_the_server(visitor):
    place = visitor._place("secret-name.png")
    with pytest.raises(Refused, match="413"):
        visitor.put(place.upload_url, bytes(21 * 2**20), "secret-name.png")
    visitor.upload(load._png(8))  # the visit goes on
    assert visitor.screen.maps


def test_a_file_of_another_name_is_one_sentence_and_the_visit_goes_on(visitor):
    place = visitor._place("secret-name.exe")
    visitor.put(place.upload_url, b"MZ", "secret-name.exe")
    info = dict(file_id=place.file_id, name="secret-name.exe", size=2, file_urls=place)
    visitor._run("", uploaded=info)
    said = " ".join(visitor.screen.sentences)
    assert "Something went wrong here" in said
    assert "secret-name" not in said
    again = Visitor(visitor.url)  # nobody else is troubled
    again.open()
    again.upload(load._png(9))
    assert UPLOAD in again.screen.choices
    again.close()


def test_uploads_of_strangers_are_refused(visitor):
    place = visitor._place("a.png")
    address, files = f"{visitor.url}/{place.upload_url.lstrip('/')}", {"a.png": b"x"}
    without = requests.put(address, files=files, timeout=20)
    assert without.status_code == 403
    session = address.split("/")[-2]
    stranger = address.replace(session, "0" * len(session))
    token = {"X-Xsrftoken": visitor.http.cookies["_streamlit_xsrf"]}
    assert visitor.http.put(stranger, files=files, headers=token, timeout=20).status_code == 400


def test_a_foreign_origin_gets_no_websocket(app):
    address = app.url.replace("http", "ws") + "/_stcore/stream"
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, origin="https://elsewhere.example", proxy=None,
                subprotocols=["streamlit"])  # fmt: skip


def test_who_comes_from_a_visit_that_is_no_more_is_told_until_it_is_noted(app, visitor):
    assert visitor.screen.asks_again  # of itself, when the browser is connected again
    assert _visits.RESET not in visitor.screen.sentences
    late = Visitor(app.url, earlier="0" * 8 + "-0000-4000-8000-" + "0" * 12)
    late.open()
    assert _visits.RESET in late.screen.sentences
    assert late.screen.maps  # the page has begun anew, with a sample
    late.screen.sentences.clear()
    late.choose("Head", "Head 2")  # a part of the page
    late.press("OK")
    assert late.screen.sentences == []
    late.close()


def test_a_visit_goes_on_after_a_short_break_with_the_same_picture(visitor):
    visitor.upload(load._png(7))
    shown, session = visitor.screen.maps["panels"][0]["src"], visitor.session
    visitor.close()
    again = Visitor(visitor.url, earlier=session)
    again.open()
    assert again.session == session
    assert _visits.RESET not in again.screen.sentences
    assert again.screen.maps["panels"][0]["src"] == shown
    again.close()


def test_only_this_computer_is_listened_to(app):
    with socket.socket() as probe:
        probe.settimeout(2)
        assert probe.connect_ex(("127.0.0.1", app.port)) == 0
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        if address.endswith(f":{app.port:04X}") and state == "0A":
            assert address.startswith("0100007F")
