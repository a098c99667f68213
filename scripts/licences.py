"""Write docs/dependencies.md: every package that the app needs, its version and licence.

   python scripts/licences.py        # in an environment made from requirements.txt

Read from the metadata of what is installed, starting at the pins and following what they require.
"""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
START = """# Packages and their licences

Everything that `requirements.txt` brings along on Linux, from the metadata of the installed
packages. Written by `python scripts/licences.py`; what only tests or training need is left out.

Known vulnerabilities: `pip-audit -r requirements.txt` in a place with a network compares the pins
with PyPI's and OSV's advisories of that day. Do it before every upgrade; no result is kept here.

"""


def main() -> None:
    """Write the page."""
    (ROOT / "docs" / "dependencies.md").write_text(page(), "utf-8")


def page() -> str:
    """The page as text."""
    rows = [f"| {name} | {version} | {licence} |" for name, version, licence in packages()]
    return START + "\n".join(["| package | version | licence |", "| --- | --- | --- |", *rows, ""])


def packages() -> list[tuple[str, str, str]]:
    """(name, version, licence) of the pins and all that they require, by name."""
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    waiting = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    found: dict[str, tuple[str, str, str]] = {}
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            known = distribution(wanted.name)
        except PackageNotFoundError:
            continue  # CUDA's libraries, where the CPU build of torch is installed
        found[name] = (known.metadata["Name"], known.version, licence_of(known.metadata))
        waiting += [Requirement(line) for line in known.requires or ()]
    return [found[name] for name in sorted(found)]


def licence_of(metadata) -> str:
    """The licence expression, else the classifiers, else the first line of the free text."""
    if stated := metadata.get("License-Expression"):
        return stated
    classes = [text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or ()
               if text.startswith("License ::") and "OSI Approved ::" in text]  # fmt: skip
    if classes:
        return ", ".join(classes)
    return (metadata.get("License") or "not stated").splitlines()[0][:60]


if __name__ == "__main__":
    main()
