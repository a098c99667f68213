"""Runs of a benchmark: folders, processes of their own, and one line for everybody.

A run is ``python -m cdam_core benchmark`` on a folder of its own, with little priority, so that
clicks are answered meanwhile. One run at a time works on this computer, whoever started it and
whichever process of the server; the others wait. What a run is at is never remembered but looked
up: whoever is at work, or in line, holds a lock on the folder, which the system takes away when the
process ends, however it ends. A run that a restart has ended is therefore seen as stopped.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar

import streamlit as st

from cdam_core import threads
from cdam_core.benchmarks.datasets import BUILT_IN
from cdam_core.benchmarks.runner import PAPERS_HELD_OUT, RUN
from cdam_core.files import write_atomically
from pages._attention_sets import folders
from pages._gate import Busy

try:
    import fcntl
except ImportError:  # Windows: only this process knows what it runs
    fcntl = None

VARIABLE = "CDAM_RUNS"
ROOT = Path(__file__).parent.parent
REQUEST, LOG, PID, STOP, ENDED, HOLD = (
    "request.json", "log.txt", "pid", "stop", "ended.json", ".hold")  # fmt: skip
TURN = ".turn"  # in the shared folder: held by whoever may compute
WAITING, RUNNING, DONE, STOPPED, FAILED = "waiting", "running", "done", "stopped", "failed"
MAX_WAITING, MAX_OWN = 20, 3  # runs in line: of everybody, of one visitor
MAX_LISTED = 200
NICE = 15
TICK = 0.3  # seconds between two looks
GRACE = 20.0  # seconds that a run has to end by itself
PREFIX = "cdam-runs-"


@dataclass(frozen=True)
class Request:
    """What a visitor asked for.

    Attributes:
        model: id, as for ``load_model``.
        side: of the input in pixels; None: the model's own.
        data: a built-in id, or "folder:" and the label of an allowed folder; never a path.
        methods: ids.
        limit: pictures at most.
        protocol: "default" | "paper".
        steps: of the curves.
        boxes: per size.
        began: when, in UTC.
    """

    model: str
    side: int | None
    data: str
    methods: tuple[str, ...]
    limit: int
    protocol: str
    steps: int
    boxes: int
    began: str = ""

    @property
    def data_label(self) -> str:
        """Of the data, for people."""
        return self.data.removeprefix("folder:")

    def command(self, out: Path) -> list[str]:
        """The command line.

        Raises:
            ValueError: the folder is not allowed any more.
        """
        data = self.data
        if data not in BUILT_IN:
            allowed = folders().get(self.data_label)
            if allowed is None:
                raise ValueError("the folder of pictures is not allowed here any more")
            data = str(allowed)
        size = [] if self.side is None else [f"--size={self.side}"]
        device = os.environ.get("CDAM_DEVICE", "").strip()
        return [
            sys.executable, "-m", "cdam_core", "benchmark", f"--model={self.model}", *size,
            *([f"--device={device}"] if device else []),
            *(["--half"] if os.environ.get("CDAM_HALF") == "1" else []),
            f"--data={data}", f"--methods={','.join(self.methods)}", f"--limit={self.limit}",
            f"--protocol={self.protocol}", f"--steps={self.steps}", f"--boxes={self.boxes}",
            *([f"--tune={min(PAPERS_HELD_OUT, self.limit)}"] if self.protocol == "paper" else []),
            f"--workers={max(1, threads.cores() - 1)}", f"--out={out}",
        ]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run's folder and what was asked, if the app was asked."""

    folder: Path
    request: Request | None

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: pictures.
        total: of how many; 0: not known yet.
        seconds_left: by the pace so far; None: not known yet.
        is_tuning: whether these are the held-out pictures that the noise is chosen on.
    """

    done: int
    total: int
    seconds_left: float | None
    is_tuning: bool = False


# ---- folders -------------------------------------------------------------------------------------


class _Private:
    """The folder of a visit's own runs; it goes, and what works in it ends, with the visit."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        weakref.finalize(self, line.let_go, self.folder).atexit = False


def shared_root() -> Path | None:
    """The administrator's folder for everybody's runs, if there is one that can be written to."""
    name = os.environ.get(VARIABLE, "").strip()
    path = Path(name).expanduser() if name else None
    if path is None or not path.is_dir() or not os.access(path, os.W_OK):
        return None
    return path.resolve()


