"""
Where pruning starts to pay
===========================

Time of a layer against the share of its weights that is pruned, in pairs with the dense product.
Below some sparsity the dense product is faster; this finds it for the machine at hand.

``tvwarray bench --out FOLDER`` draws the same for any shape, with the roofline and the table.
"""

from __future__ import annotations

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

import tvwarray

rng = np.random.default_rng(0)
PATTERNS = {
    "tile-vector-wise": ("tvw", (0.5, 0.6, 0.7, 0.8, 0.9, 0.95), "#0072b2", "o"),
    "tile-wise": ("tw", (0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95), "#d55e00", "s"),
}
CASES = ((1536, 384, 256), (384, 384, 1))  # rows, columns, batch


# %%
# Contenders take turns, so that a machine that slows down does so for both; of each the best turn
# counts, which other programs disturb least. Both read the same values: the dense matrix is that of
# the sparse one.


def speedup(A: tvwarray.TVWMatrix, dense: np.ndarray, x: np.ndarray) -> float:
    """Return how many times longer ``x @ dense.T`` takes than ``x @ A.T``."""
    got, expected = x @ A.T, x @ dense.T  # packs the matrix, too
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)
    repeats = 100 if len(x) == 1 else 1
    ours, theirs = [], []
    for _ in range(21):
        start = perf_counter()
        for _ in range(repeats):
            x @ A.T
        middle = perf_counter()
        for _ in range(repeats):
            x @ dense.T
        ours.append(middle - start)
        theirs.append(perf_counter() - middle)
    return min(theirs) / min(ours)


found = {case: {label: [] for label in PATTERNS} for case in CASES}
for rows, cols, n in CASES:
    W = rng.standard_normal((rows, cols), dtype=np.float32)
    x = rng.standard_normal((n, cols), dtype=np.float32)
    for label, (pattern, sparsities, *_) in PATTERNS.items():
        for sparsity in sparsities:
            A = tvwarray.sparsify(W, sparsity, pattern=pattern)
            found[rows, cols, n][label].append(speedup(A, A.toarray(), x))

# %%
# Half is the least that 2:4 prunes; tile-wise, which stores every value of the columns that a tile
# keeps, begins at nothing. Where a line crosses 1 it breaks even, which is marked. A small layer
# with one right-hand side takes microseconds in any form, and the way to the kernel counts.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
for ax, ((rows, cols, n), ratios_of) in zip(axes, found.items(), strict=True):
    ax.axhspan(0.01, 1, color="#8a8f98", alpha=0.15)
    ax.text(0.98, 0.03, "dense is faster", ha="right", fontsize=9, transform=ax.transAxes)
    for label, ratios in ratios_of.items():
        _, sparsities, color, marker = PATTERNS[label]
        ax.plot([100 * s for s in sparsities], ratios, color=color, marker=marker, label=label)
        for s, t, low, high in zip(sparsities, sparsities[1:], ratios, ratios[1:], strict=False):
            if low < 1 <= high:
                even = 100 * np.interp(0, np.log([low, high]), [s, t])
                ax.plot(even, 1, "x", color="black", ms=9, mew=2)
                ax.annotate(f"{even:.0f} %", (even, 1), (6, -13), textcoords="offset points")
    ax.set_yscale("log")
    ax.set_xlabel("pruned, %")
    ax.set_title(f"{rows} x {cols}, float32, batch {n}", fontsize=10)
ticks = (0.5, 1, 2, 5, 10, 20)
axes[0].set_yticks(ticks, [f"{t:g}x" for t in ticks])
axes[0].set_yticks([], minor=True)
every = [r for ratios_of in found.values() for ratios in ratios_of.values() for r in ratios]
axes[0].set_ylim(0.9 * min(0.7, *every), 1.2 * max(every))
axes[0].set_ylabel("times as fast as dense, one thread")
axes[0].legend()
plt.show()

# %%
# What it was measured on:

config = tvwarray.show_config(mode="dicts")
for section, name in (("processor", "name"), ("processor", "BLAS threads"),
                      ("processor", "tvwarray threads"), ("versions", "BLAS of NumPy"),
                      ("backends", "compiled extension")):  # fmt: skip
    print(f"{name}: {config[section][name]}")
