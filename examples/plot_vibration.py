"""
Vibrations of an elastic bar
============================

A matrix of finite elements from pyamg, as it is: nothing is pruned. A block eigensolver of scipy
multiplies it by many vectors at a time, which is what a tile-vector-wise matrix is fast at.
"""

from __future__ import annotations

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pyamg
import scipy.sparse as sp
from pyamg.gallery import load_example
from scipy.sparse.linalg import lobpcg

import tvwarray

bar = load_example("bar")
S = sp.csr_array(bar["A"])
print(repr(S))

# %%
# ``analyze`` says beforehand, without converting, whether the format suits a matrix and which
# height of tiles is best.

analysis = tvwarray.analyze(S, n=32)
print(analysis)

# %%
# The conversion is without loss, and comes back as it was.

A = tvwarray.TVWMatrix(S, tile_rows=128)
assert (A.tocsr() != S).nnz == 0
A.spy()

# %%
# The twelve softest modes, by scipy's LOBPCG with an algebraic multigrid preconditioner: the solver
# takes the matrix like any other, and finds what it finds with CSR.

preconditioner = pyamg.smoothed_aggregation_solver(S, B=bar["B"]).aspreconditioner()
start = np.random.default_rng(0).standard_normal((S.shape[0], 12))
values, modes = lobpcg(A, start, M=preconditioner, largest=False, tol=1e-4, maxiter=60)
expected, _ = lobpcg(S, start, M=preconditioner, largest=False, tol=1e-4, maxiter=60)
np.testing.assert_allclose(values, expected, rtol=1e-4)
residual = np.linalg.norm(S @ modes - modes * values, axis=0)
print("eigenvalues:", np.array2string(values, precision=4))
print(f"largest residual: {residual.max():.1e}")

# %%
# Four of the modes. The bar is held at one end, whose points are no unknowns; the others are moved
# by three entries of a mode each.

points = bar["vertices"]
free = points[:, 0] > 0
fig = plt.figure(figsize=(8, 3.8), layout="constrained")
for i in range(4):
    moves = np.zeros_like(points)
    moves[free] = modes[:, i].reshape(-1, 3)
    length = np.linalg.norm(moves, axis=1)
    ax = fig.add_subplot(2, 2, i + 1, projection="3d")
    ax.scatter(
        *(points + 0.9 * moves / length.max()).T, c=length, cmap="viridis", s=16, depthshade=False
    )
    ax.set(xlim=(0, 4.4), ylim=(-0.8, 1.8), zlim=(-0.8, 1.8))
    ax.set_box_aspect((4.4, 2.6, 2.6), zoom=1.15)
    ax.set_axis_off()
    ax.set_title(f"mode {i + 1}, eigenvalue {values[i]:.3g}", fontsize=9, y=0.9)

# %%
# What a product takes by the number of vectors: CSR fetches a row of X for every nonzero, a tile
# fetches it once for all its rows. With few vectors there is little to gain. Best of 25 turns:

counts = (1, 2, 4, 8, 16, 32, 64)
ratios = []
for n in counts:
    X = np.random.default_rng(n).standard_normal((S.shape[0], n))
    np.testing.assert_allclose(A @ X, S @ X, atol=1e-10 * abs(S).max())
    ours, theirs = [], []
    for _ in range(25):
        first = perf_counter()
        A @ X
        second = perf_counter()
        S @ X
        ours.append(second - first)
        theirs.append(perf_counter() - second)
    ratios.append(min(theirs) / min(ours))

fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ax.axhline(1, color="#8a8f98", lw=1)
ax.plot(counts, ratios, "o-", color="#1f5fa8")
ax.set_xscale("log", base=2)
ax.set_xticks(counts, list(map(str, counts)))
ax.set_ylim(0)
ax.set_xlabel("vectors n")
ax.set_ylabel("times as fast as CSR")
ax.set_title(f"A @ X, {S.shape[0]} x {S.shape[1]}, {S.nnz:,} nonzeros, float64, one thread")

# sphinx_gallery_thumbnail_number = 2
plt.show()
