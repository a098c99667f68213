"""Starting what a lab runs, for ``load.py``, ``drills.py`` and tests: the app, and a real nginx.

nginx gets the files of ``assets/deploy`` as they are, but for paths, ports and the second process.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "assets" / "deploy"
START = 180.0  # seconds that a start may take on a busy machine
PASSWORD = "a password for tests"


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    """Whether the app's health is green."""
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=3) as reply:
            return reply.status == 200
    except (OSError, ValueError):
        return False


class App:
    """One process of the app.

    Args:
        folder: for its log.
        port: to listen on; 0: any.
        options: of ``streamlit run``, without dashes.
        env: added to the environment.
        prefix: command that runs it, such as faketime.
        python: of its environment.
        cwd: the program's folder.
    """

    def __init__(self, folder: Path, port: int = 0, *, options: dict[str, str] | None = None,
                 env: dict[str, str] | None = None, prefix: Sequence[str] = (),
                 python: str = sys.executable, cwd: Path = ROOT):  # fmt: skip
        self.port = port or free_port()
        base = (options or {}).get("server.baseUrlPath", "")
        self.url = f"http://127.0.0.1:{self.port}" + (f"/{base}" if base else "")
        given = {"server.port": str(self.port), "server.headless": "true"} | (options or {})
        self.command = [*prefix, python, "-m", "streamlit", "run", "app.py",
                        *(f"--{name}={value}" for name, value in given.items())]  # fmt: skip
        self.log, self.cwd = folder / f"app-{self.port}.log", cwd
        self.env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | (env or {})
        self.process: subprocess.Popen | None = None

    def start(self) -> float:
        """Start it; seconds until its health is green.

        Raises:
            RuntimeError: it ended, or did not answer in time.
        """
        begun = time.monotonic()
        with self.log.open("a") as out:
            self.process = subprocess.Popen(self.command, cwd=self.cwd, stdout=out, stderr=out,
                                            env=self.env)  # fmt: skip
        while not answers(self.url):
            if self.process.poll() is not None or time.monotonic() - begun > START:
                self.stop()
                raise RuntimeError(f"the app did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)
        return time.monotonic() - begun

    def stop(self, how: str = "terminate") -> int:
        """End it, gracefully or by "kill"; its exit code."""
        if self.process is None:
            return 0
        getattr(self.process, how)()
        return self.process.wait(120)  # jobs at work are finished

    def memory(self) -> float:
        """MB that it holds now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text("ascii").splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0

    def __enter__(self) -> "App":
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()


class Nginx:
    """nginx with the files of ``assets/deploy``, https, and a password for each user.

    Args:
        folder: for its files.
        ports: of the app's processes.
        users: names; all have ``PASSWORD``.

    Attributes:
        url: address of the app behind it.
    """

    def __init__(self, folder: Path, ports: Sequence[int], users: Sequence[str]):
        self.folder, self.port, self.plain = folder, free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}/cdam"
        self.process: subprocess.Popen | None = None
        (folder / "proxy.conf").write_text((DEPLOY / "cdam-proxy.conf").read_text("utf-8"))
        self._write_users(users)
        self._write_certificate()
        (folder / "cdam.conf").write_text(self._adapted(ports))
        (folder / "nginx.conf").write_text(
            ("user root;\n" if os.getuid() == 0 else "")
            + f"daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\n"
            f"error_log {folder}/error.log;\nevents {{ worker_connections 1024; }}\n"
            f"http {{ client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
            f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;\n"
            f"scgi_temp_path {folder}/s;\n"
            f"include {folder}/cdam.conf; }}\n"
        )

    def _adapted(self, ports: Sequence[int]) -> str:
        text = (DEPLOY / "cdam-nginx.conf").read_text("utf-8")
        changes = {
            "listen 80;": f"listen 127.0.0.1:{self.plain};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            "/etc/ssl/cdam/fullchain.pem": f"{self.folder}/cert.pem",
            "/etc/ssl/cdam/privkey.pem": f"{self.folder}/key.pem",
            "/etc/nginx/cdam.htpasswd": f"{self.folder}/users",
            "/etc/nginx/cdam-proxy.conf": f"{self.folder}/proxy.conf",
            "/var/log/nginx/cdam.log": f"{self.folder}/access.log",
            "cdam.example.org": "127.0.0.1",
            "server 127.0.0.1:8501": f"server 127.0.0.1:{ports[0]}",
        }
        if len(ports) > 1:
            changes["# server 127.0.0.1:8502"] = f"server 127.0.0.1:{ports[1]}"
        for old, new in changes.items():
            if old not in text:
                raise RuntimeError(f"cdam-nginx.conf has no {old!r} any more")
            text = text.replace(old, new)
        return text

    def _write_users(self, users: Sequence[str]) -> None:
        made = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], capture_output=True,
                              text=True, check=True).stdout.strip()  # fmt: skip
        (self.folder / "users").write_text("".join(f"{user}:{made}\n" for user in users))

    def _write_certificate(self) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
             "/CN=127.0.0.1", "-keyout", str(self.folder / "key.pem"), "-out",
             str(self.folder / "cert.pem")],
            check=True, capture_output=True,
        )  # fmt: skip

    def check(self) -> str:
        """What ``nginx -t`` says.

        Raises:
            RuntimeError: it does not accept the files.
        """
        done = subprocess.run([_program(), "-t", "-p", str(self.folder), "-c",
                               str(self.folder / "nginx.conf")], capture_output=True,
                              text=True)  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stderr

    def __enter__(self) -> "Nginx":
        self.check()
        self.process = subprocess.Popen([_program(), "-p", str(self.folder), "-c",
                                         str(self.folder / "nginx.conf")])  # fmt: skip
        begun = time.monotonic()
        while time.monotonic() - begun < 20:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.1)
        raise RuntimeError("nginx does not answer")

    def __exit__(self, *failure: object) -> None:
        self.process.terminate()
        self.process.wait(20)


def _program() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        raise RuntimeError("nginx is not installed: apt-get install nginx-light")
    return found
