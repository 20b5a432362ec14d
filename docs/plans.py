"""Print the plans of twelve products: python docs/plans.py [DEVICE] > docs/_static/plans.txt.

The text is included in docs/kernels.md. No GPU is needed: plans are made from the cost model.
"""

from __future__ import annotations

import sys

import numpy as np

import tvwarray

PRODUCTS = (
    (4096, 4096, 1), (4096, 4096, 8), (4096, 4096, 64), (4096, 4096, 512), (4096, 4096, 4096),
    (4096, 4096, 16384), (768, 3072, 128), (768, 3072, 4096), (3072, 768, 4096), (11008, 4096, 1),
    (11008, 4096, 2048), (256, 256, 16384),
)  # fmt: skip


def main() -> None:
    """Print the plans."""
    device = sys.argv[1] if len(sys.argv) > 1 else "H200"
    made: dict[tuple[int, int], tvwarray.TVWMatrix] = {}
    for rows, cols, n in PRODUCTS:
        if (rows, cols) not in made:
            W = np.random.default_rng(0).standard_normal((rows, cols), dtype=np.float32)
            A = tvwarray.sparsify(W, 0.75, tile_rows=128, permute=False, group_rows=False)
            made[rows, cols] = A.astype(np.float16)
        print(tvwarray.plan(made[rows, cols], n, device=device))


if __name__ == "__main__":
    main()
