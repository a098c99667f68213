"""The results of a run, read with suspicion: from its folder, or from the ZIP that somebody sends.

A run holds ``results.parquet`` (one row per image, target, output, method and measure) and
``run.json`` (what made them). Sizes are limited before anything is decoded, nothing is ever
extracted, and what no run writes is refused in one sentence.
"""

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cdam_core import archive
from cdam_core.benchmarks.results import MEASURES, RANDOM, RIGHT, WRONG, arrow, schema
from cdam_core.errors import BadRecord
from cdam_core.methods import METHODS

ROWS_FILE, RUN_FILE = "results.parquet", "run.json"
TEXT = ("image", "target", "output", "kind", "method", "measure")
KNOWN = {"method": {*METHODS, RANDOM}, "measure": set(MEASURES)}

MAX_ABOUT = 8 * 2**20  # bytes of run.json
MAX_POINTS = 2000  # of one curve
PIECE = 65_536  # rows that are decoded at once
MAX_NAME = 1000  # characters of an image, a class, ...
_EXPECTED = "expected the folder or the ZIP of a benchmark run"


@dataclass(frozen=True)
class Limits:
    """What is read at most.

    Attributes:
        rows: of the table.
        values: numbers in one column.
        bytes: of all columns, unpacked.
    """

    rows: int = 1_000_000
    values: int = 30_000_000
    bytes: int = 400 * 2**20


FOR_SCREEN = Limits()  # a thousand images, every method, two classes each
FOR_FILES = Limits(50_000_000, 2_000_000_000, 2**34)  # one's own run, with the memory it needs


@dataclass(frozen=True, eq=False)
class Results:
    """The rows of a run, column by column.

    Attributes:
        about: content of run.json.
        names: text column -> its different texts.
        codes: text column -> (rows,) index into its names.
        value, seconds: (rows,) float64; NaN where not defined.
        x, curve: (points,) float32, the curves of all rows one after the other.
        offsets: (rows + 1,) where each row's curve begins.
        notes: what was left out, one sentence each.
    """

    about: Mapping[str, Any]
    names: Mapping[str, tuple[str, ...]]
    codes: Mapping[str, np.ndarray]
    value: np.ndarray
    seconds: np.ndarray
    x: np.ndarray
    curve: np.ndarray
    offsets: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.value)

    @property
    def images(self) -> tuple[str, ...]:
        """The images that something was measured on."""
        return self.names["image"]

    def methods(self) -> list[str]:
        """The methods of ``METHODS`` with rows, in that order."""
        return [method for method in METHODS if method in self.names["method"]]

    def where(self, **wanted: str) -> np.ndarray:
        """Indices of the rows that hold these texts: ``where(method="cdam", measure="mif")``."""
        found = np.ones(len(self), bool)
        for column, text in wanted.items():
            known = self.names[column]
            found &= self.codes[column] == (known.index(text) if text in known else -1)
        return np.flatnonzero(found)

    def curve_of(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and values of a row's curve; empty for a number."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        return self.x[part], self.curve[part]

    def text(self, column: str, row: int) -> str:
        """A row's text."""
        return self.names[column][self.codes[column][row]]


# ---- files ---------------------------------------------------------------------------------------


def read_folder(folder: Path, limits: Limits = FOR_SCREEN) -> Results:
    """The results of a run, finished or growing.

    Args:
        folder: of the run.
        limits: how much to read at most.

    Raises:
        BadRecord: a file is missing, damaged, foreign or too large.
    """
    found = [name for name in (ROWS_FILE, RUN_FILE) if (folder / name).is_file()]
    return read_files({name: _content(folder / name, limits) for name in found}, limits)


def read_zip(content: bytes) -> Results:
    """The results in the ZIP of a run, wherever in it they lie.

    Raises:
        BadRecord: no such ZIP, or one of its files is missing, damaged, foreign or too large.
    """
    return read_files(archive.pick(content, (ROWS_FILE, RUN_FILE)))


def read_files(files: Mapping[str, bytes], limits: Limits = FOR_SCREEN) -> Results:
    """The same of the files' contents by name; raises as above."""
    for name in (RUN_FILE, ROWS_FILE):
        if name not in files:
            raise BadRecord("unreadable", f"There is no {name}; {_EXPECTED}, which holds it.")
    return of_table(table_of(files[ROWS_FILE], limits), about_of(files[RUN_FILE]))


def _content(path: Path, limits: Limits) -> bytes:
    try:
        if path.stat().st_size > limits.bytes:
            raise _too_large(limits)
        return path.read_bytes()
    except OSError:
        raise BadRecord("unreadable", f"{path.name} cannot be read; {_EXPECTED}.") from None


def about_of(content: bytes) -> dict[str, Any]:
    """What run.json says.

    Raises:
        BadRecord: it is no JSON object, or too large.
    """
    if len(content) > MAX_ABOUT:
        raise _damaged(f"is larger than the {MAX_ABOUT // 2**20} MB", RUN_FILE)
    try:
        about = json.loads(content)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise _damaged("is no JSON object", RUN_FILE)
    return about


def table_of(content: bytes, limits: Limits = FOR_SCREEN) -> Any:
    """The rows of results.parquet as a pyarrow table; columns that no run writes are left out.

    Raises:
        BadRecord: no Parquet file, columns missing or of another type, or too large.
    """
    pa, parquet = arrow()
    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        _check_sizes(file.metadata, limits)
        missing = [name for name in schema().names if name not in file.schema_arrow.names]
        if missing:
            raise _damaged(f"has no column {missing[0]}")
        file = parquet.ParquetFile(pa.BufferReader(content), read_dictionary=list(TEXT))
        return _cast(_read_bounded(file, limits))
    except BadRecord:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError):
        raise _damaged("cannot be decoded") from None


