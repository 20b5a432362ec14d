"""What ``tvwarray bench --out FOLDER`` leaves: a table, the machine, and two pictures."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from tvwarray._cli.table import shape_text
from tvwarray._plot import COLORS, MARKERS, matplotlib_modules

DENSE_COLOR: Final = "#8a8f98"


class Point(NamedTuple):
    """One measured product, flat, as a line of ``results.csv``."""

    product: str
    rows: int
    cols: int
    dtype: str
    sparsity: float
    n: int
    backend: str
    seconds: float
    dense_seconds: float
    csr_seconds: float
    speedup_over_dense: float
    speedup_over_csr: float
    error_over_bound: float
    flops: int
    """Of the stored values alone."""
    nbytes: int
    """Of the matrix as stored, X and the product."""


class Ceilings(NamedTuple):
    """What the machine can do at most, as measured here."""

    flops: float
    """A second, by the dense product of 1536 x 1536 matrices."""
    nbytes: float
    """A second, read and written, by a copy larger than the caches."""
    cached_nbytes: float
    """The same by a copy of 256 kB, which stays in a cache of the core."""


def measure_ceilings(dtype: np.dtype[Any]) -> Ceilings:
    """Time a dense product and a large copy, the best of five each."""
    kind = dtype if dtype.name in ("float32", "float64") else np.dtype(np.float32)
    rng = np.random.default_rng(0)
    a = rng.standard_normal((1536, 1536)).astype(kind)
    source = rng.standard_normal(1 << 25, dtype=np.float32)
    target = np.empty_like(source)
    product = min(_seconds(lambda: a @ a) for _ in range(5))
    copy = min(_seconds(lambda: np.copyto(target, source)) for _ in range(5))
    few, fewer = source[: 1 << 16], target[: 1 << 16]
    cached = min(_seconds(lambda: np.copyto(fewer, few)) for _ in range(50))
    return Ceilings(2 * 1536**3 / product, 2 * source.nbytes / copy, 2 * few.nbytes / cached)


def write(
    folder: Path, points: Sequence[Point], machine: dict[str, str], ceilings: Ceilings
) -> list[Path]:
    """Write ``results.csv``, ``machine.json``, ``speedup.png`` and ``roofline.png``.

    Raises
    ------
    ImportError
        If matplotlib is missing, after the table and the machine have been written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("results.csv", "machine.json", "speedup.png", "roofline.png")
    table, description, speedup, roofline = (folder / name for name in names)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Point._fields)
        writer.writerows(points)
    described = {**machine, **{f"measured_{k}": f"{v:.4g}" for k, v in ceilings._asdict().items()}}
    description.write_text(json.dumps(described, indent=1) + "\n")
    pyplot, _ = matplotlib_modules()
    figures = ((draw_speedup(points), speedup), (draw_roofline(points, ceilings), roofline))
    for figure, path in figures:
        figure.suptitle(machine["processor"], fontsize=8, color=DENSE_COLOR)
        figure.savefig(path, dpi=150)
        pyplot.close(figure)
    return [table, description, speedup, roofline]


def draw_speedup(points: Sequence[Point]) -> Any:
    """Return a figure of speed-up over dense against sparsity; where it breaks even is marked.

    A row of panels for each product, a column for each shape.
    """
    pyplot, _ = matplotlib_modules()
    products = list(dict.fromkeys(p.product for p in points))
    shapes = list(dict.fromkeys((p.rows, p.cols) for p in points))
    figure, axes = pyplot.subplots(
        len(products), len(shapes), squeeze=False, sharex=True, sharey=True, layout="constrained",
        figsize=(0.8 + 4.4 * len(shapes), 0.5 + 3.3 * len(products)),
    )  # fmt: skip
    for row, product in zip(axes, products, strict=True):
        for ax, shape in zip(row, shapes, strict=True):
            group = [p for p in points if (p.product, (p.rows, p.cols)) == (product, shape)]
            _speedup_panel(ax, group)
            ax.set_title(f"{product}, {shape_text(shape)} {group[0].dtype}", fontsize=10)
        row[0].set_ylabel("times as fast as dense")
    for ax in axes[-1]:
        ax.set_xlabel("pruned, %")
    ratios = [p.speedup_over_dense for p in points]
    ratios += [p.dense_seconds / p.csr_seconds for p in points]
    axes[0, 0].set_yscale("log")  # of all panels, which share it
    axes[0, 0].set_ylim(min(0.7, 0.8 * min(ratios)), 1.25 * max(1, *ratios))
    axes[0, 0].legend(fontsize=8, title="dotted: scipy CSR", title_fontsize=8)
    _plain_ticks(axes[0, 0].yaxis)
    return figure


