"""How blocks of sm80_tvw_gemm take items and store columns: python asv_bench/gpu_items.py

Needs a GPU, CuPy and PyTorch. Prints two tables: blocks of one item against persistent ones, and a
column-major result, which a row-major `out` of `linear` is, stored by the kernel or in rows that
are transposed. Every product is compared with float32 sums first; the kernels of a row take turns,
and times are medians of CUDA graph replays by events, the L2 cache flushed before each.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu.clock import Clock
from gpu.problems import draw
from gpu_ablations import Bench, Tables, cells, short

from tvwarray import Epilogue
from tvwarray._kernels.select import one_item_reason

BLOCKS = {256: (256, 128), 128: (128, 256), 64: (64, 128), 32: (32, 128)}
"""Of tiles of so many rows."""


def config_of(bench: Bench, tile_rows: int) -> Any:
    """Return the config for tiles, with blocks of one item."""
    ranked = (config for config, _ in bench.ranked("sm80_tvw_gemm"))
    found = next(c for c in ranked if (c.block_rows, c.block_n) == BLOCKS[tile_rows])
    return replace(found, persistent=False)


def items(clock: Clock, tables: Tables, sides: list[int]) -> None:
    """Time blocks of one item and persistent ones."""
    rows: list[list[str]] = []
    for side in sides:
        for tile_rows in BLOCKS:
            for sparsity in (0.5, 0.75, 0.95):
                bench = Bench(draw(side, side, side, sparsity, tile_rows=tile_rows))
                one = config_of(bench, tile_rows)
                assert not one_item_reason(one)
                runs = {"one": bench.run(one), "more": bench.run(replace(one, persistent=True))}
                us = clock.medians_us({name: bench.checked(run) for name, run in runs.items()})
                share = f"{us['one'] / us['more']:.3f}"
                rows.append(
                    [f"{side}^3", short(one), f"{100 * sparsity:g} %", *cells(us.values()), share]
                )
    header = ["", "block", "pruned", "one item, us", "persistent, us", "times as fast"]
    tables.show("items", "`sm80_tvw_gemm`, bfloat16, 2:4:", header, rows)


def columns(clock: Clock, tables: Tables, sides: list[int]) -> None:
    """Time results in rows, in rows that are transposed, and in columns."""
    rows: list[list[str]] = []
    for side in sides:
        for tile_rows in (128, 64):
            for sparsity in (0.75, 0.95):
                problem = draw(side, side, side, sparsity, tile_rows=tile_rows)
                bench = Bench(problem)
                one, by_rows = config_of(bench, tile_rows), bench.y
                by_columns = torch.empty_like(by_rows).T.contiguous().T
                for name, by in (("bare", None), ("relu", "relu"), ("gelu", "gelu")):
                    function = {"relu": torch.relu, "gelu": torch.nn.functional.gelu}.get(name)
                    step = by and Epilogue(activation=by, out_dtype=bench.cast.out_dtype)
                    runs = {}
                    for what, y, config in (
                        ("rows", by_rows, one),
                        ("transposed", by_columns, one),
                        ("columns", by_columns, replace(one, column_major=True)),
                    ):
                        bench.y = y
                        runs[what] = bench.checked(bench.run(config, epilogue=step), function)
                    us = clock.medians_us(runs)
                    rows.append(
                        [
                            f"{side}^3",
                            short(one),
                            f"{100 * sparsity:g} %",
                            name,
                            *cells(us.values()),
                        ]
                    )
    header = ["", "block", "pruned", "epilogue", "rows, us", "rows, transposed, us", "columns, us"]
    tables.show("columns", "`sm80_tvw_gemm`, bfloat16, 2:4:", header, rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", type=int, default=[4096])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="a folder for items.md, as the pages want it")
    args = parser.parse_args()
    clock, tables = Clock(args.repeats), Tables(args.out, "items.md")
    items(clock, tables, args.sizes)
    columns(clock, tables, args.sizes)


if __name__ == "__main__":
    main()
