"""The tables of docs/cpu.md: products of one CPU thread, in pairs with others.

    python asv_bench/cpu_tables.py [dense] [alternating] [array] [batches] [transposed] [types]
                                   [csr] [--only 1 8]

All take some minutes; --only those with so many right-hand sides. Wall time, medians, the ways to
multiply in turns of 20 ms; one thread unless a column says two. Tiles hold 128 consecutive rows,
data are random, and every product is checked before it is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter, sleep

import numpy as np
import scipy.sparse as sp

import tvwarray
from tvwarray._cli.bench_cpu import cold_ratio
from tvwarray._cli.machine import machine_line, threads
from tvwarray._cli.measure import measure
from tvwarray._dtypes import value_dtype

SPARSITIES = (0.5, 0.75, 0.875, 0.95)
LAYERS = ((1, 4096, 4096), (8, 4096, 4096), (128, 768, 3072), (512, 1024, 4096), (1024, 4096, 4096))
"""M, K, N: right-hand sides, columns and rows of A."""
BUDGET = 0.6
ASLEEP = 0.15
"""Seconds after which OpenBLAS's threads no longer spin: 2**28 ticks of the time stamp counter."""

Ways = dict[str, Callable[[], np.ndarray]]


def operands(m, k, n, sparsity, dtype, vector=(2, 4)):
    """Return A of shape (n, k) and row-major x of shape (m, k)."""
    rng = np.random.default_rng(0)
    pattern = "tvw" if vector else "tw"
    W, x = rng.uniform(0.5, 1.5, (n, k)), rng.uniform(-1, 1, (m, k))
    if dtype.kind == "i":
        W, x = np.round(4 * W), np.round(8 * x)
    options = {"permute": False} if vector else {}
    A = tvwarray.sparsify(W.astype(dtype), sparsity, pattern=pattern, group_rows=False, **options)
    return A, x.astype(dtype)


def ratios(ways: Ways, pause: float = 0.0) -> list[float]:
    """Return how many times longer the others take than the first; all must agree.

    A way is called for 20 ms at a time: the caches hold what they can of it, not of the others.
    Before each turn nothing runs for `pause` seconds.
    """
    first, *others = (np.asarray(way(), np.float64) for way in ways.values())
    for other in others:
        np.testing.assert_allclose(first, other, rtol=1e-3, atol=1e-3 * abs(first).max())
    calls = {name: calls_of(way) for name, way in ways.items()}
    turns = {name: repeated(way, calls[name]) for name, way in ways.items()}
    budget = BUDGET + 15 * pause
    found, (ours, *_) = measure(turns, budget=budget, pause=pause).ratios, ways
    return [found[name] * calls[ours] / calls[name] for name in ways][1:]


def calls_of(way: Callable[[], object]) -> int:
    """Return how many calls take 20 ms."""
    way()
    start = perf_counter()
    way()
    return max(1, round(0.02 / (perf_counter() - start)))


def repeated(way: Callable[[], object], calls: int) -> Callable[[], object]:
    def turn() -> None:
        for _ in range(calls):
            way()

    return turn


def row(title: str, cells: list[str]) -> None:
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


def joined(found: Iterable[float]) -> str:
    return " / ".join(f"{r:.3g}" for r in found)


def chosen(layers: Sequence[tuple[int, int, int]], only: list[int]) -> list[tuple[int, int, int]]:
    """Return the layers with one of so many right-hand sides, or all."""
    return [layer for layer in layers if not only or layer[0] in only]


def shape(m: int, k: int, n: int) -> str:
    return f"{m} x {k} x {n}"


DENSE_COLUMNS = ("one", "two", "spinning", "cold", "float64")


