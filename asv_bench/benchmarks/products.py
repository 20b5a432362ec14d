"""Products against dense BLAS and scipy CSR: times, and the ratios of pairs measured in turn."""

from __future__ import annotations

import time

import ml_dtypes
import numpy as np

import tvwarray

from .matrices import SPARSITIES, activations, blocks, check, pruned, shapes, weight

SHAPES = shapes(
    ["1x768x3072", "8x768x3072", "128x768x3072", "512x1024x4096", "1x4096x4096", "8x4096x4096"]
)


def paired_ratio(ours, theirs, rounds=11):
    """Return the median of theirs / ours over rounds that time both, one after the other."""
    ours(), theirs()
    ratios = []
    for _ in range(rounds):
        start = time.perf_counter()
        ours()
        middle = time.perf_counter()
        theirs()
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return float(np.median(ratios))


class Linear:
    """``x @ A.T`` for x of shape (M, K), row-major, and A of shape (N, K): M x K x N."""

    params = [SHAPES, SPARSITIES]
    param_names = ["MxKxN", "sparsity"]

    def setup(self, shape, sparsity):
        m, k, n = map(int, shape.split("x"))
        self.A = pruned(n, k, sparsity)
        self.x = activations(m, k)
        check(self.A, self.x)
        self.W, self.csr = self.A.toarray(), self.A.tocsr()
        self.bsr = blocks(n, k, sparsity)

    def time_bsr(self, shape, sparsity):
        self.bsr @ self.x.T

    def track_speedup_over_bsr(self, shape, sparsity):
        return paired_ratio(lambda: tvwarray.linear(self.x, self.A), lambda: self.bsr @ self.x.T)

    def time_tvw(self, shape, sparsity):
        tvwarray.linear(self.x, self.A)

    def time_dense(self, shape, sparsity):
        self.x @ self.W.T

    def time_csr(self, shape, sparsity):
        self.csr @ self.x.T

    def track_speedup_over_dense(self, shape, sparsity):
        return paired_ratio(lambda: tvwarray.linear(self.x, self.A), lambda: self.x @ self.W.T)

    def track_speedup_over_csr(self, shape, sparsity):
        return paired_ratio(lambda: tvwarray.linear(self.x, self.A), lambda: self.csr @ self.x.T)


class Torch:
    """The same layers against PyTorch's dense product on the CPU, where it is installed."""

    params = [SHAPES, SPARSITIES]
    param_names = ["MxKxN", "sparsity"]

    def setup(self, shape, sparsity):
        try:
            import torch
        except ImportError as e:
            raise NotImplementedError("PyTorch is not installed") from e
        m, k, n = map(int, shape.split("x"))
        self.A, self.x = pruned(n, k, sparsity), activations(m, k)
        self.W, self.tensor = torch.from_numpy(self.A.toarray()), torch.from_numpy(self.x)

    def time_dense(self, shape, sparsity):
        self.tensor @ self.W.T

    def track_speedup_over_dense(self, shape, sparsity):
        return paired_ratio(lambda: tvwarray.linear(self.x, self.A), lambda: self.tensor @ self.W.T)


class Dtypes:
    """One layer in every value type, by both backends of the host."""

    params = [["float32", "float64", "float16", "bfloat16", "int8"], ["cpu", "array"]]
    param_names = ["dtype", "backend"]

    def setup(self, dtype, backend):
        m, k, n = map(int, shapes(["128x768x3072"])[0].split("x"))
        kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
        scale = 20 if dtype == "int8" else 1
        self.A = tvwarray.sparsify((weight(n, k) * scale).astype(kind), 0.75)
        self.x = (activations(m, k) * scale).astype(kind)

    def time_linear(self, dtype, backend):
        tvwarray.linear(self.x, self.A, backend=backend)


class Transposed:
    """``Y @ A`` for Y of shape (M, N), row-major: what a layer's backward pass multiplies."""

    params = [shapes(["1x1024x4096", "8x1024x4096", "512x1024x4096"]), SPARSITIES]
    param_names = ["MxKxN", "sparsity"]

    def setup(self, shape, sparsity):
        m, k, n = map(int, shape.split("x"))
        self.A = pruned(n, k, sparsity)
        self.Y = activations(m, n)
        self.W = self.A.toarray()

    def time_tvw(self, shape, sparsity):
        self.A.T @ self.Y.T

    def time_array(self, shape, sparsity):
        tvwarray.matmul(self.A.T, self.Y.T, backend="array")

    def track_speedup_over_dense(self, shape, sparsity):
        return paired_ratio(lambda: self.A.T @ self.Y.T, lambda: self.Y @ self.W)


class ArrayBackend:
    """``A @ X`` by the reference backend, 512 right-hand sides."""

    params = [shapes(["4096x1024", "4096x4096"]), SPARSITIES]
    param_names = ["A", "sparsity"]

    def setup(self, shape, sparsity):
        rows, cols = map(int, shape.split("x"))
        self.A = pruned(rows, cols, sparsity)
        self.X = np.ascontiguousarray(activations(512, cols).T)
        self.W = self.A.toarray()

    def time_array(self, shape, sparsity):
        tvwarray.matmul(self.A, self.X, backend="array")

    def track_speedup_over_dense(self, shape, sparsity):
        return paired_ratio(
            lambda: tvwarray.matmul(self.A, self.X, backend="array"), lambda: self.W @ self.X
        )
