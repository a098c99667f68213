"""The command line: ``python -m cdam_core explain | replay | sheet | benchmark | ...``."""

import argparse
import sys
from collections.abc import Sequence

from cdam_core.commands import WRONG_USE, benchmark, explain, models, replay, sheet
from cdam_core.errors import CdamError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 (some images failed) or 2 (wrong use)."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except CdamError as error:
        print(f"cdam: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("cdam: stopped; what is finished is kept, the same command goes on.", file=sys.stderr)
    except OSError as error:
        print(f"cdam: a file could not be read or written: {error.strerror}.", file=sys.stderr)
    return WRONG_USE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cdam_core", description=__doc__.split(":")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (explain, replay, sheet, benchmark, models):
        command.add(commands)
    _add_train(commands)
    return parser


# ---- train ---------------------------------------------------------------------------------------


def _add_train(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("train", help="train a bundled model, or a head of your own")
    kinds = command.add_subparsers(required=True, metavar="MODEL")
    from cdam_core import training_head
    from cdam_core.nodules import training as training_nodules
    from cdam_core.scenes import training

    training.register(kinds)
    training_nodules.register(kinds)
    training_head.register(kinds)


if __name__ == "__main__":
    sys.exit(main())
