"""How many threads one computation takes.

Beside the data flow. torch keeps the number per thread: setting it changes the thread that sets it
and those that start computing later, never one that computes already. So each job sets its own.
"""

import os

import torch


def cores() -> int:
    """Processor cores that this process may use."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on Windows and macOS
        return os.cpu_count() or 1


def current() -> int:
    """How many threads this thread's computations take."""
    return torch.get_num_threads()


def use(count: int) -> None:
    """Let this thread's computations take so many threads."""
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
