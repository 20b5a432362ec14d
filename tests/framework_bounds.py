"""How far a framework's product may be from the exact one."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle


def assert_product(got: Any, storage: Any, x: np.ndarray) -> None:
    """Hold ``storage @ x`` against the oracle: integers exactly, floats within their bound.

    Tiles and remainder may be summed apart and rounded before they are added: one more rounding
    of something no larger than ``|A| @ |x|``.
    """
    exact, size = oracle.matmul(oracle.dense(storage), x)
    got = oracle.wide(got)
    assert got.shape == exact.shape
    if storage.dtype.kind in "iu":
        np.testing.assert_array_equal(got, exact)
        return
    sums = "float32" if storage.dtype.itemsize == 2 else storage.dtype.name
    terms = len(oracle.entries(storage)) + x.shape[0]
    bound = oracle.error_bound(exact, size, terms, storage.dtype, sums)
    assert (abs(got - exact) <= bound + oracle.UNIT_ROUNDOFF[storage.dtype.name] * size).all()
