"""The matrices and operands that benchmarks share: random data under a seed, never zeros."""

from __future__ import annotations

import os

import numpy as np
import scipy.sparse as sp

import tvwarray

SPARSITIES = [0.5, 0.75, 0.875, 0.95]

SMALL = os.environ.get("TVWARRAY_BENCH_SMALL") == "1"
"""Shapes of a few hundred, which show in a minute that every benchmark runs, not how fast."""


def shapes(full):
    """Return shapes such as "512x1024x4096", or small ones in their place."""
    if not SMALL:
        return full
    return sorted({"x".join(str(min(int(side), 256)) for side in s.split("x")) for s in full})


def weight(rows, cols, dtype="float32"):
    """Return a random dense weight."""
    rng = np.random.default_rng(rows * 31 + cols)
    return rng.standard_normal((rows, cols), dtype=np.float32).astype(dtype)


def pruned(rows, cols, sparsity, dtype="float32", tile_rows=128):
    """Return the weight pruned to tile-vector-wise sparsity."""
    return tvwarray.sparsify(weight(rows, cols, dtype), sparsity, tile_rows=tile_rows)


def blocks(rows, cols, sparsity, side=32):
    """Return random blocks in BSR, at equal sparsity: what a block-sparse library multiplies."""
    rng = np.random.default_rng(rows + cols)
    keep = rng.random((-(-rows // side), -(-cols // side))) >= sparsity
    mask = keep.repeat(side, axis=0).repeat(side, axis=1)[:rows, :cols]
    return sp.bsr_array(np.where(mask, weight(rows, cols), np.float32(0)), blocksize=(side, side))


def activations(n, cols, dtype="float32"):
    """Return n rows of random activations."""
    rng = np.random.default_rng(n)
    return rng.standard_normal((n, cols), dtype=np.float32).astype(dtype)


def check(A, x):
    """Hold the product that is to be timed against float64: a wrong one is not worth timing."""
    exact = x.astype(np.float64) @ A.toarray().astype(np.float64).T
    size = np.abs(x).astype(np.float64) @ np.abs(A.toarray()).astype(np.float64).T
    unit = {"float32": 2.0**-24, "float64": 2.0**-53}[A.dtype.name]
    if (np.abs(tvwarray.linear(x, A) - exact) > (A.shape[1] + 8) * unit * size).any():
        raise AssertionError("the product is outside its error bound")
