"""The plans of twelve products, as docs/plans.md shows them; made by the cost model, without a GPU.

    python docs/plans.py            print them
    python docs/plans.py --write    put them into docs/plans.md, when kernels or the model change

`tests/test_docs.py` holds the page to what is printed.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np

import tvwarray

PAGE = Path(__file__).parent / "plans.md"

PRODUCTS = (
    (4096, 4096, 1), (4096, 4096, 8), (4096, 4096, 64), (4096, 4096, 512), (4096, 4096, 4096),
    (4096, 4096, 16384), (768, 3072, 128), (768, 3072, 4096), (3072, 768, 4096), (11008, 4096, 1),
    (11008, 4096, 2048), (256, 256, 16384),
)  # fmt: skip


@cache
def matrix(rows: int, cols: int) -> tvwarray.TVWMatrix:
    """Return a matrix pruned to 75 %: tiles of 128 rows that keep half of their columns."""
    tiles, slots = rows // 128, cols // 2
    storage = tvwarray.TVWStorage(
        shape=(rows, cols),
        tile_rows=128,
        vector=(2, 4),
        row_indptr=np.arange(0, rows + 1, 128, dtype=np.int32),
        row_indices=np.arange(rows, dtype=np.int32),
        col_indptr=np.arange(0, tiles * slots + 1, slots, dtype=np.int32),
        col_indices=np.tile(np.arange(0, cols, 2, dtype=np.int32), tiles),
        data=np.zeros(rows * slots // 2, np.float16),
        meta=np.full(rows * slots // 16, 0x4444, np.uint16),
    )
    return tvwarray.TVWMatrix.from_storage(storage)


def plans(device: str = "H200") -> str:
    """Return the plans, one after another."""
    found = (tvwarray.plan(matrix(rows, cols), n, device=device) for rows, cols, n in PRODUCTS)
    return "\n\n".join(map(str, found)) + "\n"


def page() -> str:
    """Return the page with the plans as they are now."""
    before, rest = PAGE.read_text().split("```text\n")
    return f"{before}```text\n{plans()}```{rest.partition('```')[2]}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page())
    else:
        print(plans(), end="")
