"""The commands of ``python -m cdam_core``, one module each; ``__main__`` joins them."""

FAILED, WRONG_USE = 1, 2  # exit codes: some of it failed, nothing was done
