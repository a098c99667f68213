"""Where the files shipped with the library lie: bundled models, sample scenes, their notices.

Beside the data flow; imports nothing of cdam_core.
"""

from pathlib import Path


def assets_dir() -> Path:
    """The folder that holds ``models/`` and ``scenes/``, independent of the working directory.

    An installed package carries it inside itself; a checkout has it at its top.
    """
    package = Path(__file__).parent
    installed = package / "_assets"
    return installed if installed.is_dir() else package.parent / "assets"
