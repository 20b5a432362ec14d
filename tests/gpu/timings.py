"""Time every shipped kernel against cuBLAS: python tests/gpu/timings.py [--sizes ...]

Needs a GPU, CuPy, and PyTorch for the dense product (cuBLAS, bfloat16, float32 accumulation). Each
time is the median of single launches by CUDA events, the L2 cache flushed before each one. Prints
the dense time, then for each problem the kernels by time with the place the cost model gave them.
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
from kernel_problems import BFLOAT16, TileSpec, storage_of

from tvwarray import Epilogue
from tvwarray._kernels.launch import CupyLauncher, choose_config
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._storage import ARRAY_FIELDS, TVWStorage


def median_us(run: Any, repeats: int) -> float:
    """Return the median time of `run` in microseconds, L2 flushed."""
    flush = cupy.empty(256 << 20, cupy.uint8)
    run()
    run()
    times = []
    for _ in range(repeats):
        flush.fill(1)
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(1000 * cupy.cuda.get_elapsed_time(start, stop))
    return float(np.median(times))


def matrix(
    rows: int, cols: int, tile_rows: int, sparsity: float, sparse: bool, skew: float = 1.0
) -> TVWStorage:
    """Return a matrix as pruning makes it, on the GPU; `sparsity` counts all pruned entries.

    Its tiles have from so many columns to `skew` times as many, in any order.
    """
    rng = np.random.default_rng(0)
    keep = (1 - sparsity) * (2 if sparse else 1)
    share = np.linspace(1, skew, rows // tile_rows)
    slots = (cols * keep * rng.permutation(share / share.mean())).astype(int) // 16 * 16
    tiles = [
        TileSpec(
            tuple(range(r, r + tile_rows)),
            tuple(np.sort(rng.choice(cols, min(count, cols), replace=False))),
        )
        for r, count in zip(range(0, rows, tile_rows), slots, strict=True)
    ]
    draw = np.random.default_rng(1)
    storage = storage_of(
        (rows, cols), tiles, BFLOAT16, sparse,
        lambda shape: draw.standard_normal(shape, dtype=np.float32), rng,
    )  # fmt: skip
    moved = {
        name: None if getattr(storage, name) is None else cupy.asarray(getattr(storage, name))
        for name in ARRAY_FIELDS
    }
    return TVWStorage(storage.shape, 256, storage.vector, **moved)


def dense_us(rows: int, cols: int, n: int, repeats: int) -> float:
    """Return the time of cuBLAS on torch's stream made CuPy's."""
    a = torch.randn(rows, cols, dtype=torch.bfloat16, device="cuda")
    x = torch.randn(cols, n, dtype=torch.bfloat16, device="cuda")
    y = torch.empty(rows, n, dtype=torch.bfloat16, device="cuda")
    stream = torch.cuda.ExternalStream(cupy.cuda.get_current_stream().ptr)
    with torch.cuda.stream(stream):
        return median_us(lambda: torch.matmul(a, x, out=y), repeats)


def epilogue_of(name: str, rows: int) -> Epilogue:
    """Return nothing for "bare", or a bias by row and the activation of that name."""
    if name == "bare":
        return Epilogue()
    bias = cupy.asarray(np.random.default_rng(3).standard_normal(rows, dtype=np.float32))
    return Epilogue(bias=bias, activation=None if name == "none" else name)


def time_kernels(
    storage: TVWStorage, x: Any, dense: float, fused: str, args: argparse.Namespace
) -> None:
    """Print the fastest kernels of one problem, with their places in the model's ranking."""
    launcher, packed = CupyLauncher(), pack(storage)
    out = cupy.empty((storage.shape[0], x.shape[1]), dtype=x.dtype)
    device = launcher.device(x)
    ranked = [c.config for c in choose_config(packed, x.shape[1], device).candidates]
    e, found = epilogue_of(fused, storage.shape[0]), []
    for place, config in enumerate(ranked, 1):
        if args.only not in str(config):
            continue
        us = median_us(lambda c=config: multiply(launcher, packed, x, out, c, e), args.repeats)
        found.append((us, place, config))
    for us, place, c in sorted(found, key=lambda f: f[0])[: args.top]:
        print(
            f"    {us:7.1f} us, {dense / us:5.2f}x dense: {c}, the model's #{place}",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="*", default=["4096x4096x4096"])
    parser.add_argument("--tile-rows", nargs="*", type=int, default=[128, 256, 64])
    parser.add_argument("--sparsity", nargs="*", type=float, default=[0.5, 0.75, 0.875, 0.95])
    parser.add_argument(
        "--fused", nargs="*", default=["bare"],
        help="epilogues: bare, or bias and none, relu, silu, gelu, gelu_tanh",
    )  # fmt: skip
    parser.add_argument("--skew", type=float, default=1.0, help="longest tile over the shortest")
    parser.add_argument("--plain", action="store_true", help="pattern None (plain TW) instead")
    parser.add_argument("--only", default="", help="part of the names of the configs to time")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--top", type=int, default=4)
    args = parser.parse_args()
    with cupy.cuda.Stream(non_blocking=True):
        for size in args.sizes:
            rows, cols, n = map(int, size.split("x"))
            dense = dense_us(rows, cols, n, args.repeats)
            rate = 2 * rows * cols * n / dense / 1e6
            print(f"{size}: dense {dense:.1f} us, {rate:.0f} TFLOP/s", flush=True)
            values = np.random.default_rng(2).standard_normal((cols, n), dtype=np.float32)
            x = cupy.asarray(values.astype(BFLOAT16))
            for sparsity, tile_rows in product(args.sparsity, args.tile_rows):
                pattern = "all slots" if args.plain else "2:4"
                storage = matrix(rows, cols, tile_rows, sparsity, not args.plain, args.skew)
                for fused in args.fused:
                    print(
                        f"  {sparsity:.1%}, {pattern}, tiles of {tile_rows}, {fused}:", flush=True
                    )
                    time_kernels(storage, x, dense, fused, args)


if __name__ == "__main__":
    main()
