"""``replay``: compute a recorded explanation again, and say whether the same comes out."""

import argparse
from pathlib import Path

from cdam_core.commands import FAILED
from cdam_core.replaying import replay


def add(commands: argparse._SubParsersAction) -> None:
    """Register the command."""
    command = commands.add_parser(
        "replay",
        help="compute a result again and compare",
        description="Read a ZIP that 'explain' or the app wrote, compute it again, and say "
        "'identical' or by how much it differs. Exit code 0: identical; 1: different; 2: the file "
        "cannot be used.",
    )
    command.add_argument("file", type=Path, metavar="FILE.zip")
    command.add_argument(
        "--image", type=Path, help="the picture that was explained; not needed for bundled samples "
        "and where the ZIP holds it",
    )  # fmt: skip
    command.add_argument("--model", help="the model, where it was loaded from a file")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the verdict; 0 for identical, else 1."""
    seen = replay(options.file, options.image, options.model)
    for line in seen.words():
        print(line)
    return 0 if seen.is_identical else FAILED
