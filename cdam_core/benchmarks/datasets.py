"""What a benchmark is run on: pictures with one or two classes each, and masks where there are any.

``open_data`` reads lists and names only; a picture's bytes are read when its turn comes, so memory
does not grow with the data. Sources: the bundled scenes, an archive of scenes, a folder with one
folder per class, a folder with a table of labels (ImageNet's validation set as it is handed out),
and X_multi, the validation images to which ImageNet-ReaL gives two or more different things.
"""

import csv
import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cdam_core.assets import assets_dir
from cdam_core.benchmarks import same_thing
from cdam_core.errors import BadData, BadImage
from cdam_core.images import MAX_BYTES
from cdam_core.models import VisionModel, imagenet_names

BUILT_IN = {"scenes:single": "single.zip", "scenes:pairs": "pairs.zip"}
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")
REAL_OF_TIMM = "timm"  # stands for the copy of ImageNet-ReaL's labels that timm brings along
MAX_TARGETS = 2
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})$", re.IGNORECASE)
_LIST_OF_SCENES = "scenes.json"


@dataclass(frozen=True)
class Item:
    """One picture of a data set, not read yet.

    Attributes:
        id: its name; unique, and the same wherever the data lies.
        labels: one or two output indices of the model; with masks, label k is object k + 1.
        place: path, or name inside the archive.
    """

    id: str
    labels: tuple[int, ...]
    place: str


@dataclass(frozen=True)
class Picture:
    """One picture with its bytes, ready to be sent to whoever measures it.

    Attributes:
        id, labels: as of the item.
        content: of the image file; None where it cannot be read at all.
        mask: of a PNG with the number of the object at every pixel, or None.
    """

    id: str
    labels: tuple[int, ...]
    content: bytes | None
    mask: bytes | None = None

    @cached_property
    def sha256(self) -> str:
        """Of the image and its mask; "" where there is no image."""
        if self.content is None:
            return ""
        return hashlib.sha256(self.content + (self.mask or b"")).hexdigest()


@dataclass(frozen=True, eq=False)
class Data:
    """A data set for one model.

    Attributes:
        id: how it was named: a built-in id, or the kind of source; never a path.
        items: all pictures, in a fixed order.
        digest: SHA-256 that changes with the list of pictures, their labels and their sizes (of an
            archive, with every byte).
        has_masks: whether the objects' places are known.
        is_imagenet: whether the labels are ImageNet-1k's.
        notes: what was decided on the way, JSON-able.
        archive: the ZIP that the pictures lie in, or None.
    """

    id: str
    items: tuple[Item, ...]
    digest: str
    has_masks: bool = False
    is_imagenet: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)
    archive: Path | None = None

    def read(self, item: Item) -> Picture:
        """The picture of an item; without content where the file is gone or far too large."""
        if self.archive is None:
            return Picture(item.id, item.labels, _bytes_of(Path(item.place)))
        with zipfile.ZipFile(self.archive) as archive:
            content, mask = (_bytes_in(archive, f"{item.place}.{kind}") for kind in ("jpg", "png"))
        return Picture(item.id, item.labels, content if mask is not None else None, mask)


