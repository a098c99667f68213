"""What happens when something fails: one sentence for the visitor, no content in the log.

An error has an id, made of where it happened: the visitor sees it, the log has it, and the page
"Server" lists the latest. What an exception says is never written, for it may quote a visitor.
"""

import hashlib
import json
import logging
import threading
import traceback
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import streamlit as st

from pages._gate import Busy

FAILURES = "streamlit.error_util"  # logger of pages that failed
NO_VISITOR = "streamlit.runtime.scriptrunner_utils.script_run_context"
OTHERS = ("streamlit", "uvicorn", "uvicorn.error", "asyncio")  # loggers with handlers of their own
REMEMBERED = 50  # errors, the latest


@dataclass(frozen=True)
class Met:
    """An error that was met.

    Attributes:
        when: in UTC, to the second.
        id: that the visitor saw.
        places: type of the exception, then file and line of every call.
    """

    when: str
    id: str
    places: tuple[str, ...]


_recent: deque[Met] = deque(maxlen=REMEMBERED)
_lock = threading.Lock()


def recent() -> tuple[Met, ...]:
    """The latest errors, the newest first."""
    with _lock:
        return tuple(reversed(_recent))


def where(error: BaseException) -> list[str]:
    """Type and places of an error, without its message, which may quote a visitor's data."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    return [type(error).__name__, *places]


def error_id(error: BaseException) -> str:
    """The same short id for the same fault: on the page, and in the log."""
    return hashlib.sha256("\n".join(where(error)).encode()).hexdigest()[:8]


def on_error(error: Exception) -> bool:
    """Say in one sentence that something went wrong; True: Streamlit shows nothing more."""
    if isinstance(error, Busy):
        st.warning(str(error))
    else:
        st.error(
            "Something went wrong here. Your picture is still there; please try again, or choose "
            f"other settings. If it happens again, report the error id {error_id(error)}."
        )
    return True


# ---- the log -------------------------------------------------------------------------------------


def prepare_logging(form: str = "text") -> None:
    """Write the whole log in one form, without visitors' data and needless remarks.

    Args:
        form: "text", a line for each entry, or "json", an object for each.
    """
    logging.getLogger(NO_VISITOR).setLevel(logging.ERROR)
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if form == "json" else Text())
    handler.addFilter(WithoutContent())
    root = logging.getLogger()
    for each in list(root.handlers):
        if isinstance(each.formatter, Text | Json):
            root.removeHandler(each)
    root.addHandler(handler)
    for name in [*OTHERS, *_streamlits()]:
        logger = logging.getLogger(name)
        for each in list(logger.handlers):
            logger.removeHandler(each)
        logger.propagate = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # no addresses of visitors
    logging.getLogger("streamlit.cdam").setLevel(logging.INFO)


def _streamlits() -> list[str]:
    """Streamlit gives each of its loggers a handler of its own."""
    return [name for name in logging.root.manager.loggerDict if name.startswith("streamlit.")]


class WithoutContent(logging.Filter):
    """Keeps messages of exceptions, which may hold a visitor's data, out of the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the exception of a record by its id and places."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            places = where(error)
            record.error_id, record.places = error_id(error), places
            record.msg = f"Error {record.error_id}: " + " ".join(places)
            record.args, record.exc_info, record.exc_text = (), None, None
            with _lock:
                _recent.append(Met(_time(record), record.error_id, tuple(places)))
        return True


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")


class Text(logging.Formatter):
    """One line: time in UTC, level, who, what."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; line ends in a message cannot begin another one."""
        said = record.getMessage().replace("\n", " ").replace("\r", " ")
        return f"{_time(record)} {record.levelname} {record.name}: {said}"


class Json(logging.Formatter):
    """One object per line, with the id and the places of an error apart."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry = {"time": _time(record), "level": record.levelname, "logger": record.name,
                 "message": record.getMessage()}  # fmt: skip
        if hasattr(record, "error_id"):
            entry |= {"error_id": record.error_id, "places": record.places}
        return json.dumps(entry)
