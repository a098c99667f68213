"""Who comes in: each way to know somebody, asked at the door and of a real server."""

import base64
import hashlib
import http.client
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, urlencode, urlsplit

import anyio
import pytest
import requests
from joserfc import jwt
from joserfc.jwk import RSAKey
from streamlit.auth_util import decode_provider_token
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from pages import _access, _gate
from pages._access import Door, is_listed, is_within
from pages._settings import BadSettings, Settings, parse
from scripts import load
from scripts.serving import App
from scripts.visitor import Refused, Visitor

SECRET = "s" * 40
PATHS = ("/", "/compare", "/media/abc.jpg", "/static/index.js", "/_stcore/host-config",
         "/_stcore/metrics", "/_stcore/upload_file/a/b", "/component/x/y", "/favicon.png",
         "/_stcore/health/", "//_stcore/health", "/compare/_stcore/health")  # fmt: skip


# ---- names and addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "pattern", "is_one"), [
    ("anna", "anna", True), ("Anna", "anna", True), ("annab", "anna", False),
    ("a@cl.example", "*@cl.example", True), ("a@xcl.example", "*@cl.example", False),
    ("a@cl.example.evil", "*@cl.example", False), ("a@clXexample", "*@cl.example", False),
    ("a@cl.example\n", "*@cl.example", False), ("anything", "*", True),
    ("[abc]", "[abc]", True), ("a", "[abc]", False), ("ab", "a?", False),
])  # fmt: skip
def test_a_name_is_listed_by_itself_or_by_a_star(name, pattern, is_one):
    assert is_listed(name, ["nobody", pattern]) is is_one
    assert not is_listed(name, [])


