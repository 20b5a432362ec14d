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
from tvwarray._plot import matplotlib_modules

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


def measure_ceilings(dtype: np.dtype[Any]) -> Ceilings:
    """Time a dense product and a large copy, the best of five each."""
    kind = dtype if dtype.name in ("float32", "float64") else np.dtype(np.float32)
    rng = np.random.default_rng(0)
    a = rng.standard_normal((1536, 1536)).astype(kind)
    source = rng.standard_normal(1 << 25, dtype=np.float32)
    target = np.empty_like(source)
    product = min(_seconds(lambda: a @ a) for _ in range(5))
    copy = min(_seconds(lambda: np.copyto(target, source)) for _ in range(5))
    return Ceilings(2 * 1536**3 / product, 2 * source.nbytes / copy)


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
    for draw, path in ((draw_speedup, speedup), (draw_roofline, roofline)):
        figure = draw(points, ceilings)
        figure.suptitle(machine["processor"], fontsize=8, color=DENSE_COLOR)
        figure.savefig(path, dpi=150)
        pyplot.close(figure)
    return [table, description, speedup, roofline]


def draw_speedup(points: Sequence[Point], ceilings: Ceilings | None = None) -> Any:
    """Return a figure of speed-up over dense against sparsity; where it breaks even is marked."""
    pyplot, _ = matplotlib_modules()
    panels = {
        key: list(group)
        for key, group in groupby(
            sorted(points, key=_panel), key=lambda p: (p.product, p.rows, p.cols)
        )
    }
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5.2 * len(panels), 4.2), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for ax, ((product, rows, cols), group) in zip(axes[0], panels.items(), strict=True):
        ax.axhspan(0, 1, color=DENSE_COLOR, alpha=0.15)
        ax.axhline(1, color=DENSE_COLOR, lw=1)
        ax.annotate(
            "dense is faster", (0.99, 0.99), xycoords=("axes fraction", "data"),
            ha="right", va="top", fontsize=8,
        )  # fmt: skip
        for i, (n, line) in enumerate(groupby(sorted(group, key=_by_n), key=lambda p: p.n)):
            found = list(line)
            share = [100 * p.sparsity for p in found]
            color = f"C{i}"
            ax.plot(
                share, [p.speedup_over_dense for p in found], "o-", color=color, label=f"n = {n}"
            )
            csr = [p.dense_seconds / p.csr_seconds for p in found]
            ax.plot(share, csr, ":", color=color, lw=1)
            if (even := break_even(share, [p.speedup_over_dense for p in found])) is not None:
                ax.plot(even, 1, "x", color=color, ms=9, mew=2)
                ax.annotate(f"{even:.0f} %", (even, 1), (4, -11), textcoords="offset points",
                            fontsize=8, color=color)  # fmt: skip
        ax.set_yscale("log")
        ax.set_xlabel("pruned, %")
        ax.set_title(f"{product}, {shape_text((rows, cols))} {group[0].dtype}", fontsize=10)
    axes[0, 0].set_ylabel("times as fast as dense (dotted: scipy CSR)")
    axes[0, -1].legend(fontsize=8)
    return figure


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
    span = np.geomspace(min(x.min(), 0.25), max(x.max(), 4 * ceilings.flops / ceilings.nbytes), 200)
    ax.plot(
        span, np.minimum(ceilings.nbytes * span, ceilings.flops) / 1e9, color=DENSE_COLOR,
        label=f"copy {ceilings.nbytes / 1e9:.0f} GB/s (caches give more), dense "
        f"{ceilings.flops / 1e9:.0f} GFLOP/s",
    )  # fmt: skip
    for i, sparsity in enumerate(sorted({p.sparsity for p in points})):
        at = np.array([p.sparsity == sparsity for p in points])
        ax.plot(x[at], y[at] / 1e9, "o", color=f"C{i}", label=f"{100 * sparsity:g} % pruned")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("operations on stored values, a byte of A, X and product")
    ax.set_ylabel("GFLOP/s on stored values")
    ax.legend(fontsize=8)
    return figure


def _panel(p: Point) -> tuple[Any, ...]:
    return p.product, p.rows, p.cols, p.n, p.sparsity


def _by_n(p: Point) -> tuple[Any, ...]:
    return p.n, p.sparsity


def _seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
