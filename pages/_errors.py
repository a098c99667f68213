"""What happens when a page fails: one sentence for the visitor, no content in the log."""

import hashlib
import logging
import traceback
from pathlib import Path

import streamlit as st

from pages._gate import Busy

FAILURES = "streamlit.error_util"  # logger of pages that failed
NO_VISITOR = "streamlit.runtime.scriptrunner_utils.script_run_context"


def prepare_logging() -> None:
    """Keep visitors' data out of the log, and needless remarks about starting without one."""
    logging.getLogger(FAILURES).addFilter(WithoutContent())
    logging.getLogger(NO_VISITOR).setLevel(logging.ERROR)


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


class WithoutContent(logging.Filter):
    """Keeps messages of exceptions, which may hold a visitor's data, out of the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the exception of a record by its id and places."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            record.msg = f"Error {error_id(error)}: " + " ".join(where(error))
            record.args, record.exc_info, record.exc_text = (), None, None
        return True
