"""Compute path distances between ImageNet's classes in WordNet: ``assets/wordnet-distances.xz``.

    python scripts/build_wordnet_distances.py --wordnet /usr/share/wordnet

Needs ``data.noun`` of WordNet 3.0 (Debian's package wordnet-base), whose noun offsets are
ImageNet's synset ids. The file holds the upper triangle of the 1000 x 1000 table, row by row,
uint8, compressed.
"""

import argparse
import hashlib
import lzma
import sys
from collections import defaultdict, deque
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cdam_core.benchmarks import same_thing  # noqa: E402

UP = ("@", "@i")  # hypernym, instance hypernym
UNREACHABLE = 255


def graph(path: Path) -> dict[str, set[str]]:
    """Offset -> offsets one step away, up or down, from ``data.noun``.

    A line: offset, file, type, count of words (hex), two fields per word, count of pointers, four
    fields per pointer (symbol, offset, part of speech, source), gloss.
    """
    near: dict[str, set[str]] = defaultdict(set)
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields = line.split("|")[0].split()
        start = 4 + 2 * int(fields[3], 16)
        for at in range(start + 1, start + 1 + 4 * int(fields[start]), 4):
            symbol, offset, speech, _ = fields[at : at + 4]
            if symbol in UP and speech == "n":
                near[fields[0]].add(offset)
                near[offset].add(fields[0])
    return near


def distances_from(near: dict[str, set[str]], start: str) -> dict[str, int]:
    """Steps to every offset that can be reached."""
    found, queue = {start: 0}, deque([start])
    while queue:
        here = queue.popleft()
        for there in near[here]:
            if there not in found:
                found[there] = found[here] + 1
                queue.append(there)
    return found


def main() -> None:
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / same_thing.FILE)
    args = parser.parse_args()
    near = graph(args.wordnet / "data.noun")
    offsets = [synset[1:] for synset in same_thing.synsets()]
    missing = [offset for offset in offsets if offset not in near]
    if missing:
        sys.exit(f"{len(missing)} classes are not in this WordNet; expected version 3.0.")
    table = np.full((len(offsets), len(offsets)), UNREACHABLE, np.uint8)
    for row, offset in enumerate(offsets):
        found = distances_from(near, offset)
        table[row] = [found.get(other, UNREACHABLE) for other in offsets]
    upper = table[np.triu_indices(len(offsets), 1)].tobytes()
    args.out.write_bytes(lzma.compress(upper, preset=9))
    digest = hashlib.sha256(upper).hexdigest()
    print(f"{args.out.stat().st_size} bytes; sha256 of the table {digest}")


if __name__ == "__main__":
    main()
