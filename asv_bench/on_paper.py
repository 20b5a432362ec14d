"""The table of docs/scaling.md: a matrix of 1e6 x 1e6 on many GPUs, by arithmetic alone.

    python asv_bench/on_paper.py            print it
    python asv_bench/on_paper.py --write    put it into the page, after a new run of gpu_run.py

The rate of cuBLAS, at 8192^3, and the speed-ups over it, at 4096^3 with tiles of 128 rows, are
those of asv_bench/results/h200, the run that docs/benchmarks.md shows; what links carry is assumed.
"""

from __future__ import annotations

import csv
import sys
from functools import cache
from pathlib import Path

from gpu_table import RUN, table, written

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
SIDE, N, TILE_ROWS = 10**6, 1024, 128
SPARSITIES = (0.75, 0.95)
NODE = 8
BETWEEN_NODES = NODE * 50e9
"""Bytes a second into a node, over a link for each of its GPUs."""
WITHIN_NODE = 450e9
"""Bytes a second into a GPU from the others of its node."""


@cache
def measured(side: int, what: str, sparsity: float) -> float:
    """Return the microseconds of a product of the run."""
    wanted = ("square", *(str(side),) * 3, what)
    for row in csv.DictReader((RUN / "products.csv").read_text().splitlines()):
        found = tuple(row[name] for name in ("part", "rows", "cols", "n", "what"))
        if found == wanted and float(row["sparsity"]) == sparsity:
            return float(row["us"])
    raise LookupError(f"{RUN} has no {what} of {side}^3 at {sparsity}")


def cublas() -> float:
    """Return operations a second."""
    return 2 * 8192**3 / (1e-6 * measured(8192, "cuBLAS", 0.0))


def speedup(sparsity: float) -> float:
    return measured(4096, "cuBLAS", 0.0) / measured(4096, f"TVW {TILE_ROWS}", sparsity)


def stored_bytes(sparsity: float) -> float:
    """Return the bytes of A: values, metadata, column lists."""
    slots = 2 * (1 - sparsity) * SIDE
    return SIDE * slots * (1 + 1 / 8) + SIDE / TILE_ROWS * slots * 4


def compute_seconds(sparsity: float, gpus: int) -> float:
    return 2 * SIDE * SIDE * N / (cublas() * speedup(sparsity) * gpus)


def receive_seconds(gpus: int) -> float:
    """Return how long it takes until every GPU has all of X, which they share at first."""
    x, nodes = 2 * SIDE * N, gpus // NODE
    return x * (1 - 1 / nodes) / BETWEEN_NODES + x * (1 - 1 / NODE) / WITHIN_NODE


def tables() -> dict[str, str]:
    """Return what is assumed of the GPU, times, and where X takes over."""
    pairs = [(f"{100 * s:g} %", s) for s in SPARSITIES]
    rows = []
    for gpus in (8, 16, 64, 256, 1024):
        cells = [str(gpus)]
        for _, s in pairs:
            compute, receive = compute_seconds(s, gpus), receive_seconds(gpus)
            times = (compute, receive, compute + receive, max(compute, receive))
            cells.append(f"{stored_bytes(s) / gpus / 1e9:.1f} GB")
            cells += [f"{1e3 * t:.1f} ms" for t in times]
        rows.append(cells)
    columns = ["A on each", "compute", "X", "sum", "overlapped"]
    header = ["GPUs", *(f"{p}: {c}" if c == columns[0] else c for p, _ in pairs for c in columns)]
    assumed = [
        ["cuBLAS at 8192^3", f"{cublas() / 1e12:.0f} TFLOP/s"],
        *([f"TVW over cuBLAS at 4096^3, {p}", f"{speedup(s):.2f}"] for p, s in pairs),
        *([f"A at {p}", f"{stored_bytes(s) / 1e9:.0f} GB"] for p, s in pairs),
        ["X and Y, each", f"{2 * SIDE * N / 1e9:.2f} GB"],
        *([f"X takes longer than the product, {p}", f"from {most(s)} GPUs on"] for p, s in pairs),
    ]
    return {"assumed": table(["", ""], assumed), "on paper": table(header, rows)}


def most(sparsity: float) -> int:
    """Return from how many GPUs on X takes longer than the product."""
    counts = range(NODE, 4096, NODE)
    return next(g for g in counts if compute_seconds(sparsity, g) < receive_seconds(g))


def main() -> None:
    if "--write" in sys.argv[1:]:
        PAGE.write_text(written(PAGE.read_text(), tables()))
    else:
        print("\n\n".join(tables().values()))


if __name__ == "__main__":
    main()