@pytest.mark.parametrize(("address", "is_inside"), [
    ("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("10.1.2.3", True), ("10.2.0.1", False),
    ("::1", False), ("", False), (None, False), ("localhost", False), ("127.0.0.1, 8.8.8.8", False),
])  # fmt: skip
def test_an_address_is_inside_a_network(address, is_inside):
    assert is_within(address, ["127.0.0.1", "10.1.0.0/16"]) is is_inside


@pytest.mark.parametrize("address", [None, "", "0.0.0.0", "::", "10.0.0.7", "lab.example"])
def test_nobody_unknown_comes_from_other_computers(address):
    with pytest.raises(BadSettings, match="open_to_network"):
        _access.require_address(Settings().access, address)
    _access.require_address(parse("[access]\nopen_to_network = true").access, address)
    _access.require_address(parse(PROXY).access, address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_ones_own_computer_needs_no_names(address):
    _access.require_address(Settings().access, address)


def test_a_login_without_its_package_is_refused_at_start(oidc, monkeypatch):
    monkeypatch.setattr(_access, "is_authlib_installed", lambda: False)
    with pytest.raises(SystemExit, match="needs the package authlib"):
        _access.prepare(parse(oidc()))


def test_administrators_come_in_and_are_told_apart():
    access = parse('[access]\nidentity = "proxy"\nallowed = ["*@clinic.example"]\n'
                   'administrators = ["root@it.example"]').access  # fmt: skip
    assert _access.is_allowed("root@it.example", access)
    assert _access.is_administrator("Root@it.example", access)
    assert not _access.is_administrator("anna@clinic.example", access)
    assert not _access.is_administrator(None, access)
    assert _access.is_administrator(None, Settings().access)
    assert not _access.is_administrator(None, parse("[access]\nopen_to_network = true").access)


# ---- the door, without a server ------------------------------------------------------------------

PROXY = '[access]\nidentity = "proxy"\nallowed = ["anna", "*@clinic.example"]\n'


def ask(settings, headers=(), path="/", peer="127.0.0.1", client=None, kind="http", query=b""):
    """What the door answers: (status, text), and the headers that the app behind it got."""
    inside, sent = [], []

    class Connection:  # as uvicorn has it: what receives knows the connection
        class transport:  # noqa: N801
            @staticmethod
            def get_extra_info(name):
                return (peer, 5) if name == "peername" else None

        async def receive(self):
            return {"type": f"{kind}.connect"}

    async def app(scope, receive, send):
        inside.append([(name.decode(), value.decode()) for name, value in scope["headers"]])

    async def send(message):
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": kind, "path": path, "method": "GET", "query_string": query, "headers": raw,
             "client": (client or peer, 4)}  # fmt: skip
    anyio.run(Door(app, settings), scope, Connection().receive, send)
    if inside:
        return 200, inside[0]
    if kind == "websocket":
        return sent[0]["type"], sent[0]["code"]
    return sent[0]["status"], sent[1]["body"].decode()


def name_inside(answer):
    status, headers = answer
    assert status == 200, answer
    names = [value for name, value in headers if name == _access.HEADER]
    assert len(names) <= 1
    return names[0] if names else None


def test_open_is_for_this_computer_and_nobody_gets_a_name():
    forged = [("X-Cdam-User", "root"), ("X-Remote-User", "root")]
    assert name_inside(ask(Settings(), forged)) is None
    status, text = ask(Settings(), peer="10.0.0.7")
    assert status == 403
    assert text.startswith("This server answers only the computer that it runs on")
    assert ask(Settings(), peer="10.0.0.7", kind="websocket") == ("websocket.close", 1008)
    assert name_inside(ask(parse("[access]\nopen_to_network = true"), forged, peer="10.9.9.9")) \
        is None  # fmt: skip


@pytest.mark.parametrize(("host", "status"), [
    ("localhost:8501", 200), ("127.0.0.1:8501", 200), ("[::1]:8501", 200), ("LOCALHOST", 200),
    ("evil.example:8501", 403), ("localhost.evil.example", 403), ("evil@localhost", 403),
    ("[", 403), ("", 403),
])  # fmt: skip
def test_a_site_whose_name_leads_here_gets_no_answer(host, status):
    assert ask(Settings(), [("Host", host)])[0] == status
    assert ask(parse("[access]\nopen_to_network = true"), [("Host", host)])[0] == 200
    forwarded = [("Host", "cdam.example"), ("X-Forwarded-For", "10.0.0.7")]
    assert ask(Settings(), forwarded)[0] == 200


def test_a_forwarded_address_is_never_taken_for_the_connections():
    """Uvicorn puts what X-Forwarded-For says in the place of the address of a local connection."""
    claim = [("X-Forwarded-For", "127.0.0.1")]
    assert ask(Settings(), claim, peer="10.0.0.7", client="127.0.0.1")[0] == 403
    told = [("X-Forwarded-For", "10.0.0.7"), ("X-Remote-User", "anna")]
    assert name_inside(ask(parse(PROXY), told, client="10.0.0.7")) == "anna"
    elsewhere = parse(PROXY + 'trusted_proxies = ["10.0.0.7"]')
    assert ask(elsewhere, told, client="10.0.0.7")[0] == 403
    assert name_inside(ask(elsewhere, told, peer="10.0.0.7")) == "anna"


@pytest.mark.parametrize(("raw", "name"), [
    ("anna", "anna"), ("b.c@Clinic.example", "b.c%40Clinic.example"),
    ("Jörg@clinic.example".encode().decode("latin-1"), "J%C3%B6rg%40clinic.example"),
])  # fmt: skip
def test_a_proxy_says_who_it_is(raw, name):
    assert name_inside(ask(parse(PROXY), [("X-Remote-User", raw), ("X-Cdam-User", "root")])) == name


@pytest.mark.parametrize("headers", [
    [], [("X-Remote-User", "")], [("X-Remote-User", "  ")], [("X-Cdam-User", "anna")],
    [("X-Remote-User", "anna"), ("x-remote-user", "anna")], [("X-Remote-User", "\xff")],
    [("X-Remote-User", "an\x00na")], [("X-Remote-User", "a" * 321)], [("Remote-User", "anna")],
])  # fmt: skip
def test_without_one_readable_name_there_is_no_answer(headers):
    assert ask(parse(PROXY), headers)[0] == 401


def test_a_name_that_is_not_listed_is_told_so_as_text_never_as_markup():
    settings = parse('[access]\nidentity = "proxy"\nallowed = ["anna"]')
    headers = [("X-Remote-User", "<b>eve"), ("Accept", "text/html,*/*")]
    status, text = ask(settings, headers)
    assert status == 403
    assert "You are known here as &lt;b&gt;eve" in text
    assert "<b>" not in text
    assert "no access to CDAM Explorer" in ask(settings, headers[:1])[1]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_but_health_is_answered_to_the_unknown(path):
    assert ask(parse(PROXY), path=path)[0] == 401
    assert ask(parse(PROXY), path="/_stcore/health")[0] == 200
    assert ask(parse(PROXY), path=path, peer="10.1.1.1")[0] == 403


def test_numbers_about_everybody_are_for_administrators():
    settings = parse(PROXY + 'administrators = ["root"]')
    path = "/_stcore/metrics"
    assert ask(settings, [("X-Remote-User", "anna")], path=path)[0] == 403
    assert ask(settings, [("X-Remote-User", "root")], path=path)[0] == 200
    assert ask(Settings(), path=path)[0] == 200
    assert ask(parse("[access]\nopen_to_network = true"), path=path)[0] == 403


def test_jobs_are_counted_by_person_where_there_are_names(monkeypatch):
    def visit(user_info):
        context = SimpleNamespace(user_info=user_info, session_id="s1")
        monkeypatch.setattr(_gate, "get_script_run_ctx", lambda **_: context)
        return _gate.owner()

    assert visit({_access.USER: "anna", "email": "any@where.example"}) == "user anna"
    for nobody in ({}, None, {_access.USER: None}, {"email": "any@where.example"}):
        assert visit(nobody) == "session s1"


# ---- what a login leaves -------------------------------------------------------------------------


@pytest.fixture
def oidc(tmp_path):
    """Write a complete section, and return its text."""

    def write(allowed='["*@clinic.example"]', url="https://id.example", home="https://cdam.example",
              extra=""):  # fmt: skip
        for name, content in (("client", "xyz"), ("cookie", SECRET)):
            (tmp_path / name).write_text(f"{content}\n")
            (tmp_path / name).chmod(0o600)
        return (f'[access]\nidentity = "oidc"\nallowed = {allowed}\n[oidc]\n'
                f'metadata_url = "{url}/.well-known/openid-configuration"\nclient_id = "cdam"\n'
                f'client_secret_file = "{tmp_path / "client"}"\n'
                f'cookie_secret_file = "{tmp_path / "cookie"}"\n'
                f'redirect_uri = "{home}/oauth2callback"\n{extra}')  # fmt: skip

    return write


def cookie(secret=SECRET, name="_streamlit_user", **told):
    told = {"email": "anna@clinic.example", "origin": "https://cdam.example",
            "is_logged_in": True} | told  # fmt: skip
    signed = create_signed_value(secret, name, json.dumps(told)).decode()
    return [("Cookie", f"a=b; _streamlit_user={signed}")]


def test_a_login_is_believed_if_it_is_signed_here(oidc):
    settings = parse(oidc())
    assert name_inside(ask(settings, cookie())) == "anna%40clinic.example"
    assert name_inside(ask(settings, cookie(email_verified=True))) == "anna%40clinic.example"
    by_id = parse(oidc('["k7"]', extra='claim = "sub"'))
    assert name_inside(ask(by_id, cookie(sub="k7", email_verified=False))) == "k7"


@pytest.mark.parametrize("wrong", [
    dict(secret="t" * 40), dict(name="_streamlit_user_tokens"), dict(is_logged_in=False),
    dict(origin="https://elsewhere.example"), dict(origin=None),
])  # fmt: skip
def test_any_other_cookie_is_none(oidc, wrong):
    status, text = ask(parse(oidc()), [*cookie(**wrong), ("Accept", "text/html")])
    assert status == 401
    assert '<a href="/auth/login?to=%2F">Sign in</a>' in text


@pytest.mark.parametrize("told", [dict(email_verified=False), dict(email=None), dict(email=["a"]),
                                  dict(email=" ")])  # fmt: skip
def test_a_login_that_does_not_say_for_certain_who_it_is_does_not_count(oidc, told):
    status, text = ask(parse(oidc('["*"]')), cookie(**told))
    assert status == 403
    assert "did not say for certain who you are" in text


def test_a_login_is_over_after_its_hours(oidc, monkeypatch):
    headers = cookie()
    now = time.time()
    for hours, status in ((1.9, 200), (2.1, 401)):
        monkeypatch.setattr(time, "time", lambda hours=hours: now + hours * 3600)
        assert ask(parse(oidc(extra="session_hours = 2")), headers)[0] == status


@pytest.mark.parametrize("home", ["https://cdam.example", "http://127.0.0.1:8501"])
def test_a_login_asks_for_the_one_provider_and_its_cookies_stay_on_https(oidc, home):
    asked, sent = [], []
    secure = b"; Secure" if home.startswith("https") else b""

    async def app(scope, receive, send):
        asked.append(parse_qs(scope["query_string"].decode()))
        head = [(b"set-cookie", b"a=b; HttpOnly"), (b"location", b"x")]
        await send({"type": "http.response.start", "status": 302, "headers": head})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/auth/login", "method": "GET", "headers": [],
             "query_string": b"provider=somebody-elses"}  # fmt: skip
    anyio.run(Door(app, parse(oidc(home=home))), scope, None, send)
    assert decode_provider_token(*asked[0]["provider"])["provider"] == "default"
    assert sent[0]["headers"] == [
        (b"set-cookie", b"a=b; HttpOnly" + secure), (b"location", b"x"),
        (b"set-cookie", b"cdam_wanted=/; Path=/; Max-Age=600; HttpOnly; SameSite=Lax" + secure),
    ]  # fmt: skip