def _speedup_panel(ax: Any, points: Sequence[Point]) -> None:
    ax.axhspan(1e-6, 1, color=DENSE_COLOR, alpha=0.15)
    ax.axhline(1, color=DENSE_COLOR, lw=1)
    ax.text(0.98, 0.02, "dense is faster", ha="right", fontsize=8, transform=ax.transAxes)
    for i, (n, line) in enumerate(groupby(sorted(points, key=_by_n), key=lambda p: p.n)):
        found = list(line)
        share = [100 * p.sparsity for p in found]
        speedup = [p.speedup_over_dense for p in found]
        csr = [p.dense_seconds / p.csr_seconds for p in found]
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        ax.plot(share, speedup, marker=marker, ms=5, color=color, label=f"n = {n}")
        ax.plot(share, csr, ":", color=color, lw=1.2)
        if (even := break_even(share, speedup)) is not None:
            ax.plot(even, 1, "x", color=color, ms=9, mew=2)
            ax.annotate(
                f"{even:.0f} %", (even, 1), (4, -11), textcoords="offset points", fontsize=8,
                color=color,
            )  # fmt: skip


def _plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with 0.5, 1, 2, 5, 10 in place of powers of ten."""
    from matplotlib import ticker

    axis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FormatStrFormatter("%gx"))
    axis.set_minor_formatter(ticker.NullFormatter())


def break_even(sparsity: Sequence[float], speedup: Sequence[float]) -> float | None:
    """Return the sparsity at which a line crosses 1, between points by log-linear steps."""
    for (s0, v0), (s1, v1) in zip(
        zip(sparsity, speedup, strict=True), zip(sparsity[1:], speedup[1:], strict=True),
        strict=False,
    ):  # fmt: skip
        if (v0 < 1) != (v1 < 1):
            return float(s0 + (s1 - s0) * np.log(1 / v0) / np.log(v1 / v0))
    return None


def draw_roofline(points: Sequence[Point], ceilings: Ceilings) -> Any:
    """Return a figure of operations a second against operations a byte, under the ceilings."""
    pyplot, _ = matplotlib_modules()
    figure, ax = pyplot.subplots(figsize=(6, 4.2), layout="constrained")
    x = np.array([p.flops / p.nbytes for p in points])
    y = np.array([p.flops / p.seconds for p in points])
    corner = ceilings.flops / ceilings.nbytes
    span = np.geomspace(min(x.min(), 0.25), max(x.max(), 4 * corner), 200)
    flops = f"dense product {ceilings.flops / 1e9:.0f} GFLOP/s"
    for nbytes, style, label in (
        (ceilings.nbytes, "-", f"memory {ceilings.nbytes / 1e9:.0f} GB/s, {flops}"),
        (ceilings.cached_nbytes, "--", f"cache {ceilings.cached_nbytes / 1e9:.0f} GB/s"),
    ):
        roof = np.minimum(nbytes * span, ceilings.flops) / 1e9
        ax.plot(span, roof, style, color=DENSE_COLOR, label=label)
    for i, sparsity in enumerate(sorted({p.sparsity for p in points})):
        at = np.array([p.sparsity == sparsity for p in points])
        ax.plot(
            x[at], y[at] / 1e9, MARKERS[i % len(MARKERS)], color=COLORS[i % len(COLORS)], ms=5,
            label=f"{100 * sparsity:g} % pruned",
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("operations on stored values for each byte of A, X and product")
    ax.set_ylabel("GFLOP/s on stored values")
    ax.legend(fontsize=8)
    return figure


def _by_n(p: Point) -> tuple[Any, ...]:
    return p.n, p.sparsity


def _seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
