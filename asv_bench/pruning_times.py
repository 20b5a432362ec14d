"""What layouts cost: seconds of the search, and time of products. Tables of docs/pruning.md.

    python asv_bench/pruning_times.py [--large]

Layers of the MiniLM encoder of `tvwarray demo`, one thread. Products are `x @ A.T`, in pairs with
those of plain TVW. ``--large`` searches a random 4096 x 11008 matrix instead, for its peak memory.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from statistics import median
from time import perf_counter

import numpy as np

import tvwarray
from tvwarray import prune
from tvwarray._cli.files import open_source
from tvwarray._cli.machine import machine_line, threads
from tvwarray._cli.measure import measure
from tvwarray._cli.weights import find_weights

LAYOUTS = {
    "plain": {"permute": False, "group_rows": False},
    "rows grouped": {"permute": False, "group_rows": True},
    "permuted": {"permute": True, "group_rows": False},
    "both": {"permute": True, "group_rows": True},
}
SEARCHED, SHAPES = (0.5, 0.75, 0.875), ("intermediate", "output")
BATCHES = (1, 32, 512)


def layers(kind: str) -> Iterator[np.ndarray]:
    """Yield the six weights of a kind: 1536 x 384, or 384 x 1536."""
    for entry in open_source(find_weights(None)).matrices:
        if entry.name.endswith(f"{kind}.dense.weight") and "attention" not in entry.name:
            yield entry.read()


def seconds(pattern: prune.TileVectorWise, scores: np.ndarray, sparsity: float) -> float:
    start = perf_counter()
    pattern.select(scores, sparsity)
    return perf_counter() - start


def search() -> None:
    print("seconds of select, 1536 x 384, median of six layers; tiles of 64 / 128 rows\n")
    print("| sparsity | " + " | ".join(LAYOUTS) + " |")
    print("|---" * (1 + len(LAYOUTS)) + "|")
    scores = [prune.magnitude(w) for w in layers("intermediate")]
    for sparsity in SEARCHED:
        cells = []
        for options in LAYOUTS.values():
            times = [
                median(seconds(prune.TileVectorWise(rows, **options), s, sparsity) for s in scores)
                for rows in (64, 128)
            ]
            cells.append(" / ".join(f"{t:.3f}" for t in times))
        print(f"| {100 * sparsity:g} % | {' | '.join(cells)} |")


def ratios(plain: tvwarray.TVWMatrix, grouped: tvwarray.TVWMatrix, n: int) -> str:
    """Return how many times longer products of grouped rows take: of a layer, and `A @ X`."""
    x = np.random.default_rng(n).standard_normal((n, plain.shape[1]), dtype=np.float32)
    X = np.ascontiguousarray(x.T)
    layer = {"plain": lambda: x @ plain.T, "grouped": lambda: x @ grouped.T}
    left = {"plain": lambda: plain @ X, "grouped": lambda: grouped @ X}
    found = [measure(ways, budget=0.8).ratios["grouped"] for ways in (layer, left)]
    return f"{found[0]:.2f} ({found[1]:.2f})"


def products() -> None:
    print("\ntime with rows grouped over that of plain TVW, 128 rows a tile, `x @ A.T` (`A @ X`)\n")
    print("| layer, sparsity | " + " | ".join(f"n = {n}" for n in BATCHES) + " |")
    print("|---" * (1 + len(BATCHES)) + "|")
    for kind in SHAPES:
        W = next(layers(kind))
        for sparsity in SEARCHED[1:]:
            plain, grouped = (
                tvwarray.sparsify(W, sparsity, **LAYOUTS[name])
                for name in ("plain", "rows grouped")
            )
            cells = [ratios(plain, grouped, n) for n in BATCHES]
            rows, cols = W.shape
            print(f"| {rows} x {cols}, {100 * sparsity:g} % | {' | '.join(cells)} |")


def large() -> None:
    scores = prune.magnitude(np.random.default_rng(0).standard_normal((4096, 11008)))
    for name in ("rows grouped", "permuted"):
        taken = seconds(prune.TileVectorWise(128, **LAYOUTS[name]), scores, 0.75)
        print(f"4096 x 11008, 75 %, 128 rows a tile, {name}: {taken:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory of the process: {peak / 1e6:.2f} GB, scores {scores.nbytes / 1e9:.2f}")


def main() -> None:
    with threads(1):
        print(machine_line() + "\n")
        if "--large" in sys.argv:
            large()
        else:
            search()
            products()


if __name__ == "__main__":
    main()
