"""Make ``assets/nodules/browse.npz``: thumbnails of all nodules, embeddings of those trained on.

    python scripts/build_nodules_browse.py

To be run again when the phantom or the malignancy model changes; takes a few minutes on one core.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cdam_core.files import write_atomically
from cdam_core.models import load_model
from cdam_core.nodules import Phantom, load_nodules, load_split, to_image
from cdam_core.nodules.browse import MODEL, THUMBNAIL, stored_path, to_bytes


def main() -> None:
    """Render and encode every nodule, and write the file."""
    model, source, trained = load_model(MODEL), Phantom(), set(load_split().train)
    thumbnails, embeddings = {}, {}
    nodules = load_nodules()
    for number, nodule in enumerate(nodules, 1):
        picture = to_image(source.crop(nodule))
        small = picture.convert("L").resize((THUMBNAIL, THUMBNAIL))
        thumbnails[nodule.id] = np.asarray(small)
        if nodule.id in trained:
            embeddings[nodule.id] = model.latent(model.encode_image(picture)).float().cpu().numpy()
        if number % 100 == 0 or number == len(nodules):
            print(f"{number} of {len(nodules)} nodules", flush=True)
    write_atomically(stored_path(), to_bytes(thumbnails, embeddings, model.weights_sha256))
    print(f"wrote {stored_path().name}, {stored_path().stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
