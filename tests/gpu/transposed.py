"""Time ``A.T @ Y`` against cuBLAS: python tests/gpu/transposed.py [--sizes ...] [--dtype ...]

Needs a GPU, CuPy, and PyTorch for the dense product (cuBLAS, float32 accumulation, of float32
without TF32). Each product is first compared with the dense one in float64. Each time is the median
of single launches by CUDA events, the L2 cache flushed before each one; beside it what the cost
model says. A.T is laid out in tiles of each of `--heights`. Before them is what a first
product takes of the host, and what one takes more whose values have changed.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import cupy
import torch
from timings import median_us

from tvwarray._convert import to_dense
from tvwarray._convert.transposed import TransposedPattern
from tvwarray._kernels.launch import CupyLauncher, choose_config
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._storage import TVWStorage

NIBBLES = np.array([0x4, 0x8, 0x9, 0xC, 0xD, 0xE])


def matrix(rows: int, cols: int, tile_rows: int, sparsity: float, dtype: Any) -> TVWStorage:
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
    data = cupy.random.standard_normal(rows * slots // 2, dtype=np.float32).astype(dtype)
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
    a, wide = to_dense(storage).astype(np.float64), y.astype(np.float64)
    exact, size = a.T @ wide, abs(a).T @ abs(wide)
    unit = 2.0**-11 if got.dtype == np.float16 else 2.0**-24
    bound = storage.shape[0] * 2.0**-24 * size * 2 + unit * abs(exact) + 1e-6
    return float((abs(got.astype(np.float64) - exact) / bound).max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="*", default=["4096x4096x4096"])
    parser.add_argument("--tile-rows", nargs="*", type=int, default=[128])
    parser.add_argument("--heights", nargs="*", type=int, default=[128, 256])
    parser.add_argument("--sparsity", nargs="*", type=float, default=[0.5, 0.75, 0.875, 0.95])
    parser.add_argument("--dtype", default="float16", choices=["float16", "float32"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--top", type=int, default=2, help="candidates that are measured")
    args = parser.parse_args()
    launcher = CupyLauncher()
    stream = cupy.cuda.Stream(non_blocking=True)
    kind = getattr(torch, args.dtype)
    with stream, torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)):
        for size in args.sizes:
            rows, cols, n = map(int, size.split("x"))
            y = cupy.random.standard_normal((rows, n), dtype=np.float32).astype(args.dtype)
            a_dense = torch.randn(rows, cols, dtype=kind, device="cuda")
            y_dense = torch.randn(rows, n, dtype=kind, device="cuda")
            dense = median_us(lambda a=a_dense, y=y_dense: torch.matmul(a.T, y), args.repeats)
            rate = 2 * rows * cols * n / dense / 1e6
            print(f"{size} {args.dtype}: dense {dense:.1f} us, {rate:.0f} TFLOP/s", flush=True)
            device = launcher.device(y)
            for sparsity, tile_rows, height in product(args.sparsity, args.tile_rows, args.heights):
                storage = matrix(rows, cols, tile_rows, sparsity, args.dtype)
                pattern = TransposedPattern((2, 4), height)
                start = time.perf_counter()
                pattern.fill(storage)
                stream.synchronize()
                first = time.perf_counter() - start
                pattern.fill(storage)
                filled = pattern.fill(storage)
                packed = pack(filled)
                again = median_us(lambda p=pattern, s=storage: pack(p.fill(s)), 5)
                more = float(filled.slots_of.mean()) / rows
                print(
                    f"  {sparsity:.1%}, tiles of {tile_rows}, of A.T {height}: {more:.3f} x rows "
                    f"slots, {packed.nbytes / 1e6:.1f} MB; laid out in {first:.2f} s, other values "
                    f"in {again:.0f} us", flush=True,
                )  # fmt: skip
                candidates = choose_config(packed, n, device).candidates[: args.top]
                for i, c in enumerate(c for c in candidates if not c.refusal):
                    out = multiply(launcher, packed, y, config=c.config)
                    note = "" if i else f", {compare(out, storage, y):.2f} of the bound"
                    us = median_us(
                        lambda c=c, p=packed, x=y, o=out: multiply(launcher, p, x, o, c.config),
                        args.repeats,
                    )
                    print(
                        f"    {us:7.1f} us, {dense / us:5.2f}x, model "
                        f"{1e6 * c.prediction.seconds:.1f}: {c.config}{note}", flush=True,
                    )  # fmt: skip


if __name__ == "__main__":
    main()