def root(is_needed: bool = False) -> Path | None:
    """Where this visitor's runs are; a private folder is made when it is needed."""
    if (shared := shared_root()) is not None:
        return shared
    if "benchmark.private" not in st.session_state and is_needed:
        st.session_state["benchmark.private"] = _Private()
    private = st.session_state.get("benchmark.private")
    return private.folder if private is not None else None


def runs() -> list[Run]:
    """The runs that this visitor sees, the latest first."""
    place = root()
    if place is None:
        return []
    try:
        below = sorted((each for each in place.iterdir() if each.is_dir()), reverse=True)
    except OSError:
        return []
    known = (each for each in below if not each.name.startswith(".")
             and ((each / REQUEST).is_file() or (each / RUN).is_file()))  # fmt: skip
    return [Run(each, read_request(each)) for each in islice(known, MAX_LISTED)]


def create(request: Request) -> Run:
    """A folder for a new run.

    Raises:
        OSError: it cannot be made.
    """
    now = datetime.now(UTC)
    folder = root(is_needed=True) / f"{now:%Y%m%d-%H%M%S}-{token_hex(3)}"
    folder.mkdir()
    said = asdict(request) | {"began": f"{now:%Y-%m-%d %H:%M} UTC"}
    write_atomically(folder / REQUEST, json.dumps(said, indent=1).encode())
    return Run(folder, read_request(folder))


def read_request(folder: Path) -> Request | None:
    """What the app was asked for in a folder; None where it was not the app, or it is damaged."""
    said = _json(folder / REQUEST)
    try:
        kept = {name: said[name] for name in Request.__dataclass_fields__}
        found = Request(**kept | {"methods": tuple(map(str, kept["methods"]))})
        texts = (found.model, found.data, found.protocol, found.began)
        numbers = (found.limit, found.steps, found.boxes)
        is_sound = all(isinstance(t, str) for t in texts) and all(type(n) is int for n in numbers)
        return found if is_sound and isinstance(found.side, int | None) else None
    except (KeyError, TypeError):
        return None


def about(folder: Path) -> Mapping:
    """What run.json says by now; empty where there is none yet."""
    return _json(folder / RUN)


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# ---- what a run is at ----------------------------------------------------------------------------


def state(run: Run) -> str:
    """WAITING, RUNNING, DONE, STOPPED or FAILED, as the folder shows it now."""
    if Hold.is_held(run.folder / HOLD):
        return RUNNING if (run.folder / PID).is_file() else WAITING
    ended = _json(run.folder / ENDED)
    if about(run.folder).get("finished") is True:
        return DONE
    if ended.get("code") not in (None, 0) and not ended.get("stopped"):
        return FAILED
    return STOPPED


def why_failed(run: Run) -> str:
    """The command's own sentence, the last one that it said."""
    try:
        text = (run.folder / LOG).read_text("utf-8", "replace")[-4000:]
    except OSError:
        text = ""
    said = [line for line in text.splitlines() if line.startswith("cdam: ")]
    if not said:
        return "The run ended without a word; most likely it needed more memory than there is."
    return said[-1].removeprefix("cdam: ")[:500]


def progress(run: Run) -> Progress:
    """By the files of the pictures that are done."""
    told = about(run.folder).get("data", {})
    told = told if isinstance(told, dict) else {}
    counts = [told.get(name) for name in ("pictures", "held_out")]
    total, held = (counts[0] - counts[1], counts[1]) \
        if all(isinstance(each, int) for each in counts) else (0, 0)
    if run.request is not None and total:
        total = min(total, run.request.limit)
    times = _times(run.folder / "parts", ".parquet")
    tried = _times(run.folder / "tuning", ".json")
    if tried and not times:
        return Progress(len(tried), held, _seconds_left(run, tried, held), is_tuning=True)
    return Progress(len(times), total, _seconds_left(run, times, total))


def _times(folder: Path, suffix: str) -> list[float]:
    try:
        with os.scandir(folder) as found:
            return sorted(each.stat().st_mtime for each in found if each.name.endswith(suffix)
                          and not each.name.startswith("."))  # fmt: skip
    except OSError:
        return []


