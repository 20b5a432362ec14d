"""Operations that keep the layout: new values in the same places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tvwarray._dtypes import DType, value_dtype
from tvwarray._namespace import Array, array_namespace, as_dtype, dtype_of, nonzero_mask
from tvwarray._storage import TVWStorage


def apply(storage: TVWStorage, change: Callable[[Array], Array]) -> TVWStorage:
    """Return the matrix with `change` applied to its nonzero values.

    Zeros stay zeros, whatever `change` makes of them: a filler or padding slot is no entry, and
    ``0 * inf`` must not become one.
    """
    xp = array_namespace(storage.data)

    def changed(data: Array) -> Array:
        with np.errstate(all="ignore"):
            values = change(data)
        value_dtype(dtype_of(values), where="the result")
        return xp.where(nonzero_mask(data), values, xp.zeros_like(values))

    return _with_values(storage, changed)


def astype(storage: TVWStorage, dtype: DType, casting: str = "unsafe") -> TVWStorage:
    """Return the matrix with its values cast; the same storage where nothing changes.

    Raises
    ------
    TypeError
        If `casting` does not allow the cast.
    """
    if storage.dtype == dtype:
        return storage
    if casting != "unsafe" and not np.can_cast(storage.dtype, dtype, casting):  # type: ignore[arg-type]
        raise TypeError(f"cannot cast {storage.dtype} to {dtype} by the rule {casting!r}.")
    return _with_values(storage, lambda data: as_dtype(data, dtype))


def _with_values(storage: TVWStorage, change: Callable[[Array], Array]) -> TVWStorage:
    beside = None if storage.remainder is None else change(storage.remainder.data)
    return replace(storage, data=change(storage.data), remainder_data=beside)


def is_scalar(x: Any) -> bool:
    """Say whether `x` is a number or an array without axes."""
    number = np.isscalar(x) and not isinstance(x, str | bytes)
    return bool(number) or getattr(x, "ndim", None) == 0
