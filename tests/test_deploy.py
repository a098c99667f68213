"""The files of ``assets/deploy``: systemd's own check, and two processes behind a real nginx.

python -m pytest -m long tests/test_deploy.py     # Debian: nginx-light, openssl, systemd
"""

import re
import shutil
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import requests
from websockets.exceptions import InvalidStatus

import cdam_core as cdam
from pages import _operations
from pages._access import HEALTH
from pages._operations import HEALTHZ, READYZ
from pages._settings import Settings
from scripts import load, ready
from scripts.serving import DEPLOY, PASSWORD, ROOT, App, Nginx, free_port
from scripts.visitor import Refused, Visitor

pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
SITE = (DEPLOY / "cdam-nginx.conf").read_text("utf-8")
SNIPPET = (DEPLOY / "cdam-proxy.conf").read_text("utf-8")
UNIT = (DEPLOY / "cdam@.service").read_text("utf-8")


# ---- what can be read from the files -------------------------------------------------------------


def test_every_request_to_the_app_says_who_asks_and_from_where():
    passed = SITE.count("proxy_pass http://cdam;")
    assert passed == SITE.count("include /etc/nginx/cdam-proxy.conf;") > 3
    assert re.search(r"proxy_set_header X-Remote-User\s+\$remote_user;", SNIPPET)
    assert re.search(r"proxy_set_header X-Forwarded-For\s+\$remote_addr;", SNIPPET)
    open_to_all = re.search(r"location ~ (\S+) {\s+auth_basic off;", SITE)[1]
    assert SITE.count("auth_basic off;") == 1
    allowed = [HEALTH, HEALTHZ, READYZ]
    assert open_to_all == f"^/cdam/({'|'.join(path[1:] for path in allowed)})$"
    assert "add_header" not in SITE + SNIPPET  # headers are the app's
    assert "http_503" in SITE  # what a stopping process answers


def test_the_unit_bounds_memory_restarts_and_writes_nowhere():
    lines = set(UNIT.splitlines())
    assert {"Restart=always", "PrivateTmp=yes", "ProtectSystem=strict", "ProtectHome=yes",
            "NoNewPrivileges=yes", "IPAddressDeny=any", "MemorySwapMax=0"} <= lines  # fmt: skip
    assert re.search(r"^MemoryMax=\d+G$", UNIT, re.MULTILINE)
    assert not re.search(r"^ReadWritePaths", UNIT, re.MULTILINE)
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[1])
    assert stop > 2 * Settings().computing.stop_s
    start = int(re.search(r"^TimeoutStartSec=(\d+)$", UNIT, re.MULTILINE)[1])
    assert start > ready.PATIENCE
    assert (ROOT / "scripts" / "ready.py").is_file()
    assert "ExecStartPost=/srv/cdam/venv/bin/python scripts/ready.py %i" in lines


def test_a_start_is_over_when_the_server_is_ready(monkeypatch, capsys):
    """A stand-in warms up, and is then ready, or lacks its model."""
    class Server(BaseHTTPRequestHandler):
        said: ClassVar = []

        def do_GET(self):
            assert self.path == "/lab/readyz"
            said = self.said.pop(0)
            self.send_response(200 if said == _operations.READY else 503)
            self.end_headers()
            self.wfile.write(f"{said}\n".encode())

        def log_message(self, *_):
            pass

    monkeypatch.setenv("STREAMLIT_SERVER_BASE_URL_PATH", "lab")
    monkeypatch.setattr(ready, "PAUSE", 0)
    assert ready.WARMING == _operations.WARMING
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for last in (_operations.READY, _operations.NO_MODEL):
            Server.said += [_operations.WARMING, _operations.WARMING, last]
            assert ready.main(str(server.server_port)) == 0
            assert last in capsys.readouterr().out
        server.shutdown()
    assert ready.main(str(server.server_port), 0.0) == 1
    assert "not ready after 0 s" in capsys.readouterr().out


# ---- with a real nginx and a real systemd --------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """nginx, and two processes behind it."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "server.toml").write_text('[access]\nidentity = "proxy"\nallowed = ["user*"]')
    env = {"OMP_NUM_THREADS": "1", "STREAMLIT_SERVER_COOKIE_SECRET": "the same for both" * 3,
           "CDAM_SERVER": str(folder / "server.toml")}  # fmt: skip
    apps = [App(folder, options={"server.baseUrlPath": "cdam"}, env=env) for _ in range(2)]
    users = [f"user{number}" for number in range(8)]
    with apps[0], apps[1], Nginx(folder, [app.port for app in apps], users) as nginx:
        yield nginx, apps


@pytest.fixture
def ask(lab):
    """Ask for a path below the site's address."""
    site = lab[0].url.removesuffix("/cdam")
    with requests.Session() as session:
        session.trust_env, session.verify = False, False

        def get(path, user="user0", **options):
            auth = (user, PASSWORD) if user else None
            return session.get(site + path, auth=auth, allow_redirects=False, timeout=60, **options)

        yield get


