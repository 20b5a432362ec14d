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
from gpu.clock import Clock, empty_kernel
from gpu.problems import DTYPES, Problem, as_cupy, draw
from gpu.sizes import LAYERS, SPARSITIES, SQUARES, TILE_ROWS

import tvwarray

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


def operand(size: Any, dtype: str = "bfloat16") -> torch.Tensor:
    """Return a right operand for the other libraries."""
    return torch.randn(size[1], size[2], device="cuda").to(DTYPES[dtype])


def dense_time(table: Table, part: str, size: Any, dtype: str = "bfloat16") -> float:
    """Time the dense product, against which the others are set."""
    rows, cols, _ = size
    x = operand(size, dtype)
    return table.time(part, size, 0.0, "cuBLAS", 0.0, lambda: (peers.dense(rows, cols, x), "")) or 0


class Row:
    """Products of one size, by several ways, against the dense product of that size."""

    def __init__(self, table: Table, part: str, size: Any, dtype: str = "bfloat16") -> None:
        self.table, self.part, self.size, self.dtype = table, part, size, dtype
        self.dense = dense_time(table, part, size, dtype)

    def ours(self, sparsity: float, tile_rows: int, *, sparse: bool = True) -> None:
        """Time our product."""
        self._time(
            sparsity, f"{'TVW' if sparse else 'TW'} {tile_rows}",
            lambda: ours(draw(*self.size, sparsity, tile_rows=tile_rows, dtype=self.dtype,
                              sparse=sparse)),
        )  # fmt: skip

    def two_four(self) -> None:
        """Time cuSPARSELt."""
        self._time(0.5, "cuSPARSELt 2:4", lambda: (peers.two_four(*self._operands()), ""))

    def bsr(self, sparsity: float, block: int) -> None:
        """Time PyTorch's block-sparse product."""
        run = lambda: (peers.bsr(*self._operands(), sparsity, block), "")  # noqa: E731
        self._time(sparsity, f"BSR {block}", run)

    def cusparse_bsr(self, sparsity: float, block: int) -> None:
        """Time cuSPARSE's block-sparse product."""
        run = lambda: (peers.cusparse_bsr(*self._operands(), sparsity, block), "")  # noqa: E731
        self._time(sparsity, f"cuSPARSE BSR {block}", run)

    def csr(self, sparsity: float) -> None:
        """Time cuSPARSE's CSR product."""
        self._time(sparsity, "CSR", lambda: (peers.csr(*self._operands(), sparsity), ""))

    def _operands(self) -> tuple[int, int, torch.Tensor]:
        return self.size[0], self.size[1], operand(self.size, self.dtype)

    def _time(self, sparsity: float, what: str, make: Maker) -> None:
        self.table.time(self.part, self.size, sparsity, what, self.dense, make)


def squares(table: Table) -> None:
    """Time square and large products, ours with every height of tiles and all the peers."""
    for size in SQUARES:
        row = Row(table, "square", size)
        row.two_four()
        for sparsity in SPARSITIES:
            for tile_rows in TILE_ROWS:
                row.ours(sparsity, tile_rows)
            row.ours(sparsity, 128, sparse=False)
            for block in (32, 64, 128):
                row.bsr(sparsity, block)
            for block in (32, 64):
                row.cusparse_bsr(sparsity, block)
            row.csr(sparsity)


def layers(table: Table) -> None:
    """Time the layers of encoders and of language models for few to many right-hand sides."""
    for size in ((*layer, n) for layer, batches in LAYERS.items() for n in batches):
        row = Row(table, "layer", size)
        for sparsity in SPARSITIES:
            for tile_rows in (128, 256):
                row.ours(sparsity, tile_rows)
        row.two_four()
        row.bsr(0.75, 64)
        row.csr(0.75)


def halves(table: Table) -> None:
    """Time float16: the sizes and layers above, by fewer ways."""
    for size in SQUARES:
        row = Row(table, "float16", size, "float16")
        row.two_four()
        for sparsity in SPARSITIES:
            for tile_rows in (256, 128):
                row.ours(sparsity, tile_rows)
        row.ours(0.75, 128, sparse=False)
        row.bsr(0.75, 64)
        row.csr(0.75)
    for size in ((*layer, n) for layer, batches in LAYERS.items() for n in batches):
        row = Row(table, "float16 layer", size, "float16")
        for sparsity in (0.75, 0.95):
            for tile_rows in (128, 256):
                row.ours(sparsity, tile_rows)
        row.two_four()


def skewed(table: Table) -> None:
    """Time tiles whose column counts differ 1:20 beside equal ones of the same sum."""
    for size in ((4096, 4096, n) for n in (4096, 2048, 1024, 512)):
        dense = dense_time(table, "skew", size)
        for sparsity in (0.75, 0.875):
            for skew in (1.0, 20.0):
                table.time("skew", size, sparsity, f"TVW 128, 1:{skew:.0f}", dense, lambda
                           s=sparsity, k=skew, z=size: ours(draw(*z, s, skew=k)))  # fmt: skip


def ceilings(table: Table) -> None:
    """Time 2 GiB read and written, and a large dense product: whether the card is as it was."""
    size = (32768, 32768, 1)
    source = torch.randn(size[:2], device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    table.time(
        "ceilings", size, 0.0, "copy", 0.0, lambda: (lambda: torch.neg(source, out=target), "")
    )
    dense_time(table, "ceilings", (8192,) * 3)


def breakdown(table: Table) -> None:
    """Time launches that do nothing, Y stored without a product, and a fused epilogue.

    What lies between is the gather and the products, which overlap: `gpu_ablations.py` leaves them
    out one by one.
    """
    tiny = (64, 64, 8)
    table.time("parts", (0, 0, 0), 0.0, "empty kernel", 0.0, lambda: (empty_kernel(), ""))
    table.time("parts", tiny, 0.75, "launch", 0.0, lambda: ours(draw(*tiny, 0.75)))
    for size in ((4096,) * 3, (8192,) * 3):
        dense = dense_time(table, "parts", size)
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
        dense = dense_time(table, "A.T", (cols, rows, n))
        for sparsity in (0.75, 0.95):
            table.time("A.T", (cols, rows, n), sparsity, "TVW 128, transposed", dense,
                       lambda z=size, s=sparsity: ours(draw(*z, s).transposed()))  # fmt: skip


def overhead(table: Table) -> None:
    """Time calls: what one takes of the host, while the GPU runs behind; and until it is done."""
    for size in ((256, 256, 64), (4096, 4096, 1), (1024, 1024, 512)):
        problem = draw(*size, 0.75)
        for part, done in (("host", False), ("end to end", True)):
            dense = 0.0
            for what, run in calls_of(problem):
                us = table.clock.host_us(run, done=done)
                dense = dense or us
                table.keep(part, size, 0.75, what, us, dense, "")


def calls_of(problem: Problem) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the ways to multiply, the dense product first, and what a call cannot do without."""
    x, A = as_cupy(problem.x), problem.A
    out = tvwarray.matmul(A, x)
    y = problem.dense @ problem.x
    yield "torch.matmul(out=)", lambda: torch.matmul(problem.dense, problem.x, out=y)
    yield "A @ X", lambda: A @ x
    yield "matmul(A, X, out=)", lambda: tvwarray.matmul(A, x, out=out)
    yield "A @ X of PyTorch", lambda: A @ problem.x
    yield "an empty kernel", empty_kernel()
    yield "a new array", lambda: cupy.empty(out.shape, out.dtype)


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
