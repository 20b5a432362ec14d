"""Matrices to torch and back: components, sparse CSR and BSR tensors."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from tvwarray._components import untransposed
from tvwarray._matrix import TVWMatrix
from tvwarray._namespace import to_host
from tvwarray._storage import ARRAY_FIELDS
from tvwarray.torch._tensors import to_array, to_tensor


def to_torch(
    A: TVWMatrix,
    layout: Literal["components", "csr", "bsr"] = "components",
    *,
    blocksize: tuple[int, int] | None = None,
) -> Any:
    """Return a matrix as tensors of its own.

    Parameters
    ----------
    A : TVWMatrix
    layout : {"components", "csr", "bsr"}
        "components" is what `TVWMatrix.to_components` returns, with tensors on the device of `A`;
        the others are sparse tensors on the CPU, in A's dtype.
    blocksize : (int, int), optional
        Of "bsr"; estimated if it is not given.

    Returns
    -------
    dict or torch.Tensor

    Raises
    ------
    ValueError
        If the layout has another name, or `blocksize` goes with another one than "bsr".
    FormatError
        If components of a transposed matrix are asked for.
    """
    if layout not in ("components", "csr", "bsr"):
        raise ValueError(f'layout is {layout!r}; it is "components", "csr" or "bsr".')
    if blocksize is not None and layout != "bsr":
        raise ValueError(f'blocksize is {blocksize}; blocks are those of layout "bsr".')
    if layout == "components":
        untransposed(A.storage, A.transposed, "to_torch")
        parts = A.to_components()
        arrays = {k: to_tensor(x) for k, x in parts.items() if k in ARRAY_FIELDS and x is not None}
        return {**parts, **arrays}
    if layout == "csr":
        made: Any = A.tocsr()
        kind = torch.sparse_csr_tensor
    else:
        made = A.tobsr(blocksize)
        made.sort_indices()  # scipy leaves blocks in the order it met them, which torch refuses
        kind = torch.sparse_bsr_tensor
    values = made.data.astype(A.dtype)  # exact: scipy holds 16-bit values as float32
    indptr, indices = (torch.from_numpy(x.astype(np.int64)) for x in (made.indptr, made.indices))
    return kind(indptr, indices, to_tensor(values), size=A.shape, check_invariants=True)


def from_torch(x: torch.Tensor, **options: Any) -> TVWMatrix:
    """Make a matrix of a tensor: dense, COO, CSR, CSC, BSR or BSC.

    Parameters
    ----------
    x : torch.Tensor, shape (rows, cols)
    **options
        Of `TVWMatrix`: dtype, tile_rows, vector.

    Raises
    ------
    FormatError
        If `x` is no matrix of a storable dtype.
    """
    return TVWMatrix(x, **options)


def to_coo(x: Any) -> tuple[Any, tuple[Any, Any], tuple[int, int]] | None:
    """Return values, (rows, columns) and shape of a sparse tensor, or None if it is dense.

    Raises
    ------
    TypeError
        If a sparse tensor has more than two axes, dense ones included.
    """
    if not isinstance(x, torch.Tensor) or x.layout is torch.strided:
        return None
    if x.ndim != 2 or (x.layout is torch.sparse_coo and x.dense_dim()):
        raise TypeError(
            f"the sparse tensor has shape {tuple(x.shape)}; a matrix has 2 sparse axes."
        )
    x = x.detach()
    shape = (int(x.shape[0]), int(x.shape[1]))
    if x.layout is torch.sparse_coo:
        rows, cols = (to_host(to_array(i)) for i in x._indices())
        return to_host(to_array(x._values())), (rows, cols), shape
    return _compressed(x, shape)


def _compressed(
    x: torch.Tensor, shape: tuple[int, int]
) -> tuple[Any, tuple[Any, Any], tuple[int, int]]:
    """Return the triples of CSR, CSC, BSR and BSC: the last two hold blocks for values."""
    by_row = x.layout in (torch.sparse_csr, torch.sparse_bsr)
    index = (x.crow_indices(), x.col_indices()) if by_row else (x.ccol_indices(), x.row_indices())
    indptr, minor = (to_host(to_array(i)) for i in index)
    values = to_host(to_array(x.values()))
    major = np.repeat(np.arange(indptr.size - 1), np.diff(indptr))
    rows, cols = (major, minor) if by_row else (minor, major)
    if values.ndim == 1:
        return values, (rows, cols), shape
    _, height, width = values.shape
    rows = np.broadcast_to(rows[:, None, None] * height + np.arange(height)[:, None], values.shape)
    cols = np.broadcast_to(cols[:, None, None] * width + np.arange(width), values.shape)
    return values.ravel(), (rows.ravel(), cols.ravel()), shape
