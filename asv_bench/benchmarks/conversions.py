"""Conversions, pruning, files and import: time and memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import tvwarray

from .matrices import SMALL, pruned, shapes, weight

SIDE = 256 if SMALL else 4096


def two_four(n):
    """Return a dense 2:4 matrix of n x n."""
    W = weight(n, n)
    rank = np.abs(W).reshape(n, -1, 4).argsort(axis=-1).argsort(axis=-1)
    return np.where((rank >= 2).reshape(n, n), W, np.float32(0))


class Dense:
    """To and from dense, 4096 x 4096 float32."""

    params = ["2:4", "TVW 75 %", "random 75 %"]
    param_names = ["matrix"]

    def setup(self, kind):
        if kind == "2:4":
            self.a = two_four(SIDE)
        elif kind == "TVW 75 %":
            self.a = pruned(SIDE, SIDE, 0.75).toarray()
        else:
            keep = np.random.default_rng(0).random((SIDE, SIDE)) < 0.25
            self.a = np.where(keep, weight(SIDE, SIDE), np.float32(0))
        self.A = tvwarray.TVWMatrix(self.a)
        self.csr = self.A.tocsr()

    def time_from_dense(self, kind):
        tvwarray.TVWMatrix(self.a)

    def time_to_dense(self, kind):
        self.A.toarray()

    def time_from_csr(self, kind):
        tvwarray.TVWMatrix(self.csr)

    def time_to_csr(self, kind):
        self.A.tocsr()

    def peakmem_from_dense(self, kind):
        tvwarray.TVWMatrix(self.a)

    def track_bytes_of_dense(self, kind):
        return self.A.nbytes / self.a.nbytes


class Prune:
    """`sparsify`, 1536 x 384 and 4096 x 4096."""

    params = shapes(["1536x384", "4096x4096"])
    param_names = ["shape"]

    def setup(self, shape):
        self.W = weight(*map(int, shape.split("x")))

    def time_sparsify(self, shape):
        tvwarray.sparsify(self.W, 0.75)


class Files:
    """Saving and loading 4096 x 4096 at 75 %."""

    params = [".safetensors", ".npz"]
    param_names = ["suffix"]

    def setup(self, suffix):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "a" + suffix)
        self.A = pruned(SIDE, SIDE, 0.75)
        tvwarray.save(self.path, self.A)

    def teardown(self, suffix):
        self.folder.cleanup()

    def time_save(self, suffix):
        tvwarray.save(self.path, self.A)

    def time_load(self, suffix):
        tvwarray.load(self.path)


def timeraw_import():
    """Import tvwarray in a fresh interpreter."""
    return "import tvwarray"
