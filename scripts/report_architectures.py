"""Write assets/architectures.csv: what of timm can be explained, how, and why not the rest.

   python scripts/report_architectures.py            # everything again; some ten minutes
   python scripts/report_architectures.py --tables   # the tables of docs/models.md alone
   python scripts/report_architectures.py --check    # write nothing, only compare these

The structure of every architecture that the installed timm lists is built without weights. Each one
that can be explained is then built in small with random weights, and its logits and scores are
compared with plain autograd on the whole model (``tests/zoo.py``); one that disagrees ends the
command with 1, and nothing is written.
"""

import argparse
import csv
import io
import sys
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402

import cdam_core as cdam  # noqa: E402
from cdam_core import architectures  # noqa: E402
from cdam_core.files import write_atomically  # noqa: E402
from tests import zoo  # noqa: E402

REPORT = ROOT / "assets" / "architectures.csv"
PAGE = ROOT / "docs" / "models.md"
START, END = "<!-- architectures: generated -->", "<!-- architectures: end -->"
CLOSED, AUTOGRAD = "closed form", "autograd of the last block"
ON_DEMAND, POOLED, NOT = "class token on demand", "average-pooled variant", "not supported"
SUPPORT = {
    CLOSED: "by name; heads and paths, too",
    AUTOGRAD: "by name",
    ON_DEMAND: "with `pool=\"token\"`: averages by default, has a class token and no head; "
    "`pool=\"avg\"` works, too",
    POOLED: "with `pool=\"avg\"` and the method `pooled_cdam`",
    NOT: "",
}  # fmt: skip
SAME = 1e-5  # relative to the largest score; scores are float32


@dataclass(frozen=True)
class Row:
    """One architecture.

    Attributes:
        architecture: timm's name.
        file: of timm's ``models`` that defines it.
        network: its class.
        block: kind and path of the block that is explained.
        support: key of ``SUPPORT``.
        reason: why not, in one sentence, for all but the first two kinds.
    """

    architecture: str
    file: str
    network: str
    block: str
    support: str
    reason: str


