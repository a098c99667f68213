"""A visitor without a browser: speaks the app's own protocol, for ``load.py`` and ``drills.py``.

A page is asked for over a websocket in Streamlit's messages; what arrives is kept as it would be on
the screen: choices by their label, the numbers of the maps, sentences. Pictures are uploaded as a
browser uploads them. Nothing here knows the app's code, only what it sends.
"""

import base64
import json
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

ANYWAY = "Show the maps anyway"
UPLOAD = "Open your own picture"
MAPS = "shown"  # the entry of the viewer's data that holds the numbers of its maps
PATIENCE = 120.0  # seconds for one answer

urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # certificates of tests


class Refused(Exception):
    """The server did not answer as it should; the message says how."""


@dataclass
class Screen:
    """What the visitor sees.

    Attributes:
        choices: label -> the widget with that label, drawn last.
        part: label -> id of the part of the page that alone is drawn again; "" is the whole page.
        maps: data of the viewer, with the numbers of every patch.
        drawn: how often maps have arrived.
        asks_again: whether the browser is to ask for the page when it is connected again.
        sentences: texts of alerts, the newest last.
        words: other text, also of progress bars and toasts, the newest last.
    """

    choices: dict[str, Any] = field(default_factory=dict)
    part: dict[str, str] = field(default_factory=dict)
    maps: dict[str, Any] | None = None
    drawn: int = 0
    asks_again: bool = False
    sentences: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


