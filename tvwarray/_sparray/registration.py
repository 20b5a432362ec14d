"""Registration with scipy, so that ``csr_array(A)``, ``hstack`` or ``spsolve`` take a matrix."""

from __future__ import annotations

from typing import TypeVar

Class = TypeVar("Class", bound=type)


def registered(cls: Class) -> Class:
    """Register `cls` as sparse with scipy, where it has a register (1.17 and later).

    Elsewhere the class stays unknown to ``scipy.sparse.issparse``: operators and solvers work all
    the same, functions that ask for a sparse matrix take ``A.tocsr()``.
    """
    try:
        from scipy._lib._sparse import SparseABC
    except ImportError:
        return cls
    SparseABC.register(cls)
    return cls
