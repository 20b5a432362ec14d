"""Time float8 and int8 on Hopper against cuBLAS: python tests/gpu/eight_bits.py [--sizes ...]

Needs a GPU of compute capability 9.0, CuPy, and PyTorch for the dense products: `_scaled_mm` of
float8 with and without fast accumulation, `_int_mm`. Three rows of each product are first compared
with float64. Each time is the median of single launches by CUDA events, the L2 cache flushed before
each one: of every shipped config for the values, and of float8 promoted to float32 sums.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import cupy
import torch
from timings import median_us

from tvwarray import Epilogue
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.hopper.config8 import byte_configs
from tvwarray._kernels.launch import CupyLauncher
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._storage import TVWStorage

FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
INT8 = np.dtype(np.int8)
RESULTS = {FLOAT8: np.dtype(ml_dtypes.bfloat16), INT8: np.dtype(np.int32)}
NIBBLES = np.array([4, 8, 12, 9, 13, 14], np.uint16)
"""Metadata of a group of four slots: every pair of places."""


def draw(shape: tuple[int, ...], dtype: np.dtype[Any], seed: int) -> Any:
    """Return normals on the GPU, of which int8 has twenty times."""
    generator = torch.Generator("cuda").manual_seed(seed)
    normals = torch.randn(shape, device="cuda", generator=generator)
    if dtype == INT8:
        values = (20 * normals).round().clamp(-127, 127).to(torch.int8)
    else:
        values = normals.to(torch.float8_e4m3fn)
    return cupy.asarray(values.view(torch.uint8)).view(dtype)


def matrix(size: int, tile_rows: int, sparsity: float, dtype: np.dtype[Any]) -> TVWStorage:
    """Return a matrix of random columns in each tile, on the GPU."""
    tiles, slots = size // tile_rows, int(2 * size * (1 - sparsity)) // 16 * 16
    order = cupy.random.default_rng(0).random((tiles, size), dtype=cupy.float32).argsort(axis=1)
    cols = cupy.sort(order[:, :slots], axis=1).astype(cupy.int32).ravel()
    nibbles = cupy.asarray(NIBBLES)[cupy.random.randint(0, 6, (size * slots // 16, 4))]
    meta = nibbles[:, 0] | nibbles[:, 1] << 4 | nibbles[:, 2] << 8 | nibbles[:, 3] << 12
    starts = [
        cupy.arange(0, tiles * step + 1, step, dtype=cupy.int32) for step in (tile_rows, slots)
    ]
    rows = cupy.arange(size, dtype=cupy.int32)
    data = draw((size * slots // 2,), dtype, 1)
    return TVWStorage(
        (size, size), 256, (2, 4), starts[0], rows, starts[1], cols, data,
        meta.astype(cupy.uint16),
    )  # fmt: skip


def error(storage: TVWStorage, x: Any, got: Any) -> float:
    """Return the largest error over ``|A| @ |x|`` in three rows."""
    tile_rows, slots = int(storage.row_indptr[1]), int(storage.col_indptr[1])
    cols, meta = storage.col_indices.get(), storage.meta.get()
    data, operand, worst = storage.data.get(), x.get().astype(np.float64), 0.0
    for row in (0, 1, 77):
        kept = cols[row // tile_rows * slots :][:slots]
        words = meta[row * slots // 16 :][: slots // 16]
        values = data[row * slots // 2 :][: slots // 2].astype(np.float64).reshape(-1, 2)
        nibbles = (words[:, None] >> np.array([0, 4, 8, 12], np.uint16) & 15).ravel()
        a, group = np.zeros(slots), 4 * np.arange(slots // 4)
        a[group + (nibbles & 3)], a[group + (nibbles >> 2)] = values[:, 0], values[:, 1]
        off = np.abs(got[row].get().astype(np.float64) - a @ operand[kept])
        worst = max(worst, float((off / (np.abs(a) @ np.abs(operand[kept]))).max()))
    return worst


def dense_us(size: int, repeats: int) -> dict[str, float]:
    """Return the times of dense products."""
    a, b = (torch.randn(size, size, device="cuda").to(torch.float8_e4m3fn) for _ in range(2))
    one, found = torch.ones((), device="cuda"), {}
    for name, fast in (("float8, fast sums", True), ("float8", False)):
        options = {"out_dtype": torch.bfloat16, "use_fast_accum": fast}
        found[name] = median_us(
            lambda o=options: torch._scaled_mm(a, b.t(), one, one, **o), repeats
        )
    i = torch.randint(-9, 9, (size, size), device="cuda", dtype=torch.int8)
    found["int8"] = median_us(lambda: torch._int_mm(i, i.t()), repeats)
    return found


def epilogue_of(name: str, shape: tuple[int, int], dtype: Any) -> Epilogue:
    """Return a cast for "bare", or scales, a bias by row and the activation of that name."""
    if name == "bare":
        return Epilogue(out_dtype=dtype)
    rng = np.random.default_rng(3)
    rows, cols, bias = (
        cupy.asarray(rng.standard_normal(size, dtype=np.float32)) for size in (*shape, shape[0])
    )
    activation = None if name == "none" else name
    return Epilogue(
        row_scale=rows, col_scale=cols, bias=bias, activation=activation, out_dtype=dtype
    )


def time_kernels(storage: TVWStorage, x: Any, fused: str, args: argparse.Namespace) -> None:
    """Print the time of every shipped config for one problem."""
    launcher, dtype = CupyLauncher(), storage.dtype
    result = RESULTS[dtype] if fused == "bare" else RESULTS[FLOAT8]
    out = cupy.empty((storage.shape[0], x.shape[1]), result)
    epilogue = epilogue_of(fused, out.shape, out.dtype)
    for precision in ("default", "high") if dtype == FLOAT8 else ("default",):
        form = form_of(dtype, precision)
        packed = pack(storage, form)
        for config in byte_configs("90", form, True):
            if args.only not in str(config):
                continue
            us = median_us(
                lambda p=packed, c=config: multiply(launcher, p, x, out, c, epilogue), args.repeats
            )
            wrong = f"; error {error(storage, x, out):.1e}" if fused == "bare" else ""
            print(f"    {us:7.1f} us: {config}{wrong}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="*", type=int, default=[4096, 8192])
    parser.add_argument("--tile-rows", nargs="*", type=int, default=[128, 256])
    parser.add_argument("--sparsity", nargs="*", type=float, default=[0.5, 0.75, 0.875, 0.95])
    parser.add_argument(
        "--fused", nargs="*", default=["bare"],
        help="epilogues: bare, or scales, bias and none, relu, silu, gelu, gelu_tanh",
    )  # fmt: skip
    parser.add_argument("--only", default="", help="part of the names of the configs to time")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    with cupy.cuda.Stream(non_blocking=True):
        stream = torch.cuda.ExternalStream(cupy.cuda.get_current_stream().ptr)
        with torch.cuda.stream(stream):
            for size in args.sizes:
                dense = dense_us(size, args.repeats)
                print(f"{size}^3: " + ", ".join(f"{k} {v:.1f} us" for k, v in dense.items()))
                problems = product((FLOAT8, INT8), args.tile_rows, args.sparsity)
                for dtype, tile_rows, sparsity in problems:
                    storage = matrix(size, tile_rows, sparsity, dtype)
                    x = draw((size, size), dtype, 2)
                    for fused in args.fused:
                        print(
                            f"  {dtype}, {sparsity:.1%}, tiles of {tile_rows}, {fused}:", flush=True
                        )
                        time_kernels(storage, x, fused, args)


if __name__ == "__main__":
    main()