def _seconds_left(run: Run, times: list[float], total: int) -> float | None:
    """By the pace since the run was last started."""
    try:
        started = (run.folder / PID).stat().st_mtime
    except OSError:
        return None
    fresh = [each for each in times if each >= started]
    if not fresh or not total:
        return None
    pace = (fresh[-1] - started) / len(fresh)
    return max(0.0, pace * (total - len(times)) - (time.time() - fresh[-1]))


class Hold:
    """A lock on a file that ends with the processes that have it; it can be handed to a child."""

    _own: ClassVar[set[str]] = set()  # held by this process, where the system has no such locks

    def __init__(self, path: Path, file: int):
        self.path, self.file = path, file

    @classmethod
    def take(cls, path: Path) -> "Hold | None":
        """The lock, or None where somebody has it.

        Raises:
            OSError: the file cannot be made.
        """
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif str(path) in cls._own:
                raise BlockingIOError
        except OSError:
            os.close(file)
            return None
        cls._own.add(str(path))
        return cls(path, file)

    @classmethod
    def is_held(cls, path: Path) -> bool:
        """Whether anybody has it."""
        if fcntl is None or not path.exists():
            return str(path) in cls._own
        try:
            file = os.open(path, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except OSError:
            return True
        finally:
            os.close(file)

    def release(self) -> None:
        """Give this process's part of it back; a child that has it keeps it."""
        self._own.discard(str(self.path))
        os.close(self.file)


# ---- the line ------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Place:
    """A run in line."""

    run: Run
    owner: str | None
    hold: Hold


class Line:
    """One run at a time, first come, first served."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[_Place] = []
        self._current: tuple[_Place, subprocess.Popen] | None = None
        self._gone: deque[Path] = deque()  # private folders whose visit has ended
        self._private: set[Path] = set()
        self._thread: threading.Thread | None = None
        self._closed = False

    def position(self, run: Run) -> int:
        """Place in this process's line, 1 is next; 0 when it is not in it."""
        with self._changed:
            names = [place.run.folder for place in self._waiting]
            return names.index(run.folder) + 1 if run.folder in names else 0

    def is_current(self, run: Run) -> bool:
        """Whether this process is at work on it."""
        current = self._current
        return current is not None and current[0].run.folder == run.folder

    def add(self, run: Run, owner: str | None) -> None:
        """Put a run into the line.

        Raises:
            Busy: the line is full, or the run is at work already.
            OSError: its folder cannot be written to.
        """
        with self._changed:
            own = [place for place in self._waiting if place.owner == owner]
            if self._closed or len(self._waiting) >= MAX_WAITING:
                raise Busy("Many runs wait here already.")
            if len(own) >= MAX_OWN:
                raise Busy(f"You have {MAX_OWN} runs waiting here already.")
            hold = Hold.take(run.folder / HOLD)
            if hold is None:
                raise Busy("This run is at work already.")
            for name in (STOP, ENDED, PID):
                (run.folder / name).unlink(missing_ok=True)
            self._waiting.append(_Place(run, owner, hold))
            if run.folder.parent.name.startswith(PREFIX):
                self._private.add(run.folder.parent)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="benchmarks")
                self._thread.start()
            self._changed.notify_all()

    def let_go(self, folder: Path) -> None:
        """Have a private folder removed, and what works in it ended; may be called anywhere."""
        self._gone.append(folder)

    def close(self) -> None:
        """End what this process runs, and remove private folders; for the end of the server."""
        with self._changed:
            self._closed = True
            current = self._current
        if current is not None:
            _interrupt(current[1].pid)
            try:
                current[1].wait(5)
            except subprocess.TimeoutExpired:
                _kill(current[1])
        for folder in (*self._private, *self._gone):
            shutil.rmtree(folder, ignore_errors=True)

    # ---- in the line's own thread ----------------------------------------------------------------

    def _work(self) -> None:
        while not self._closed:
            place = self._next()
            turn = self._turn_for(place) if place is not None else None
            if turn is None:
                continue
            try:
                self._run(place, turn)
            except Exception as error:  # a full disk, a folder that is gone: the next must run
                _note_end(place.run, 1, False, type(error).__name__)
            finally:
                self._current = None
                place.hold.release()
                turn.release()

    def _next(self) -> _Place | None:
        """The first in line, while those who were told to stop leave it."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(TICK)
            self._tidy()
            return self._waiting[0] if self._waiting else None

    def _tidy(self) -> None:
        """Take out what is not wanted any more; called with the lock."""
        gone = {self._gone.popleft() for _ in range(len(self._gone))}
        for place in list(self._waiting):
            if place.run.folder.parent in gone or (place.run.folder / STOP).exists():
                self._waiting.remove(place)
                _note_end(place.run, 0, True)
                place.hold.release()
        busy = self._current[0].run.folder.parent if self._current else None
        for folder in gone:
            if folder == busy:
                self._gone.append(folder)  # when it has ended
                with suppress(OSError):
                    (self._current[0].run.folder / STOP).touch()
            else:
                self._private.discard(folder)
                shutil.rmtree(folder, ignore_errors=True)

    def _turn_for(self, place: _Place) -> Hold | None:
        """This computer's one turn, with the place taken out of the line; None: not yet."""
        shared = shared_root()
        where = shared if shared is not None else place.run.folder.parent
        try:
            turn = Hold.take(where / TURN)
        except OSError:
            turn = None
        if turn is None:
            time.sleep(TICK)
            return None
        with self._changed:
            if place not in self._waiting:
                turn.release()
                return None
            self._waiting.remove(place)
        return turn

    def _run(self, place: _Place, turn: Hold) -> None:
        run = place.run
        try:
            command = run.request.command(run.folder)
        except ValueError as error:
            _note_end(run, 2, False, str(error))
            return
        with (run.folder / LOG).open("ab") as log:
            process = _start(command, log, (place.hold.file, turn.file))
        write_atomically(run.folder / PID, str(process.pid).encode())
        self._current = (place, process)
        try:
            was_told = self._watch(run, process)
        finally:
            if process.poll() is None:  # nobody would look after it
                _kill(process)
        _note_end(run, process.returncode, was_told or self._closed)

    def _watch(self, run: Run, process: subprocess.Popen) -> bool:
        """Until it has ended; whether it was told to."""
        told = None
        while process.poll() is None:
            time.sleep(TICK)
            with self._changed:
                self._tidy()
            if told is None and (run.folder / STOP).exists():
                told = time.monotonic()
                _interrupt(process.pid)
            if told is not None and time.monotonic() - told > GRACE:
                _kill(process)
        return told is not None