def split(
    items: Sequence[Item], seed: int, limit: int | None, held_out: int
) -> tuple[list[Item], list[Item]]:
    """Pictures to test on, and others to choose settings on.

    The order depends on the seed and the pictures' names alone. Pictures are held out from its end,
    at most half of them, so that a larger limit later adds to the test and changes nothing else.

    Args:
        items: of the data.
        seed: of the order.
        limit: how many to test on at most; None: all that are not held out.
        held_out: how many to hold out.

    Returns:
        (test, held out).
    """

    def rank(item: Item) -> str:
        return hashlib.sha256(f"{seed}/{item.id}".encode()).hexdigest()

    order = sorted(items, key=rank)
    count = min(held_out, len(order) // 2)
    test, held = order[: len(order) - count], order[len(order) - count :]
    return test[:limit], held


# ---- opening -------------------------------------------------------------------------------------


def open_data(
    model: VisionModel,
    source: str | Path,
    labels: Path | None = None,
    real: str | Path | None = None,
    judge: same_thing.Judge | None = None,
    seed: int = 0,
) -> Data:
    """Find the pictures of a data set and the classes that they show.

    Args:
        model: whose outputs the classes are.
        source: "scenes:single" | "scenes:pairs" | a ZIP of scenes | a folder.
        labels: table with a picture and its class per line, for a folder without class folders.
        real: labels of ImageNet-ReaL: "timm" or a file; the folder's validation images with two or
            more different things are taken.
        judge: tells which two of these labels name the same thing; None: the usual one.
        seed: of the choice of two labels where there are more.

    Raises:
        BadData: with a reason and one sentence.
    """
    model.require_head()
    if str(source) in BUILT_IN:
        return _scenes(model, assets_dir() / "scenes" / BUILT_IN[str(source)], str(source))
    path = Path(source)
    if path.is_file() and path.suffix.lower() == ".zip":
        return _scenes(model, path, "scenes archive")
    if not path.is_dir():
        raise BadData(
            "not-found",
            f"No such data; expected {', '.join(BUILT_IN)}, a ZIP of scenes, or a folder.",
        )
    if real is not None:
        return _multi(model, path, real, judge or same_thing.Judge(), seed)
    if labels is not None:
        return _labelled(model, path, labels)
    return _by_class(model, path)


# ---- scenes --------------------------------------------------------------------------------------


def _scenes(model: VisionModel, path: Path, name: str) -> Data:
    names = ClassNames(model)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with zipfile.ZipFile(path) as archive:
            listed = json.loads(archive.read(_LIST_OF_SCENES))
        shown = [tuple(scene.get("classes") or scene["labels"]) for scene in listed]
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError):
        raise BadData(
            "unreadable",
            "This is no archive of scenes; expected a ZIP with scenes.json as "
            "scripts/build_scenes_test.py writes it.",
        ) from None
    items = []
    for index, classes in enumerate(shown):
        found = tuple(names.index(each) for each in classes[:MAX_TARGETS])
        if None in found or not found:
            raise BadData(
                "unknown-class",
                f"Scene {index} shows a class that this model does not have; expected scenes of "
                "the model's own classes.",
            )
        items.append(Item(f"{index:03d}", found, f"{index:03d}"))
    return Data(name, tuple(items), digest, has_masks=True, archive=path)


def _bytes_in(archive: zipfile.ZipFile, name: str) -> bytes | None:
    try:
        return archive.read(name) if archive.getinfo(name).file_size <= MAX_BYTES else None
    except (KeyError, zipfile.BadZipFile, zipfile.zlib.error, EOFError):
        return None


def _bytes_of(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)  # open_image refuses what is larger
    except OSError:
        return None


# ---- folders -------------------------------------------------------------------------------------


class ClassNames:
    """Finds a model's output by what a folder or a table calls it.

    Args:
        model: whose outputs these are.
    """

    def __init__(self, model: VisionModel):
        self.count = len(model.class_names)
        self.is_imagenet = tuple(model.class_names) == imagenet_names()
        times = Counter(name.casefold() for name in model.class_names)
        self.known = {name.casefold(): index for index, name in enumerate(model.class_names)
                      if times[name.casefold()] == 1}  # fmt: skip
        if self.is_imagenet:
            self.known |= {synset: i for i, synset in enumerate(same_thing.synsets())}

    def index(self, text: str | int) -> int | None:
        """By name, by ImageNet's synset ("n01440764"), or by number; None: not known."""
        text = str(text).strip().casefold()
        if text in self.known:
            return self.known[text]
        if text.isascii() and text.isdigit() and int(text) < self.count:
            return int(text)
        return None

    @property
    def expected(self) -> str:
        """Words for what is known."""
        more = "a synset of ImageNet-1k such as n01440764, " if self.is_imagenet else ""
        return f"expected a class name of this model, {more}or a number from 0 to {self.count - 1}"


