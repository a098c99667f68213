"""What every answer of the server tells the browser: keep nothing, load nothing from elsewhere."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pages._access import path_below

STATIC = "/static/"  # Streamlit's own files, the same for everybody; hashes are in their names
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@cache
def policy() -> str:
    """The Content-Security-Policy: nothing but what this server itself sends.

    Streamlit's page has one small script of its own inside, which is named by its hash. Styles are
    set by Streamlit's libraries at run time; components come as blobs, pictures as data; one of the
    libraries counts with WebAssembly, which is no way to run text as a script.
    """
    page = (Path(st.__file__).parent / "static" / "index.html").read_text("utf-8")
    own = [
        "'sha256-" + base64.b64encode(hashlib.sha256(found.encode()).digest()).decode() + "'"
        for found in SCRIPT.findall(page)
    ]
    return "; ".join((
        "default-src 'none'",
        f"script-src 'self' blob: 'wasm-unsafe-eval' {' '.join(own)}".strip(),
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ))  # fmt: skip


def headers() -> dict[str, str]:
    """Of every answer, whatever it is."""
    return {
        "Content-Security-Policy": policy(),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    }


class Headers:
    """ASGI middleware that sets them; only Streamlit's own files may be kept by a browser."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        may_keep = path_below(scope).startswith(STATIC)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in headers().items():
                    found[name] = value
                if not may_keep or message["status"] != 200:
                    found["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, send_with_headers)
