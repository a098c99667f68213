"""Where a model computes: the processor, or a graphics card where there is one."""

import torch

from cdam_core.errors import BadCheckpoint

AUTO = "auto"


def find(name: str | torch.device = AUTO) -> torch.device:
    """The device of a name.

    Args:
        name: "auto" (the first CUDA card that PyTorch can use here, else the processor), or a name
            of PyTorch's: "cpu", "cuda", "cuda:1", "mps", ...

    Raises:
        BadCheckpoint: "unsupported" for a device that is not here.
    """
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError):  # PyTorch's ways to say: unknown, not built in, not here
        raise BadCheckpoint(
            "unsupported",
            f"The device {str(name)!r} is not available to PyTorch here; expected 'auto', 'cpu', "
            "or the name of a graphics card that is, such as 'cuda'.",
        ) from None
    if device.type == "cuda":
        # By default convolutions there round their input to 10 bits of mantissa (TF32), and the
        # patch embedding is one: maps would differ from a processor's in the third digit.
        torch.backends.cudnn.allow_tf32 = False
    return device
