"""What goes wrong on a server, done on purpose: each drill is a real run of the app.

   python scripts/drills.py [NAME ...]

Drills: kill, stop, disk, model, home, clock, network; all by default. Linux, as root, with
util-linux (unshare, setpriv), iproute2 and faketime. A visitor without a browser opens a page and
uploads a picture where that is possible; a line says what was seen. Ends with 1 where one fails.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import requests  # noqa: E402

from pages import _visits  # noqa: E402
from scripts.load import A, Seen, _png, difference  # noqa: E402
from scripts.serving import App, answers  # noqa: E402
from scripts.visitor import Refused, Visitor  # noqa: E402

NOBODY = "65534"
SLOW = "Attention rollout"  # seconds of computing
RESTARTED = 60.0  # seconds in which a killed server must answer again, however busy the machine


class Failed(Exception):
    """A drill that did not go as it must; the message says how."""


def main() -> int:
    """Run the drills and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DRILLS))
    given = parser.parse_args()
    if wrong := set(given.names) - set(DRILLS):
        parser.error(f"no such drill: {', '.join(sorted(wrong))}")
    is_right = True
    for name in given.names or DRILLS:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                told = DRILLS[name](Path(scratch))
            except (Failed, Refused, RuntimeError, OSError) as error:
                told, is_right = f"FAILED: {error}", False
        print(f"{name}: {told}", flush=True)
    return 0 if is_right else 1


def require(condition: object, otherwise: str) -> None:
    """Fail the drill unless the condition holds."""
    if not condition:
        raise Failed(otherwise)


def works(url: str, seed: int = 1) -> None:
    """A visitor opens the page, uploads a picture, asks for a class; the maps are right."""
    import cdam_core as cdam

    visitor = Visitor(url)
    try:
        visitor.open()
        visitor.upload(_png(seed))
        visitor.choose(A, list(visitor.screen.choices[A].options)[3])
        model = cdam.load_model("scenes")
        image = cdam.limit_side(cdam.open_image(_png(seed)), 1536)
        wrong = difference(model, model.encode_image(image), Seen(seed, None, visitor.screen.maps))
        require(not wrong, f"a wrong map: {wrong}")
    finally:
        visitor.close()


def begins_anew(url: str, before: Visitor) -> None:
    """The tab connects again, as a browser does: the page is drawn anew and says why."""
    require(before.screen.asks_again, "the browser would not ask for the page again")
    shown = before.screen.maps["panels"][0]["src"]
    again = Visitor(url, earlier=before.session)
    again.open()
    again.close()
    require(_visits.RESET in again.screen.sentences, "nothing is said about the restart")
    require(again.screen.maps["panels"][0]["src"] != shown, "the old picture is shown as current")


def silent(app: App) -> None:
    """The log holds no traceback and nothing of a visitor."""
    log = app.log.read_text()
    require("Traceback" not in log, f"a traceback in the log:\n{log[-1500:]}")


# ---- drills --------------------------------------------------------------------------------------


def kill(folder: Path) -> str:
    """SIGKILL under an open visit, and a start by a supervisor, as systemd does it."""
    app = App(folder)
    app.start()
    visitor = Visitor(app.url)
    visitor.open()
    visitor.upload(_png(2))
    app.stop("kill")
    require(not answers(app.url), "health stays green")
    gone = False
    try:
        visitor.choose("Row", 3.0)
    except Exception:  # whatever the closed socket raises; a browser says "Connection error"
        gone = True
    require(gone, "the visit goes on without a server")
    visitor.close()
    seconds = app.start()
    try:
        require(seconds < RESTARTED, f"{seconds:.0f} s until it answers again")
        begins_anew(app.url, visitor)
        works(app.url)
        silent(app)
        left = list(ROOT.rglob("*.part"))
        require(not left, f"half-written files: {left}")
    finally:
        app.stop()
    return (f"connection error in the open tab; answers again after {seconds:.1f} s; the tab is "
            "told and shows no map of before; right maps")  # fmt: skip


