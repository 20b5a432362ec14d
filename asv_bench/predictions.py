"""How well `tvwarray.analyze` predicts the times of products on one CPU core.

    python asv_bench/predictions.py [--weights model.safetensors]   # predicted against measured
    python asv_bench/predictions.py --tried                          # the same for other matrices
    python asv_bench/predictions.py --fit                            # new rates for _costs.cpu

Rates are fitted to the matrices of `FITTED`; the terms they stand for were chosen by looking at
those of `tried`, too; the twenty of `held_back` were made when both were done (but for what pages
of memory cost, a term that came later). Products run on one thread, each on its own so that caches
hold what they can; times are medians of processor time, of passes over all matrices. Needs pyamg
and threadpoolctl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np
import scipy.sparse as sp
import suite
from scipy.optimize import least_squares, nnls

import tvwarray
from tvwarray import _advice
from tvwarray._cli.machine import machine_line, threads
from tvwarray._convert.sparse import canonical
from tvwarray._costs import cpu as cpu_cost
from tvwarray._costs.calibrate import this_machine
from tvwarray._costs.work import bsr_blocks

COUNTS = (1, 8, 64, 512)
"""Right-hand sides."""

FITTED = {
    "random 50 %, 1024": partial(suite.unstructured, 1024, 1024, 0.5),
    "random 75 %, 1024": partial(suite.unstructured, 1024, 1024, 0.75),
    "random 75 %, 2048": partial(suite.unstructured, 2048, 2048, 0.75, 5),
    "random 90 %, 1024": partial(suite.unstructured, 1024, 1024, 0.9),
    "random 90 %, 2048 x 768": partial(suite.unstructured, 2048, 768, 0.9),
    "random 95 %, 2048": partial(suite.unstructured, 2048, 2048, 0.95),
    "random 99 %, 4096": partial(suite.unstructured, 4096, 4096, 0.99),
    "random 99.8 %, 6000": partial(suite.unstructured, 6000, 6000, 0.998),
    "TVW 50 %, 1024 x 2048": partial(suite.tvw, 1024, 2048, 0.5, 128),
    "TVW 75 %, 384": partial(suite.tvw, 384, 384, 0.75, 128),
    "TVW 75 %, 1024": partial(suite.tvw, 1024, 1024, 0.75, 64),
    "TVW 90 %, 1024 x 4096": partial(suite.tvw, 1024, 4096, 0.9, 128),
    "5-point, 200 x 200": partial(suite.poisson, 200, 200),
    "5-point, 90 x 90": partial(suite.poisson, 90, 90),
    "9-point, 150 x 150": partial(suite.finite_elements, 150, 150),
    "7-point, 28^3": partial(suite.poisson, 28, 28, 28),
    "27-point, 25^3": partial(suite.finite_elements, 25, 25, 25),
    "27-point renumbered, 20^3": lambda: suite.shuffled(suite.finite_elements(20, 20, 20)),
    "band of 21, 8000": partial(suite.banded, 8000, 10),
    "band of 61, 4000": partial(suite.banded, 4000, 30),
    "community graph, 4096": partial(suite.communities, 4096, 32),
    "RMAT, 8192": partial(suite.rmat, 13, 8, 7),
    "Barabasi-Albert, 10000": partial(suite.preferential, 10_000, 6, 7),
    "scattered, 20000": partial(suite.scattered, 20_000, 8, 7),
    "scattered, 40000": partial(suite.scattered, 40_000, 5, 7),
    "scattered, 100000": partial(suite.scattered, 100_000, 3, 7),
    "RMAT, 32768": partial(suite.rmat, 15, 4, 7),
    "27-point, 29^3": partial(suite.finite_elements, 29, 29, 29),
    "noisy blocks of 32, 2048": partial(suite.noisy_blocks, 2048, 32, shuffle=False, seed=7),
    "elasticity, 60 x 60": partial(suite.elasticity, 60),
    "5-point, 12 x 12": partial(suite.poisson, 12, 12),
    "27-point, 6^3": partial(suite.finite_elements, 6, 6, 6),
    "random 90 %, 200": partial(suite.unstructured, 200, 200, 0.9),
    "5-point, 8 x 8": partial(suite.poisson, 8, 8),
    "random 80 %, 100": partial(suite.unstructured, 100, 100, 0.8, 5),
    "random 70 %, 500 x 300": partial(suite.unstructured, 500, 300, 0.7, 5),
    "random 98 %, 2300 x 2900": partial(suite.unstructured, 2300, 2900, 0.98, 5),
    "community graph, 6000": partial(suite.communities, 6000, 40, 0.15, 5),
    "elasticity, 90 x 90": partial(suite.elasticity, 90),
    "blocks of 2, 600": partial(suite.block_mesh, 2, 15, 20),
    "blocks of 3, 540": partial(suite.block_mesh, 3, 12, 15),
    "blocks of 4, 480": partial(suite.block_mesh, 4, 10, 12),
    "blocks of 8, 800": partial(suite.block_mesh, 8, 10, 10),
    "blocks of 3, 3600": partial(suite.block_mesh, 3, 20, 60),
    "blocks of 4, 4000": partial(suite.block_mesh, 4, 20, 50),
    "blocks of 8, 4000": partial(suite.block_mesh, 8, 20, 25),
    "blocks of 16, 1600": partial(suite.block_mesh, 16, 10, 10),
}


def tried(weights: str | None) -> dict[str, Callable[[], sp.csr_array]]:
    """Return matrices that nothing was fitted to, but that the model was made with."""
    layers = suite.layers(weights)
    return {
        **{f"pyamg {name}": partial(suite.example, name) for name in suite.EXAMPLES},
        "5-point, 250 x 250": partial(suite.poisson, 250, 250),
        "27-point, 32^3": partial(suite.finite_elements, 32, 32, 32),
        "elasticity, 100 x 100": partial(suite.elasticity, 100),
        "MiniLM output, 75 %": lambda: suite.magnitude_pruned(layers["L0.output.dense"], 0.75),
        "MiniLM intermediate, 90 %": lambda: suite.magnitude_pruned(
            layers["L3.intermediate.dense"], 0.9
        ),
        "MiniLM query, 95 %": lambda: suite.magnitude_pruned(
            layers["L5.attention.self.query"], 0.95
        ),
        "TVW 87.5 %, 3072 x 768": partial(suite.tvw, 3072, 768, 0.875, 128, 3),
        "random 85 %, 1536": partial(suite.unstructured, 1536, 1536, 0.85, 3),
        "random 97 %, 3000 x 2000": partial(suite.unstructured, 3000, 2000, 0.97, 3),
        "RMAT, 16384": partial(suite.rmat, 14, 8, 3),
        "community graph, 8192": partial(suite.communities, 8192, 64, 0.12, 3),
        "hidden blocks of 64, 3072": partial(suite.noisy_blocks, 3072, 64, shuffle=True, seed=3),
    }


def held_back(weights: str | None) -> dict[str, Callable[[], sp.csr_array]]:
    """Return matrices that no rates of the model were fitted to."""
    layers = suite.layers(weights)

    def pruned(name: str, sparsity: float) -> Callable[[], sp.csr_array]:
        return lambda: suite.magnitude_pruned(layers[name], sparsity)

    return {
        "rotated diffusion, 140 x 170": partial(suite.rotated_diffusion, 140, 170),
        "5-point, 170 x 130": partial(suite.poisson, 170, 130),
        "7-point, 22 x 30 x 26": partial(suite.poisson, 22, 30, 26),
        "27-point, 18 x 22 x 20": partial(suite.finite_elements, 18, 22, 20),
        "9-point renumbered, 110 x 110": lambda: suite.shuffled(suite.finite_elements(110, 110)),
        "elasticity, 75 x 75": partial(suite.elasticity, 75),
        "blocks of 3, 2250": partial(suite.block_mesh, 3, 25, 30),
        "random 70 %, 900 x 1300": partial(suite.unstructured, 900, 1300, 0.7, 11),
        "random 92 %, 2500 x 600": partial(suite.unstructured, 2500, 600, 0.92, 11),
        "random 99.3 %, 5000 x 3500": partial(suite.unstructured, 5000, 3500, 0.993, 11),
        "TVW 80 %, 2304 x 576": partial(suite.tvw, 2304, 576, 0.8, 128, 11),
        "2:4, 640": partial(suite.two_four, 640, 11),
        "MiniLM attention output, 60 %": pruned("L1.attention.output.dense", 0.6),
        "MiniLM intermediate, 85 %": pruned("L4.intermediate.dense", 0.85),
        "MiniLM output, 92 %": pruned("L2.output.dense", 0.92),
        "RMAT, 4096": partial(suite.rmat, 12, 16, 11),
        "Barabasi-Albert, 6000": partial(suite.preferential, 6000, 10, 11),
        "community graph, 10000": partial(suite.communities, 10_000, 100, 0.1, 11),
        "scattered, 12000": partial(suite.scattered, 12_000, 6, 11),
        "band of 41, 6000": partial(suite.banded, 6000, 20, 11),
    }


WITHIN = 0.3
"""How far a good prediction may be off."""

PASSES = 3
"""Over all matrices, apart in time: what disturbs one of them is outvoted."""

WARM_UP = 4
"""Runs before a function is timed."""

Seconds = dict[str, dict[str, float]]
"""Measured seconds by matrix, and by way and count joined as in "csr 64"."""


def main() -> None:
    """Fit, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="the encoder's model.safetensors; by default downloaded")
    parser.add_argument("--fit", action="store_true", help="fit the model to the matrices for that")
    parser.add_argument("--tried", action="store_true", help="matrices the model was made with")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--save", help="keep the measurements in this file, or read them from it")
    args = parser.parse_args()
    _advice._said = True  # about matrices that do not suit the format there is no need to say so
    made = FITTED if args.fit else (tried if args.tried else held_back)(args.weights)
    matrices = {name: make().astype(args.dtype) for name, make in made.items()}
    try:
        seconds = json.loads(Path(args.save or "").read_text())
    except OSError:
        with threads(1):
            seconds = measure(matrices)
        if args.save:
            Path(args.save).write_text(json.dumps(seconds))
    print(machine_line())
    if args.fit:
        fit(matrices, seconds)
    else:
        with threads(1):
            report(matrices, seconds)


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
        self.samples = {f"{way} {n}": [] for way in ways for n in COUNTS}

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

    def measure(self, budget: float) -> None:
        """Add the median time of each way for each count."""
        for n in COUNTS:
            x = self.operand(n)
            runs = {way: partial(run, x) for way, run in self.ways.items()}
            for way, seconds in medians(runs, budget).items():
                self.samples[f"{way} {n}"].append(seconds)


