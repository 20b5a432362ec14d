"""Time ``A.T @ Y`` against cuBLAS: python tests/gpu/transposed.py [--sizes ...] [--sweep]

Needs a GPU, CuPy, and PyTorch for the dense product (cuBLAS, float16, float32 accumulation). Each
product is first compared with the dense one in float32. Each time is the median of single launches
by CUDA events, the L2 cache flushed before each one; beside it what the cost model says. `--sweep`
packs the matrix in every way that is shipped for the chip, not only as the package would.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import cupy
import torch
from timings import median_us

from tvwarray._backends.array import BACKEND as ARRAY
from tvwarray._convert import to_dense
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.launch import CupyLauncher
from tvwarray._kernels.transposed.config import transposed_configs
from tvwarray._kernels.transposed.cost import predict_transposed
from tvwarray._kernels.transposed.pack import pack_transposed, shape_for
from tvwarray._kernels.transposed.product import multiply_transposed
from tvwarray._storage import TVWStorage

ELEMENT = "float16"
NIBBLES = np.array([0x4, 0x8, 0x9, 0xC, 0xD, 0xE])


def matrix(rows: int, cols: int, tile_rows: int, sparsity: float) -> TVWStorage:
    """Return a 2:4 matrix with random columns, on the GPU; `sparsity` counts all pruned entries."""
    rng = np.random.default_rng(0)
    slots = int(cols * 2 * (1 - sparsity)) // 16 * 16
    tiles = -(-rows // tile_rows)
    heights = np.full(tiles, tile_rows)
    heights[-1] = rows - tile_rows * (tiles - 1)
    columns = [np.sort(rng.choice(cols, slots, replace=False)) for _ in range(tiles)]
    nibbles = NIBBLES[rng.integers(0, 6, (rows * slots // 16, 4))]
    meta = (nibbles << np.array([0, 4, 8, 12])).sum(axis=1).astype(np.uint16)
    cupy.random.seed(1)
    data = cupy.random.standard_normal(rows * slots // 2, dtype=np.float32).astype(np.float16)
    return TVWStorage(
        (rows, cols), 256, (2, 4),
        cupy.asarray(np.concatenate([[0], np.cumsum(heights)]).astype(np.int32)),
        cupy.asarray(rng.permutation(rows).astype(np.int32)),
        cupy.asarray((np.arange(tiles + 1) * slots).astype(np.int32)),
        cupy.asarray(np.concatenate(columns).astype(np.int32)),
        data, cupy.asarray(meta),
    )  # fmt: skip


def compare(got: Any, storage: TVWStorage, y: Any) -> float:
    """Return the largest error over the bound of float32 sums and one rounding."""
    a = to_dense(storage).astype(np.float32)
    exact = a.T @ y.astype(np.float32)
    size = abs(a).T @ abs(y).astype(np.float32)
    bound = storage.shape[0] * 2.0**-24 * size * 2 + 2.0**-11 * abs(exact) + 1e-6
    return float((abs(got.astype(np.float32) - exact) / bound).max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="*", default=["4096x4096x4096"])
    parser.add_argument("--tile-rows", nargs="*", type=int, default=[128, 256])
    parser.add_argument("--sparsity", nargs="*", type=float, default=[0.5, 0.75, 0.875, 0.95])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sweep", action="store_true", help="every way of packing the chip has")
    parser.add_argument("--top", type=int, default=4)
    parser.add_argument("--array", action="store_true", help="time the array backend too")
    args = parser.parse_args()
    launcher = CupyLauncher()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream, torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)):
        for size in args.sizes:
            rows, cols, n = map(int, size.split("x"))
            y = cupy.random.standard_normal((rows, n), dtype=np.float32).astype(np.float16)
            a_dense = torch.randn(rows, cols, dtype=torch.float16, device="cuda")
            y_dense = torch.randn(rows, n, dtype=torch.float16, device="cuda")
            dense = median_us(lambda a=a_dense, y=y_dense: torch.matmul(a.T, y), args.repeats)
            rate = 2 * rows * cols * n / dense / 1e6
            print(f"{size}: dense {dense:.1f} us, {rate:.0f} TFLOP/s", flush=True)
            device = launcher.device(y)
            for sparsity, tile_rows in product(args.sparsity, args.tile_rows):
                storage = matrix(rows, cols, tile_rows, sparsity)
                print(f"  {sparsity:.1%}, tiles of {tile_rows}:", flush=True)
                if args.array:
                    blocks = ARRAY.pack(storage)
                    run = lambda b=blocks, y=y: ARRAY.matmul(b, y, transposed=True)  # noqa: E731
                    print(f"    {median_us(run, 5):7.1f} us: the array backend", flush=True)
                name = device.architecture
                chosen = shape_for(storage, name)
                all_shapes = dict.fromkeys(c.range_shape for c in transposed_configs(name, ELEMENT))
                found = []
                for shape in all_shapes if args.sweep else [chosen]:
                    packed = pack_transposed(storage, form_of(storage.dtype), shape)
                    configs = transposed_configs(name, ELEMENT, shape)
                    for c in configs:
                        out = multiply_transposed(launcher, packed, y, config=c)
                        worst = compare(out, storage, y) if c is configs[0] else 0.0
                        us = median_us(
                            lambda c=c, p=packed, x=y, o=out: multiply_transposed(
                                launcher, p, x, o, c
                            ),
                            args.repeats,
                        )
                        model = 1e6 * predict_transposed(c, packed.order, n, device).seconds
                        found.append((us, model, c, worst))
                for us, model, c, worst in sorted(found, key=lambda f: f[0])[: args.top]:
                    note = f", {worst:.2f} of the bound" if worst else ""
                    print(f"    {us:7.1f} us, {dense / us:5.2f}x, model {model:.1f}: {c}{note}")


if __name__ == "__main__":
    main()
