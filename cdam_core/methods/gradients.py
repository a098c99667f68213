"""Methods that differentiate the whole model with respect to its pixels.

A pixel's score is the sum over its colour channels; scores keep pixel resolution and their sign.
Everything lies in the pixels, so ``rest`` is 0.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cdam_core.methods.base import Relevance
from cdam_core.methods.blocks import as_pixels, images_per_batch, values_of_pixels
from cdam_core.models import VisionModel
from cdam_core.targets import Targets

OnStep = Callable[[int, int], None]


def input_x_gradient(model: VisionModel, pixels: Tensor, targets: Targets) -> Relevance:
    """Input x Gradient: sum over channels of x * d value / dx, x the normalised pixels.

    Source: Shrikumar et al., "Not Just a Black Box", arXiv 1605.01713. Differs: the code of Brocki,
    Binda, Chung takes the mean over channels, a third of the sum.

    Args:
        model: adapted ViT.
        pixels: (1, 3, H, W), normalised.
        targets: what is explained.

    Returns:
        ``Relevance`` at pixel resolution; > 0 supports the target, < 0 opposes it.
    """
    pixels = as_pixels(model, pixels)
    values, gradients = pixel_gradients(model, pixels, targets)
    return _relevance(values[0], gradients * pixels)


def smoothgrad(
    model: VisionModel,
    pixels: Tensor,
    targets: Targets,
    n: int = 50,
    sigma: float | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Relevance:
    """SmoothGrad: the mean of d value / dx over n noisy copies of the pixels, summed over channels.

    Source: Smilkov et al., "SmoothGrad: removing noise by adding noise", arXiv 1706.03825; signed,
    as Brocki, Binda, Chung use it. Differs: the original shows absolute values.

    Args:
        model: adapted ViT.
        pixels: (1, 3, H, W), normalised.
        targets: what is explained.
        n: number of noise draws.
        sigma: standard deviation of the noise in normalised pixels; None: 0.15 * (max - min).
        seed: seed of the noise.
        on_step: called with (done, total) between batches; may raise to cancel.

    Returns:
        ``Relevance`` at pixel resolution, value per unit of pixel; ``values`` are those of the
        undisturbed image, ``settings`` holds sigma.
    """
    pixels = as_pixels(model, pixels)
    if sigma is None:
        sigma = 0.15 * float(pixels.max() - pixels.min())
    draw = torch.Generator().manual_seed(seed)
    total = 0
    for batch in _batches(model, pixels, n, on_step):
        # One draw at a time, so that the noise of a seed does not depend on the batches.
        noise = torch.stack([torch.randn(pixels.shape[1:], generator=draw) for _ in batch])
        moved = torch.add(pixels, noise.to(pixels), alpha=sigma)
        _, gradients = pixel_gradients(model, moved, targets)
        total = total + gradients.sum(1, keepdim=True)
    values = values_of_pixels(model, pixels, targets)[0]
    return _relevance(values, total / n, {"sigma": sigma})


def integrated_gradients(
    model: VisionModel,
    pixels: Tensor,
    targets: Targets,
    steps: int = 50,
    baseline: str = "black",
    on_step: OnStep | None = None,
) -> Relevance:
    """Integrated gradients: (x - x') * mean over k of d value / dx at x' + k/steps (x - x').

    Source: Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", arXiv 1703.01365,
    Eq. 3 (right Riemann sum), with the black image they recommend as baseline. Differs: the code of
    Brocki, Binda, Chung starts from zero in normalised pixels, the grey of the mean colour
    (``baseline="zero"``), and takes the mean over channels.

    Args:
        model: adapted ViT.
        pixels: (1, 3, H, W), normalised.
        targets: what is explained.
        steps: number of steps.
        baseline: "black" | "zero".
        on_step: called with (done, total) between batches; may raise to cancel.

    Returns:
        ``Relevance`` at pixel resolution; as steps grow, scores sum to value(x) - value(x').
    """
    pixels = as_pixels(model, pixels)
    start = torch.zeros_like(pixels) if baseline == "zero" else black_image(model, pixels)
    total = 0
    for batch in _batches(model, pixels, steps, on_step):
        fractions = torch.tensor([k + 1 for k in batch]).to(pixels)[:, None, None, None] / steps
        points = start + fractions * (pixels - start)
        values, gradients = pixel_gradients(model, points, targets)
        total = total + gradients.sum(1, keepdim=True)
    return _relevance(values[-1], total / steps * (pixels - start))  # the last step is the image


# ---- shared pieces ------------------------------------------------------------------------------


def black_image(model: VisionModel, pixels: Tensor) -> Tensor:
    """A black image in the model's normalised space, shaped like the pixels."""
    mean, std = (torch.tensor(each).to(pixels)[:, None, None] for each in (model.mean, model.std))
    return (-mean / std).expand_as(pixels).clone()


def pixel_gradients(model: VisionModel, pixels: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Values (B, T) of pixels (B, 3, H, W), and d value / d pixels (T, B, 3, H, W)."""
    module = model.module
    with torch.enable_grad():
        leaf = pixels.detach().clone().requires_grad_(True)
        features = module.forward_features(leaf)
        latents = module.forward_head(features, pre_logits=True)
        values = targets.values(latents, module.forward_head(features))
        sums = values.sum(0)
        each = [
            torch.autograd.grad(value, leaf, retain_graph=index + 1 < len(sums))[0]
            for index, value in enumerate(sums)
        ]
    return values.detach(), torch.stack(each)


def _batches(
    model: VisionModel, pixels: Tensor, total: int, on_step: OnStep | None
) -> Iterator[range]:
    """Ranges that cover ``total`` copies of the image, reported after each."""
    size = images_per_batch(model, pixels.shape[-2:], with_graph=True)
    for start in range(0, total, size):
        batch = range(start, min(start + size, total))
        yield batch
        if on_step:
            on_step(batch.stop, total)


def _relevance(values: Tensor, scores: Tensor, settings: dict | None = None) -> Relevance:
    """Channel sums of (T, 1, 3, H, W)."""
    return Relevance(scores[:, 0].sum(1), torch.zeros_like(values), values, settings or {})
