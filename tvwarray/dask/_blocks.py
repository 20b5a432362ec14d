"""`RowBlocks`: a matrix whose blocks of rows lie on the workers of a cluster, or on none yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np

from tvwarray._dtypes import DType, product_dtype
from tvwarray._matrix import TVWMatrix
from tvwarray._partition import row_blocks, stack_rows
from tvwarray.dask import _workers
from tvwarray.dask._products import _check_chunks


class RowBlocks:
    """A matrix in blocks of rows, each a `TVWMatrix` that a task makes or a worker holds.

    Neither the matrix nor a product has to fit in the memory of one machine.

    Parameters
    ----------
    blocks : sequence of dask.delayed.Delayed
        Each of a `TVWMatrix` of shape (heights[i], cols).
    heights : sequence of int
    cols : int
    dtype : dtype
    """

    __array_ufunc__ = None
    ndim = 2

    def __init__(
        self, blocks: Sequence[Any], heights: Sequence[int], cols: int, dtype: DType
    ) -> None:
        self.blocks, self.heights = tuple(blocks), tuple(int(h) for h in heights)
        self.shape = (sum(self.heights), int(cols))
        self.dtype = np.dtype(dtype)

    def __matmul__(self, x: Any) -> da.Array:
        """Return the product with an array, (cols,) or (cols, n), as a Dask array.

        Chunked along rows as the blocks are, along n as `x` is. A NumPy array is one chunk.
        """
        x = x if isinstance(x, da.Array) else da.from_array(x, chunks=-1)
        if x.ndim not in (1, 2) or x.shape[0] != self.shape[1]:
            raise ValueError(
                f"the matrix is {self.shape} and X {x.shape}; X must have {self.shape[1]} rows."
            )
        _check_chunks(x)
        x = x.rechunk({0: -1})
        dtype = product_dtype(self.dtype, np.dtype(x.dtype))
        multiply = dask.delayed(_workers.multiply)
        widths = x.chunks[1] if x.ndim == 2 else (None,)
        columns = list(zip(x.to_delayed().ravel(), widths, strict=True))
        rows = []
        for block, height in zip(self.blocks, self.heights, strict=True):
            pieces = [
                da.from_delayed(
                    multiply(block, column),
                    shape=(height,) if n is None else (height, n),
                    dtype=dtype,
                    meta=x._meta.astype(dtype),
                )
                for column, n in columns
            ]
            rows.append(pieces[0] if x.ndim == 1 else da.concatenate(pieces, axis=1))
        return da.concatenate(rows, axis=0)

    def persist(self) -> RowBlocks:
        """Return the matrix with its blocks computed, and kept where they were."""
        return RowBlocks(dask.persist(*self.blocks), self.heights, self.shape[1], self.dtype)

    def compute(self) -> TVWMatrix:
        """Return the matrix in one piece, here."""
        blocks = dask.compute(*self.blocks)
        return TVWMatrix.from_storage(stack_rows([block.storage for block in blocks]))

    def to_array(self) -> da.Array:
        """Return the dense matrix as a Dask array, chunked as the blocks are."""
        dense = dask.delayed(TVWMatrix.toarray)
        pieces = [
            da.from_delayed(dense(block), (height, self.shape[1]), self.dtype)
            for block, height in zip(self.blocks, self.heights, strict=True)
        ]
        return da.concatenate(pieces, axis=0)

    def __repr__(self) -> str:
        rows, cols = self.shape
        return f"<RowBlocks {rows}x{cols} {self.dtype}: {len(self.blocks)} blocks of rows>"


def to_dask(A: TVWMatrix, parts: int) -> RowBlocks:
    """Split a matrix into blocks of rows, in their order, of about the same work.

    Parameters
    ----------
    A : TVWMatrix
    parts : int
        How many blocks. With a client of dask.distributed each goes to two workers.

    Raises
    ------
    ValueError
        If `parts` is not positive, or A is transposed.
    """
    if A.transposed:
        raise ValueError("A is transposed, its tiles own columns; copy it: TVWMatrix(A.tocsr()).")
    blocks = [TVWMatrix.from_storage(block) for block in row_blocks(A.storage, parts)]
    held = [_workers.placed(block, copies=2) for block in blocks]
    return RowBlocks(held, [block.shape[0] for block in blocks], A.shape[1], A.dtype)


def from_dask(
    x: da.Array, *, convert: Callable[[Any], TVWMatrix] = TVWMatrix, dtype: Any = None
) -> RowBlocks:
    """Make a matrix of a Dask array, each chunk of rows by a task of its own.

    Parameters
    ----------
    x : dask.array.Array, shape (rows, cols)
        Of dense or scipy.sparse chunks.
    convert : callable
        Makes a `TVWMatrix` of a chunk: lossless by default; a function that calls `sparsify`
        prunes it.
    dtype : dtype, optional
        Of what `convert` makes; that of `x` by default.

    Raises
    ------
    ValueError
        If `x` is no matrix, or its chunks are of unknown size.
    """
    if x.ndim != 2:
        raise ValueError(f"x has {x.ndim} dimensions; a matrix has 2.")
    _check_chunks(x)
    x = x.rechunk({1: -1})
    make = dask.delayed(convert)
    blocks = [make(block) for block in x.to_delayed().ravel()]
    return RowBlocks(blocks, x.chunks[0], x.shape[1], np.dtype(x.dtype if dtype is None else dtype))
