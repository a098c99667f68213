"""Who may come in: asked of every request before anything of the app answers it.

Pages, pictures, uploads, the websocket and the frontend's own files are behind the same door. What
is known of a visitor goes on in one header of our own, which nobody outside can set, and arrives in
``st.user``: pages ask ``user()`` and never look at cookies or headers.
"""

import html
import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from string import Template
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import streamlit as st
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config
from streamlit.auth_util import (
    encode_provider_token,
    get_cookie_with_chunks,
    is_authlib_installed,
)
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

from pages import _settings
from pages._settings import CALLBACK, Access, BadSettings, Settings

HEADER = "x-cdam-user"  # carries the visitor's name inward, percent-encoded
USER = "cdam_user"  # its place in st.user
HEALTH = "/_stcore/health"  # for watchdogs: says no more than that the process answers
METRICS = "/_stcore/metrics"  # numbers about everybody, for administrators
LOGIN, LOGOUT = "/auth/login", "/auth/logout"  # Streamlit's own
LOOPBACK = ("127.0.0.0/8", "::1/128")
WANTED = "cdam_wanted"  # cookie with the page that somebody came for, while he signs in
ASCII_OF_ADDRESSES = "/?&=%#:+,;@!$'()*~[]"
MAX_NAME = 320  # characters; the longest an e-mail address can be
VIEWER = Path(__file__).parent / "_viewer"


class Refused(Exception):
    """Nobody comes in like this.

    Args:
        status: of HTTP; 401 where one can still say who one is, else 403.
        sentence: for the visitor.
        links: (words, address below the app's) of what can be done about it.
    """

    def __init__(self, status: int, sentence: str, *links: tuple[str, str]):
        super().__init__(sentence)
        self.status, self.sentence, self.links = status, sentence, links


AWAY = Refused(502, "Your organisation's login does not answer right now; please try again in a "
               "minute.", ("Try again", LOGIN))  # fmt: skip


# ---- at start ------------------------------------------------------------------------------------


def prepare(settings: Settings) -> None:
    """Tell Streamlit where names come from; to be called once, before the server answers.

    Raises:
        SystemExit: with one sentence, where the server must not start.
    """
    try:
        require_address(settings.access, config.get_option("server.address"))
        if settings.access.identity == "oidc" and not is_authlib_installed():
            raise BadSettings('access.identity = "oidc" needs the package authlib; install what '
                              "requirements.txt states.")  # fmt: skip
    except BadSettings as error:
        raise SystemExit(f"CDAM Explorer does not start. {error}") from None
    config.set_option("server.trustedUserHeaders", {HEADER: USER})
    if settings.access.identity == "oidc":  # what is signed before and after a login
        config.set_option("server.cookieSecret", _settings.secret(settings.oidc.cookie_secret_file))


def require_address(access: Access, address: str | None) -> None:
    """Refuse to listen for other computers without knowing who is there.

    Args:
        access: who may come in.
        address: that the server listens on; None: all.

    Raises:
        BadSettings: saying what to do.
    """
    if access.identity == "open" and not access.open_to_network and not _is_here(address):
        raise BadSettings(
            'access.identity = "open" asks nobody for a name, and the server would listen beyond '
            'this computer; choose "proxy" or "oidc", or --server.address=127.0.0.1, or allow it '
            "with access.open_to_network = true."
        )


def _is_here(address: str | None) -> bool:
    return address == "localhost" or is_within(address, LOOPBACK)


def _names_this_computer(scope: Scope) -> bool:
    """Whether a browser was asked for this computer, and not for a site that has led it here.

    A site can have its own name stand for this computer's address, and would then be taken for the
    app by a browser that visits it. A proxy in front has a name of its own.
    """
    headers = Headers(scope=scope)
    if "host" not in headers or "x-forwarded-for" in headers:
        return True
    return _is_here(re.sub(r":\d*$", "", headers["host"]).strip("[]").lower())


def secrets(settings: Settings) -> dict[str, dict[str, str]] | None:
    """What Streamlit's login needs, made here in memory; there is no ``secrets.toml``."""
    if settings.access.identity != "oidc":
        return None
    oidc = settings.oidc
    return {"auth": {
        "redirect_uri": oidc.redirect_uri,
        "cookie_secret": _settings.secret(oidc.cookie_secret_file),
        "client_id": oidc.client_id,
        "client_secret": _settings.secret(oidc.client_secret_file),
        "server_metadata_url": oidc.metadata_url,
    }}  # fmt: skip


# ---- whom the administrator let in ---------------------------------------------------------------


