"""What a benchmark writes: one row per image, target, output, method and measure, as Parquet.

A run keeps one small file per image ("part"), written in one step, so that a stop loses at most the
images in work; the table of all rows is put together from them. Reading the table needs nothing of
this package: ``pandas.read_parquet`` does.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cdam_core.errors import BadData
from cdam_core.files import replacing, write_atomically
from cdam_core.methods import METHODS

RANDOM = "random"  # stands for a method: patches in random orders
RIGHT, WRONG = "right", "wrong"
# Measure -> what its ``value`` is, and its ``x`` and ``curve`` where it has some.
MEASURES: dict[str, str] = {
    "mif": "area under the output while the most important parts are blurred first, in percent",
    "lif": "the same, least important first",
    "fidelity": "area under LIF - MIF",
    "random_sd": "standard deviation over the random orders of the area under the output",
    "box": "area under the correlation of scores and lost output over box sizes in patches",
    "compactness": "share of scores within 5 % of the strongest",
    "ablation_correlation": "Pearson correlation with the token ablation map, by patches",
    "strongest_on_target": "1 where the strongest patch lies on the target, else 0",
    "strongest_on_other": "1 where it lies on the other object, else 0",
    "mass_inside": "share of the positive evidence that lies on the target",
    "mass_other": "share of the positive evidence that lies on the other object",
    "other_negative": "1 where the evidence on the other object sums to less than 0, else 0",
}
META = b"cdam"  # key of a part's own JSON in the Parquet file
_METHOD_ORDER = {name: index for index, name in enumerate((*METHODS, RANDOM))}
_MEASURE_ORDER = {name: index for index, name in enumerate(MEASURES)}


@dataclass(frozen=True, eq=False)
class Row:
    """One number of one map on one image.

    Attributes:
        image: its name in the data.
        target: class whose map it is.
        output: class whose output is watched.
        kind: "right" where these are the same, else "wrong".
        method: id in ``METHODS``, or "random" for random orders of patches.
        measure: in ``MEASURES``.
        value: the number.
        x, curve: positions (perturbed fraction 0..1, or box side in patches) and values; empty
            where the measure is a number alone.
        seconds: that the map took, on a ready encoding where the method starts from one; NaN where
            there is none.
    """

    image: str
    target: str
    output: str
    kind: str
    method: str
    measure: str
    value: float
    x: np.ndarray = field(default_factory=lambda: np.zeros(0))
    curve: np.ndarray = field(default_factory=lambda: np.zeros(0))
    seconds: float = float("nan")

    @property
    def order(self) -> tuple:
        """Where the row stands among those of its image."""
        return (_METHOD_ORDER[self.method], self.target, self.kind, self.output,
                _MEASURE_ORDER[self.measure])  # fmt: skip


@dataclass(frozen=True, eq=False)
class Part:
    """All that is known of one image.

    Attributes:
        image: its name.
        sha256: of its file; "" where it could not be read.
        rows: in order.
        done: method -> groups of measures that are finished.
        left_out: method -> why this model cannot be asked by it.
        broken: why the image could not be used; "" where it could.
        forwards: perturbed images that were shown to the model.
        seconds: that the image took.
    """

    image: str
    sha256: str = ""
    rows: tuple[Row, ...] = ()
    done: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    broken: str = ""
    forwards: int = 0
    seconds: float = 0.0

    def with_more(self, new: "Part") -> "Part":
        """This part and a newer one of the same picture; where both have a row, the newer's."""
        if new.sha256 != self.sha256:
            return new
        seen = {row.order for row in new.rows}
        rows = [*new.rows, *(row for row in self.rows if row.order not in seen)]
        done = {name: tuple(dict.fromkeys((*self.done.get(name, ()), *new.done.get(name, ()))))
                for name in (*self.done, *new.done)}  # fmt: skip
        return Part(self.image, self.sha256, tuple(sorted(rows, key=lambda row: row.order)), done,
                    {**self.left_out, **new.left_out}, new.broken, self.forwards + new.forwards,
                    self.seconds + new.seconds)  # fmt: skip


# ---- files ---------------------------------------------------------------------------------------


@cache
def arrow() -> tuple[Any, Any]:
    """The package pyarrow and its Parquet module; ``BadData`` where it is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise BadData(
            "missing-package",
            "Results are written as Parquet, which needs the package pyarrow; install it with "
            "pip install 'cdam-explorer[benchmark]'.",
        ) from None
    return pyarrow, parquet


@cache
def schema() -> Any:
    """Names and types of the columns."""
    pa, _ = arrow()
    kinds = {"value": pa.float64(), "x": pa.list_(pa.float32()), "curve": pa.list_(pa.float32()),
             "seconds": pa.float64()}  # fmt: skip
    return pa.schema([(each.name, kinds.get(each.name, pa.string())) for each in fields(Row)])


def write_part(path: Path, part: Part) -> None:
    """Write the part of one image, in one step."""
    pa, parquet = arrow()
    columns = {each.name: [getattr(row, each.name) for row in part.rows] for each in fields(Row)}
    for name in ("x", "curve"):
        columns[name] = [np.asarray(each, np.float32) for each in columns[name]]
    meta = {key: value for key, value in _plain(part).items() if key != "rows"}
    whole = schema().with_metadata({META: json.dumps(meta, ensure_ascii=False)})
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns, schema=whole), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def _plain(part: Part) -> dict[str, Any]:
    return asdict(Part(part.image, part.sha256, (), dict(part.done), dict(part.left_out),
                       part.broken, part.forwards, part.seconds))  # fmt: skip


def read_part(path: Path, with_rows: bool = True) -> Part | None:
    """A part; None where there is none that can be read, which is then measured again."""
    pa, parquet = arrow()
    try:
        meta = json.loads(parquet.read_schema(path).metadata[META])
        rows = parquet.read_table(path).to_pylist() if with_rows else []
        found = tuple(Row(**_as_arrays(row)) for row in rows)
        done = {name: tuple(groups) for name, groups in meta.pop("done").items()}
        return Part(**(meta | {"rows": found, "done": done}))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def _as_arrays(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: np.asarray(row[name], np.float32) for name in ("x", "curve")}


def assemble(parts: Iterable[Path], path: Path) -> int:
    """Write the table of all rows, part by part, in one step at the end.

    Args:
        parts: files that ``write_part`` wrote, in the order that the table is to have; missing
            ones are passed over.
        path: of the table.

    Returns:
        How many rows.
    """
    _, parquet = arrow()
    count = 0
    with replacing(path) as temporary, \
            parquet.ParquetWriter(temporary, schema(), compression="zstd") as out:  # fmt: skip
        for part in filter(Path.is_file, parts):
            table = parquet.read_table(part).replace_schema_metadata(None)
            count += len(table)
            if len(table):
                out.write_table(table)
    return count


def sorted_rows(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows of one image in the table's order."""
    return tuple(sorted(rows, key=lambda row: row.order))
