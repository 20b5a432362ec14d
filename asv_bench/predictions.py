"""How well `tvwarray.analyze` predicts the times of products on one CPU core.

    python asv_bench/predictions.py [--weights model.safetensors]   # predicted against measured
    python asv_bench/predictions.py --fit                            # new rates for _costs.cpu

Rates are fitted to the matrices of `prediction_sets.fitted`, by which the terms they stand for were
chosen, too. Products run on one thread, each on its own so that caches hold what they can; times
are medians of processor time. Where pages lie in memory is another matter in every process, and
moves the times of large products by a tenth and more: so `--save FILE` adds a pass to those of
earlier calls, and the median of all counts. The C library is told when to give memory back, which
by default depends on what the process did before: results of 32 MB and more lie in new pages, all
others in those of the result before. Needs pyamg and threadpoolctl.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np
import prediction_sets
import scipy.sparse as sp
from scipy.optimize import least_squares, nnls

import tvwarray
from tvwarray import _advice
from tvwarray._cli.machine import machine_line, threads
from tvwarray._convert.sparse import canonical
from tvwarray._costs import cpu as cpu_cost
from tvwarray._costs.calibrate import this_machine
from tvwarray._costs.work import Work, bsr_blocks

COUNTS = (1, 8, 64, 512)
"""Right-hand sides."""

COUNTS_FITTED = (1, 2, 8, 16, 64, 512)
"""... of the products that the model is fitted to."""

BETWEEN = 0.3
"""What a count that is not among `COUNTS` weighs in the fit: it keeps the terms apart."""

WITHIN = 0.3
"""How far a good prediction may be off."""

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
"""glibc's thresholds."""

BUDGET = 0.015
"""Seconds that a product is repeated for."""

WARM_UP = 4
"""Runs before a function is timed."""

Samples = dict[str, dict[str, list[float]]]
"""Seconds of every pass by matrix, and by way and count joined as in "csr 64"."""