def is_listed(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of those; "*" stands for any characters, capitals do not matter."""
    return any(
        re.fullmatch(".*".join(map(re.escape, each.casefold().split("*"))), name.casefold())
        for each in patterns
    )


def is_allowed(name: str, access: Access) -> bool:
    """Whether somebody may come in."""
    return is_listed(name, (*access.allowed, *access.administrators))


def is_administrator(name: str | None, access: Access) -> bool:
    """Whether somebody may see what concerns everybody; on one's own computer, whoever is there."""
    if access.identity == "open":
        return not access.open_to_network
    return name is not None and is_listed(name, access.administrators)


def is_within(address: str | None, networks: Iterable[str]) -> bool:
    """Whether an address belongs to one of the networks."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    found = getattr(found, "ipv4_mapped", None) or found
    return any(found in ipaddress.ip_network(each) for each in networks)


def user() -> str | None:
    """The name of the visitor whose page is drawn; None where nobody is asked for one."""
    name = st.user.get(USER)
    return unquote(name) if isinstance(name, str) else None


def user_of(scope: Scope) -> str | None:
    """The name that this door has given to a request."""
    name = Headers(scope=scope).get(HEADER)
    return unquote(name) if name else None


# ---- the door ------------------------------------------------------------------------------------


class Door:
    """Middleware that lets in whom the administrator allowed, and answers everybody else itself.

    Args:
        app: what is behind it.
        settings: of the server.
    """

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app, self.access, self.oidc = app, settings.access, settings.oidc
        ways = {"open": self._from_here, "proxy": self._told_by_proxy, "oidc": self._signed_in}
        self._name = ways[self.access.identity]
        self._secret = ""
        if self.access.identity == "oidc":
            self._secret = _settings.secret(self.oidc.cookie_secret_file)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        path = path_below(scope)
        scope = _without_name(scope)
        if path == HEALTH:
            await self.app(scope, receive, send)
        elif self.access.identity == "oidc" and path in (LOGIN, LOGOUT, CALLBACK):
            await self._sign_in_or_out(path, scope, receive, send)
        else:
            try:
                name = self._require(self._name(scope, receive), path)
            except Refused as refusal:
                await refuse(refusal, scope, receive, send)
            else:
                await self.app(_with_name(scope, name), receive, send)

    def _require(self, name: str | None, path: str) -> str | None:
        """The name, if it may come in; None is nobody in particular, where names are not asked."""
        if name is not None and not is_allowed(name, self.access):
            by_login = self.access.identity == "oidc"
            raise Refused(
                403,
                f"You are known here as {name}, and this name has no access to CDAM Explorer on "
                "this server. Please ask its administrator.",
                *([("Sign in as somebody else", LOGOUT)] if by_login else []),
            )
        if path == METRICS and not is_administrator(name, self.access):
            raise Refused(403, "This is for the administrators of this server.")
        return name

    # ---- three ways to know somebody -------------------------------------------------------------

    def _from_here(self, scope: Scope, receive: Receive) -> None:
        """Nobody is asked for a name; without more ado only on this very computer."""
        if self.access.open_to_network:
            return
        if not is_within(peer(scope, receive), LOOPBACK) or not _names_this_computer(scope):
            raise Refused(403, "This server answers only the computer that it runs on, under its "
                          "address there: localhost.")  # fmt: skip

    def _told_by_proxy(self, scope: Scope, receive: Receive) -> str:
        """The name in the proxy's header, stated once, by a proxy that is trusted."""
        if not is_within(peer(scope, receive), self.access.trusted_proxies):
            raise Refused(403, "This server is reached through its own address only; please ask "
                          "its administrator for it.")  # fmt: skip
        stated = Headers(scope=scope).getlist(self.access.user_header)
        if len(stated) != 1:
            raise Refused(401, "It is not known here who you are; please sign in first.")
        return _readable(stated[0])

    def _signed_in(self, scope: Scope, receive: Receive) -> str:
        """The name in the cookie that Streamlit sets after a login."""
        cookies = HTTPConnection(scope).cookies
        days = self.oidc.session_hours / 24
        found = get_cookie_with_chunks(
            lambda name: decode_signed_value(self._secret, name, cookies.get(name, ""), days),
            USER_COOKIE_NAME,
        )
        told = json.loads(found) if found else {}
        parts = urlsplit(self.oidc.redirect_uri)
        if not told.get("is_logged_in") or told.get("origin") != f"{parts.scheme}://{parts.netloc}":
            raise Refused(401, "Please sign in to use CDAM Explorer.", ("Sign in", LOGIN))
        name = told.get(self.oidc.claim)
        is_doubtful = self.oidc.claim == "email" and told.get("email_verified") is False
        if not isinstance(name, str) or not name.strip() or is_doubtful:
            raise Refused(403, "Your organisation's login did not say for certain who you are; "
                          "please ask the administrator.", ("Sign in again", LOGOUT))  # fmt: skip
        return name.strip()

    async def _sign_in_or_out(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Streamlit's own login; the way there is open to all, and the same for all."""
        if path == CALLBACK and not scope["query_string"]:  # back from signing out
            await RedirectResponse(f"{base_path()}/", 302)(scope, receive, send)
            return
        if self.oidc.redirect_uri.startswith("https:"):
            send = _secure_cookies(send)
        if path == LOGIN:
            send = _or_say(AWAY, scope, receive, _remember(_wanted(scope), send))
            query = urlencode({"provider": encode_provider_token("default")})
            scope = dict(scope, query_string=query.encode())
        elif path == CALLBACK:
            send = _lead_back(scope, send)
        await self.app(scope, receive, send)


def path_below(scope: Scope) -> str:
    """The path of a request below the address of the app, with its slash; "" if not below it."""
    path, base = scope["path"], base_path()
    return path[len(base) :] if path.startswith(f"{base}/") else ""


def base_path() -> str:
    """The path of the app's own address: "/cdam", or nothing."""
    base = (config.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{base}" if base else ""


def peer(scope: Scope, receive: Receive) -> str | None:
    """The address at the other end of the connection; None if that is not certain.

    Where the other end is this computer, uvicorn writes into ``client`` whatever X-Forwarded-For
    says, so in that case the connection itself is asked.
    """
    if "x-forwarded-for" not in Headers(scope=scope):
        return scope["client"][0] if scope.get("client") else None
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    found = transport.get_extra_info("peername") if transport is not None else None
    return found[0] if found else None


def _readable(raw: str) -> str:
    """A name as proxies write it into a header: UTF-8 in bytes that Starlette reads as latin-1."""
    try:
        name = raw.encode("latin-1").decode("utf-8").strip()
    except UnicodeError:
        name = ""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise Refused(401, "It is not known here who you are; please sign in first.")
    return name


def _without_name(scope: Scope) -> Scope:
    """Nobody outside can say who he is by our own header."""
    headers = [each for each in scope["headers"] if each[0].lower() != HEADER.encode()]
    return dict(scope, headers=headers)


def _with_name(scope: Scope, name: str | None) -> Scope:
    told = [(HEADER.encode(), quote(name).encode())] if name is not None else []
    return dict(scope, headers=[*scope["headers"], *told])


# ---- around a login ------------------------------------------------------------------------------

Head = list[tuple[bytes, bytes]]


def _with_head(send: Send, change: Callable[[Head], Head]) -> Send:
    """Answer with other headers."""

    async def changed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = dict(message, headers=change(list(message["headers"])))
        await send(message)

    return changed


def _secure_cookies(send: Send) -> Send:
    """Cookies of a login go over https only; Streamlit does not say so."""
    return _with_head(send, lambda head: [
        (name, value + b"; Secure" if name.lower() == b"set-cookie" else value)
        for name, value in head
    ])  # fmt: skip


def _remember(wanted: str, send: Send) -> Send:
    """Keep the page that somebody came for in a cookie, while the login lasts."""
    return _with_head(send, lambda head: [*head, _cookie(WANTED, quote(wanted), 600)])


def _lead_back(scope: Scope, send: Send) -> Send:
    """After a login, go to the page that was wanted, instead of the first one."""
    wanted = unquote(HTTPConnection(scope).cookies.get(WANTED, ""))

    def change(head: Head) -> Head:
        is_signed_in = any(value.startswith(USER_COOKIE_NAME.encode()) for _, value in head)
        if is_signed_in and _is_own(wanted):
            head = [each for each in head if each[0].lower() != b"location"]
            head.append((b"location", quote(wanted, safe=ASCII_OF_ADDRESSES).encode()))
        return [*head, _cookie(WANTED, "", 0)]

    return _with_head(send, change)


def _or_say(refusal: Refused, scope: Scope, receive: Receive, send: Send) -> Send:
    """Give our own answer where Streamlit's would be an error."""
    failed = []

    async def checked(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            failed.append(message)
            await refuse(refusal, scope, receive, send)
        elif not failed:
            await send(message)

    return checked


def _cookie(name: str, value: str, seconds: int) -> tuple[bytes, bytes]:
    text = f"{name}={value}; Path={base_path()}/; Max-Age={seconds}; HttpOnly; SameSite=Lax"
    return b"set-cookie", text.encode()


def _wanted(scope: Scope) -> str:
    """The page that a request for a login names; the first one if it is none of ours."""
    stated = parse_qs(scope["query_string"].decode("latin-1")).get("to", [""])[0]
    return stated if _is_own(stated) else f"{base_path()}/"


def _is_own(address: str) -> bool:
    """Whether an address is below the app's own, and no other server's in disguise."""
    inside = address.startswith(f"{base_path()}/") and address.isprintable()
    return inside and not address.startswith("//") and "\\" not in address and len(address) < 2000


# ---- the answer at the door ----------------------------------------------------------------------

async def refuse(refusal: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Say why, as a page to a person and in one line to everything else."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    await _answer(refusal, scope)(scope, receive, send)


def _answer(refusal: Refused, scope: Scope) -> Response:
    headers = {"Cache-Control": "no-store"}
    if "text/html" not in Headers(scope=scope).get("accept", ""):
        return PlainTextResponse(refusal.sentence, refusal.status, headers)
    query = scope.get("query_string", b"").decode("latin-1")
    here = scope["path"] + (f"?{query}" if query else "")
    to = "" if path_below(scope) == LOGIN else "?" + urlencode({"to": here})
    links = "".join(f'<a href="{base_path()}{path}{to if path == LOGIN else ""}">{words}</a>'
                    for words, path in refusal.links)  # fmt: skip
    page = Template((VIEWER / "door.html").read_text("utf-8")).substitute(
        logo=(VIEWER / "logo.svg").read_text("utf-8"), sentence=html.escape(refusal.sentence),
        links=links,
    )  # fmt: skip
    return HTMLResponse(page, refusal.status, headers)
