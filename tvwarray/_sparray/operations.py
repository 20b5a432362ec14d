"""What a matrix does: the operators and methods of scipy's sparse arrays, each one delegated.

A result that has its entries where the matrix has them stays a matrix of the same layout; other
sparse results are ``csr_array``, computed by scipy, 16-bit and 8-bit floats as float32. What the
methods named as scipy's mean is written in scipy's documentation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import scipy.sparse as sp

from tvwarray import _components, _convert
from tvwarray._dtypes import DType, value_dtype
from tvwarray._namespace import Array
from tvwarray._sparray import arithmetic, elementwise, indexing, products, protocols, reductions
from tvwarray._storage import TVWStorage

if TYPE_CHECKING:
    from typing_extensions import Self

_IMMUTABLE = "a TVWMatrix is immutable: it is packed once for all its products"
_EDIT = "edit s = A.tolil() and convert it back with TVWMatrix(s)."


def _function(name: str) -> Callable[[Any], Any]:
    def method(self: Operations) -> Operations:
        return self._like(elementwise.unary(self._storage, name))

    method.__name__, method.__qualname__ = name, f"Operations.{name}"
    method.__doc__ = f"Return ``numpy.{name}`` of every element; zeros stay zeros."
    return method


class Operations:
    """The contract of scipy's sparse arrays, over a storage that may stand for its transpose."""

    format = "tvw"
    ndim = 2
    __array_priority__ = 10.1
    __hash__ = None  # type: ignore[assignment]  # == compares element by element

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

    def toarray(self, order: Any = None, out: Array | None = None) -> Array:
        """Return the dense matrix, in the library and on the device of this one.

        Parameters
        ----------
        order : {"C", "F"}, optional
            Memory order; by default whichever is at hand.
        out : array, shape (rows, cols), optional
            Where to write it, of the dtype of the matrix.
        """
        dense = _convert.to_dense(self._storage)
        return _components.deliver(dense.T if self._transposed else dense, order, out)

    def tocsr(self, copy: bool = False) -> sp.csr_array[Any, tuple[int, int]]:
        """Return a canonical ``csr_array`` on the host.

        Stored zeros are left out; 16-bit and 8-bit floats become float32, as scipy.sparse has none.
        """
        csr = _convert.to_csr(self._storage)
        return csr.T.tocsr() if self._transposed else csr

    def host_csr(self, what: str) -> sp.csr_array[Any, tuple[int, int]]:
        """Return `tocsr` for an operation called `what`, if the matrix lies on the host.

        Raises
        ------
        BackendError
            If it lies elsewhere: nothing is copied to the host unasked.
        """
        arithmetic.check_host(self._storage, what)
        return self.tocsr()

    def copy(self) -> Self:
        """Return a matrix with arrays of its own."""
        return self._like(self._storage.mapped(_copy_array))

    def _like(self, storage: TVWStorage) -> Self:
        """Return the matrix of a storage, transposed as this one."""
        return self.from_storage(storage, transposed=self._transposed)

    def _result(self, result: Any) -> Any:
        """Return a storage as a matrix, None as this one, and anything else as it is."""
        if isinstance(result, TVWStorage):
            return self._like(result)
        return self if result is None else result

    # Products

    def dot(self, other: Any) -> Any:
        """Return ``self @ other``, or ``self * other`` for a scalar."""
        return self * other if np.isscalar(other) else self @ other

    def __matmul__(self, other: Any) -> Any:
        return products.product(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return products.reflected(self.T, other)

    def matvec(self, x: Array) -> Array:
        """Return ``A @ x``, as ``scipy.sparse.linalg.LinearOperator`` calls it."""
        return self @ x

    def rmatvec(self, x: Array) -> Array:
        """Return ``A.conj().T @ x``."""
        return products.adjoint_product(self.T, x)

    matmat, rmatmat = matvec, rmatvec

    # Arithmetic

    def __add__(self, other: Any) -> Any:
        return self._result(arithmetic.add(self, other))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._result(arithmetic.subtract(self, other))

    def __rsub__(self, other: Any) -> Any:
        result = arithmetic.subtract_from(self, other)
        return -self if result is None else result

    def __mul__(self, other: Any) -> Any:
        return self._result(arithmetic.multiply(self, other))

    def __rmul__(self, other: Any) -> Any:
        if isinstance(other, sp.spmatrix):  # whose * is the product, whatever stands on its right
            return other @ self
        return self * other

    def multiply(self, other: Any) -> Any:
        """Return the product element by element, with broadcasting.

        A scalar, or a factor for each row or column, keeps the layout; else a ``csr_array``.
        """
        return self * other

    def __truediv__(self, other: Any) -> Any:
        return self._result(arithmetic.divide(self, other))

    def __itruediv__(self, other: Any) -> Any:
        return self._result(arithmetic.divide(self, other, keep_dtype=True))

    def __pow__(self, n: Any) -> Self:
        return self.power(n)

    def power(self, n: Any, dtype: Any = None) -> Self:
        """Return every element to the power of the scalar `n`, not zero; of values cast to `dtype`.

        Raises
        ------
        NotImplementedError
            If `n` is no scalar, or zero, which would make every element one.
        """
        kind = None if dtype is None else value_dtype(dtype)
        return self._like(elementwise.power(self._storage, n, kind))

    def maximum(self, other: Any) -> Any:
        """Return the larger of each two elements: a ``csr_array``, dense where `other` is."""
        return arithmetic.extremum(self, other, "maximum")

    def minimum(self, other: Any) -> Any:
        """Return the smaller of each two elements: a ``csr_array``, dense where `other` is."""
        return arithmetic.extremum(self, other, "minimum")

    # Comparisons: boolean csr_array, dense where the other side is

    def __eq__(self, other: object) -> Any:
        return arithmetic.compare(self, other, operator.eq)

    def __ne__(self, other: object) -> Any:
        return arithmetic.compare(self, other, operator.ne)

    def __lt__(self, other: object) -> Any:
        return arithmetic.compare(self, other, operator.lt)

    def __le__(self, other: object) -> Any:
        return arithmetic.compare(self, other, operator.le)

    def __gt__(self, other: object) -> Any:
        return arithmetic.compare(self, other, operator.gt)

    def __ge__(self, other: object) -> Any:
        return arithmetic.compare(self, other, operator.ge)

    # Functions of each element that keep zeros

    sin, tan, arcsin, arctan = map(_function, ("sin", "tan", "arcsin", "arctan"))
    sinh, tanh, arcsinh, arctanh = map(_function, ("sinh", "tanh", "arcsinh", "arctanh"))
    expm1, log1p, deg2rad, rad2deg = map(_function, ("expm1", "log1p", "deg2rad", "rad2deg"))
    floor, ceil, trunc, rint = map(_function, ("floor", "ceil", "trunc", "rint"))
    sign, sqrt = map(_function, ("sign", "sqrt"))

    def __neg__(self) -> Self:
        return self._like(elementwise.negate(self._storage))

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> Self:
        return self._like(elementwise.apply_function(self._storage, abs))

    def __round__(self, ndigits: int = 0) -> Self:
        return self._like(elementwise.round_to(self._storage, ndigits))

    def conjugate(self, copy: bool = True) -> Self:
        """Return the complex conjugate; this very matrix if it is real and not `copy`."""
        if self.dtype.kind != "c":
            return self.copy() if copy else self
        return self._like(elementwise.conjugate(self._storage))

    conj = conjugate

    @property
    def real(self) -> Self:
        """The real parts."""
        return self._like(elementwise.real(self._storage))

    @property
    def imag(self) -> Self:
        """The imaginary parts."""
        return self._like(elementwise.imag(self._storage))

    # Reductions: scalars, and flat arrays with an axis

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        """Return the sum of all elements, or along an axis."""
        return reductions.total(self, axis, dtype, out)

    def mean(self, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        """Return the mean of all elements, zeros included, or along an axis."""
        return reductions.mean(self, axis, dtype, out)

    def max(self, axis: Any = None, out: None = None, *, explicit: bool = False) -> Any:
        """Return the largest element, or a ``coo_array`` along an axis."""
        return reductions.extreme(self, axis, out, explicit, "max")

    def min(self, axis: Any = None, out: None = None, *, explicit: bool = False) -> Any:
        """Return the smallest element, or a ``coo_array`` along an axis."""
        return reductions.extreme(self, axis, out, explicit, "min")

    def nanmax(self, axis: Any = None, out: None = None, *, explicit: bool = False) -> Any:
        """Return the largest element that is a number, or a ``coo_array`` along an axis."""
        return reductions.extreme(self, axis, out, explicit, "nanmax")

    def nanmin(self, axis: Any = None, out: None = None, *, explicit: bool = False) -> Any:
        """Return the smallest element that is a number, or a ``coo_array`` along an axis."""
        return reductions.extreme(self, axis, out, explicit, "nanmin")

    def argmax(self, axis: Any = None, out: None = None, *, explicit: bool = False) -> Any:
        """Return where the largest element stands, in row-major order or along an axis."""
        return self.host_csr("argmax").argmax(axis=axis, out=out, explicit=explicit)

    def argmin(self, axis: Any = None, out: None = None, *, explicit: bool = False) -> Any:
        """Return where the smallest element stands, in row-major order or along an axis."""
        return self.host_csr("argmin").argmin(axis=axis, out=out, explicit=explicit)

    def count_nonzero(self, axis: Any = None) -> Any:
        """Return how many elements are not zero, or how many along an axis."""
        return reductions.count_nonzero(self, axis)

    def nonzero(self) -> tuple[Any, Any]:
        """Return the rows and the columns of the elements that are not zero."""
        return self.host_csr("nonzero").nonzero()

    def diagonal(self, k: int = 0) -> Any:
        """Return the `k`-th diagonal, dense."""
        return reductions.diagonal(self, k)

    def trace(self, offset: int = 0) -> Any:
        """Return the sum of a diagonal."""
        return self.diagonal(offset).sum()

    # Parts

    def __getitem__(self, key: Any) -> Any:
        return self._result(indexing.getitem(self, key))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.host_csr("iteration"))

    def reshape(self, *shape: Any, order: Any = "C", copy: bool = False) -> Any:
        """Return a ``coo_array`` of another shape; this very matrix if it is its own."""
        if shape in (self.shape, (self.shape,)):
            return self.copy() if copy else self
        return self.host_csr("reshape").reshape(*shape, order=order)

    # What would change it, and what has nothing to change

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TypeError(f"{_IMMUTABLE}; {_EDIT}")

    def setdiag(self, values: Any, k: int = 0) -> NoReturn:
        """Refuse: a matrix is immutable."""
        raise TypeError(f"{_IMMUTABLE}; {_EDIT}")

    def resize(self, *shape: int) -> NoReturn:
        """Refuse: a matrix is immutable."""
        raise TypeError(f"{_IMMUTABLE}; {_EDIT}")

    def eliminate_zeros(self) -> None:
        """Do nothing: a stored zero is no entry here."""

    def sum_duplicates(self) -> None:
        """Do nothing: entries are unique to all who read them."""

    def check_format(self, full_check: bool = True) -> None:
        """Check every rule of the format.

        Raises
        ------
        FormatError
            At the first rule that is broken, saying where.
        """
        self._storage.check()

    # What scipy's own operators read of a matrix on their right that is registered as sparse

    @property
    def _shape(self) -> tuple[int, int]:
        return self.shape

    _shape_as_2d = _shape

    def _mul_scalar(self, other: Any) -> Any:
        return self * other

    def _add_sparse(self, other: Any) -> Any:
        return self + other

    def _matmul_sparse(self, other: Any) -> Any:
        return self @ other

    # Protocols

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return protocols.array_ufunc(self, ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return protocols.array_function(self, func, args, kwargs)

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError(
            "a sparse matrix is no dense buffer, and a dense copy is never made unasked: export "
            "A.toarray(), or the arrays of A.to_components()."
        )

    __dlpack_device__ = __dlpack__

    def __bool__(self) -> bool:
        if self.shape == (1, 1):
            return bool(self.tocsr().nnz)
        raise ValueError("the truth value of a matrix is ambiguous; use A.nnz != 0.")

    def __len__(self) -> int:
        raise TypeError("the length of a sparse matrix is ambiguous; use A.shape[0] or A.nnz.")


def _copy_array(x: Array) -> Array:
    return x.copy() if hasattr(x, "copy") else x + 0
