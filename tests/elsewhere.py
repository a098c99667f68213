"""A second device made of the first, so that code for graphics cards can be tested without one.

Inside ``Elsewhere()`` the device called "meta" computes: its tensors hold a tensor of the processor
and refuse, as a card does, to be mixed with tensors that are not there. What differs from a card:
the numbers are the processor's, bit by bit, and nothing is asynchronous.
"""

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"  # the one other device that autograd serves without a driver
_INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
_MOVING = (torch.ops.aten._to_copy, torch.ops.aten.copy_)


class There(torch.Tensor):
    """A tensor that says it is on the other device; ``held`` is the one that computes."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=NAME, requires_grad=False)  # fmt: skip

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    is_there = any(isinstance(leaf, There) for leaf in leaves)
    if is_there and func.overloadpacket not in _MOVING:
        # An index may come from the processor, on a real card too.
        by_index = func.overloadpacket in _INDEXING
        _refuse_mixing(func, [args[0], *args[2:3]] if by_index else leaves)
    if kwargs.get("device") is not None:
        is_there = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args_here, kwargs_here = tree_map(
        lambda leaf: leaf.held if isinstance(leaf, There) else leaf, (args, kwargs)
    )
    out = func(*args_here, **kwargs_here)
    if not is_there:
        return out
    known = {id(leaf.held): leaf for leaf in leaves if isinstance(leaf, There)}  # written in place
    return tree_map(
        lambda leaf: known[id(leaf)] if id(leaf) in known
        else There(leaf) if isinstance(leaf, torch.Tensor) else leaf, out)  # fmt: skip


def _refuse_mixing(func, operands):
    for each in operands:
        if isinstance(each, torch.Tensor) and not isinstance(each, There) and each.dim():
            raise RuntimeError(
                f"{func}: expected all tensors on one device, found one of shape "
                f"{tuple(each.shape)} on the processor"
            )


class _Literals(TorchFunctionMode):
    """Numbers that Python hands over: PyTorch would move these below what can be overridden."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], _as_index(args[1]), *args[2:])
        if func is torch.Tensor.tolist:
            args = (args[0].cpu(),)
        return func(*args, **kwargs)


def _as_index(index):
    if isinstance(index, tuple):
        return tuple(map(_as_index, index))
    return torch.as_tensor(list(index)) if isinstance(index, list | range | np.ndarray) else index


class Elsewhere(TorchDispatchMode):
    """Inside, ``tensor.to("meta")`` gives a tensor that computes."""

    def __enter__(self):
        self.literals = _Literals()
        self.literals.__enter__()
        return super().__enter__()

    def __exit__(self, *reason):
        super().__exit__(*reason)
        self.literals.__exit__(*reason)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})
