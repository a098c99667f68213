"""What a reader gets of a run: tables and figures, made from its rows alone."""

from pathlib import Path

from cdam_core.benchmarks import figures, reading, tables
from cdam_core.benchmarks.reading import Results
from cdam_core.files import write_atomically

TABLES_MARKDOWN, TABLES_CSV, FIGURES = "tables.md", "tables.csv", "figures"


def files(results: Results) -> dict[str, bytes]:
    """Path in the run's folder -> content: the tables, and every figure as SVG and PNG."""
    found = tables.tables(results)
    return {
        TABLES_MARKDOWN: tables.to_markdown(results, found).encode(),
        TABLES_CSV: tables.to_csv(found, results.about).encode(),
        **{f"{FIGURES}/{name}": content for name, content in figures.figures(results).items()},
    }


def write(folder: Path) -> list[Path]:
    """Make them anew from the results in a run's folder, each in one step.

    Returns:
        The files.

    Raises:
        BadRecord: the results are missing, damaged or foreign.
        OSError: as the file system says.
    """
    (folder / FIGURES).mkdir(exist_ok=True)
    written = []
    for name, content in files(reading.read_folder(folder, reading.FOR_FILES)).items():
        write_atomically(folder / name, content)
        written.append(folder / name)
    return written
