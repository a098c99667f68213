"""Make ``assets/nodules/browse.npz``: thumbnails of all nodules, embeddings of those trained on.

    python scripts/build_nodules_browse.py [--work runs/nodules]

To be run again when the phantom or the malignancy model changes; takes a few minutes on one core,
fewer with the tokens that ``python -m cdam_core train nodules`` has left in ``--work``.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cdam_core.files import write_atomically
from cdam_core.models import Encoding, VisionModel, load_model
from cdam_core.nodules import Phantom, load_nodules, load_split, to_image
from cdam_core.nodules.browse import MODEL, THUMBNAIL, stored_path, to_bytes
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


def main() -> None:
    """Render and encode every nodule, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/nodules"))
    model, source, trained = load_model(MODEL), Phantom(), set(load_split().train)
    thumbnails, embeddings = {}, {}
    nodules, work = load_nodules(), parser.parse_args().work
    encodings = stored_encodings(model, work)
    for number, (nodule, encoding) in enumerate(zip(nodules, encodings, strict=True), 1):
        small = to_image(source.crop(nodule)).convert("L").resize((THUMBNAIL, THUMBNAIL))
        thumbnails[nodule.id] = np.asarray(small)
        if nodule.id in trained:
            embeddings[nodule.id] = model.latent(encoding).float().cpu().numpy()
        if number % 100 == 0 or number == len(nodules):
            print(f"{number} of {len(nodules)} nodules", flush=True)
    write_atomically(stored_path(), to_bytes(thumbnails, embeddings, model.weights_sha256))
    print(f"wrote {stored_path().name}, {stored_path().stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
