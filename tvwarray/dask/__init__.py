"""Matrices with Dask: products chunk by chunk, matrices larger than a machine.

``A @ x`` of a `TVWMatrix` and a Dask array comes here by itself, as does `tvwarray.linear`;
`RowBlocks` is a matrix in blocks of rows, from `to_dask` and `from_dask`.
"""

from typing import Any

from tvwarray.dask._blocks import RowBlocks, from_dask, to_dask
from tvwarray.dask._products import linear, matmul

__all__ = ["RowBlocks", "from_dask", "linear", "matmul", "to_array", "to_coo", "to_dask"]


def to_array(x: Any) -> Any:
    """Refuse: an array in memory is never made of a Dask array unasked.

    Raises
    ------
    TypeError
        Always.
    """
    raise TypeError(
        "the array is Dask's; x.compute() brings it here, from_dask(x) leaves it there."
    )


def to_coo(x: Any) -> None:
    """Return None: a Dask array is not taken for a sparse matrix."""