def dense(only: list[int]) -> None:
    """Print `x @ A.T` against NumPy; cold: operands are in no cache when a product begins.

    Two threads on both sides, each turn begun with OpenBLAS's asleep; and again with its threads
    still spinning after their own turn, which takes a core of two from the other side.
    """
    titles = ("", ", two threads", ", two threads beside spinning ones", ", cold")
    row("M x K x N", [*(f"float32{title}" for title in titles), "float64"])
    for layer in chosen(LAYERS, only):
        found: dict[str, list[float]] = {name: [] for name in DENSE_COLUMNS}
        for s in SPARSITIES:
            for dtype in map(np.dtype, ("float32", "float64")):
                A, x = operands(*layer, s, dtype)
                W = A.toarray()
                ways = {"tvw": lambda A=A, x=x: x @ A.T, "np": lambda W=W, x=x: x @ W.T}
                if dtype == np.float64:
                    found["float64"] += ratios(ways)
                    continue
                found["one"] += ratios(ways)
                with threads(2):
                    found["two"] += ratios(ways, pause=ASLEEP)
                    found["spinning"] += ratios(ways)
                found["cold"].append(cold_ratio(*ways.values()))
        row(shape(*layer), [joined(each) for each in found.values()])


def alternating(only: list[int]) -> None:
    """Print how many percent longer a call takes after a dense product than after its like."""
    row("M x K x N", ["one thread", "two threads"])
    for layer in chosen(LAYERS[-2:], only):
        costs: dict[int, list[float]] = {1: [], 2: []}
        for s in SPARSITIES:
            A, x = operands(*layer, s, np.dtype("float32"))
            W = A.toarray()
            for count, found in costs.items():
                with threads(count):
                    _ = x @ W.T
                    sleep(ASLEEP)
                    alone = seconds(lambda A=A, x=x: x @ A.T)
                    after = seconds(lambda A=A, x=x: x @ A.T, lambda W=W, x=x: x @ W.T)
                    found.append(100 * (after / alone - 1))
        row(shape(*layer), [joined(round(cost) for cost in found) for found in costs.values()])


