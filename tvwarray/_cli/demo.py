"""``tvwarray demo``: the weights of a real encoder, pruned, checked and timed."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

import tvwarray
from tvwarray._cli.convert import score_kept
from tvwarray._cli.files import Entry, as_dense, open_source
from tvwarray._cli.machine import machine, machine_line, threads
from tvwarray._cli.measure import (
    Timing,
    csr_ways,
    error_share,
    fastest,
    measure,
    noise_note,
    rows_longest,
)
from tvwarray._cli.progress import progress
from tvwarray._cli.table import (
    markdown_table,
    percent_text,
    ratio_text,
    shape_text,
    text_table,
)
from tvwarray._cli.weights import find_weights
from tvwarray._describe import bytes_text, time_text
from tvwarray._dtypes import FLOAT32
from tvwarray._errors import FormatError
from tvwarray._matmul import select_backend
from tvwarray._matrix import TVWMatrix
from tvwarray._storage import HostArray

SPARSITIES: Final = (0.5, 0.75, 0.875, 0.95)
BATCHES: Final = (1, 32, 512)
WEIGHTS: Final = (
    "encoder.layer.0.intermediate.dense.weight",
    "encoder.layer.0.output.dense.weight",
    "encoder.layer.0.attention.self.query.weight",
)
"""One of each shape."""

_SECONDS: Final = 0.4
_QUICK_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Result:
    """What was found for one weight at one sparsity."""

    weight: str
    shape: tuple[int, int]
    sparsity: float
    kept: float
    """The share of the sum of all magnitudes that is left."""
    nbytes: int
    dense_bytes: int
    error: float
    """The largest error over all batches, as a share of its bound."""
    timings: tuple[Timing, ...]
    """One a batch; the contenders are "tvwarray", "dense" and "csr"."""
    backends: tuple[str, ...]
    """Which ran, for each batch."""
    csr_ways: tuple[str, ...]
    """Which of scipy's ways was the faster one, for each batch."""


def run(args: Namespace) -> int:
    """Prune, check and time; exit status 1 if a product is outside its error bound."""
    with threads(args.threads):
        entries = _choose(find_weights(args.weights), every=args.all)
        budget = _QUICK_SECONDS if args.quick else _SECONDS
        described = machine()
        if not args.json:
            print(machine_line(), flush=True)
        cells = [(entry, sparsity) for entry in entries for sparsity in SPARSITIES]
        results = [_result(*cell, budget) for cell in progress(cells, "weight")]
    if args.json:
        told = {"machine": described, "batches": BATCHES, "results": [_as_json(r) for r in results]}
        print(json.dumps(told, indent=1))
    else:
        print()
        print(markdown(results) if args.markdown else text(results))
        print()
        print(summary(results))
        if note := noise_note([t for r in results for t in r.timings]):
            print(note)
    return 0 if all(r.error <= 1 for r in results) else 1


def text(results: Sequence[Result]) -> str:
    """Return one aligned table, in which a line introduces each weight."""
    header = ["pruned", "score\nkept", "bytes", "of\ndense", "error\n/bound"]
    for batch in BATCHES:
        header += [f"n = {batch}\ntime", "vs\ndense", "vs\nCSR"]
    ratios = [i for i, name in enumerate(header) if name.startswith("vs")]
    table = text_table(header, [_cells(r) for r in results], tight=ratios).splitlines()
    body = len(table) - len(results)
    lines, last = table[:body], ""
    for result, line in zip(results, table[body:], strict=True):
        if result.weight != last:
            dense = bytes_text(result.dense_bytes)
            lines.append(f"{result.weight}, {shape_text(result.shape)}, {dense} dense")
        lines.append(line)
        last = result.weight
    return "\n".join(lines)


def markdown(results: Sequence[Result]) -> str:
    """Return the same as a Markdown table."""
    header = ["weight", "pruned", "score kept", "bytes", "of dense", "error/bound"]
    for batch in BATCHES:
        header += [f"n = {batch}", "vs dense", "vs CSR"]
    rows = [(shape_text(r.shape), *_cells(r)) for r in results]
    return markdown_table(header, rows)


