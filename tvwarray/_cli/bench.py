"""``tvwarray bench``: products of any size, checked and timed against NumPy and scipy."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

import tvwarray
from tvwarray._cli import bench_cpu, bench_files
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
from tvwarray._describe import time_text
from tvwarray._dtypes import FLOAT32, NARROW_FLOATS, DType, value_dtype
from tvwarray._matmul import select_backend
from tvwarray._matrix import TVWMatrix
from tvwarray._storage import HostArray

DTYPES: Final = ("float32", "float64", "float16", "bfloat16")
LEFT: Final = "A @ X"
LAYER: Final = "x @ A.T"


class Record(NamedTuple):
    """One line of the table."""

    product: str
    shape: tuple[int, int]
    dtype: str
    sparsity: float
    n: int
    backend: str
    error: float
    """As a share of its bound."""
    timing: Timing
    csr_way: str
    nnz: int
    nbytes: int
    """Of the matrix as stored, X and the product."""


def run(args: Namespace) -> int:
    """Measure every combination; exit status 1 if a product is outside its error bound."""
    if args.cpu:
        return bench_cpu.run(args)
    shapes = [parse_shape(s) for s in args.shape]
    if min(args.n) < 1:
        raise ValueError(f"--n is {min(args.n)}; it is 1 or more.")
    dtype = value_dtype(args.dtype)
    with threads(args.threads):
        described = machine()
        line = machine_line()
        ceilings = bench_files.measure_ceilings(dtype) if args.out else None
        cases = [(shape, s) for shape in shapes for s in args.sparsity]
        records = [
            record
            for shape, sparsity in progress(cases, "matrix")
            for record in _records(shape, sparsity, args.n, dtype, args.seconds)
        ]
    used = sorted({r.backend for r in records})
    if args.json:
        results = [_as_json(r) for r in records]
        print(json.dumps({"machine": described, "results": results}, indent=1))
    else:
        make_table = markdown_table if args.markdown else text_table
        print(f"{line}; backend: {', '.join(used)}")
        print()
        print(make_table(_HEADER, [_row(r) for r in records]))
        print()
        print(_notes(dtype))
        if note := noise_note([r.timing for r in records]):
            print(note)
    if ceilings:
        paths = bench_files.write(Path(args.out), list(map(_point, records)), described, ceilings)
        print(f"written: {', '.join(map(str, paths))}", file=sys.stderr)
    return 0 if all(r.error <= 1 for r in records) else 1


def parse_shape(text: str) -> tuple[int, int]:
    """Return the shape that a text such as ``"1536x384"`` stands for."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise ValueError(f"--shape is {text!r}; it is ROWSxCOLS, such as 1536x384.")
    return int(match[1]), int(match[2])


def _records(
    shape: tuple[int, int], sparsity: float, ns: list[int], dtype: DType, budget: float
) -> Iterator[Record]:
    rng = np.random.default_rng(0)
    A = tvwarray.sparsify(_random(rng, shape, dtype), sparsity)
    # NumPy and scipy multiply 16-bit floats slowly or not at all: they get the values in float32.
    wide = FLOAT32 if dtype in NARROW_FLOATS else dtype
    W, csr = A.toarray().astype(wide, copy=False), A.tocsr()
    terms = rows_longest(csr)
    for n in ns:
        X = _random(rng, (shape[1], n), dtype)
        selected = select_backend(A, X).backend
        backend = selected.name if selected else "none"
        for case in _cases(A, W, csr, X):
            error = error_share(case.ours(), case.exact, case.size, terms, dtype)
            way = fastest(case.ways)
            timed = {"tvwarray": case.ours, "dense": case.dense, "csr": case.ways[way]}
            timing = measure(timed, budget=budget)
            nbytes = A.nbytes + X.nbytes + shape[0] * n * dtype.itemsize
            yield Record(
                case.product, shape, dtype.name, sparsity, n, backend, error, timing, way, A.nnz,
                nbytes,
            )  # fmt: skip


class _Case(NamedTuple):
    """One product in every way it is to be computed."""

    product: str
    ours: Callable[[], HostArray]
    dense: Callable[[], object]
    ways: dict[str, Callable[[], object]]
    """Those of scipy."""
    exact: HostArray
    size: HostArray
    """``|A| @ |X|``"""


def _cases(A: TVWMatrix, W: HostArray, csr: Any, X: HostArray) -> list[_Case]:
    x, wide = np.ascontiguousarray(X.T), X.astype(W.dtype)
    layer = np.ascontiguousarray(wide.T)
    W64, X64 = W.astype(np.float64), X.astype(np.float64)
    exact, size = W64 @ X64, abs(W64) @ abs(X64)
    ways: dict[str, Callable[[], object]] = {"csr @ X": lambda: csr @ wide}
    return [
        _Case(LEFT, lambda: A @ X, lambda: W @ wide, ways, exact, size),
        _Case(
            LAYER,
            lambda: tvwarray.linear(x, A),
            lambda: layer @ W.T,
            csr_ways(csr, layer),
            exact.T,
            size.T,
        ),
    ]


def _random(rng: np.random.Generator, shape: tuple[int, int], dtype: DType) -> HostArray:
    """Return values from 0.5 to 1.5 of either sign: with zeros, some products are faster."""
    values: HostArray = rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
    return values.astype(dtype)


_HEADER: Final = (
    "product", "matrix", "pruned", "n", "tvwarray", "dense", "CSR", "vs\ndense", "vs\nCSR",
    "error\n/bound",
)  # fmt: skip


def _row(r: Record) -> tuple[str, ...]:
    times = (time_text(r.timing.seconds[name]) for name in ("tvwarray", "dense", "csr"))
    ratios = (ratio_text(r.timing.ratios[name]) for name in ("dense", "csr"))
    return (
        r.product, shape_text(r.shape), percent_text(r.sparsity), str(r.n), *times, *ratios,
        f"{r.error:.3f}",
    )  # fmt: skip


def _notes(dtype: DType) -> str:
    note = (
        f"{dtype.name}; contenders in turn, medians; vs: how many times longer the other takes;\n"
        "CSR: the faster of scipy's ways; error/bound: 1 is the largest rounding error allowed."
    )
    if dtype in NARROW_FLOATS:
        note += "\nDense and CSR multiply the same values in float32, which is faster for them."
    return note


def _point(r: Record) -> bench_files.Point:
    seconds, ratios = r.timing.seconds, r.timing.ratios
    return bench_files.Point(
        r.product, *r.shape, r.dtype, r.sparsity, r.n, r.backend,
        seconds["tvwarray"], seconds["dense"], seconds["csr"], ratios["dense"], ratios["csr"],
        r.error, 2 * r.nnz * r.n, r.nbytes,
    )  # fmt: skip


def _as_json(r: Record) -> dict[str, Any]:
    fields = r._asdict()
    fields["error_of_bound"] = fields.pop("error")
    fields["timing"] = r.timing._asdict()
    return fields
