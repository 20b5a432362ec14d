"""What the profiler counts in our kernels: python asv_bench/gpu_profile.py [--out FOLDER]

Needs a GPU, CuPy, PyTorch, and Nsight Compute (`ncu`) on the PATH. Prints a table: of each product
its time and cycles, which say its clock; of the cycles, in how many a multiprocessor works on it at
all; and of those, in how many its pipe to shared memory and its tensor cores are busy; what came
from L2 and from memory. The caches are flushed before each pass, the clock is left alone.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from gpu_table import table

METRICS = {
    "us": ("gpu__time_duration.sum", 1e-3),
    "cycles": ("sm__cycles_elapsed.max", 1.0),
    "at work, %": ("sm__cycles_active.avg.pct_of_peak_sustained_elapsed", 1.0),
    "data pipe, %": ("l1tex__data_pipe_lsu_wavefronts.avg.pct_of_peak_sustained_active", 1.0),
    "tensor cores, %": ("sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active", 1.0),
    "from L2, MB": ("lts__t_bytes.sum", 1e-6),
    "from memory, MB": ("dram__bytes_read.sum", 1e-6),
}
"""Columns: what the profiler calls each, and its unit over the column's."""

PRODUCTS = (
    "4096x4096x4096:50:256", "4096x4096x4096:75:256", "4096x4096x4096:75:128",
    "4096x4096x4096:87.5:256", "4096x4096x4096:95:256", "8192x8192x8192:50:256",
    "8192x8192x8192:75:256", "8192x8192x8192:75:128", "8192x8192x8192:87.5:256",
    "8192x8192x8192:95:256", "4096x4096x1:75:128", "4096x4096x16:75:128",
    "3072x768x4096:75:256", "768x3072x4096:75:256",
)  # fmt: skip


def workload(products: Iterable[str]) -> None:
    """Run each product once, for the profiler."""
    from gpu.problems import as_cupy, draw

    import tvwarray

    for product in products:
        size, percent, tile_rows = product.split(":")
        rows, cols, n = map(int, size.split("x"))
        problem = draw(rows, cols, n, float(percent) / 100, tile_rows=int(tile_rows))
        tvwarray.matmul(problem.A, as_cupy(problem.x), backend="cuda")


def profiled(products: list[str]) -> list[tuple[str, dict[str, float]]]:
    """Return the kernel of each product, and what was counted in it."""
    names = ",".join(name for name, _ in METRICS.values())
    command = [
        "ncu", "--csv", "--clock-control", "none", "--kernel-name", "regex:_tvw_",
        "--print-units", "base", "--metrics", names,
        sys.executable, __file__, "--workload", "--products", *products,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    if done.returncode or not lines:
        raise SystemExit(f"ncu failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
    found: dict[str, tuple[str, dict[str, float]]] = {}
    for row in csv.DictReader(lines):
        kernel = found.setdefault(row["ID"], (row["Kernel Name"], {}))
        kernel[1][row["Metric Name"]] = float(row["Metric Value"].replace(",", ""))
    return list(found.values())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--products", nargs="*", default=list(PRODUCTS), metavar="ROWSxCOLSxN:PERCENT:TILE_ROWS"
    )
    parser.add_argument("--out", type=Path, help="folder for profile.md, which gpu_table.py reads")
    parser.add_argument("--workload", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.workload:
        workload(args.products)
        return
    counted = profiled(args.products)
    if len(counted) != len(args.products):
        raise SystemExit(f"{len(counted)} kernels ran for {len(args.products)} products")
    rows = []
    for product, (kernel, values) in zip(args.products, counted, strict=True):
        size, percent, tile_rows = product.split(":")
        us, cycles, *others = (values[name] * unit for name, unit in METRICS.values())
        cells = [f"{value:.4g}" for value in (us, cycles, cycles / us / 1e3, *others)]
        rows.append([size, f"{percent} %, {tile_rows}", kernel, *cells])
    first, second, *rest = METRICS
    made = table(["", "pruned, tile rows", "kernel", first, second, "GHz", *rest], rows)
    print(made)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "profile.md").write_text(f"<!-- profile -->\n{made}\n<!-- end -->\n")


if __name__ == "__main__":
    main()
