"""How fast the machine at hand is, next to the one that the CPU model was fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from time import thread_time
from typing import Any, Final

import numpy as np
import scipy.sparse as sp

from tvwarray._convert import from_sparse
from tvwarray._costs.cpu import REFERENCE, Machine, Way, counts
from tvwarray._costs.work import work_of
from tvwarray._kernels.cpu.threads import limit_threads
from tvwarray._matmul import matmul
from tvwarray._operands import Stored

_SIDE: Final = 1024
_DENSITY: Final = 0.1
_COUNTS: Final = (1, 8, 64)
MICROSECONDS: Final = {
    "tvw one": 56.8, "tvw few": 111.8, "tvw many": 180.2, "csr one": 42.2, "csr few": 196.3,
    "csr many": 785.0, "dense one": 141.8, "dense few": 322.4, "dense many": 874.0,
}  # fmt: skip
"""What the products below take on the processor that the model was fitted on."""

_ROUNDS: Final = 8

_STEADY: Final = 0.15
"""A scale nearer to one is taken for one: so far short measurements differ on one machine."""

_SAMPLE: Final = 1e-3
"""Seconds: long enough for the clock, and for caches to hold what they can."""


@cache
def this_machine() -> Machine:
    """Return the model with the speeds of this machine, which are measured once a process.

    A matrix of middle size is multiplied in every way with few and with many right-hand sides,
    which takes a fifth of a second of processor time; the fastest of a few rounds counts.
    """
    rng = np.random.default_rng(0)
    shape = _SIDE, _SIDE
    a: Any = sp.random_array(shape, density=_DENSITY, rng=rng, format="csr", dtype=np.float32)
    operand, dense = Stored(from_sparse(a, tile_rows=128)), a.toarray()
    work = work_of(operand.storage)
    scales: dict[str, float] = {}
    with limit_threads(1), _one_blas_thread() as limited:
        for n in _COUNTS:
            x = rng.standard_normal((_SIDE, n), dtype=np.float32)
            x = x[:, 0].copy() if n == 1 else x
            ways: dict[Way, Callable[[], object]] = {
                "tvw": partial(matmul, operand, x),
                "csr": partial(a.__matmul__, x),
                "dense": partial(dense.__matmul__, x),
            }
            for way, seconds in _fastest(ways).items():
                kernel = counts(way, work, n)[0].rpartition(" ")[0]
                scale = 1e6 * seconds / MICROSECONDS[kernel]
                scales[kernel] = 1.0 if abs(scale - 1) <= _STEADY else scale
    scales |= {f"bsr {c}": scales[f"csr {c}"] for c in ("one", "many")}
    if not limited:  # what BLAS does on all cores says nothing of one: it gets the engine's scale
        scales |= {f"dense {c}": scales[f"tvw {c}"] for c in ("one", "few", "many")}
    return Machine(REFERENCE.nanoseconds, scales)


@contextmanager
def _one_blas_thread() -> Iterator[bool]:
    """Limit BLAS to one thread inside the block, if threadpoolctl is there to do it."""
    try:
        limits = import_module("threadpoolctl").threadpool_limits
    except ModuleNotFoundError:
        yield False
        return
    with limits(1):
        yield True


def _fastest(ways: dict[Way, Callable[[], object]]) -> dict[Way, float]:
    best = dict.fromkeys(ways, np.inf)
    for _ in range(_ROUNDS):
        for way, run in ways.items():
            run()  # packs, and fills the caches, which the others left full of themselves
            start = thread_time()
            repeats = 0
            while (taken := thread_time() - start) < _SAMPLE or not repeats:
                run()
                repeats += 1
            best[way] = min(best[way], taken / repeats)
    return best
