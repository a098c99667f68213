"""Uploads never touch the disk, not even while they arrive."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# A 9 MB upload, parsed as the server parses it once app.py has been read; any temporary file that
# would be opened on the way is an error.
SCRIPT = """
import asyncio, sys, tempfile
if sys.argv[1] == "app":
    import app
from starlette.requests import Request

def refuse(*arguments, **settings):
    raise SystemExit("a temporary file was opened")

tempfile.TemporaryFile = refuse
content = b"--b\\r\\nContent-Disposition: form-data; name=f; filename=x.png\\r\\n\\r\\n"
content += bytes(9 * 2**20) + b"\\r\\n--b--\\r\\n"
scope = {"type": "http", "method": "PUT", "query_string": b"",
         "headers": [(b"content-type", b"multipart/form-data; boundary=b")]}

async def receive():
    return {"type": "http.request", "body": content, "more_body": False}

async def main():
    async with Request(scope, receive).form() as form:
        print(form["f"].size)

asyncio.run(main())
"""


def parse_upload(with_app):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, "app" if with_app else "bare"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_large_upload_stays_in_memory():
    done = parse_upload(with_app=True)
    assert done.stdout.split()[-1:] == [str(9 * 2**20)], done.stderr[-500:]


def test_the_servers_default_would_have_been_noticed():
    assert "a temporary file was opened" in parse_upload(with_app=False).stderr
