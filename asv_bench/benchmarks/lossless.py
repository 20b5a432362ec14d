"""Lossless layouts of matrices that nobody pruned for the format: time, slots, memory."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

import tvwarray

from .matrices import SMALL


def stencil(n):
    """Return the 27-point stencil of an n x n x n grid."""
    line = sp.diags_array([np.ones(n - 1), np.ones(n), np.ones(n - 1)], offsets=[-1, 0, 1])
    return sp.csr_array(sp.kron(sp.kron(line, line), line), dtype=np.float32)


def random(n, density):
    """Return a random square matrix."""
    rng = np.random.default_rng(0)
    return sp.random_array((n, n), density=density, rng=rng, dtype=np.float32, format="csr")


MATRICES = {
    "27-point stencil": lambda: stencil(8 if SMALL else 46),
    "random 10 %": lambda: random(256 if SMALL else 2048, 0.1),
    "random 50 %": lambda: random(256 if SMALL else 2048, 0.5),
}


class Lossless:
    """``TVWMatrix(csr)`` and what it makes."""

    params = list(MATRICES)
    param_names = ["matrix"]

    def setup(self, name):
        self.csr = MATRICES[name]()

    def time_from_csr(self, name):
        tvwarray.TVWMatrix(self.csr)

    def peakmem_from_csr(self, name):
        tvwarray.TVWMatrix(self.csr)

    def track_cost_against_dense(self, name):
        """Tensor-core time against dense: a slot runs at twice the dense rate."""
        storage = tvwarray.TVWMatrix(self.csr).storage
        return float((storage.slots_of * storage.rows_of).sum() / 2 / np.prod(storage.shape))

    def track_bytes_of_csr(self, name):
        csr = self.csr.data.nbytes + self.csr.indices.nbytes + self.csr.indptr.nbytes
        return tvwarray.TVWMatrix(self.csr).nbytes / csr
