"""The model hub, asked politely: does it answer, and is a model's file in its local cache?

The hub's own client repeats every question for most of a minute before it gives up, which a
hospital without a way out should not wait for at every click.
"""

import os
import urllib.error
import urllib.request
from pathlib import Path

import timm
from huggingface_hub import constants, try_to_load_from_cache

ADDRESS_VARIABLE = "HF_ENDPOINT"
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# A file that is there if timm's models are: the paper's backbone.
PROBE = "timm/vit_small_patch8_224.dino/resolve/main/config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_YES = ("1", "on", "yes", "true")  # as huggingface_hub reads its switches


def status(timeout: float = 3.0) -> tuple[str, str]:
    """Whether the model hub answers: "answers", "refuses" or "silent", and a part of a sentence.

    Asks for one small file of timm's, without downloading it. Honours HF_ENDPOINT and the proxies
    of the environment. A mirror may lack that file and have others: it "refuses", and is worth a
    try; a gateway that answers in place of the hub (status 5xx) is silence.

    Args:
        timeout: in seconds, of connecting and of answering.
    """
    switched_off = [name for name in OFFLINE_VARIABLES if os.environ.get(name, "").lower() in _YES]
    if switched_off:
        return "silent", f"the model hub is switched off by {switched_off[0]}"
    address = os.environ.get(ADDRESS_VARIABLE, constants.ENDPOINT).rstrip("/")
    if not address.startswith(("https://", "http://")):
        return "silent", f"{ADDRESS_VARIABLE} is no address of a model hub"
    try:
        request = urllib.request.Request(f"{address}/{PROBE}", method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout):
            return "answers", "the model hub answers"
    except urllib.error.HTTPError as error:
        with error:
            kind = "refuses" if error.code < 500 else "silent"
            return kind, f"the model hub is there but refuses (status {error.code})"
    except (OSError, ValueError):
        return "silent", "the model hub cannot be reached from here"


def is_on_hub(name: str) -> bool:
    """Whether timm fetches this architecture's weights from the hub (a few have other sources)."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(config and config.hf_hub_id)


def cached_weights(name: str) -> Path | None:
    """The weights of a timm model in the hub's cache, or None.

    Args:
        name: of the architecture, with or without a tag.
    """
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if not config or not config.hf_hub_id:
        return None
    for file in (config.hf_hub_filename, *WEIGHTS) if config.hf_hub_filename else WEIGHTS:
        found = try_to_load_from_cache(config.hf_hub_id.split("@")[0], file)
        if isinstance(found, str):
            return Path(found)
    return None
