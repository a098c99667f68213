"""The table of methods: everything that lists, runs, documents or tests methods loops over it."""

from cdam_core.last_block import PATHS
from cdam_core.methods.attention import attention_map
from cdam_core.methods.base import Method, Relevance, Setting
from cdam_core.methods.cdam import integrated_cdam, plain_cdam, smooth_cdam

PAPER = "Brocki, Binda, Chung, arXiv 2312.02364"

HEADS = Setting("heads", None, "Attention heads to use; empty: all of them.", "heads")
AT = Setting(
    "at",
    "tokens",
    "What is disturbed: the normalised tokens, as the paper's formula says, or the last block's "
    "input, as the authors' code does.",
    choices=("tokens", "block_input"),
)
SEED = Setting("seed", 0, "Seed of the noise.", "integer", 0, 2**31 - 1)

METHODS: dict[str, Method] = {
    method.id: method
    for method in (
        Method(
            "cdam",
            "CDAM",
            plain_cdam,
            f"{PAPER}, Eq. 2",
            "Each patch's evidence for (+) or against (−) the target in the last block.",
            all_classes=True,
            settings=(
                HEADS,
                Setting(
                    "path",
                    "both",
                    "What the patch says when attended (value), how it draws or repels attention "
                    "(key), or both.",
                    choices=PATHS,
                ),
            ),
        ),
        Method(
            "smooth_cdam",
            "Smooth CDAM",
            smooth_cdam,
            f"{PAPER}, Eq. 5",
            "CDAM averaged over noisy copies of the tokens: steadier, a little blurred.",
            cost="seconds",
            settings=(
                Setting("n", 50, "Number of noise draws.", "integer", 1, 10_000),
                Setting(
                    "sigma",
                    None,
                    "Standard deviation of the noise; empty: 0.05 of the value range.",
                    "number",
                    0.0,
                    1e6,
                ),
                AT,
                SEED,
            ),
        ),
        Method(
            "integrated_cdam",
            "Integrated CDAM",
            integrated_cdam,
            f"{PAPER}, Eq. 6",
            "CDAM summed on the way from an empty image to this one: it accounts for the whole "
            "value.",
            settings=(Setting("steps", 50, "Number of steps.", "integer", 2, 10_000), AT),
        ),
        Method(
            "attention",
            "Attention map",
            attention_map,
            f"{PAPER}, section 3",
            "Where the model looks in the last block; the same for every target.",
            signed=False,
            class_specific=False,
            all_classes=True,
            settings=(HEADS,),
        ),
    )
}

__all__ = ["METHODS", "Method", "Relevance", "Setting"]
