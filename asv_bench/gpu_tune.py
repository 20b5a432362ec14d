"""Measure which kernel is fastest for each product of the tables: python asv_bench/gpu_tune.py

Needs a GPU, CuPy and PyTorch. Writes the file of measured times that the library ships
(`tvwarray/_kernels/tuned.py` reads it), of the fastest few kernels of every product, and prints
where the fastest is not the one that the cost model ranks first. To be run again when kernels
change.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cupy
import numpy as np
from gpu.problems import as_cupy, draw
from gpu.sizes import Structure, structures

from tvwarray._dtypes import BFLOAT16, FLOAT16
from tvwarray._kernels import tuned
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.devices import Device
from tvwarray._kernels.launch import CupyLauncher, problem_of
from tvwarray._kernels.pack import PackedMatrix, pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import choose, variants

DTYPES = {"bfloat16": BFLOAT16, "float16": FLOAT16}

KEPT = 3
"""Kernels of a product whose times are kept: the fastest."""

Times = dict[Any, float]


class Bench:
    """Measures products, and holds what was measured."""

    def __init__(self, candidates: int, repeats: int) -> None:
        self.candidates, self.repeats = candidates, repeats
        self.launcher = CupyLauncher()
        self.device = self.launcher.device(cupy.empty(1))
        self.times: dict[str, dict[str, float]] = {}
        self.slower: list[float] = []

    def measure(self, made: Structure, dtype: str) -> None:
        """Measure the products of a matrix."""
        rows, cols, tile_rows, sparsity, sparse, batches = made
        problem = draw(
            rows, cols, max(batches), sparsity, tile_rows=tile_rows, dtype=dtype, sparse=sparse
        )
        packed = pack(problem.A.storage)
        for n in batches:
            self.product(packed, as_cupy(problem.x[:, :n].contiguous()))

    def product(self, packed: PackedMatrix, x: Any) -> None:
        """Measure the kernels of one product: those that the model ranks first, then variants."""
        n = int(x.shape[1])
        device, what = self.launcher.device(x), problem_of(packed, n)
        ranked = [c.config for c in choose(what, device).candidates if not c.refusal]
        out = cupy.empty((packed.shape[0], n), x.dtype)

        def seconds(config: Any) -> float:
            run = partial(multiply, self.launcher, packed, x, out, config)
            return self.launcher.seconds(run, like=x, repeats=self.repeats)

        times: Times = {config: seconds(config) for config in ranked[: self.candidates]}
        fastest = min(times, key=lambda config: times[config])
        times |= {config: seconds(config) for config in variants(fastest, device)}
        best = sorted(times, key=lambda config: times[config])[:KEPT]
        self.times[tuned.describe(what)] = {str(c): float(f"{times[c]:.3g}") for c in best}
        self.slower.append(times[ranked[0]] / times[best[0]])
        if self.slower[-1] > 1.05:
            print(
                f"{tuned.describe(what)}: {1e6 * times[best[0]]:.1f} us, {best[0]}; the model's "
                f"{1e6 * times[ranked[0]]:.1f} us, {ranked[0]}", flush=True,
            )  # fmt: skip


def wanted(dtype: str, known: Collection[str]) -> list[Structure]:
    """Return the matrices of which a product is not known, with the n of those that are not."""
    found = []
    for made in structures():
        named = {n: tuned.describe(made.problem(DTYPES[dtype], n)) for n in made.batches}
        if batches := tuple(n for n, name in named.items() if name not in known):
            found.append(made._replace(batches=batches))
    return found


def compile_all(dtype: str, matrices: list[Structure], candidates: int, device: Device) -> None:
    """Compile what is going to be measured, on all cores at once."""
    found = set()
    for made in matrices:
        for n in made.batches:
            what = made.problem(DTYPES[dtype], n)
            ranked = [c.config for c in choose(what, device).candidates if not c.refusal]
            found |= {*ranked[:candidates], *variants(ranked[0], device)}
    kernels = {run for config in found for run in as_run(config, dtype)}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda config: compile_kernel(config, device.architecture), kernels))
    print(f"{len(kernels)} kernels of {dtype}", flush=True)


def as_run(config: Any, dtype: str) -> list[Any]:
    """Return what a product compiles for a config: tiles may be cut along their slots."""
    if not hasattr(config, "pieces"):
        return [replace(config, cut=cut) for cut in {False, config.can_cut}]
    return [replace(config, output=dtype, pieces=pieces) for pieces in (False, True)]


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(tuned.SHIPPED))
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--candidates", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1e9, help="start nothing after so long")
    parser.add_argument(
        "--missing", action="store_true", help="keep the library's times, measure what they lack"
    )
    args = parser.parse_args()
    deadline, bench = time.monotonic() + args.seconds, Bench(args.candidates, args.repeats)
    name = bench.device.name
    if args.missing:
        bench.times |= tuned.shipped().get(name, {})
    for dtype in args.dtypes:
        matrices = wanted(dtype, bench.times)
        compile_all(dtype, matrices, args.candidates, bench.device)
        for made in matrices:
            if time.monotonic() < deadline:
                bench.measure(made, dtype)
    content = {"format": 1, "times": {name: bench.times}}
    args.out.write_text(json.dumps(content, indent=0, sort_keys=True) + "\n")
    slower = np.array(bench.slower or [1.0])
    print(
        f"{len(bench.slower)} products on {name}; the kernel that the model ranks first takes "
        f"{np.median(slower):.3f} times as long as the fastest (median), at most {slower.max():.2f}"
    )


if __name__ == "__main__":
    main()