@pytest.mark.parametrize(("base", "address", "is_own"), [
    ("", "/compare?a=1", True), ("", "/", True), ("", "//evil.example/", False),
    ("", "/\\evil.example", False), ("", "https://evil.example/", False), ("", "", False),
    ("", "/\t/evil.example", False), ("", "/a\r\nSet-Cookie: b=c", False),
    ("", "/" + "a" * 2000, False), ("cdam", "/cdam/compare", True), ("cdam", "/cdam", False),
    ("cdam", "/other/", False), ("cdam", "/cdam.evil/", False),
])  # fmt: skip
def test_a_login_leads_back_to_this_app_alone(monkeypatch, base, address, is_own):
    monkeypatch.setattr(_access.config, "get_option", lambda _: base)
    assert _access._is_own(address) is is_own
    wanted = _access._wanted({"query_string": urlencode({"to": address}).encode()})
    assert wanted == (address if is_own else f"{base and '/'}{base}/")


@pytest.mark.parametrize("path", PATHS)
def test_no_path_but_health_and_the_login_itself_is_open(oidc, path):
    assert ask(parse(oidc()), path=path)[0] == 401
    assert ask(parse(oidc()), path=path, kind="websocket") == ("websocket.close", 1008)
    assert ask(parse(oidc()), path="/oauth2callback", query=b"code=c&state=s")[0] == 200
    assert ask(parse(oidc()), path="/oauth2callback")[0] == 302  # back from signing out
    assert ask(parse(oidc()), path="/_stcore/health")[0] == 200
    assert ask(parse(PROXY), path="/oauth2callback")[0] == 401  # of no use there


