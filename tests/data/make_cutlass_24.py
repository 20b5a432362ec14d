"""Make cutlass_24.npz, what PyTorch makes of small matrices in its CUTLASS layout.

Run once, with torch 2.13.0 on the CPU: ``python make_cutlass_24.py``. For every dtype the file
holds ``<dtype>_dense``, the matrix; ``<dtype>_values`` and ``<dtype>_meta``, its compressed form.
Bfloat16 bits are stored as uint16. Groups hold two, one or no nonzeros. The sizes span two bands of
rows and two pairs of metadata words, the fewest that tell all digits of the permutation apart.
"""

from pathlib import Path

import numpy as np
import torch
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

SHAPES = {torch.float16: (64, 64), torch.bfloat16: (64, 64), torch.int8: (32, 128)}


def main() -> None:
    rng = np.random.default_rng(24)
    arrays = {}
    for dtype, (rows, cols) in SHAPES.items():
        ranks = rng.random((rows, cols // 4, 4)).argsort(axis=2)
        kept = ranks < rng.choice([0, 1, 2, 2, 2], (rows, cols // 4, 1))
        numbers = rng.integers(1, 10, kept.shape) * rng.choice([-1, 1], kept.shape)
        dense = torch.from_numpy((numbers * kept).reshape(rows, cols)).to(dtype)
        values, meta = sparse_semi_structured_from_dense_cutlass(dense)
        name = str(dtype).removeprefix("torch.")
        for part, x in {"dense": dense, "values": values, "meta": meta}.items():
            bits = x.view(torch.int16) if x.dtype == torch.bfloat16 else x
            host = bits.numpy()
            arrays[f"{name}_{part}"] = host.view(np.uint16) if bits is not x else host
    np.savez_compressed(Path(__file__).with_name("cutlass_24.npz"), **arrays)


if __name__ == "__main__":
    main()
