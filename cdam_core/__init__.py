"""Class-discriminative attention maps (CDAM) for Vision Transformers, exact and fast.

    import cdam_core as cdam

    model = cdam.load_model("scenes")
    encoding = model.encode_image(cdam.open_image("picture.png"))
    e = cdam.explain(model, encoding, ["zebra", cdam.Contrast("zebra", "elephant")])
    e.scores  # (2, rows, cols), signed, in logits

The data flow is the order of the modules: images, models, targets, methods, maps, pictures.
"""

__version__ = "0.1.0"

from cdam_core.concepts import Concept, build_concept, load_concept
from cdam_core.errors import (
    BadCheckpoint,
    BadConcept,
    BadImage,
    BadRecord,
    BadRegion,
    BadTarget,
    CdamError,
)
from cdam_core.explanation import Explanation, explain
from cdam_core.images import limit_side, open_image
from cdam_core.methods import METHODS
from cdam_core.models import MODELS, Encoding, VisionModel, load_model, wrap
from cdam_core.regions import Region
from cdam_core.targets import ALL, Contrast

__all__ = [
    "ALL",
    "METHODS",
    "MODELS",
    "BadCheckpoint",
    "BadConcept",
    "BadImage",
    "BadRecord",
    "BadRegion",
    "BadTarget",
    "CdamError",
    "Concept",
    "Contrast",
    "Encoding",
    "Explanation",
    "Region",
    "VisionModel",
    "build_concept",
    "explain",
    "limit_side",
    "load_concept",
    "load_model",
    "open_image",
    "replay",
    "wrap",
]


def __getattr__(name: str):
    """``replay``, which brings the drawing library along, is loaded when it is first used."""
    if name == "replay":
        from cdam_core.replaying import replay

        return replay
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