def seconds(way: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Return the median time of a call, right after another one that does not count."""
    times = []
    for _ in range(11):
        before()
        start = perf_counter()
        way()
        times.append(perf_counter() - start)
    return float(np.median(times))


def array(only: list[int]) -> None:
    """Print the array backend's `A @ X` against NumPy: what runs where there is no compiler."""
    row("M x K x N", ["array backend"])
    for layer in chosen(((512, 1024, 4096), (512, 4096, 4096)), only):
        found = []
        for s in SPARSITIES:
            A, x = operands(*layer, s, np.dtype("float32"))
            W, X = A.toarray(), np.ascontiguousarray(x.T)
            ways = {
                "array": lambda A=A, X=X: tvwarray.matmul(A, X, backend="array"),
                "np": lambda W=W, X=X: W @ X,
            }
            found += ratios(ways)
        row(shape(*layer), [joined(found)])


def batches(only: list[int]) -> None:
    """Print a batch, multiplied where it lies, against one wide copy of it; ms, 75 %."""
    row("batch x K x N x n", ["where it lies", "one wide copy"])
    for batch, k, n, columns in ((4, 1024, 4096, 512), (500, 256, 256, 64)):
        if only and columns not in only:
            continue
        A, _ = operands(1, k, n, 0.75, np.dtype("float32"))
        X = np.random.default_rng(1).uniform(-1, 1, (batch, k, columns)).astype(np.float32)

        def wide(A=A, X=X, n=n):
            y = A @ np.ascontiguousarray(X.transpose(1, 0, 2)).reshape(X.shape[1], -1)
            return np.ascontiguousarray(y.reshape(n, len(X), -1).transpose(1, 0, 2))

        ways = {"batch": lambda A=A, X=X: tvwarray.matmul(A, X), "wide": wide}
        np.testing.assert_allclose(ways["batch"](), wide(), rtol=1e-4, atol=1e-3)
        times = measure(ways, budget=BUDGET).seconds
        row(f"{batch} x {k} x {n} x {columns}", [f"{1e3 * t:.1f}" for t in times.values()])


def transposed(only: list[int]) -> None:
    """Print `Y @ A` against NumPy and the array backend."""
    row("M x K x N", ["NumPy dense", "array backend"])
    for layer in chosen(((1, 1024, 4096), (8, 1024, 4096), (512, 1024, 4096)), only):
        found = []
        for s in SPARSITIES:
            A, _ = operands(*layer, s, np.dtype("float32"))
            Y = np.random.default_rng(1).uniform(-1, 1, (layer[0], A.shape[0])).astype(np.float32)
            W = A.toarray()
            ways = {
                "tvw": lambda A=A, Y=Y: Y @ A,
                "np": lambda W=W, Y=Y: Y @ W,
                "array": lambda A=A, Y=Y: tvwarray.matmul(A.T, Y.T, backend="array").T,
            }
            found.append(ratios(ways))
        row(shape(*layer), [joined(one) for one in zip(*found, strict=True)])


def types(only: list[int]) -> None:
    """Print milliseconds at 75 % by type of values."""
    names = ("float32", "float64", "float16", "bfloat16", "int8")
    row("M x K x N, ms", list(names))
    for layer in chosen(((512, 1024, 4096), (8, 4096, 4096)), only):
        for vector in ((2, 4), None):
            cells = []
            for name in names:
                A, x = operands(*layer, 0.75, value_dtype(name), vector)
                W = A.toarray().astype(np.float64)
                got, expected = (x @ A.T).astype(np.float64), x.astype(np.float64) @ W.T
                np.testing.assert_allclose(
                    got, expected, rtol=0.02, atol=0.02 * abs(expected).max()
                )
                timing = measure({"tvw": lambda A=A, x=x: x @ A.T}, budget=BUDGET)
                cells.append(f"{1e3 * timing.seconds['tvw']:.2g}")
            row(f"{shape(*layer)}, {vector}", cells)


def sparse_peers(S, X) -> Ways:
    """Return `S @ X` by every library that is installed; MKL comes by sparse_dot_mkl."""
    ways: Ways = {"scipy CSR": lambda: S @ X}
    if find_spec("torch"):
        torch = import_module("torch")
        parts = (torch.from_numpy(part.astype(np.int64)) for part in (S.indptr, S.indices))
        tensor = torch.sparse_csr_tensor(*parts, torch.from_numpy(S.data), S.shape)
        dense_operand = torch.from_numpy(X)
        ways[f"torch {torch.__version__} CSR"] = lambda: (tensor @ dense_operand).numpy()
    if find_spec("sparse_dot_mkl"):
        mkl, matrix = import_module("sparse_dot_mkl"), sp.csr_matrix(S)
        ways["MKL CSR"] = lambda: mkl.dot_product_mkl(matrix, X)
    return ways


def csr(only: list[int]) -> None:
    """Print `A @ X` of C-ordered X against CSR in scipy, and in PyTorch and MKL where they are."""
    started = False
    for layer in chosen(((128, 768, 3072), (512, 1024, 4096)), only):
        found = []
        for s in SPARSITIES:
            A, x = operands(*layer, s, np.dtype("float32"))
            X = np.ascontiguousarray(x.T)
            peers = sparse_peers(A.tocsr(), X)
            found.append(ratios({"tvw": lambda A=A, X=X: A @ X, **peers}))
        if not started:
            row("M x K x N", list(peers))
        started = True
        row(shape(*layer), [joined(one) for one in zip(*found, strict=True)])


TABLES = {
    "dense": dense, "alternating": alternating, "array": array, "batches": batches,
    "transposed": transposed, "types": types, "csr": csr,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", metavar="table", help=f"of {', '.join(TABLES)}; all")
    parser.add_argument("--only", nargs="*", type=int, default=[], help="so many right-hand sides")
    args = parser.parse_args()
    if unknown := set(args.tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}.")
    if find_spec("torch"):
        import_module("torch").set_num_threads(1)
    with threads(1):
        print(machine_line())
        for name in args.tables or TABLES:
            print(f"\n{TABLES[name].__doc__}")
            TABLES[name](args.only)


if __name__ == "__main__":
    main()
