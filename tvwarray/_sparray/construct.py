"""What ``TVWMatrix(arg, shape, dtype)`` means: the meanings scipy's constructors have, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from tvwarray import _convert
from tvwarray._dtypes import value_dtype
from tvwarray._errors import FormatError
from tvwarray._frameworks import handler_of
from tvwarray._layouts.tiles import TileRows
from tvwarray._namespace import is_array
from tvwarray._storage import TVWStorage, Vector


def construct(
    arg: Any, shape: tuple[int, int] | None, dtype: Any, tile_rows: TileRows, vector: Vector
) -> TVWStorage:
    """Return the storage that `arg` describes.

    ==========================  =============================================
    `arg`                       means
    ==========================  =============================================
    a tensor of a framework     what it is as an array, or as triples if it is sparse
    a sparse matrix             `_convert.from_sparse`
    (rows, cols)                an empty matrix of this shape
    (data, (row, col))          COO triples, duplicates add up
    (data, indices, indptr)     BSR with data of shape (blocks, r, c); CSR with flat data
    anything else               a dense matrix
    ==========================  =============================================
    """
    options: dict[str, Any] = {"tile_rows": tile_rows, "vector": vector}
    if framework := handler_of(arg):
        sparse = framework.to_coo(arg)
        if sparse is None:
            arg = framework.to_array(arg)
        else:
            arg, shape = sparse[:2], sparse[2] if shape is None else shape
    if sp.issparse(arg) or _is_cupyx(arg):
        storage = _convert.from_sparse(arg, **options)
    elif isinstance(arg, tuple) and len(arg) == 2 and all(_is_index(n) for n in arg):
        kind = value_dtype(np.float64 if dtype is None else dtype)
        storage = _convert.empty((int(arg[0]), int(arg[1])), kind, **options)
    elif isinstance(arg, tuple) and len(arg) == 2:
        storage = _convert.from_coo(arg[0], arg[1], shape, **options)
    elif isinstance(arg, tuple) and len(arg) == 3:
        storage = _convert.from_sparse(_compressed(arg, shape), **options)
    else:
        storage = _convert.from_dense(arg if is_array(arg) else _dense(arg), **options)
    check_shape(shape, storage.shape)
    return storage


def check_shape(given: tuple[int, int] | None, shape: tuple[int, int]) -> None:
    """Check the `shape` a caller gave against that of what came with it.

    Raises
    ------
    FormatError
        If they differ.
    """
    if given is not None and tuple(given) != shape:
        raise FormatError(f"shape is {tuple(given)}, but the argument has shape {shape}.")


def _compressed(arg: tuple[Any, Any, Any], shape: tuple[int, int] | None) -> Any:
    data = np.asarray(arg[0])
    kind = sp.bsr_array if data.ndim == 3 else sp.csr_array
    try:
        made = kind((data, arg[1], arg[2]), shape=shape)
        made.check_format(full_check=True)
    except (ValueError, TypeError, IndexError) as e:
        raise FormatError(f"(data, indices, indptr) is no matrix: {e}") from e
    return made


def _dense(arg: Any) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(arg)
    except ValueError as e:
        raise FormatError(f"the argument is no matrix: {e}") from e


def _is_index(n: Any) -> bool:
    return isinstance(n, int | np.integer) and not isinstance(n, bool)


def _is_cupyx(arg: Any) -> bool:
    return type(arg).__module__.startswith("cupyx.") and hasattr(arg, "get")