def summary(results: Sequence[Result]) -> str:
    """Return what the table comes to, in a few sentences."""
    wrong = [r for r in results if not r.error <= 1]
    products = len(results) * len(BATCHES)
    if wrong:
        first = wrong[0]
        checked = (
            f"WRONG: {first.weight} at {percent_text(first.sparsity)} is off by {first.error:.3g} "
            f"times its error bound; please report this with the output of `tvwarray env`."
        )
    else:
        worst = max(r.error for r in results)
        checked = (
            f"All {products} products agree with float64 within their error bounds (worst: "
            f"{percent_text(worst)} of one)."
        )
    dense, csr = (_median_ratios(results, name) for name in ("dense", "csr"))
    ways = [way for r in results for way in r.csr_ways]
    used = ", ".join(sorted({name for r in results for name in r.backends}))
    usual = max(set(ways), key=ways.count)
    return (
        f"{checked}\n"
        f"Median speed-up over NumPy dense at {_at(SPARSITIES)}: {_at_text(dense)};\n"
        f"over SciPy CSR: {_at_text(csr)}.\n"
        f"Times: medians of x @ A.T, x of shape (n, columns), all in turn; backend: {used};\n"
        "CSR: the faster of csr @ x.T and x @ csr.T.tocsr() "
        f"({usual} in {ways.count(usual)} of {len(ways)} cases)."
    )


def _choose(path: str, *, every: bool) -> list[Entry]:
    source = open_source(path)
    found = {e.name: e for e in source.matrices}
    missing = [name for name in WEIGHTS if name not in found]
    if missing:
        raise FormatError(
            f"{path}: it has no matrix {missing[0]!r}; the demo takes the model file of a MiniLM "
            "encoder (all-MiniLM-L6-v2)."
        )
    if every:
        return [e for e in source.matrices if e.name.startswith("encoder.layer.")]
    return [found[name] for name in WEIGHTS]


def _result(entry: Entry, sparsity: float, budget: float) -> Result:
    W = as_dense(entry.read()).astype(FLOAT32, copy=False)
    A = tvwarray.sparsify(W, sparsity)
    pruned, csr = A.toarray(), A.tocsr()
    wide = pruned.astype(np.float64)
    rng = np.random.default_rng(0)
    error, timings, backends, ways = 0.0, [], [], []
    for batch in BATCHES:
        x = rng.standard_normal((batch, W.shape[1]), dtype=np.float32)
        error = max(error, _check(A, x, wide, rows_longest(csr)))
        timing, way = _time(A, x, pruned, csr, budget)
        timings.append(timing)
        selected = select_backend(A, x.T).backend
        backends.append(selected.name if selected else "none")
        ways.append(way)
    return Result(
        weight=entry.name,
        shape=(int(W.shape[0]), int(W.shape[1])),
        sparsity=sparsity,
        kept=score_kept(A, W),
        nbytes=A.nbytes,
        dense_bytes=int(W.nbytes),
        error=error,
        timings=tuple(timings),
        backends=tuple(backends),
        csr_ways=tuple(ways),
    )


def _check(A: TVWMatrix, x: HostArray, wide: HostArray, terms: int) -> float:
    got = tvwarray.linear(x, A)
    x64 = x.astype(np.float64)
    return error_share(got, x64 @ wide.T, abs(x64) @ abs(wide).T, terms, FLOAT32)


def _time(
    A: TVWMatrix, x: HostArray, pruned: HostArray, csr: Any, budget: float
) -> tuple[Timing, str]:
    ways = csr_ways(csr, x)
    way = fastest(ways)
    contenders = {
        "tvwarray": lambda: tvwarray.linear(x, A),
        "dense": lambda: x @ pruned.T,
        "csr": ways[way],
    }
    return measure(contenders, budget=budget), way


def _as_json(result: Result) -> dict[str, Any]:
    told = {f.name: getattr(result, f.name) for f in fields(result)}
    told["error_of_bound"] = told.pop("error")
    return {**told, "timings": [t._asdict() for t in result.timings]}


def _cells(result: Result) -> list[str]:
    cells = [
        percent_text(result.sparsity),
        f"{result.kept:.3f}",
        bytes_text(result.nbytes),
        f"{result.nbytes / result.dense_bytes:.2f}",
        f"{result.error:.3f}",
    ]
    for timing in result.timings:
        cells.append(time_text(timing.seconds["tvwarray"]))
        cells += [ratio_text(timing.ratios[name]) for name in ("dense", "csr")]
    return cells


def _median_ratios(results: Sequence[Result], name: str) -> list[float]:
    return [
        float(np.median([t.ratios[name] for r in results if r.sparsity == s for t in r.timings]))
        for s in SPARSITIES
    ]


def _at(shares: Sequence[float]) -> str:
    return " / ".join(f"{100 * s:.3g}" for s in shares) + " %"


def _at_text(ratios: Sequence[float]) -> str:
    return " / ".join(map(ratio_text, ratios))
