"""How much may come in: the arithmetic with a clock of its own, and the real upload route."""

import http.client
import importlib.util
import socket
from types import SimpleNamespace
from urllib.parse import urlsplit

import anyio
import pytest
import requests
from PIL import Image

import cdam_core as cdam
from cdam_core import images
from pages import _limits
from pages._limits import MB, Intake, Minute
from pages._settings import Uploads
from scripts import load
from scripts.serving import App
from scripts.visitor import Visitor
from tests.test_images import png

PLACE = "/_stcore/upload_file/visit/file"


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


# ---- a minute ------------------------------------------------------------------------------------


def test_a_minute_holds_what_it_may_and_says_when_there_is_room_again():
    clock = Clock()
    minute = Minute(100, clock)
    for size, at in ((40, 0), (40, 10), (20, 20)):
        clock.now = 1000 + at
        assert minute.wait("anna", size) == 0
        minute.count("anna", size)
    assert minute.wait("anna", 1) == 40  # when the first 40 are a minute old
    assert minute.wait("anna", 40) == 40
    assert minute.wait("anna", 41) == 50
    assert minute.wait("anna", 100) == 60
    assert minute.wait("anna", 101) == 60  # never, but not told so: the file's own bound is smaller
    assert minute.wait("berta", 100) == 0
    clock.now = 1060
    assert minute.wait("anna", 40) == 0
    assert minute.wait("anna", 41) == 10
    clock.now = 2000
    assert minute.wait("anna", 100) == 0
    assert minute._sent == {}


# ---- the door for uploads, without a server ------------------------------------------------------


@pytest.fixture
def desk(monkeypatch):
    """What is stored, what was said, and a way to send a file."""
    stored, said, came = {}, {}, []
    files = SimpleNamespace(uploaded_file_mgr=SimpleNamespace(file_storage=stored))
    monkeypatch.setattr(_limits, "get_instance", lambda: files)
    monkeypatch.setattr(_limits, "tell", said.__setitem__)

    async def app(scope, receive, send):
        came.append(dict(intake._arriving))
        if scope.get("breaks"):
            raise ConnectionResetError
        visit = scope["path"].split("/")[3]
        size = int(dict(scope["headers"])[b"content-length"])
        stored.setdefault(visit, {})[len(came)] = SimpleNamespace(data=bytes(size))
        await send({"type": "http.response.start", "status": 204, "headers": []})

    limits = Uploads(file_mb=2, session_mb=5, minute_mb=8, all_mb=9)
    intake = Intake(app, limits)
    intake._minute._now = Clock()

    def put(size, visit="visit", user=None, method="PUT", path=None, **scope):
        sent = []

        async def send(message):
            sent.append(message)

        headers = [(b"content-length", str(size).encode())] if size is not None else []
        headers += [(b"x-cdam-user", user.encode())] if user else []
        path = path or f"/_stcore/upload_file/{visit}/f"
        anyio.run(intake, {"type": "http", "method": method, "path": path, "headers": headers,
                           **scope}, None, send)  # fmt: skip
        head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], head.get("retry-after")

    return SimpleNamespace(put=put, stored=stored, said=said, came=came, intake=intake,
                           clock=intake._minute._now)  # fmt: skip


def test_one_file_may_have_so_many_bytes_and_not_one_more(desk):
    assert desk.put(2 * MB) == (204, None)
    assert desk.said == {}
    assert desk.put(2 * MB + 1) == (413, None)
    assert desk.said == {"visit": "That file was not taken: one file may have 2 MB. Please save a "
                                  "smaller copy."}  # fmt: skip
    assert len(desk.came) == 1


@pytest.mark.parametrize("size", [None, "", "-1", "1e3", "0x10", "²", "1 1"])
def test_a_file_says_its_size_first(desk, size):
    if size == "²":
        size = "\xb2"
    assert desk.put(size)[0] == 411
    assert desk.came == []


def test_what_waits_of_one_visit_is_bounded_until_it_is_read(desk):
    assert [desk.put(2 * MB)[0] for _ in range(3)] == [204, 204, 429]
    assert desk.put(MB)[0] == 204
    assert desk.put(1) == (429, "10")
    assert "5 MB of files may wait here at once" in desk.said["visit"]
    assert desk.put(MB, "other")[0] == 204
    desk.stored["visit"].clear()  # read by the page
    assert desk.put(2 * MB)[0] == 204


def test_what_everybody_has_waiting_is_bounded(desk):
    sent = [desk.put(2 * MB, visit)[0] for visit in "abcd"]
    assert sent == [204] * 4
    assert desk.put(MB + 1, "e")[0] == 429
    assert "many people are sending" in desk.said["e"]
    assert desk.put(MB, "e")[0] == 204


def test_a_minute_is_counted_by_person_where_there_are_names(desk):
    for visit in "ab":
        assert [desk.put(2 * MB, visit, "anna")[0] for _ in range(2)] == [204, 204]
        desk.stored.clear()
    assert desk.put(1, "c", "anna") == (429, "60")
    assert desk.said["c"] == ("Not every file was taken: 8 MB may be sent within a minute. Please "
                              "send the rest in 60 seconds.")  # fmt: skip
    assert desk.put(1, "c", "berta")[0] == 204
    assert desk.put(1, "c")[0] == 204  # a visit without a name counts for itself
    desk.clock.now += 60
    assert desk.put(1, "c", "anna")[0] == 204