class Visitor:
    """One tab of a browser.

    Args:
        url: address of the app, with its base path, without a slash at the end.
        user: (name, password) where a proxy asks for them.
        page: path of the page.
        earlier: id of a visit to go on with.
        http: a session that has signed in already.
        headers: sent with every request, as a proxy does.
    """

    def __init__(self, url: str, user: tuple[str, str] | None = None, page: str = "",
                 earlier: str = "", http: requests.Session | None = None,
                 headers: dict[str, str] | None = None):  # fmt: skip
        self.url, self.page, self.screen = url.rstrip("/"), page, Screen()
        self.http, self._headers = http or requests.Session(), headers or {}
        self.http.headers.update(self._headers)
        self.http.trust_env = False
        self.http.verify = False
        if user:
            self.http.auth = user
        self._get("/_stcore/health")
        self._xsrf = self.http.cookies.get("_streamlit_xsrf", "")
        self._session, self._hash, self._set = earlier, "", {}
        self._open = ExitStack()
        self._socket = self._open.enter_context(self._connect())

    @property
    def session(self) -> str:
        """Id of the visit; after a break, of the one that the server goes on with."""
        return self._session

    def close(self) -> None:
        """Close the tab."""
        self._open.close()
        self.http.close()

    def _get(self, path: str) -> requests.Response:
        reply = self.http.get(self.url + path, timeout=PATIENCE)
        if reply.status_code != 200:
            raise Refused(f"{path} answered {reply.status_code}")
        return reply

    def _connect(self):
        parts = urlsplit(self.url)
        cookies = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        headers = self._headers | {"Cookie": cookies}
        if self.http.auth:
            told = base64.b64encode(":".join(self.http.auth).encode()).decode()
            headers["Authorization"] = f"Basic {told}"
        return connect(
            f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}{parts.path}"
            "/_stcore/stream",
            origin=f"{parts.scheme}://{parts.netloc}", additional_headers=headers, proxy=None,
            subprotocols=["streamlit", self._xsrf or "none", *filter(None, [self._session])],
            max_size=None, open_timeout=PATIENCE,
            ssl=_trusting() if parts.scheme == "https" else None,
        )  # fmt: skip

    # ---- what a visitor does ---------------------------------------------------------------------

    def open(self, query: str = "") -> None:
        """Ask for the page."""
        self._run("", query)

    def choose(self, label: str, value: str | float | bool) -> None:
        """Change a choice, by its label: an option's text, a number, or on and off."""
        if label not in self.screen.choices:
            raise Refused(f"there is no choice {label!r} on the page")
        name = "bool_value" if isinstance(value, bool) else \
            "string_value" if isinstance(value, str) else "double_value"  # fmt: skip
        self._set[self.screen.choices[label].id] = (name, value)
        self._run(self.screen.part[label])

    def press(self, label: str) -> None:
        """Press a button once."""
        widget = self.screen.choices[label].id
        self._set[widget] = ("trigger_value", True)
        self._run(self.screen.part[label])
        del self._set[widget]

    def upload(self, content: bytes, name: str = "picture.png") -> None:
        """Open a picture, and have its maps shown even if the model finds it unfamiliar."""
        place = self._place(name)
        self.put(place.upload_url, content, name)
        info = dict(file_id=place.file_id, name=name, size=len(content), file_urls=place)
        self._run("", uploaded=info)
        if ANYWAY in self.screen.choices and self.screen.maps is None:
            self.choose(ANYWAY, True)

    def put(self, path: str, content: bytes, name: str) -> requests.Response:
        """Send a file to the address that the server gave."""
        reply = self.http.put(
            f"{self.url}/{path.lstrip('/')}",
            files={name: (name, content, "image/png")},
            headers={"X-Xsrftoken": self._xsrf}, timeout=PATIENCE,
        )  # fmt: skip
        if reply.status_code not in (200, 201, 204):
            raise Refused(f"an upload was answered {reply.status_code}")
        return reply

    def _place(self, name: str):
        message = BackMsg()
        message.file_urls_request.request_id = str(uuid.uuid4())
        message.file_urls_request.file_names.append(name)
        message.file_urls_request.session_id = self._session
        self._socket.send(message.SerializeToString())
        while True:
            answer = self._receive()
            if answer.WhichOneof("type") == "file_urls_response":
                return answer.file_urls_response.file_urls[0]

    # ---- the protocol ----------------------------------------------------------------------------

    def _run(self, part: str, query: str = "", uploaded: dict[str, Any] | None = None) -> None:
        """Have the page, or a part of it, drawn again; returns when that is done."""
        message = BackMsg()
        ask = message.rerun_script
        ask.query_string, ask.page_script_hash, ask.fragment_id = query, self._hash, part
        if not self._hash:
            ask.page_name = self.page
        ask.context_info.url, ask.context_info.timezone = self.url, "Etc/UTC"
        for widget, (name, value) in self._set.items():
            setattr(ask.widget_states.widgets.add(id=widget), name, value)
        if uploaded:
            self.screen.maps = None
            state = ask.widget_states.widgets.add(id=self.screen.choices[UPLOAD].id)
            state.file_uploader_state_value.uploaded_file_info.add(**uploaded)
        self._socket.send(message.SerializeToString())
        self._until_finished()

    def _until_finished(self) -> None:
        kinds = ForwardMsg.ScriptFinishedStatus
        while True:
            answer = self._receive()
            if answer.WhichOneof("type") == "script_finished":
                if answer.script_finished == kinds.FINISHED_WITH_COMPILE_ERROR:
                    raise Refused("the page cannot be run")
                if answer.script_finished != kinds.FINISHED_EARLY_FOR_RERUN:
                    return
            self._take(answer)

    def _receive(self) -> ForwardMsg:
        message = ForwardMsg()
        message.ParseFromString(self._socket.recv(timeout=PATIENCE))
        return message

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self._session = message.new_session.initialize.session_id or self._session
            self._hash = message.new_session.page_script_hash
        elif kind == "auto_rerun":
            self.screen.asks_again = True
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            self._take_element(element.WhichOneof("type"), element, message.delta.fragment_id)

    def _take_element(self, kind: str, element: Any, part: str) -> None:
        drawn = getattr(element, kind) if kind else None
        if kind == "bidi_component":
            data = json.loads(drawn.json) if drawn.WhichOneof("data") == "json" else {}
            if MAPS in data:
                self.screen.maps, self.screen.drawn = data, self.screen.drawn + 1
        elif kind == "exception":
            raise Refused(f"an exception was shown: {drawn.type}")
        elif kind == "alert":
            self.screen.sentences.append(drawn.body)
        elif kind in ("markdown", "text"):
            self.screen.words.append(drawn.body)
        elif kind == "progress":
            self.screen.words.append(drawn.text)
        elif kind == "toast":
            self.screen.words.append(drawn.body)
        elif kind and getattr(drawn, "label", "") and getattr(drawn, "id", ""):
            self.screen.choices[drawn.label], self.screen.part[drawn.label] = drawn, part


def _trusting():
    """For certificates that are signed by nobody, as tests have them."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
