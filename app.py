"""The server's entry: ``streamlit run app.py``.

Everything slow is done here, before the first visitor: libraries, the bundled model, one
explanation. The frame around the pages is ``pages/_frame.py``.
"""

import contextlib
import os
from collections.abc import AsyncIterator

# Read when the libraries are loaded. One thread per job, unless the gate gives it more; a model hub
# that does not answer must not hold a visitor for minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from pages import _settings

# Before the rest is loaded: much of it looks at the settings then.
SETTINGS = _settings.start()

import streamlit as st  # noqa: E402
from starlette.formparsers import MultiPartParser  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from streamlit import config  # noqa: E402

from pages import _access, _errors, _headers, _limits, _operations, _visits  # noqa: E402


@contextlib.asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[dict]:
    """Warm up, then serve, and end without cutting anybody off."""
    async with _operations.service.running(SETTINGS):
        yield {}


_errors.prepare_logging(SETTINGS.log.format)
_visits.prepare(SETTINGS.visits)
# By default an upload of more than 1 MB passes through a temporary file on disk while it arrives.
# Twice the size that server.toml can admit keeps every one of them in memory.
MultiPartParser.spool_max_size = 40 * 2**20
# Called once here, where there is no visitor, this switches off Streamlit's own discovery of
# pages/, which would serve the first visitor a page without its frame.
st.navigation([st.Page(lambda: None, title="boot", url_path="boot")])
_access.prepare(SETTINGS)
app = st.App(
    "pages/_frame.py",
    lifespan=lifespan,
    on_script_error=_errors.on_error,
    secrets=_access.secrets(SETTINGS),
    middleware=[  # from the outside to the inside
        Middleware(_headers.Headers),
        Middleware(_operations.Probes),
        Middleware(_access.Door, settings=SETTINGS),
        Middleware(_limits.Intake, limits=SETTINGS.uploads),
        Middleware(_visits.Activity),
    ],
)
config.set_option("server.maxUploadSize", SETTINGS.uploads.file_mb)