def main() -> None:
    """Measure, and fit or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="the encoder's model.safetensors; by default downloaded")
    parser.add_argument("--fit", action="store_true", help="fit the model to the matrices for that")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--save", type=Path, help="add a pass to the measurements in this file")
    parser.add_argument("--seconds", type=float, help="stop then; with --save the next goes on")
    parser.add_argument("--only-read", action="store_true", help="measure nothing; needs --save")
    args = parser.parse_args()
    _advice._said = True  # about matrices that do not suit the format there is no need to say so
    made = (prediction_sets.fitted if args.fit else prediction_sets.held_back)(args.weights)
    counts = COUNTS_FITTED if args.fit else COUNTS
    matrices = {name: partial(cast, make, args.dtype) for name, make in made.items()}
    samples: Samples = {}
    if args.save and args.save.exists():
        samples = json.loads(args.save.read_text())
    if not args.only_read:
        with threads(1):
            add_pass(samples, matrices, counts, args.seconds or float("inf"))
        if args.save:
            args.save.write_text(json.dumps(samples, indent=1) + "\n")
    missing = [name for name in matrices if name not in samples]
    if missing:
        print(f"{len(missing)} matrices are not measured yet; call again.")
        return
    print(machine_line())
    passes = [len(times) for name in matrices for times in samples[name].values()]
    print(f"{min(passes)} to {max(passes)} passes")
    if args.fit:
        fit(matrices, samples)
    else:
        with threads(1):
            report(matrices, samples)


def cast(make: Callable[[], sp.csr_array], dtype: str) -> sp.csr_array:
    """Return a matrix in some dtype."""
    return make().astype(dtype)


def add_pass(
    samples: Samples, matrices: prediction_sets.Matrices, counts: tuple[int, ...], limit: float
) -> None:
    """Add a time of every product to `samples`, those first that have the fewest."""
    start = perf_counter()

    def passes(name: str) -> int:
        return min((len(times) for times in samples.get(name, {}).values()), default=0)

    for name in sorted(matrices, key=passes):
        if perf_counter() - start > limit:
            return
        case = Case(name, matrices[name]())
        case.verify()
        found = samples.setdefault(name, {})
        for key, seconds in case.measured(counts).items():
            found.setdefault(key, []).append(seconds)


class Case:
    """A matrix with the operands of every way to multiply it."""

    def __init__(self, name: str, a: sp.csr_array) -> None:
        self.name, self.a = name, a
        A = tvwarray.TVWMatrix(a)
        ways = {"tvw": lambda x: tvwarray.matmul(A, x, backend="cpu"), "csr": a.__matmul__}
        side = block_of(a)
        if side > 1:
            ways["bsr"] = a.tobsr((side, side)).__matmul__
        if a.shape[0] * a.shape[1] <= 1 << 24:
            ways["dense"] = a.toarray().__matmul__
        self.ways = ways

    def operand(self, n: int) -> np.ndarray:
        """Return n right-hand sides."""
        X = np.random.default_rng(n).standard_normal((self.a.shape[1], n)).astype(self.a.dtype)
        return X[:, 0].copy() if n == 1 else X

    def verify(self) -> None:
        """Hold every way against float64."""
        x = self.operand(8)
        exact = self.a.astype(np.float64) @ x.astype(np.float64)
        size = abs(self.a).astype(np.float64) @ np.abs(x).astype(np.float64)
        unit = np.finfo(self.a.dtype).eps / 2
        for way, run in self.ways.items():
            if (np.abs(run(x) - exact) > (self.a.shape[1] + 8) * 2 * unit * size).any():
                raise AssertionError(f"{self.name}: {way} is outside its error bound")

    def measured(self, counts: tuple[int, ...]) -> dict[str, float]:
        """Return the median time of each way for each count."""
        found = {}
        for n in counts:
            x = self.operand(n)
            runs = {way: partial(run, x) for way, run in self.ways.items()}
            found |= {f"{way} {n}": s for way, s in medians(runs, BUDGET).items()}
        return found


def medians(ways: dict[str, Callable[[], object]], budget: float) -> dict[str, float]:
    """Time each function on its own, by the processor's clock, in samples of at least 0.2 ms.

    Before that it runs until the caches hold what they can of it: the one before left them full of
    itself, and after a dense matrix of 100 MB one run does not suffice.
    """
    found = {}
    for way, run in ways.items():
        start = perf_counter()
        for _ in range(WARM_UP):
            run()
        repeats = max(1, int(2e-4 * WARM_UP / (perf_counter() - start)))
        samples: list[float] = []
        start = perf_counter()
        while len(samples) < 3 or perf_counter() - start < budget:
            begin = thread_time()
            for _ in range(repeats):
                run()
            samples.append((thread_time() - begin) / repeats)
        found[way] = float(np.median(samples))
    return found


def block_of(a: sp.csr_array) -> int:
    """Return the side of the blocks that suit BSR best."""
    return bsr_blocks(canonical(a, a.shape, a.dtype)[0])[0]


def work_of(a: sp.csr_array) -> Work:
    """Return the work of a matrix in the tiles that a conversion chooses."""
    tile_rows = tvwarray.TVWMatrix(a).tile_rows
    reports = tvwarray.analyze(a, device="H200").tiles
    return next((t for t in reports if t.tile_rows == tile_rows), reports[-1]).work


def fit(matrices: prediction_sets.Matrices, samples: Samples) -> None:
    """Print nanoseconds for each kernel that make relative errors small."""
    found: dict[str, list[tuple]] = {}
    for name, make in matrices.items():
        work = work_of(make())
        for key, times in samples[name].items():
            way, n = key.split()
            kernel, counts = cpu_cost.counts(way, work, int(n))
            weight = 1 if int(n) in COUNTS else BETWEEN
            row = f"{name} n={n}", counts, np.median(times), weight
            found.setdefault(kernel, []).append(row)
    for kernel in sorted(found):
        names, rows, times, weights = zip(*found[kernel], strict=True)
        counts, times = np.array(rows), np.array(times)
        rates = fitted(counts, times, np.array(weights))
        off = counts @ rates / times
        share = np.mean(np.abs(off - 1) <= WITHIN)
        print(f'    "{kernel}": ({", ".join(f"{1e9 * r:.4g}" for r in rates)}),')
        print(f"        # {len(times)} products, {100 * share:.0f} % within 30 %")
        for name, ratio in zip(names, off, strict=True):
            if abs(ratio - 1) > WITHIN:
                print(f"        # {name}: {ratio:.2f}")


def fitted(counts: np.ndarray, seconds: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return seconds for each count, not negative, that make the largest relative errors small.

    Logarithms of predicted over measured times are weighed more, the larger they are. What is
    constant is at least a tenth of the shortest product, so that nothing takes no time.
    """
    rates = np.zeros(counts.shape[1])
    live = np.flatnonzero(counts.max(axis=0) > 0)
    scale = counts[:, live].max(axis=0)
    system = counts[:, live] / scale
    weight = weights
    for _ in range(40):  # a start: reweighted, so that a few odd matrices do not bend the rest
        start = nnls(system / seconds[:, None] * weight[:, None], weight)[0]
        off = np.abs(np.log(np.maximum(system @ start, 1e-12) / seconds))
        weight = weights / np.sqrt(np.maximum(off, 0.05))

    def errors(x: np.ndarray) -> np.ndarray:
        off = np.log(system @ x / seconds)
        return weights * off * (1 + (off / (0.8 * WITHIN)) ** 2)

    least = np.where(live == 0, seconds.min() / 10, 0)
    start = np.maximum(start, least + 1e-9)
    step = np.maximum(start, seconds.min() / 10)
    found = least_squares(errors, start, bounds=(least, np.inf), x_scale=step, max_nfev=300)
    rates[live] = found.x / scale
    rates[rates * counts.max(axis=0) < 1e-9] = 0  # no more than a nanosecond anywhere
    return rates