def test_what_is_on_its_way_counts_and_does_so_no_more_when_it_breaks_off(desk):
    with pytest.raises(ConnectionResetError):
        desk.put(2 * MB, breaks=True)
    assert desk.came == [{"visit": 2 * MB}]
    assert desk.intake._arriving == {}
    desk.intake._arriving["visit"] = 4 * MB
    assert desk.put(2 * MB)[0] == 429
    assert desk.put(MB)[0] == 204
    assert desk.intake._arriving == {"visit": 4 * MB}


def test_other_requests_pass(desk):
    assert desk.put(9 * MB, method="DELETE")[0] == 204
    assert desk.put(9 * MB, path="/_stcore/visit/x")[0] == 204


# ---- pixels --------------------------------------------------------------------------------------


def test_a_stricter_bound_on_pixels_is_read_when_the_library_is_loaded(monkeypatch):
    monkeypatch.setenv("CDAM_MEGAPIXELS", "1")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    spec = importlib.util.spec_from_file_location("strict_images", images.__file__)
    strict = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(strict)
    rows = bytes(1001 * 1000)
    assert strict.open_image(png(1000, 1000, 8, 0, rows[: 10**6])).size == (1000, 1000)
    with pytest.raises(cdam.BadImage, match="more than 1 million pixels"):
        strict.open_image(png(1001, 1000, 8, 0, rows))
    assert images.MAX_PIXELS == 40 * 10**6


# ---- a real server -------------------------------------------------------------------------------


def put_by_hand(visitor, address, size, stated=None, end=False):
    """Send ``size`` bytes and state another number, or none: pieces; the status."""
    parts = urlsplit(address)
    line = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    line.putrequest("PUT", parts.path)
    cookies = "; ".join(f"{name}={value}" for name, value in visitor.http.cookies.items())
    for name, value in (("Cookie", cookies), ("X-Xsrftoken", visitor._xsrf),
                        ("Content-Type", "multipart/form-data; boundary=b"),
                        *([("Content-Length", str(stated))] if stated is not None
                          else [("Transfer-Encoding", "chunked")])):  # fmt: skip
        line.putheader(name, value)
    line.endheaders()
    try:
        line.send(bytes(size) if stated is not None else b"%x\r\n%s\r\n" % (size, bytes(size)))
        line.sock.shutdown(socket.SHUT_WR) if end else None
        return line.getresponse().status
    finally:
        line.close()


def test_the_upload_route_keeps_every_bound_and_the_page_says_why(tmp_path):
    (tmp_path / "server.toml").write_text(
        "[uploads]\nfile_mb = 1\nsession_mb = 2\nminute_mb = 4\nmegapixels = 1"
    )
    env = {"OMP_NUM_THREADS": "1", "CDAM_SERVER": str(tmp_path / "server.toml")}
    with App(tmp_path, env=env) as app:
        visitor, other = Visitor(app.url), Visitor(app.url)
        visitor.open()
        other.open()

        def put(size, who=visitor):
            address = f"{app.url}/{who._place('secret.png').upload_url.lstrip('/')}"
            files = {"secret.png": ("secret.png", bytes(size), "image/png")}
            return who.http.put(address, files=files, headers={"X-Xsrftoken": who._xsrf},
                                timeout=60)  # fmt: skip

        def said(who=visitor):
            """What the page says by itself, without having been asked for."""
            who.screen.sentences.clear()
            who._until_finished()
            return " ".join(who.screen.sentences)

        # one file
        assert put(MB + 1).status_code == 413
        assert "one file may have 1 MB" in said()
        address = f"{app.url}/{visitor._place('a.png').upload_url.lstrip('/')}"
        assert put_by_hand(visitor, address, 0, stated=10**12) == 413
        assert "one file may have 1 MB" in said()
        assert put_by_hand(visitor, address, 1000) == 411
        assert "size of a file has to be stated" in said()
        # one visit: what no page has read waits
        assert [put(900_000).status_code for _ in range(2)] == [204, 204]
        reply = put(900_000)
        assert (reply.status_code, reply.headers["Retry-After"]) == (429, "10")
        assert reply.text == said()
        assert "2 MB of files may wait here at once" in reply.text
        # others are not troubled, and a picture that is read makes room
        assert put(900_000, other).status_code == 204
        place = address.replace("http://", "").split("/")[-2]
        assert place == visitor._session
        # one minute, across visits' own rooms: files that are read still count
        for number in range(3):
            other.upload(load._png(number))
            assert other.screen.maps
        sent = [put(1_000_000, other) for _ in range(4)]
        last = sent[-1]
        assert last.status_code == 429
        assert int(last.headers["Retry-After"]) > 0
        # more pixels than allowed
        fresh = Visitor(app.url)
        fresh.open()
        fresh.upload(png(1200, 1000, 8, 0, bytes(1200 * 1000)))
        assert "more than 1 million pixels" in " ".join(fresh.screen.sentences)
        [each.close() for each in (visitor, other, fresh)]
        # nobody's visit is nobody's: no sentence is kept, no crash
        nobody = f"{app.url}/_stcore/upload_file/{'0' * 36}/x"
        assert requests.put(nobody, data=bytes(MB + 1), timeout=20).status_code == 413
        log = app.log.read_text()
    assert "Traceback" not in log
    assert "secret" not in log