def unique_names(model: VisionModel) -> list[str]:
    """The model's class names; those that several classes share with their number."""
    times = Counter(model.class_names)
    return [name if times[name] == 1 else f"{name} ({index})"
            for index, name in enumerate(model.class_names)]  # fmt: skip


def _images(folder: Path, deep: bool = False) -> list[Path]:
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(p for p in found if p.suffix.lower() in SUFFIXES and p.is_file())


def _by_class(model: VisionModel, folder: Path) -> Data:
    names = ClassNames(model)
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    if not folders:
        raise BadData(
            "empty",
            "The folder holds no folders of classes; expected one folder per class with its images "
            "in it, or a table of labels.",
        )
    items: list[Item] = []
    for number, each in enumerate(folders, 1):
        where = f"Class folder {number} of {len(folders)} (in alphabetical order)"
        label = names.index(each.name)
        if label is None:
            raise BadData("unknown-class", f"{where} has a name that is not known; "
                          f"{names.expected}.")  # fmt: skip
        images = _images(each)
        if not images:
            raise BadData("empty", f"{where} holds no images; expected files ending in "
                          f"{', '.join(SUFFIXES)}, or no such folder.")  # fmt: skip
        items += [Item(f"{each.name}/{path.name}", (label,), str(path)) for path in images]
    return _folder_data("folder by class", items, names.is_imagenet)


def _folder_data(
    name: str, items: Sequence[Item], is_imagenet: bool, notes: Mapping[str, Any] | None = None
) -> Data:
    listed = hashlib.sha256()
    for item in items:
        size = Path(item.place).stat().st_size
        listed.update(f"{item.id}\0{item.labels}\0{size}\n".encode())
    return Data(name, tuple(items), listed.hexdigest(), is_imagenet=is_imagenet, notes=notes or {})


def _labelled(model: VisionModel, folder: Path, table: Path) -> Data:
    names, rows = ClassNames(model), list(_rows(table))
    places = {path.stem: path for path in _images(folder, deep=True)}
    items, seen = [], set()
    for number, (name, text) in enumerate(rows, 1):
        stem, label = Path(name).stem, names.index(text)
        place = places.get(stem)
        if stem in seen:
            raise BadData("labels", f"Line {number} of the table of labels names a picture that an "
                          "earlier one names; expected every picture once.")  # fmt: skip
        seen.add(stem)
        if label is None:
            raise BadData("unknown-class", f"Line {number} of the table of labels names a class "
                          f"that is not known; {names.expected}.")  # fmt: skip
        if place is not None:
            items.append(Item(place.name, (label,), str(place)))
    if not items:
        raise BadData("labels", "None of the pictures that the table of labels names lies in the "
                      "folder; expected their file names, with or without ending.")  # fmt: skip
    notes = {"listed": len(rows), "missing": len(rows) - len(items)}
    return _folder_data("folder with labels", items, names.is_imagenet, notes)


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    """(picture, class) of every line of a table of labels.

    A CSV with the columns image and label (or ImageId and PredictionString, as Kaggle hands them
    out), or two words a line.
    """
    wrong = BadData(
        "labels",
        "The table of labels cannot be used; expected a CSV file in UTF-8 with the columns image "
        "and label (or ImageId and PredictionString), or lines of a file name and a class.",
    )
    try:
        text = table.read_text(encoding="utf-8-sig")
        columns = next(csv.reader(text.splitlines()[:1]), [])
        listed = list(csv.DictReader(io.StringIO(text)))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise wrong from None
    if {"image", "label"} <= {*columns}:
        rows = [(row["image"], row["label"]) for row in listed]
    elif {"ImageId", "PredictionString"} <= {*columns}:  # the class, then boxes
        rows = [(row["ImageId"], (row["PredictionString"] or "").partition(" ")[0])
                for row in listed]  # fmt: skip
    else:
        rows = [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]
    if not rows or any(len(row) != 2 or not all(row) for row in rows):
        raise wrong
    yield from rows


