"""Wait until a process of the app is ready: the last step of its start in systemd.

   python scripts/ready.py PORT [SECONDS]

The base path is that of STREAMLIT_SERVER_BASE_URL_PATH. Ends with 1 where nothing answers in time;
a server that answers but cannot load its model goes on, because its pages say so.
"""

import os
import sys
import time
import urllib.error
import urllib.request

PATIENCE = 240.0  # seconds
PAUSE = 0.5
WARMING = "warming up"


def answer(url: str) -> str:
    """What the server says of itself; nothing where it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.read(200).decode("ascii", "replace").strip()
    except urllib.error.HTTPError as error:
        with error:
            return error.read(200).decode("ascii", "replace").strip()
    except (OSError, ValueError):
        return ""


def main(port: str, patience: float = PATIENCE) -> int:
    """Ask until it is ready."""
    base = os.environ.get("STREAMLIT_SERVER_BASE_URL_PATH", "").strip("/")
    url = f"http://127.0.0.1:{int(port)}/{f'{base}/' if base else ''}readyz"
    end = time.monotonic() + patience
    while (said := answer(url)) in ("", WARMING):
        if time.monotonic() > end:
            print(f"CDAM Explorer on port {port} is not ready after {patience:.0f} s.")
            return 1
        time.sleep(PAUSE)
    print(f"CDAM Explorer on port {port}: {said}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(float, sys.argv[2:3])))
