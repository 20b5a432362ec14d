"""
A feed-forward block, fused
===========================

Inference on a CPU: two pruned layers with bias, activation and residual in one call each, beside
the same block in NumPy. No framework, no GPU.
"""

from __future__ import annotations

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import erf

import tvwarray

WIDTH, INNER, SAMPLES = 384, 1536, 64
rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    """Return random values in float32."""
    return rng.standard_normal(shape, dtype=np.float32)


# %%
# Two weights as frameworks hold them, (out_features, in_features), three quarters pruned.

up = tvwarray.sparsify(normal(INNER, WIDTH) / np.float32(20), 0.75)
down = tvwarray.sparsify(normal(WIDTH, INNER) / np.float32(40), 0.75)
bias_up, bias_down = normal(INNER), normal(WIDTH)
x = normal(SAMPLES, WIDTH)


def sparse_block(x: np.ndarray) -> np.ndarray:
    """Return ``x + down(gelu(up(x)))``: each line is one fused call."""
    hidden = tvwarray.linear(x, up, bias_up, "gelu")
    return tvwarray.linear(hidden, down, bias_down, residual=x)


# %%
# The same in NumPy, by the dense product, and by scipy's CSR. GELU is the exact one, by erf.

dense_up, dense_down = up.toarray(), down.toarray()
csr_up, csr_down = up.tocsr(), down.tocsr()


def gelu(z: np.ndarray) -> np.ndarray:
    """Return the exact GELU."""
    return z * (np.float32(0.5) * (1 + erf(z * np.float32(2**-0.5))))


def dense_block(x: np.ndarray) -> np.ndarray:
    """Return the block with dense products."""
    return x + gelu(x @ dense_up.T + bias_up) @ dense_down.T + bias_down


def csr_block(x: np.ndarray) -> np.ndarray:
    """Return the block with CSR products, in the order that is fastest for them."""
    hidden = gelu((csr_up @ np.ascontiguousarray(x.T)).T + bias_up)
    return x + (csr_down @ np.ascontiguousarray(hidden.T)).T + bias_down


np.testing.assert_allclose(sparse_block(x), dense_block(x), rtol=1e-3, atol=1e-3)
np.testing.assert_allclose(csr_block(x), dense_block(x), rtol=1e-3, atol=1e-3)

# %%
# Blocks take turns; the best of thirty, which other programs on the machine disturb least.

blocks = {"tvwarray, fused": sparse_block, "NumPy, dense": dense_block, "scipy, CSR": csr_block}
seconds = {label: [] for label in blocks}
for _ in range(30):
    for label, block in blocks.items():
        start = perf_counter()
        block(x)
        seconds[label].append(perf_counter() - start)
milliseconds = {label: 1e3 * min(times) for label, times in seconds.items()}
best = milliseconds["tvwarray, fused"]

fig, ax = plt.subplots(figsize=(7, 2.4), layout="constrained")
bars = ax.barh(
    list(milliseconds), list(milliseconds.values()), color=["#1f5fa8", "#8a8f98", "#c3cad6"]
)
ax.bar_label(bars, [f"{t:.2f} ms ({t / best:.1f})" for t in milliseconds.values()], padding=4)
ax.invert_yaxis()
ax.margins(x=0.3)
ax.set_xlabel("ms, one thread")
ax.set_title(f"{WIDTH} to {INNER} and back, {SAMPLES} samples, 75 % pruned")
plt.show()
