"""Every GPU figure in one run: python asv_bench/gpu_run.py [--out FOLDER] [--parts ...]

Needs a GPU, CuPy and PyTorch (the peers: cuBLAS, cuSPARSELt, cuSPARSE, PyTorch's block-sparse
kernel). Products of random data are checked against their error bound before they are timed; times
are medians of CUDA graph replays by events, the L2 cache flushed before each. Writes `products.csv`
and `machine.json` to the folder, and prints a line for each product: its time, and the time of the
dense product of the same run over it. A peer that fails is a line with the reason.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cupy
import torch
from gpu import peers
from gpu.clock import Clock
from gpu.problems import Problem, as_cupy, draw

import tvwarray

SPARSITIES = (0.5, 0.75, 0.875, 0.95)
SQUARES = ((1024,) * 3, (2048,) * 3, (4096,) * 3, (8192,) * 3, (16384, 8192, 8192))
BATCHES = (1, 16, 128, 512, 2048, 8192)
LAYERS = {
    (768, 3072): (*BATCHES[:-1], 4096, 8192), (3072, 768): (*BATCHES[:-1], 4096, 8192),
    (4096, 4096): BATCHES, (11008, 4096): BATCHES, (4096, 11008): BATCHES,
}  # fmt: skip

FIELDS = ("part", "rows", "cols", "n", "sparsity", "what", "us", "dense_us", "speedup", "error")


Maker = Callable[[], tuple[Callable[[], object], float | str]]
"""Makes a product: what to time, and its error over its bound if it is ours."""


class Table:
    """Measures products, prints and keeps a row for each."""

    def __init__(self, out: Path, clock: Clock, deadline: float) -> None:
        self.clock, self.deadline, self.rows = clock, deadline, 0
        self._file = (out / "products.csv").open("w", newline="")
        self._writer = csv.DictWriter(self._file, FIELDS)
        self._writer.writeheader()

    @property
    def late(self) -> bool:
        """Whether the time that the run may take is over."""
        return time.monotonic() > self.deadline

    def time(
        self, part: str, size: Any, sparsity: float, what: str, dense: float, make: Maker
    ) -> float | None:
        """Time one product and keep it; return microseconds, or None if it failed."""
        if self.late:
            return None
        try:
            run, error = make()
            us = self.clock.median_us(run)
        except Exception as e:  # a peer that fails is a result
            print(f"  {what}: {type(e).__name__}: {str(e).splitlines()[0][:90]}", flush=True)
            torch.cuda.synchronize()
            return None
        self.keep(part, size, sparsity, what, us, dense, error)
        return us

    def keep(
        self, part: str, size: Any, sparsity: float, what: str, us: float, dense: float, error: Any
    ) -> None:
        """Write and print a row."""
        speedup = dense / us if dense else 1.0
        row = (part, *size, sparsity, what, round(us, 2), round(dense, 2), round(speedup, 3), error)
        self._writer.writerow(dict(zip(FIELDS, row, strict=True)))
        self._file.flush()
        rows, cols, n = size
        print(
            f"{part:8} {rows:5}x{cols:5}x{n:5} {100 * sparsity:5.1f} % {what:22} {us:9.1f} us "
            f"{speedup:7.2f}x {error}",
            flush=True,
        )


def ours(problem: Problem, *, fused: bool = False) -> tuple[Callable[[], object], float]:
    """Return our product into a fixed array, and its error over the bound; checked first.

    With `fused`, a bias of zeros is added and relu applied before it is stored.
    """
    x, A = as_cupy(problem.x), problem.A
    y = torch.empty(A.shape[0], problem.x.shape[1], dtype=problem.x.dtype, device="cuda")
    out = as_cupy(y)
    by = None
    if fused:
        by = tvwarray.Epilogue(bias=cupy.zeros(A.shape[0], cupy.float32), activation="relu")

    def run() -> object:
        return tvwarray.matmul(A, x, out=out, backend="cuda", epilogue=by)

    y.fill_(float("nan"))
    run()
    torch.cuda.synchronize()
    error = problem.check(y, torch.relu if fused else None)
    if not error <= 1:
        raise AssertionError(f"the product is {error:.3g} times its error bound away")
    return run, round(error, 3)


def dense_time(table: Table, part: str, size: Any, dtype: torch.dtype) -> float:
    """Time the dense product, against which the others are set."""
    rows, cols, n = size
    x = torch.randn(cols, n, device="cuda").to(dtype)
    return table.time(part, size, 0.0, "cuBLAS", 0.0, lambda: (peers.dense(rows, cols, x), "")) or 0


def squares(table: Table) -> None:
    """Time square and large products, ours with every height of tiles and all the peers."""
    for size in SQUARES:
        rows, cols, n = size
        dense = dense_time(table, "square", size, torch.bfloat16)
        x = torch.randn(cols, n, device="cuda").to(torch.bfloat16)
        table.time("square", size, 0.5, "cuSPARSELt 2:4", dense,
                   lambda x=x, r=rows, c=cols: (peers.two_four(r, c, x), ""))  # fmt: skip
        for sparsity in SPARSITIES:
            for tile_rows in (256, 128, 64, 32):
                table.time("square", size, sparsity, f"TVW {tile_rows}", dense, lambda s=sparsity,
                           t=tile_rows, z=size: ours(draw(*z, s, tile_rows=t)))  # fmt: skip
            table.time("square", size, sparsity, "TW 128", dense,
                       lambda s=sparsity, z=size: ours(draw(*z, s, sparse=False)))  # fmt: skip
            for block in (32, 64, 128):
                table.time("square", size, sparsity, f"BSR {block}", dense, lambda x=x, r=rows,
                           c=cols, s=sparsity, b=block: (peers.bsr(r, c, x, s, b), ""))  # fmt: skip
            if rows <= 4096:
                table.time("square", size, sparsity, "CSR", dense, lambda x=x, r=rows, c=cols,
                           s=sparsity: (peers.csr(r, c, x, s), ""))  # fmt: skip


def layers(table: Table) -> None:
    """Time the layers of encoders and of language models for few to many right-hand sides."""
    for size in ((*layer, n) for layer, batches in LAYERS.items() for n in batches):
        dense = dense_time(table, "layer", size, torch.bfloat16)
        for sparsity, tile_rows in ((0.75, 128), (0.75, 256), (0.95, 128)):
            table.time("layer", size, sparsity, f"TVW {tile_rows}", dense, lambda s=sparsity,
                       t=tile_rows, z=size: ours(draw(*z, s, tile_rows=t)))  # fmt: skip


def skewed(table: Table) -> None:
    """Time tiles whose column counts differ 1:20 beside equal ones of the same sum."""
    for size in ((4096,) * 3, (4096, 4096, 512)):
        dense = dense_time(table, "skew", size, torch.bfloat16)
        for sparsity in (0.75, 0.875):
            for skew in (1.0, 20.0):
                table.time("skew", size, sparsity, f"TVW 128, 1:{skew:.0f}", dense, lambda
                           s=sparsity, k=skew, z=size: ours(draw(*z, s, skew=k)))  # fmt: skip


def halves(table: Table) -> None:
    """Time float16 at one size: the rates are those of bfloat16."""
    size = (4096,) * 3
    dense = dense_time(table, "float16", size, torch.float16)
    for sparsity in SPARSITIES:
        table.time("float16", size, sparsity, "TVW 128", dense,
                   lambda s=sparsity, z=size: ours(draw(*z, s, dtype="float16")))  # fmt: skip


def ceilings(table: Table) -> None:
    """Time 2 GiB read and written, and a large dense product: whether the card is as it was."""
    size = (32768, 32768, 1)
    source = torch.randn(size[:2], device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    table.time(
        "ceilings", size, 0.0, "copy", 0.0, lambda: (lambda: torch.neg(source, out=target), "")
    )
    dense_time(table, "ceilings", (8192,) * 3, torch.bfloat16)


def breakdown(table: Table) -> None:
    """Time a launch that does nothing, Y stored without a product, and a fused epilogue.

    What lies between is the gather and the products, which overlap.
    """
    tiny = (64, 64, 8)
    table.time("parts", tiny, 0.75, "launch", 0.0, lambda: ours(draw(*tiny, 0.75)))
    for size in ((4096,) * 3, (8192,) * 3):
        dense = dense_time(table, "parts", size, torch.bfloat16)
        table.time("parts", size, 1.0, "zeros stored", dense,
                   lambda z=size: ours(draw(*z, 1.0, tile_rows=256)))  # fmt: skip
        for sparsity in (0.75, 0.95):
            for fused in (False, True):
                what = "TVW 256, bias and relu" if fused else "TVW 256"
                table.time("parts", size, sparsity, what, dense, lambda z=size, s=sparsity,
                           f=fused: ours(draw(*z, s, tile_rows=256), fused=f))  # fmt: skip


def transposed(table: Table) -> None:
    """Time ``A.T @ Y``, set against the dense product of that size."""
    for size in ((4096,) * 3, (4096, 4096, 512)):
        rows, cols, n = size
        dense = dense_time(table, "A.T", (cols, rows, n), torch.bfloat16)
        for sparsity in (0.75, 0.95):
            table.time("A.T", (cols, rows, n), sparsity, "TVW 128, transposed", dense,
                       lambda z=size, s=sparsity: ours(draw(*z, s).transposed()))  # fmt: skip


def overhead(table: Table) -> None:
    """Time what a call takes of the host, while the GPU runs behind."""
    for size in ((256, 256, 64), (4096, 4096, 1), (1024, 1024, 512)):
        dense = 0.0
        for what, run in calls_of(draw(*size, 0.75)):
            us = table.clock.host_us(run)
            dense = dense or us
            table.keep("host", size, 0.75, what, us, dense, "")


def calls_of(problem: Problem) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the ways to multiply, the dense product first."""
    x, A = as_cupy(problem.x), problem.A
    out = tvwarray.matmul(A, x)
    y = problem.dense @ problem.x
    yield "torch.matmul(out=)", lambda: torch.matmul(problem.dense, problem.x, out=y)
    yield "A @ X", lambda: A @ x
    yield "matmul(A, X, out=)", lambda: tvwarray.matmul(A, x, out=out)
    yield "A @ X of PyTorch", lambda: A @ problem.x


PARTS = {
    "overhead": overhead, "ceilings": ceilings, "parts": breakdown, "square": squares,
    "layer": layers, "skew": skewed, "float16": halves, "transposed": transposed,
}  # fmt: skip


def machine() -> Iterator[tuple[str, str]]:
    """Yield what the figures depend on."""
    properties = torch.cuda.get_device_properties(0)
    yield "GPU", f"{properties.name}, {properties.multi_processor_count} multiprocessors"
    yield "driver", str(cupy.cuda.runtime.driverGetVersion())
    yield "CUDA runtime", str(torch.version.cuda)
    yield "PyTorch", torch.__version__
    yield "cuSPARSELt", str(getattr(torch.backends.cusparselt, "version", lambda: "none")())
    yield "CuPy", cupy.__version__
    yield "tvwarray", tvwarray.__version__


def main() -> None:
    """Run the parts in order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1e9, help="start nothing after so long")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    described = dict(machine())
    (args.out / "machine.json").write_text(json.dumps(described, indent=1))
    print(", ".join(f"{name} {value}" for name, value in described.items()), flush=True)
    table = Table(args.out, Clock(args.repeats), time.monotonic() + args.seconds)
    for part in args.parts:
        PARTS[part](table)


if __name__ == "__main__":
    main()