def measure(matrices: dict[str, sp.csr_array]) -> Seconds:
    """Return the measured seconds of all matrices, ways and counts."""
    cases = [Case(name, a) for name, a in matrices.items()]
    for case in cases:
        case.verify()
    for _ in range(PASSES):
        for case in cases:
            case.measure(budget=0.015)
    return {c.name: {key: float(np.median(s)) for key, s in c.samples.items()} for c in cases}


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


def fit(matrices: dict[str, sp.csr_array], seconds: Seconds) -> None:
    """Print nanoseconds for each kernel that make relative errors small."""
    found: dict[str, list[tuple]] = {}
    for name, a in matrices.items():
        tile_rows = tvwarray.TVWMatrix(a).tile_rows
        reports = tvwarray.analyze(a, device="H200").tiles
        work = next((t for t in reports if t.tile_rows == tile_rows), reports[-1]).work
        for key, measured in seconds[name].items():
            way, n = key.split()
            kernel, counts = cpu_cost.counts(way, work, int(n))
            found.setdefault(kernel, []).append((f"{name} n={n}", counts, measured))
    for kernel in sorted(found):
        names, rows, times = zip(*found[kernel], strict=True)
        counts, times = np.array(rows), np.array(times)
        rates = fitted(counts, times)
        off = counts @ rates / times
        share = np.mean(np.abs(off - 1) <= WITHIN)
        print(f'    "{kernel}": ({", ".join(f"{1e9 * r:.4g}" for r in rates)}),')
        print(f"        # {len(times)} products, {100 * share:.0f} % within 30 %")
        for name, ratio in zip(names, off, strict=True):
            if abs(ratio - 1) > WITHIN:
                print(f"        # {name}: {ratio:.2f}")


