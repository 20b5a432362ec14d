"""Make minilm.npz: weights of a trained model, for tests that need real ones.

Run once: ``python make_minilm.py model.safetensors``, with the file ``tvwarray demo`` downloads.

The weights are those of sentence-transformers/all-MiniLM-L6-v2, under the Apache License 2.0; a
copy of it is minilm-LICENSE. Changed: one matrix is kept, rounded to float16.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

KEPT = {"L0.attention.self.query": "encoder.layer.0.attention.self.query.weight"}


def main(model: str) -> None:
    with safe_open(model, "np") as file:
        arrays = {name: file.get_tensor(key).astype(np.float16) for name, key in KEPT.items()}
    np.savez_compressed(Path(__file__).with_name("minilm.npz"), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
