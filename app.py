"""The server's entry: ``streamlit run app.py``.

Everything slow is done here, before the first visitor: libraries, the bundled model, one
explanation. The frame around the pages is ``pages/_frame.py``.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import traceback
from collections.abc import AsyncIterator

# Read when the libraries are loaded. One thread per job serves several visitors best; a model hub
# that does not answer must not hold a visitor for minutes.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import streamlit as st

from pages import _state
from pages._gate import Busy


@contextlib.asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[dict]:
    """Warm up, then serve."""
    await asyncio.to_thread(_state.warm)
    yield {}


def where(error: BaseException) -> list[str]:
    """Type and places of an error, without its message, which may quote a visitor's data."""
    frames = traceback.extract_tb(error.__traceback__)
    return [type(error).__name__, *(f"{frame.filename}:{frame.lineno}" for frame in frames)]


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


logging.getLogger("streamlit.error_util").addFilter(WithoutContent())
# Called once here, where there is no visitor, this switches off Streamlit's own discovery of
# pages/, which would serve the first visitor a page without its frame.
st.navigation([st.Page(lambda: None, title="boot", url_path="boot")])
app = st.App("pages/_frame.py", lifespan=lifespan, on_script_error=on_error)
