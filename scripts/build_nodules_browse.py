"""Make ``assets/nodules/browse.npz``: thumbnails of all nodules, embeddings of those trained on.

    python scripts/build_nodules_browse.py [--work runs/nodules] [--keep-thumbnails]

To be run again when the phantom or the malignancy model changes; takes a few minutes on one core,
fewer with the tokens that ``python -m cdam_core train nodules`` has left in ``--work``, and half a
minute if only the model has changed and the thumbnails are kept.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cdam_core.files import write_atomically
from cdam_core.models import Encoding, VisionModel, load_model
from cdam_core.nodules import Nodule, Phantom, load_nodules, load_split, to_image
from cdam_core.nodules.browse import MODEL, THUMBNAIL, sheet_of, stored_path, to_bytes
from cdam_core.nodules.card import sha256
from cdam_core.nodules.views import backbone_cache

BACKBONE = Path(__file__).resolve().parent.parent / "assets/models/backbone.safetensors"


def stored_encodings(model: VisionModel, work: Path) -> Iterator[Encoding]:
    """What the model makes of every nodule's view 0, from the tokens kept in the work folder."""
    cache = backbone_cache(work / "tokens", model.module, sha256(BACKBONE), Phantom(),
                           model.input_size[0])
    for tokens in cache.read(Phantom(), load_nodules(), 0):
        joined = model.module.join_class_token(torch.from_numpy(tokens[None]).float())
        yield Encoding(joined, model.grid, np.ones(model.grid, bool))


def thumbnails_of(source: Phantom, nodules: Sequence[Nodule]) -> Image.Image:
    """Every nodule's central plane, small, on one sheet."""
    small = {}
    for number, nodule in enumerate(nodules, 1):
        picture = to_image(source.crop(nodule)).convert("L").resize((THUMBNAIL, THUMBNAIL))
        small[nodule.id] = np.asarray(picture)
        if number % 100 == 0 or number == len(nodules):
            print(f"{number} of {len(nodules)} thumbnails", flush=True)
    return sheet_of(small)


def kept_sheet(nodules: Sequence[Nodule]) -> bytes:
    """The thumbnails of the file that is there, as they are."""
    with np.load(stored_path(), allow_pickle=False) as file:
        if file["ids"].tolist() != [nodule.id for nodule in nodules]:
            sys.exit("the file holds thumbnails of other nodules; run without --keep-thumbnails")
        return file["sheet"].tobytes()


def main() -> None:
    """Render and encode every nodule, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/nodules"))
    parser.add_argument("--keep-thumbnails", action="store_true")
    args = parser.parse_args()
    model, nodules, trained = load_model(MODEL), load_nodules(), set(load_split().train)
    embeddings = {
        nodule.id: model.latent(encoding).float().cpu().numpy()
        for nodule, encoding in zip(nodules, stored_encodings(model, args.work), strict=True)
        if nodule.id in trained
    }
    sheet = kept_sheet(nodules) if args.keep_thumbnails else thumbnails_of(Phantom(), nodules)
    ids = [nodule.id for nodule in nodules]
    write_atomically(stored_path(), to_bytes(ids, sheet, embeddings, model.weights_sha256))
    print(f"wrote {stored_path().name}, {stored_path().stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
