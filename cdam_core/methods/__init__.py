"""The table of methods: everything that lists, runs, documents or tests methods loops over it."""

from cdam_core.last_block import PATHS
from cdam_core.methods.ablation import token_ablation
from cdam_core.methods.attention import attention_map
from cdam_core.methods.base import Method, Relevance, Setting
from cdam_core.methods.cams import attention_grad_cam, grad_cam
from cdam_core.methods.cdam import integrated_cdam, plain_cdam, smooth_cdam
from cdam_core.methods.gradients import input_x_gradient, integrated_gradients, smoothgrad
from cdam_core.methods.lrp import partial_lrp, transformer_attribution
from cdam_core.methods.pooled import PATHS as POOLED_PATHS
from cdam_core.methods.pooled import pooled_cdam
from cdam_core.methods.relevance import relevance_propagation, rollout

PAPER = "Brocki, Binda, Chung, arXiv 2312.02364"
CVPR = "Chefer, Gur, Wolf, CVPR 2021, arXiv 2012.09838"

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
            "pooled_cdam",
            "CDAM of averaged patches",
            pooled_cdam,
            f"variant of {PAPER}, Eq. 2; see docs/models.md",
            "For models that average their patches: what a patch says through the attention and "
            "what it carries past it. For all others it is CDAM itself.",
            pooling="avg",
            settings=(
                Setting(
                    "path",
                    "both",
                    "Through the last attention, past it into the average (residual), or both.",
                    choices=POOLED_PATHS,
                ),
            ),
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
        Method(
            "relevance_propagation",
            "Relevance propagation",
            relevance_propagation,
            "Chefer, Gur, Wolf, ICCV 2021, arXiv 2103.15679, rules 5 and 6",
            "Attention that raises the target, followed through all blocks; shows support only.",
            signed=False,
            needs="pixels",
            cost="seconds",
        ),
        Method(
            "partial_lrp",
            "Partial LRP",
            partial_lrp,
            f"Voita et al., ACL 2019, arXiv 1905.09418, as in {CVPR}",
            "Relevance handed down from the target to the last block's attention, layer by layer.",
            signed=False,
        ),
        Method(
            "transformer_attribution",
            "Transformer attribution",
            transformer_attribution,
            CVPR,
            "Relevance of attention, weighed by its gradient and followed through all blocks.",
            signed=False,
            needs="pixels",
            cost="seconds",
        ),
        Method(
            "rollout",
            "Attention rollout",
            rollout,
            "Abnar, Zuidema, ACL 2020, arXiv 2005.00928",
            "Attention multiplied through all blocks; the same for every target.",
            signed=False,
            class_specific=False,
            needs="pixels",
        ),
        Method(
            "attention_grad_cam",
            "Attention Grad-CAM",
            attention_grad_cam,
            f"baseline of {CVPR}",
            "Attention of the heads that raise the target; shows support only.",
            signed=False,
        ),
        Method(
            "grad_cam",
            "Grad-CAM",
            grad_cam,
            "Selvaraju et al., ICCV 2017, arXiv 1610.02391, on the last block's tokens",
            "Features that raise the target, and where they are strong; shows support only.",
            signed=False,
            pooling="any",
        ),
        Method(
            "input_x_gradient",
            "Input × Gradient",
            input_x_gradient,
            "Shrikumar et al., arXiv 1605.01713",
            "How the target moves with every pixel, times the pixel; fine-grained and noisy.",
            resolution="pixel",
            needs="pixels",
            pooling="any",
        ),
        Method(
            "smoothgrad",
            "SmoothGrad",
            smoothgrad,
            "Smilkov et al., arXiv 1706.03825",
            "How the target moves with every pixel, averaged over noisy copies of the image.",
            resolution="pixel",
            needs="pixels",
            cost="minutes",
            steps=True,
            pooling="any",
            settings=(
                Setting("n", 50, "Number of noise draws.", "integer", 1, 10_000),
                Setting(
                    "sigma",
                    None,
                    "Standard deviation of the noise in normalised pixels; empty: 0.15 of their "
                    "value range.",
                    "number",
                    0.0,
                    1e6,
                ),
                SEED,
            ),
        ),
        Method(
            "integrated_gradients",
            "Integrated gradients",
            integrated_gradients,
            "Sundararajan, Taly, Yan, ICML 2017, arXiv 1703.01365, Eq. 3",
            "Pixels' shares of the whole change on the way from an empty image to this one.",
            resolution="pixel",
            needs="pixels",
            cost="minutes",
            steps=True,
            pooling="any",
            settings=(
                Setting("steps", 50, "Number of steps.", "integer", 1, 10_000),
                Setting(
                    "baseline",
                    "black",
                    "Where the way starts: a black image, or zero in normalised pixels, the grey "
                    "of the mean colour.",
                    choices=("black", "zero"),
                ),
            ),
        ),
        Method(
            "token_ablation",
            "Token ablation",
            token_ablation,
            f"authors' code of {PAPER}",
            "What the target loses when the model never sees the patch.",
            needs="pixels",
            cost="minutes",
            steps=True,
            pooling="any",
        ),
    )
}

__all__ = ["METHODS", "Method", "Relevance", "Setting"]