def main() -> None:
    """Write the report and its tables, or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="only the tables of docs/models.md")
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    given = parser.parse_args()
    if not (given.tables or given.check):
        rows = [examined(name) for name in progress(timm.list_models())]
        write_atomically(REPORT, as_csv(rows).encode())
    before = PAGE.read_text("utf-8")
    after = with_tables(before, read_report())
    if given.check and after != before:
        raise SystemExit("docs/models.md is not current: run this script with --tables.")
    if after != before:
        write_atomically(PAGE, after.encode())


def progress(names: list[str]):
    """The names, one after another, counted on the screen."""
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}", flush=True)
        yield name


# ---- examining -----------------------------------------------------------------------------------


def examined(name: str) -> Row:
    """What is true of one architecture."""
    file = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    try:
        module = architectures.outline(name)
    except Exception:  # whatever timm raises
        return Row(name, file, "", "", NOT, architectures.why_not_by_name(name))
    pools = [pool for pool in (None, "token", "avg") if not architectures.why_not(module, pool)]
    reason = architectures.why_not(module) or ""
    if not pools:
        return Row(name, file, type(module).__name__, "", NOT, reason)
    place = architectures.find(module, pools[0])
    kind = type(module.get_submodule(place.block)).__name__
    closed = {pool: checked(name, pool) for pool in pools}
    if None in pools:
        support = CLOSED if closed[None] else AUTOGRAD
    else:
        support = ON_DEMAND if "token" in pools else POOLED
    return Row(name, file, type(module).__name__, f"{kind} {place.block}", support, reason)


def checked(name: str, pool: str | None) -> bool:
    """Compare with plain autograd on the whole model, in small; whether the closed form applies.

    Raises:
        SystemExit: they disagree.
    """
    module = zoo.shrunk(name)
    if pool == "token":
        module.global_pool = "token"
    pixels = zoo.pixels_for(module)
    model = cdam.wrap(module, input_size=tuple(pixels.shape[-2:]), pool=pool)
    averaged = model.pool == "avg"
    expected, logits = zoo.oracle(module, pixels, lambda f: f[0, 0] - f[0, 2], residual=averaged)
    method = "pooled_cdam" if averaged else "cdam"
    e = cdam.explain(model, pixels, cdam.Contrast(0, 2), method)
    prefix, scale = model.num_prefix_tokens, float(expected.abs().max())
    same = np.allclose(e.scores[0].ravel(), expected[prefix:], atol=SAME * scale, rtol=0)
    ours = model.logits(model.encode(pixels))
    if not same or not torch.allclose(ours, logits, rtol=1e-9, atol=1e-9) or scale == 0:
        raise SystemExit(f"{name} (pool={pool}) disagrees with plain autograd.")
    return model.closed_form


# ---- the file ------------------------------------------------------------------------------------


def as_csv(rows: list[Row]) -> str:
    """One line per architecture, sorted by name; the first line says which timm."""
    out = io.StringIO()
    out.write(f"# timm {timm.__version__}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: row.architecture))
    return out.getvalue()


def read_report() -> list[Row]:
    """The committed rows."""
    lines = REPORT.read_text("utf-8").splitlines()
    return [Row(**line) for line in csv.DictReader(lines[1:])]


def timm_of_report() -> str:
    """The version of timm that the committed report is about."""
    return REPORT.read_text("utf-8").splitlines()[0].removeprefix("# timm ")


# ---- the tables ----------------------------------------------------------------------------------


def with_tables(page: str, rows: list[Row]) -> str:
    """The page with its tables made anew."""
    head, _, rest = page.partition(START)
    _, _, tail = rest.partition(END)
    return f"{head}{START}\n{tables(rows)}\n{END}{tail}"


def tables(rows: list[Row]) -> str:
    """Counts, what is supported by family, and why the rest is not."""
    counts = Counter(row.support for row in rows)
    lines = [f"Of the {len(rows)} architectures of timm {timm_of_report()}:", "",
             "| support | architectures | how |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {kind} | {counts[kind]} | {how} |" for kind, how in SUPPORT.items()]
    lines += ["", "| network | block that is explained | support | architectures | such as |",
              "|---|---|---|---|---|"]  # fmt: skip
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.support != NOT:
            block = row.block.split()
            path = ".".join("*" if part.isdigit() else part for part in block[1].split("."))
            key = (row.network, f"{block[0]} in `{path}`", row.support)
            groups.setdefault(key, []).append(row)
    order = list(SUPPORT)
    for key in sorted(groups, key=lambda key: (order.index(key[2]), key)):
        members = groups[key]
        lines.append(f"| {' | '.join(key)} | {len(members)} | `{members[0].architecture}` |")
    lines += ["", "| not supported because | architectures | such as |", "|---|---|---|"]
    whys: dict[str, list[Row]] = {}
    for row in rows:
        if row.support == NOT:
            whys.setdefault(kind_of_reason(row.reason), []).append(row)
    for why, members in sorted(whys.items(), key=lambda item: -len(item[1])):
        lines.append(f"| {why} | {len(members)} | `{members[0].architecture}` |")
    return "\n".join(lines)


def kind_of_reason(reason: str) -> str:
    """A sentence about one network as one about its kind."""
    kinds = {
        "has no class token that reads patches": "no class token that reads patches (convolutional "
        "networks, windows, averages over stages)",
        "pools its patches by attention": "patches are pooled by attention, after the last block",
        "two class tokens": "two class tokens over two grids of patches",
        "three class tokens": "three class tokens over three grids of patches",
        "rotary positions": "image sizes of any shape with rotary positions",
        "could not build": "timm needs more than the name to build it",
    }
    return next((text for words, text in kinds.items() if words in reason), reason)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
