"""Write the tables of docs/methods.md from METHODS and MEASURES.

   python scripts/document_methods.py [--check]

Text outside the markers stays as it is. With --check nothing is written, and a table that is not
current ends the command with 1.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from cdam_core.benchmarks import MEASURES  # noqa: E402
from cdam_core.methods import METHODS, Method  # noqa: E402

PAGE = ROOT / "docs" / "methods.md"


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    given = parser.parse_args()
    before = PAGE.read_text("utf-8")
    after = current(before)
    if given.check and after != before:
        raise SystemExit("docs/methods.md is not current: run python scripts/document_methods.py.")
    if after != before:
        PAGE.write_text(after, "utf-8")


def current(page: str) -> str:
    """The page with its tables made anew."""
    for name, table in (("methods", methods_table()), ("measures", measures_table())):
        start, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
        head, _, rest = page.partition(start)
        _, _, tail = rest.partition(end)
        page = f"{head}{start}\n{table}\n{end}{tail}"
    return page


def methods_table() -> str:
    """One row per method."""
    rows = [
        ("id", "name", "sign", "depends on the class", "per", "needs", "cost", "settings", "source")
    ]
    rows += [
        (
            f"`{method.id}`",
            method.label,
            "signed" if method.signed else "≥ 0",
            "yes" if method.class_specific else "no",
            method.resolution,
            method.needs,
            method.cost,
            settings(method),
            method.source,
        )
        for method in METHODS.values()
    ]
    return table(rows)


def settings(method: Method) -> str:
    """Names and defaults."""
    return ", ".join(f"`{s.name}={s.default!r}`" for s in method.settings) or "none"


def measures_table() -> str:
    """One row per measure."""
    rows = [("id", "name", "better", "what it says")]
    rows += [(f"`{m.id}`", m.label, m.better, m.summary) for m in MEASURES.values()]
    return table(rows)


def table(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the first row is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


if __name__ == "__main__":
    main()