def _check_sizes(metadata: Any, limits: Limits) -> None:
    """What the file's own directory says it will become."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    values = [sum(group.column(index).num_values for group in groups)
              for index in range(metadata.num_columns)]  # fmt: skip
    unpacked = sum(group.total_byte_size for group in groups)
    found = (metadata.num_rows, max(values, default=0), unpacked)
    if any(one > most for one, most in zip(found, astuple(limits), strict=True)):
        raise _too_large(limits)


def _read_bounded(file: Any, limits: Limits) -> Any:
    """All rows, piece by piece: the directory of a file may promise less than comes out."""
    pa, _ = arrow()
    pieces, size = [], 0
    for piece in file.iter_batches(PIECE, columns=schema().names):
        size += piece.nbytes
        if size > limits.bytes:
            raise _too_large(limits)
        pieces.append(piece)
    if not pieces:
        return file.read(columns=schema().names)
    return pa.Table.from_batches(pieces).unify_dictionaries()


# ---- rows ----------------------------------------------------------------------------------------


def of_table(table: Any, about: Mapping[str, Any] | None = None) -> Results:
    """Results of rows in memory.

    Args:
        table: a pyarrow table with the columns of ``results.schema``.
        about: content of run.json.

    Raises:
        BadRecord: values that no run writes.
    """
    table, notes = _known(_cast(table).combine_chunks())
    coded = {column: _coded(table.column(column)) for column in TEXT}
    names = {column: found[0] for column, found in coded.items()}
    codes = {column: found[1] for column, found in coded.items()}
    value, seconds = (_numbers(table.column(name)) for name in ("value", "seconds"))
    (x, offsets), (curve, ends) = (_ragged(table.column(name)) for name in ("x", "curve"))
    if not np.array_equal(offsets, ends) or np.diff(offsets).max(initial=0) > MAX_POINTS:
        raise _damaged("has curves that do not fit their positions, or too long ones")
    if not (np.isfinite(x).all() and np.isfinite(curve).all()) or np.isinf(value).any():
        raise _damaged("has infinite values, or gaps in its curves")
    if not set(names["kind"]) <= {RIGHT, WRONG}:
        raise _damaged("has maps that are neither of the right nor of a wrong class")
    return Results(about or {}, names, codes, value, seconds, x, curve, offsets, notes)


def _cast(table: Any) -> Any:
    """The columns of the schema in its order and types, texts as dictionaries."""
    pa, _ = arrow()
    as_text = pa.dictionary(pa.int32(), pa.string())
    wanted = {field.name: as_text if field.name in TEXT else field.type for field in schema()}
    columns = [table.column(name).cast(kind) for name, kind in wanted.items()]
    return pa.table(columns, names=list(wanted))


def _known(table: Any) -> tuple[Any, tuple[str, ...]]:
    """The rows of methods and measures that are known here, and a word on the others."""
    pa, _ = arrow()
    notes, keep = [], np.ones(len(table), bool)
    for column, known in KNOWN.items():
        names, codes = _coded(table.column(column))
        unknown = [index for index, name in enumerate(names) if name not in known]
        keep &= ~np.isin(codes, unknown)
        if unknown:
            words = f"{column}s of this run are" if len(unknown) > 1 else f"{column} of this run is"
            notes.append(f"{len(unknown)} {words} unknown here and left out.")
    kept = table if keep.all() else table.filter(pa.array(keep)).combine_chunks()
    return kept, tuple(notes)


def _coded(column: Any) -> tuple[tuple[str, ...], np.ndarray]:
    """The different texts that occur in a column, and each row's index into them."""
    if column.null_count:
        raise _damaged("has rows without names")
    if not len(column):
        return (), np.empty(0, np.int64)
    array = column.combine_chunks()
    array = array.chunk(0) if hasattr(array, "chunk") else array
    texts = array.dictionary.to_pylist()
    if any(text is None or len(text) > MAX_NAME for text in texts):
        raise _damaged("has names that no run writes")
    occurring, codes = np.unique(array.indices.to_numpy(), return_inverse=True)
    used = [texts[index] for index in occurring]
    order = {text: number for number, text in enumerate(dict.fromkeys(used))}
    return tuple(order), np.array([order[text] for text in used])[codes]


def _numbers(column: Any) -> np.ndarray:
    """Float64, missing ones NaN."""
    return column.to_numpy().astype(np.float64)


def _ragged(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """All values of a column of lists, and where each list begins; missing lists are empty."""
    values, counts = [np.empty(0, np.float32)], [np.zeros(1, np.int64)]
    for chunk in column.chunks:
        values.append(chunk.flatten().to_numpy(zero_copy_only=False).astype(np.float32))
        lengths = chunk.value_lengths().fill_null(0)
        counts.append(lengths.to_numpy(zero_copy_only=False).astype(np.int64))
    return np.concatenate(values), np.cumsum(np.concatenate(counts))


def _damaged(how: str, name: str = ROWS_FILE) -> BadRecord:
    return BadRecord("damaged", f"{name} {how}; {_EXPECTED}.")


def _too_large(limits: Limits) -> BadRecord:
    return BadRecord("too-large", f"This run holds more than {limits.rows:,} rows or "
                     f"{limits.bytes // 2**20} MB, too much to be shown; make its tables on the "
                     "command line, or measure fewer images.")  # fmt: skip