def report(matrices: prediction_sets.Matrices, samples: Samples) -> None:
    """Print predicted over measured times of every matrix, as `analyze` predicts them."""
    machine = this_machine()
    print(f"scales of this machine: { {k: round(v, 2) for k, v in machine.scales.items()} }")
    print(f"\n| matrix | {' | '.join(f'{way}, n = 1 / 8 / 64 / 512' for way in cpu_cost.WAYS)} |")
    print("|---" * (1 + len(cpu_cost.WAYS)) + "|")
    ratios: dict[str, list[float]] = {way: [] for way in cpu_cost.WAYS}
    taken, lost = [], []
    for name, make in matrices.items():
        work = work_of(make())
        cells = dict.fromkeys(cpu_cost.WAYS, "")
        found: dict[int, dict[str, tuple[float, float]]] = {n: {} for n in COUNTS}
        for way in cpu_cost.WAYS:
            if f"{way} 1" not in samples[name]:
                continue
            for n in COUNTS:
                measured = float(np.median(samples[name][f"{way} {n}"]))
                found[n][way] = machine.seconds(way, work, n), measured
            of_way = [found[n][way][0] / found[n][way][1] for n in COUNTS]
            ratios[way] += of_way
            cells[way] = " / ".join(f"{r:.2f}" for r in of_way)
        for times in found.values():
            predicted, measured = min(times.values())
            taken.append(predicted / measured)
            lost.append(measured / min(m for _, m in times.values()))
        print(f"| {name} | {' | '.join(cells.values())} |")
    print()
    for way in cpu_cost.WAYS:
        print(f"{way}: {summary(np.array(ratios[way]))}")
    print(f"all: {summary(np.concatenate(list(ratios.values())))}")
    print(f"the way predicted to be the fastest: {summary(np.array(taken))}")
    print(
        f"it is the fastest measured in {sum(x == 1 for x in lost)} of {len(lost)} products, and "
        f"takes {np.quantile(lost, 0.9):.2f} times the least at the 90th percentile, "
        f"{max(lost):.2f} times at most"
    )


def summary(ratios: np.ndarray) -> str:
    """Return how many predictions are good."""
    good = int(np.sum(np.abs(ratios - 1) <= WITHIN))
    middle = np.quantile(ratios, [0.1, 0.5, 0.9])
    return (
        f"{good} of {ratios.size} within 30 %; predicted / measured at the 10th, 50th and 90th "
        f"percentile: {', '.join(f'{m:.2f}' for m in middle)}"
    )


if __name__ == "__main__":
    if ALLOCATOR.items() <= os.environ.items():
        main()
    else:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
