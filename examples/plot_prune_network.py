"""
Prune a surrogate of a simulation
=================================

A network learns to solve a differential equation, is pruned by four patterns, and trained on for a
moment. What a pattern keeps of the scores, and what that means for the error.

The equation is :math:`-u'' + u^3 = f` on a line with :math:`u = 0` at both ends; the network sees
:math:`f` at 64 points and answers with :math:`u`. Training needs nothing but NumPy.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

import tvwarray
from tvwarray import prune

POINTS, WIDTH = 64, 256
rng = np.random.default_rng(0)

# %%
# Data: smooth right-hand sides, and the solutions that Newton's method finds for all of them.


def solve(f: np.ndarray) -> np.ndarray:
    """Return u at the points for every row of f."""
    h = 1 / (POINTS + 1)
    laplace = (2 * np.eye(POINTS) - np.eye(POINTS, k=1) - np.eye(POINTS, k=-1)) / h**2
    u = np.linalg.solve(laplace, f.T).T
    for _ in range(8):
        jacobian = laplace + 3 * u[:, :, None] ** 2 * np.eye(POINTS)
        residual = u @ laplace + u**3 - f
        u = u - np.linalg.solve(jacobian, residual[:, :, None])[:, :, 0]
    return u


def problems(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return right-hand sides and solutions, float32, of about unit size."""
    waves = np.sin(np.pi * np.outer(np.arange(1, 7), np.linspace(0, 1, POINTS + 2)[1:-1]))
    f = 30 * rng.standard_normal((count, 6)) / np.arange(1, 7) @ waves
    inputs = np.hstack([f / 30, np.ones((count, 1))])  # the constant does for the biases
    return inputs.astype(np.float32), solve(f).astype(np.float32)


X, U = problems(1536)
X_test, U_test = problems(256)

# %%
# A network of three layers, trained by Adam. Masks, if there are any, hold pruned weights at zero.

sizes = [POINTS + 1, WIDTH, WIDTH, POINTS]
names = ["first", "middle", "last"]
trained = {
    name: (rng.standard_normal((n, m)) * np.sqrt(2 / m)).astype(np.float32)
    for name, m, n in zip(names, sizes, sizes[1:], strict=False)
}


def forward(weights: dict, x: np.ndarray) -> list[np.ndarray]:
    """Return the activations of every layer, the input first."""
    found = [x]
    for name in names:
        y = found[-1] @ weights[name].T
        found.append(y if name == names[-1] else np.maximum(y, 0))
    return found


def train(weights: dict, steps: int, masks: dict | None = None) -> dict:
    """Return the weights after some steps on batches of 128."""
    weights = {n: w * masks[n] if masks else w.copy() for n, w in weights.items()}
    first, second = ({n: np.zeros_like(w) for n, w in weights.items()} for _ in range(2))
    for step in range(1, steps + 1):
        batch = rng.integers(0, len(X), 128)
        acts = forward(weights, X[batch])
        back = (acts[-1] - U[batch]) / len(batch)
        for i in reversed(range(len(names))):
            w, gradient = weights[names[i]], back.T @ acts[i]
            back = back @ w * (acts[i] > 0)
            if masks:
                gradient *= masks[names[i]]
            m, v = first[names[i]], second[names[i]]
            m += 0.1 * (gradient - m)
            v += 0.001 * (gradient**2 - v)
            rate = 3e-3 * (1 - step / (steps + 1))
            w -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return weights


def error(weights: dict) -> float:
    """Return the mean error on problems it has not seen, relative to the solution."""
    return float(np.linalg.norm(forward(weights, X_test)[-1] - U_test) / np.linalg.norm(U_test))


trained = train(trained, 800)
print(f"relative error of the dense network: {error(trained):.3f}")

# %%
# Prune three quarters of each layer. Element-wise pruning may keep any entry and sets the mark, but
# no processor multiplies it fast; tile-vector-wise is what this library multiplies; the other two
# are coarser.

scores = {name: prune.magnitude(w) for name, w in trained.items()}
patterns = {
    "element-wise": prune.ElementWise(),
    "tile-vector-wise": prune.TileVectorWise(tile_rows=32, group_rows=False),
    "tile-wise": prune.TileWise(tile_rows=32, rows_too=False),
    "blocks of 16": prune.BlockWise((16, 16)),
}
chosen = {
    label: prune.global_selections(scores, 0.75, pattern, scope="layer")
    for label, pattern in patterns.items()
}
prune.plot_score_kept(scores, chosen)

# %%
# The score is a forecast; the error is what counts. Just after pruning, and after training on for
# a quarter of the steps with the masks held:

before, after = {}, {}
for label, selections in chosen.items():
    masks = {name: s.mask.astype(np.float32) for name, s in selections.items()}
    before[label] = error({n: w * masks[n] for n, w in trained.items()})
    tuned = train(trained, 200, masks)
    after[label] = error(tuned)
    if label == "tile-vector-wise":
        pruned = tuned

fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
at = np.arange(len(chosen))
ax.barh(at - 0.2, list(before.values()), 0.4, label="just pruned", color="#a6bddb")
ax.barh(at + 0.2, list(after.values()), 0.4, label="trained on", color="#1f5fa8")
ax.axvline(error(trained), color="#1b1b1b", lw=1, label="dense")
ax.set_yticks(at, chosen)
ax.invert_yaxis()
ax.set_xscale("log")
ax.set_xlabel("relative error of the solution")
ax.set_xlim(right=4)
ax.legend()

# %%
# The weights become matrices with the layout that pruning chose, and multiply as before. This is
# the layer in the middle: each tile of 32 rows keeps columns of its own.

matrices = {n: tvwarray.TVWMatrix.from_selection(w, chosen["tile-vector-wise"][n])
            for n, w in pruned.items()}  # fmt: skip
x = X_test
for name in names:
    x = tvwarray.linear(x, matrices[name], activation=None if name == names[-1] else "relu")
np.testing.assert_allclose(x, forward(pruned, X_test)[-1], atol=1e-4)
print(repr(matrices["middle"]))
matrices["middle"].spy()

# sphinx_gallery_thumbnail_number = 2
plt.show()