# ---- real servers --------------------------------------------------------------------------------


def server(folder, settings):
    """A process of the app; ``settings`` is the text of its file, or makes it from the address."""
    running = App(folder, env={"OMP_NUM_THREADS": "1", "CDAM_SERVER": str(folder / "server.toml")})
    content = settings if isinstance(settings, str) else settings(running.url)
    (folder / "server.toml").write_text(content)
    return running


def get(url, source="127.0.0.1", **headers):
    """Status of a request from one of this computer's addresses."""
    parts = urlsplit(url)
    line = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60,
                                      source_address=(source, 0))  # fmt: skip
    line.request("GET", parts.path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    status = line.getresponse().status
    line.close()
    return status


def stream(url, **options):
    """Open the websocket and close it again."""
    with connect(url.replace("http", "ws") + "/_stcore/stream", origin=url, proxy=None,
                 subprotocols=["streamlit"], **options):  # fmt: skip
        pass


def test_open_answers_this_computer_and_no_claim_changes_that(tmp_path):
    with server(tmp_path, "") as app:
        visitor = Visitor(app.url, headers={"X-Cdam-User": "root", "X-Remote-User": "root"})
        visitor.open()
        visitor.upload(load._png(1))
        assert visitor.screen.maps
        assert "Signed in as" not in str(visitor.screen.words)
        visitor.close()
        assert get(app.url + "/", X_Forwarded_For="10.0.0.7") == 200


def test_a_proxy_that_is_trusted_says_who_it_is_and_nobody_else_gets_an_answer(tmp_path):
    """127.0.0.1 is the proxy, 127.0.0.2 is anybody who found the port."""
    settings = '[access]\nidentity = "proxy"\nallowed = ["anna"]\ntrusted_proxies = ["127.0.0.1"]'
    with server(tmp_path, settings) as app:
        visitor = Visitor(app.url, headers={"X-Remote-User": "anna", "X-Forwarded-For": "10.9.9.9"})
        visitor.open()
        visitor.upload(load._png(2))
        assert visitor.screen.maps
        assert "Signed in as anna" in visitor.screen.words
        place = visitor._place("a.png")
        media = f"{app.url}/media/{'0' * 64}.jpg"
        assert get(media, X_Remote_User="anna") == 404
        for path in PATHS:
            assert get(app.url + path) == 401
            assert get(app.url + path, X_Remote_User="eve") == 403
            forged = dict(X_Remote_User="anna", X_Forwarded_For="127.0.0.1", X_Cdam_User="anna")
            assert get(app.url + path, "127.0.0.2", **forged) == 403
        del visitor.http.headers["X-Remote-User"]
        with pytest.raises(Refused, match="401"):
            visitor.put(place.upload_url, load._png(3), "a.png")
        visitor.close()
        for options in ({}, {"additional_headers": {"X-Remote-User": "eve"}},
                        {"additional_headers": {"X-Remote-User": "anna"},
                         "source_address": ("127.0.0.2", 0)},
                        {"additional_headers": [("X-Remote-User", "anna")] * 2}):  # fmt: skip
            with pytest.raises(InvalidStatus, match="403"):
                stream(app.url, **options)
        stream(app.url, additional_headers={"X-Remote-User": "anna"})


class Provider(ThreadingHTTPServer):
    """An identity provider that signs in whoever is set as ``email``, and checks what it is asked.

    Attributes:
        email: of the person in front of the browser.
        complaints: what the app did wrong.
        signed_out: how often somebody left through it.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
        self.email, self.complaints, self.signed_out, self.codes = "", [], 0, {}

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *failure):
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    """One request to the provider."""

    def log_message(self, *arguments):
        """Say nothing."""

    def do_GET(self):
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        url = self.server.url
        if parts.path == "/.well-known/openid-configuration":
            self.say({
                "issuer": url, "authorization_endpoint": f"{url}/authorize",
                "token_endpoint": f"{url}/token", "jwks_uri": f"{url}/jwks",
                "end_session_endpoint": f"{url}/leave", "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "code_challenge_methods_supported": ["S256"],
            })  # fmt: skip
        elif parts.path == "/jwks":
            self.say({"keys": [self.server.key.as_dict(private=False)]})
        elif parts.path == "/authorize":
            code = f"code{len(self.server.codes)}"
            self.server.codes[code] = asked
            self.go(asked["redirect_uri"], code=code, state=asked["state"])
        else:
            self.server.signed_out += 1
            self.go(asked["post_logout_redirect_uri"])

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        told = {name: values[0] for name, values in parse_qs(sent).items()}
        asked = self.server.codes.pop(told["code"])
        challenge = hashlib.sha256(told["code_verifier"].encode()).digest()
        client = base64.b64encode(b"cdam:xyz").decode()
        for is_right, what in (
            (self.headers["Authorization"] == f"Basic {client}", "client"),
            (told["redirect_uri"] == asked["redirect_uri"], "redirect_uri"),
            (base64.urlsafe_b64encode(challenge).decode().rstrip("=") == asked["code_challenge"],
             "code_verifier"),
            ("openid" in asked["scope"].split(), "scope"),
        ):  # fmt: skip
            if not is_right:
                self.server.complaints.append(what)
        now = int(time.time())
        claims = {"iss": self.server.url, "aud": "cdam", "sub": "1", "nonce": asked["nonce"],
                  "iat": now, "exp": now + 300, "email": self.server.email,
                  "email_verified": True}  # fmt: skip
        header = {"alg": "RS256", "kid": "one"}
        self.say({"access_token": "t", "token_type": "Bearer", "expires_in": 300,
                  "id_token": jwt.encode(header, claims, self.server.key)})  # fmt: skip

    def say(self, what):
        content = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def go(self, where, **query):
        self.send_response(302)
        self.send_header("Location", where + ("?" + urlencode(query) if query else ""))
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def signed_in(tmp_path, oidc):
    """The app with a provider: (address, provider, a browser's session without scripts)."""
    with Provider() as provider, server(
        tmp_path, lambda home: oidc(url=provider.url, home=home)
    ) as app, requests.Session() as session:
        session.trust_env = False
        session.headers["Accept"] = "text/html"
        yield app, provider, session


def test_oidc_from_the_first_request_to_the_last(signed_in):
    app, provider, session = signed_in
    # not signed in: nothing is readable
    for path in PATHS:
        reply = session.get(app.url + path, timeout=60)
        assert (reply.status_code, "Please sign in" in reply.text) == (401, True)
    with pytest.raises(InvalidStatus, match="403"):
        stream(app.url)
    # signed in, but not on the list: one sentence, and nothing else
    provider.email = "eve@elsewhere.example"
    reply = session.get(f"{app.url}/auth/login", timeout=60)
    assert reply.status_code == 403
    assert "You are known here as eve@elsewhere.example, and this name has no access" in reply.text
    assert {session.get(app.url + path, timeout=60).status_code for path in PATHS} == {403}
    # somebody else
    reply = session.get(f"{app.url}/auth/logout", timeout=60)
    assert (reply.status_code, provider.signed_out) == (401, 1)
    provider.email = "anna@clinic.example"
    wanted = f"{app.url}/concepts?model=scenes&x=%C3%A4"
    link = re.search('href="(/auth/login[^"]*)"', session.get(wanted, timeout=60).text)[1]
    reply = session.get(app.url + link, timeout=60)
    assert (reply.status_code, reply.url) == (200, wanted)
    visitor = Visitor(app.url, http=session)
    visitor.open()
    visitor.upload(load._png(4))
    assert visitor.screen.maps
    assert "Signed in as anna@clinic.example" in visitor.screen.words
    place = visitor._place("a.png")
    # out again
    reply = session.get(f"{app.url}/auth/logout", timeout=60)
    assert (reply.status_code, provider.signed_out) == (401, 2)
    assert session.get(f"{app.url}/media/x.jpg", timeout=60).status_code == 401
    with pytest.raises(Refused, match="401"):
        visitor.put(place.upload_url, load._png(5), "a.png")
    visitor.close()
    assert provider.complaints == []
    log = app.log.read_text()
    assert "Traceback" not in log
    assert "clinic.example" not in log
    # the provider is away
    provider.shutdown()
    provider.server_close()
    reply = session.get(f"{app.url}/auth/login", timeout=60)
    assert reply.status_code == 502
    assert "login does not answer right now" in reply.text