def fitted(counts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return seconds for each count, not negative, that make the largest relative errors small.

    Logarithms of predicted over measured times are weighed more, the larger they are. What is
    constant is at least a tenth of the shortest product, so that nothing takes no time.
    """
    rates = np.zeros(counts.shape[1])
    live = np.flatnonzero(counts.max(axis=0) > 0)
    scale = counts[:, live].max(axis=0)
    system = counts[:, live] / scale
    weight = np.ones(seconds.size)
    for _ in range(40):  # a start: reweighted, so that a few odd matrices do not bend the rest
        start = nnls(system / seconds[:, None] * weight[:, None], weight)[0]
        off = np.abs(np.log(np.maximum(system @ start, 1e-12) / seconds))
        weight = 1 / np.sqrt(np.maximum(off, 0.05))

    def errors(x: np.ndarray) -> np.ndarray:
        off = np.log(system @ x / seconds)
        return off * (1 + (off / (0.8 * WITHIN)) ** 2)

    least = np.where(live == 0, seconds.min() / 10, 0)
    start = np.maximum(start, least + 1e-9)
    step = np.maximum(start, seconds.min() / 10)
    found = least_squares(errors, start, bounds=(least, np.inf), x_scale=step, max_nfev=300)
    rates[live] = found.x / scale
    rates[rates * counts.max(axis=0) < 1e-9] = 0  # no more than a nanosecond anywhere
    return rates


def report(matrices: dict[str, sp.csr_array], seconds: Seconds) -> None:
    """Print predicted over measured times of every matrix, as `analyze` predicts them."""
    ways = [f"{way} {n}" for way in cpu_cost.WAYS for n in COUNTS]
    print(f"\n| matrix | {' | '.join(f'{way}, n = 1 / 8 / 64 / 512' for way in cpu_cost.WAYS)} |")
    print("|---" * (1 + len(cpu_cost.WAYS)) + "|")
    ratios: dict[str, list[float]] = {key: [] for key in ways}
    for name, a in matrices.items():
        tile_rows = tvwarray.TVWMatrix(a).tile_rows
        reports = tvwarray.analyze(a, device="cpu").tiles
        work = next((t for t in reports if t.tile_rows == tile_rows), reports[-1]).work
        cells = []
        for way in cpu_cost.WAYS:
            shown = []
            for n in COUNTS:
                if f"{way} {n}" not in seconds[name]:
                    shown.append("-")
                    continue
                predicted = this_machine().seconds(way, work, n)
                ratio = predicted / seconds[name][f"{way} {n}"]
                ratios[f"{way} {n}"].append(ratio)
                shown.append(f"{ratio:.2f}")
            cells.append(" / ".join(shown))
        print(f"| {name} | {' | '.join(cells)} |")
    print()
    for way in cpu_cost.WAYS:
        of_way = np.concatenate([ratios[f"{way} {n}"] for n in COUNTS])
        print(f"{way}: {summary(of_way)}")
    print(f"all: {summary(np.concatenate(list(ratios.values())))}")


def summary(ratios: np.ndarray) -> str:
    """Return how many predictions are good."""
    good = int(np.sum(np.abs(ratios - 1) <= WITHIN))
    middle = np.quantile(ratios, [0.1, 0.5, 0.9])
    return (
        f"{good} of {ratios.size} within 30 %; predicted / measured at the 10th, 50th and 90th "
        f"percentile: {', '.join(f'{m:.2f}' for m in middle)}"
    )


if __name__ == "__main__":
    main()