def stop(folder: Path) -> str:
    """SIGTERM, as systemd stops it, while a slow job computes: it is finished, and shown."""
    (folder / "server.toml").write_text("[computing]\nstop_s = 600\n", "utf-8")
    app = App(folder, env={"CDAM_SERVER": str(folder / "server.toml")})
    app.start()
    visitor = Visitor(app.url)
    visitor.open()
    slow = next(each for each in visitor.screen.choices["Method"].options if SLOW in each)
    drawn = visitor.screen.drawn
    job = threading.Thread(target=visitor.choose, args=("Method", slow))
    job.start()
    while not any(SLOW in each for each in visitor.screen.words):  # its progress bar
        require(job.is_alive(), f"{SLOW} was done too soon")
        time.sleep(0.1)
    app.process.terminate()
    begun = time.monotonic()
    while status(f"{app.url}/readyz") != 503:
        require(time.monotonic() - begun < 10, "still ready after SIGTERM")
    require(status(f"{app.url}/healthz") == 200, "it is gone already")
    require(status(app.url) == 503, "new visits are let in")
    require(job.is_alive(), "the job did not last until here")
    code = app.process.wait(600)
    job.join(10)
    seconds = time.monotonic() - begun
    require(code == -signal.SIGTERM, f"exit code {code}")
    require(visitor.screen.drawn > drawn, "what was computed did not arrive")
    require("Every job is done." in app.log.read_text(), "the log does not say that it was done")
    silent(app)
    visitor.close()
    return (f"not ready at once, new visits turned away; {SLOW} was finished and shown; ended "
            f"after {seconds:.0f} s")  # fmt: skip


def status(url: str) -> int:
    """How an address answers a browser."""
    return requests.get(url, headers={"Accept": "text/html"}, timeout=30).status_code


def disk(folder: Path) -> str:
    """No room in the temporary folder: pictures are read and explained in memory."""
    small = folder / "small"
    small.mkdir()
    mount = (f"mount -t tmpfs -o size=1m none {small} && "
             f"dd if=/dev/zero of={small}/full bs=64k 2>{os.devnull}; ")  # fmt: skip
    prefix = ["unshare", "-m", "sh", "-c", mount + 'exec "$@"', "sh"]
    app = App(folder, prefix=prefix, env={"TMPDIR": str(small), "MPLCONFIGDIR": str(small),
                                          "CDAM_CONCEPTS": str(small)})  # fmt: skip
    with app:
        mounts = Path(f"/proc/{app.process.pid}/mounts").read_text()
        require(str(small) in mounts, "the small file system is not there")
        works(app.url)
        silent(app)
    return "with a full disk a picture is uploaded and explained as ever; nothing needs the disk"


def model(folder: Path) -> str:
    """A copy of the program whose weights are gone: one sentence, and no traceback."""
    copy = _copy_of_program(folder)
    (copy / "assets" / "models" / "scenes.safetensors").unlink()
    app = App(folder, cwd=copy)
    with app:
        visitor = Visitor(app.url)
        visitor.open()
        said = visitor.screen.sentences
        visitor.close()
        require(said, "nothing is said")
        require(visitor.screen.maps is None, "maps without weights")
        silent(app)
    return "the page says: " + said[-1].replace("\\", "")


def home(folder: Path) -> str:
    """Another user than root, whose home and program cannot be written to."""
    copy = _copy_of_program(folder)
    for path in [folder, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    copy.chmod(0o555)
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    app = App(folder, cwd=copy, prefix=prefix, env={"HOME": str(copy)})
    with app:
        user = Path(f"/proc/{app.process.pid}").stat().st_uid
        require(user == int(NOBODY), f"it runs as {user}")
        works(app.url)
        silent(app)
    return "started as nobody with a read-only home; right maps; no traceback"


def clock(folder: Path) -> str:
    """A machine whose clock is years ahead, and one whose clock is years behind."""
    for moment in ("+3650d", "-3650d"):
        app = App(folder, prefix=["faketime", "-f", moment])
        with app:
            works(app.url)
            silent(app)
    return "ten years ahead and ten years behind: starts, uploads, right maps"


def network(folder: Path) -> str:
    """A network without anything but the machine itself: the visitor is inside, too."""
    script = ("import sys; sys.path.insert(0, '.');"
              "from pathlib import Path; from scripts.drills import *;"
              f"app = App(Path({str(folder)!r}));\n"
              "with app:\n    works(app.url); silent(app)\n")  # fmt: skip
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-c",
         script], cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    require(done.returncode == 0, done.stderr[-1500:])
    return "without any network: starts, uploads, right maps; nothing is waited for"


def _copy_of_program(folder: Path) -> Path:
    copy = folder / "program"
    for name in ("cdam_core", "pages", "assets", ".streamlit"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "app.py", copy)
    return copy


DRILLS: dict[str, Callable[[Path], str]] = {
    "kill": kill,
    "stop": stop,
    "disk": disk,
    "model": model,
    "home": home,
    "clock": clock,
    "network": network,
}


if __name__ == "__main__":
    sys.exit(main())
