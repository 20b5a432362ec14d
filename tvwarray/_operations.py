"""What a matrix does: the operators and methods of scipy's sparse arrays, each one delegated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from tvwarray import _convert, _elementwise
from tvwarray._dtypes import DType
from tvwarray._matmul import matmul
from tvwarray._storage import TVWStorage

if TYPE_CHECKING:
    from typing_extensions import Self


class Operations:
    """The contract of scipy's sparse arrays, over a storage that may stand for its transpose."""

    format = "tvw"
    ndim = 2
    __array_ufunc__ = None
    __array_priority__ = 10.1

    _storage: TVWStorage
    _transposed: bool

    @classmethod
    def from_storage(cls, storage: TVWStorage, *, transposed: bool = False) -> Self:
        """Return the matrix of a storage, which is not checked; see `TVWStorage.check`."""
        made = cls.__new__(cls)
        made._storage, made._transposed = storage, transposed
        return made

    @property
    def storage(self) -> TVWStorage:
        """The arrays of the matrix (of its transpose, where `transposed`)."""
        return self._storage

    @property
    def transposed(self) -> bool:
        """Whether this matrix is the transpose of what its storage holds."""
        return self._transposed

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, cols = self._storage.shape
        return (cols, rows) if self._transposed else (rows, cols)

    @property
    def dtype(self) -> DType:
        """The value dtype."""
        return self._storage.dtype

    @property
    def T(self) -> Self:  # noqa: N802 - NumPy's name
        """The transpose; shares the storage."""
        return self.from_storage(self._storage, transposed=not self._transposed)

    mT = T  # noqa: N815 - NumPy's name

    def tocsr(self, copy: bool = False) -> sp.csr_array[Any, tuple[int, int]]:
        """Return a canonical ``csr_array`` on the host.

        Stored zeros are left out; 16-bit and 8-bit floats become float32, as scipy.sparse has none.
        """
        csr = _convert.to_csr(self._storage)
        return csr.T.tocsr() if self._transposed else csr

    def dot(self, other: Any) -> Any:
        """Return ``self @ other``, or ``self * other`` for a scalar."""
        return self * other if np.isscalar(other) else self @ other

    def __matmul__(self, other: Any) -> Any:
        if np.isscalar(other) or getattr(other, "ndim", 1) == 0:
            raise ValueError("a matrix product takes no scalar; use * instead.")
        if sp.issparse(other) or isinstance(other, Operations):
            return NotImplemented
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        if np.isscalar(other) or getattr(other, "ndim", 1) == 0:
            raise ValueError("a matrix product takes no scalar; use * instead.")
        if sp.issparse(other):
            return NotImplemented
        x = other if hasattr(other, "ndim") else np.asarray(other)
        return matmul(self.T, x.T).T

    def __mul__(self, other: Any) -> Self:
        if not _elementwise.is_scalar(other):
            return NotImplemented
        storage = _elementwise.apply(self._storage, lambda data: data * other)
        return self.from_storage(storage, transposed=self._transposed)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Self:
        if not _elementwise.is_scalar(other):
            return NotImplemented
        storage = _elementwise.apply(self._storage, lambda data: data / other)
        return self.from_storage(storage, transposed=self._transposed)

    def __neg__(self) -> Self:
        storage = _elementwise.apply(self._storage, lambda data: -data)
        return self.from_storage(storage, transposed=self._transposed)

    def __pos__(self) -> Self:
        return self

    def __bool__(self) -> bool:
        raise ValueError("the truth value of a matrix is ambiguous; use A.nnz != 0.")

    def __len__(self) -> int:
        raise TypeError("the length of a sparse matrix is ambiguous; use A.shape[0] or A.nnz.")