@pytest.mark.long
def test_nginx_accepts_the_files(tmp_path):
    said = Nginx(tmp_path, [free_port(), free_port()], ["user0"]).check()
    assert "test is successful" in said
    assert "warn" not in said


@pytest.mark.long
def test_systemd_accepts_the_unit(tmp_path):
    unit = tmp_path / "cdam@8501.service"
    unit.write_text(UNIT.replace("/srv/cdam/venv/bin/python", shutil.which("env")))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
@pytest.mark.parametrize("path", [
    "/cdam/", "/cdam/compare", "/cdam/media/abc.jpg", "/cdam/_stcore/host-config", "/cdam/static/a",
])
def test_nothing_is_readable_without_a_password(ask, path):
    assert ask(path, user=None).status_code == 401
    assert ask(path, user="stranger").status_code == 401


@pytest.mark.long
def test_health_is_for_everybody_and_numbers_are_for_nobody(ask):
    for path in (HEALTH, HEALTHZ, READYZ):
        assert ask(f"/cdam{path}", user=None).status_code == 200
    for path in ("/cdam/_stcore/metrics", "/cdam/_stcore/agent"):
        assert ask(path).status_code in (401, 403)
    assert ask("/").headers["Location"].endswith("/cdam/")


@pytest.mark.long
def test_without_a_password_there_is_no_upload_and_no_websocket(lab):
    nginx, _ = lab
    visitor = Visitor(nginx.url, ("user0", PASSWORD))
    try:
        visitor.open()
        place = visitor._place("x.png")
        visitor.http.auth = None
        with pytest.raises(Refused, match="401"):
            visitor.put(place.upload_url, load._png(1), "x.png")
        with pytest.raises(InvalidStatus, match="401"):
            visitor._connect()
    finally:
        visitor.close()


@pytest.mark.long
def test_a_picture_and_its_maps_go_through_for_everybody(lab):
    nginx, _ = lab
    model = cdam.load_model("scenes")
    for number in range(4):
        visitor = Visitor(nginx.url, (f"user{number}", PASSWORD))
        try:
            visitor.open()
            visitor.upload(load._png(number))
            visitor.choose(load.A, visitor.screen.choices[load.A].options[number])
            encoding = model.encode_image(cdam.open_image(load._png(number)))
            seen = load.Seen(number, None, visitor.screen.maps)
            assert load.difference(model, encoding, seen) == ""
        finally:
            visitor.close()


@pytest.mark.long
def test_a_person_stays_with_one_process_and_both_are_used(lab):
    nginx, apps = lab

    def visits():
        return [_connections(app.port) for app in apps]

    chosen = set()
    for number in range(8):
        before = visits()
        both = [Visitor(nginx.url, (f"user{number}", PASSWORD)) for _ in range(2)]
        [visitor.open() for visitor in both]
        more = [after - once for after, once in zip(visits(), before, strict=True)]
        [visitor.close() for visitor in both]
        assert min(more) <= 0 < max(more), more
        chosen.add(more.index(max(more)))
    assert chosen == {0, 1}


def _connections(port: int) -> int:
    """Established connections to a local port, by /proc/net/tcp."""
    wanted = f"0100007F:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return sum(row[1] == wanted and row[3] == "01" for row in rows)


@pytest.mark.long
def test_a_header_of_a_visitor_does_not_arrive(tmp_path):
    """A plain listener in the app's place shows what nginx passes on."""
    forged = {"X-Remote-User": "admin", "X-Forwarded-For": "1.2.3.4"}
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Nginx(tmp_path, [listener.getsockname()[1]], ["user0"]) as nginx,
    ):
        with pytest.raises(requests.exceptions.ReadTimeout):
            requests.get(f"{nginx.url}/", auth=("user0", PASSWORD), verify=False, timeout=2,
                         headers=forged, proxies={"https": ""})  # fmt: skip
        connection, _ = listener.accept()
        with connection:
            arrived = connection.recv(65536).decode()
    assert "X-Remote-User: user0\r\n" in arrived
    assert "admin" not in arrived
    assert "1.2.3.4" not in arrived
    assert "Authorization" not in arrived


@pytest.mark.long
def test_when_a_process_is_gone_the_other_one_answers(lab, ask):
    nginx, apps = lab
    users = [f"user{number}" for number in range(8)]
    apps[1].stop("kill")
    try:
        assert {ask("/cdam/", user=user).status_code for user in users} == {200}
        for user in users[:3]:
            visitor = Visitor(nginx.url, (user, PASSWORD))
            visitor.open()
            assert visitor.screen.maps
            assert f"Signed in as {user}" in visitor.screen.words
            visitor.close()
    finally:
        apps[1].start()