# ---- X_multi -------------------------------------------------------------------------------------


def _multi(
    model: VisionModel, folder: Path, real: str | Path, judge: same_thing.Judge, seed: int
) -> Data:
    if not ClassNames(model).is_imagenet:
        raise BadData("unsupported", "The labels of ImageNet-ReaL arrived for a model of other "
                      "classes; expected one with the 1000 classes of ImageNet.")  # fmt: skip
    labels = _real_labels(real)
    places = {int(found[1]): path for path in _images(folder, deep=True)
              if (found := _VALIDATION.search(path.stem))}  # fmt: skip
    if not places:
        raise BadData("empty", "The folder holds no validation images of ImageNet; expected names "
                      "like ILSVRC2012_val_00000001.JPEG.")  # fmt: skip
    if max(places) > len(labels):
        raise BadData(
            "labels",
            f"The file of ImageNet-ReaL holds labels of {len(labels)} images, but there is an "
            f"image number {max(places)}; expected one list of labels per image, in their order.",
        )
    items, dropped, several = [], Counter(), 0
    for number, path in sorted(places.items()):
        shown = list(dict.fromkeys(labels[number - 1]))
        several += len(shown) > 1
        pair = _pair(path.stem, shown, judge, seed, dropped)
        if pair:
            items.append(Item(path.name, pair, str(path)))
    if not items:
        raise BadData("empty", "None of the images shows two different things by these labels; "
                      "expected more images, or a smaller distance.")  # fmt: skip
    notes = {"images": len(places), "with_several_labels": several, "taken": len(items),
             "wordnet_distance": judge.distance, "dropped_pairs": _told(dropped),
             "embedding_similarity": None if judge.embedder is None else judge.similarity}
    return _folder_data("X_multi", items, is_imagenet=True, notes=notes)


def _pair(
    name: str, shown: Sequence[int], judge: same_thing.Judge, seed: int, dropped: Counter
) -> tuple[int, int] | None:
    """Two of an image's labels that name different things; ``dropped`` counts those that do not."""
    kept = []
    for position, one in enumerate(shown):
        for two in shown[position + 1 :]:
            why = judge.why(one, two)
            if why:
                dropped[(min(one, two), max(one, two), why)] += 1
            else:
                kept.append((one, two))
    if not kept:
        return None
    draw = int(hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()[:8], 16)
    return kept[draw % len(kept)]


def _told(dropped: Counter) -> list[dict[str, Any]]:
    """Dropped pairs of labels, the most frequent first."""
    names = imagenet_names()
    return [{"labels": [names[one], names[two]], "why": why, "images": count}
            for (one, two, why), count in dropped.most_common()]  # fmt: skip


def _real_labels(real: str | Path) -> list[list[int]]:
    try:
        if str(real) == REAL_OF_TIMM:
            text = same_thing.timms_file("imagenet_real_labels.json")
        else:
            text = Path(real).read_text(encoding="utf-8")
        labels = json.loads(text)
    except (OSError, ValueError):
        labels = None
    is_right = isinstance(labels, list) and all(
        isinstance(each, list) and all(type(label) is int and 0 <= label < 1000 for label in each)
        for each in labels
    )
    if not is_right:
        raise BadData(
            "labels",
            "The file of ImageNet-ReaL cannot be used; expected real.json: a list with one list of "
            "class numbers from 0 to 999 per validation image.",
        )
    return labels


def mask_of(picture: Picture) -> np.ndarray | None:
    """(H, W) uint8 numbers of the objects, or None; ``BadImage`` where the PNG is broken."""
    if picture.mask is None:
        return None
    try:
        with Image.open(io.BytesIO(picture.mask), formats=("PNG",)) as image:
            return np.array(image.convert("L"))
    except Exception:  # decoders raise anything on broken files
        raise BadImage("unreadable", "The mask of this picture is no readable PNG.") from None
