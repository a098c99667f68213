"""Can a model be had from the model hub? Asked first, because the hub's own client tries for long.

Without this question, a server without network would hold a visitor for most of a minute.
"""

import socket
import urllib.request
from urllib.parse import urlsplit

from huggingface_hub import constants, try_to_load_from_cache

from cdam_core import BadCheckpoint

PATIENCE = 3  # seconds
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def require(model_id: str) -> None:
    """Raise ``BadCheckpoint`` if a "timm:" model is neither cached nor reachable."""
    if not model_id.startswith("timm:") or is_cached(model_id) or is_reachable():
        return
    raise BadCheckpoint(
        "unreachable",
        "The model hub cannot be reached from this server, so the model for photographs is not "
        "available. Connect the server to the network once, or copy the hub's cache folder from a "
        "computer that has fetched it. A checkpoint file of your own can be explained from the "
        "command line: python -m cdam_core explain PICTURE --model FILE.",
    )


def is_cached(model_id: str) -> bool:
    """Whether the weights were fetched before."""
    repository = model_id.replace("timm:", "timm/", 1)
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in WEIGHTS)


def is_reachable() -> bool:
    """Whether the hub, or the proxy in front of it, answers at all."""
    endpoint = urlsplit(constants.ENDPOINT)
    if urllib.request.getproxies().get(endpoint.scheme):
        return True
    try:
        address = (endpoint.hostname, endpoint.port or 443)
        socket.create_connection(address, timeout=PATIENCE).close()
    except OSError:
        return False
    return True