def _start(command: list[str], log, files: tuple[int, ...]) -> subprocess.Popen:
    """The command in a process of its own, with little priority, that ends with this one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [*_wrapping(), *command]
    own: dict[str, Any] = {}
    if os.name == "posix":
        own = {"pass_fds": files, "start_new_session": True}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=log, cwd=ROOT, env=environment, **own)  # fmt: skip
    if hasattr(os, "setpriority"):
        with suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
    return process


@cache
def _wrapping() -> tuple[str, ...]:
    """Programs of Linux to start the command with.

    It can then be interrupted, whatever this process ignores, and the system ends it when this
    process ends, however it ends.
    """
    found: tuple[str, ...] = ()
    for wrap in (("env", "--default-signal=INT"), ("setpriv", "--pdeathsig", "KILL")):
        program = shutil.which(wrap[0])
        if program and not subprocess.run([program, *wrap[1:], "true"], capture_output=True,
                                          check=False).returncode:  # fmt: skip
            found += (program, *wrap[1:])
    return found


def _interrupt(pid: int) -> None:
    """As Ctrl-C does: what is finished is put together."""
    with suppress(OSError):
        os.kill(pid, signal.SIGINT if os.name == "posix" else signal.SIGTERM)


def _kill(process: subprocess.Popen) -> None:
    with suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _note_end(run: Run, code: int, is_stopped: bool, why: str = "") -> None:
    """Keep how it ended, and why, in the folder; a folder that is gone needs nothing."""
    with suppress(OSError):
        if why:
            with (run.folder / LOG).open("a", encoding="utf-8") as log:
                log.write(f"cdam: the run ended: {why}.\n")
        said = {"code": code, "stopped": is_stopped}
        write_atomically(run.folder / ENDED, json.dumps(said).encode())
        (run.folder / PID).unlink(missing_ok=True)


def stop(run: Run) -> None:
    """Have a run end, whichever process of the server it belongs to; what is done stays."""
    try:
        (run.folder / STOP).touch()
    except OSError:
        return
    if line.position(run) == 0 and not line.is_current(run) and state(run) == RUNNING:
        with suppress(OSError, ValueError):  # nobody may be left who looks at the file
            _interrupt(int((run.folder / PID).read_text()))


line = Line()
atexit.register(line.close)
