"""What a matrix becomes: conversions to other formats, types, devices and frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import scipy.sparse as sp

from tvwarray import _components, _convert, _frameworks
from tvwarray._convert import Form24
from tvwarray._dtypes import value_dtype
from tvwarray._namespace import Array, from_host, to_host
from tvwarray._sparray import elementwise
from tvwarray._sparray.cupyx import to_cupyx
from tvwarray._sparray.operations import Operations

if TYPE_CHECKING:
    from typing_extensions import Self


class Conversions(Operations):
    """The methods named to... and as..., beside `toarray` and `tocsr`, which operations need."""

    todense = Operations.toarray

    def tocsc(self, copy: bool = False) -> sp.csc_array:
        """Return a canonical ``csc_array`` on the host; see `tocsr`."""
        csr = _convert.to_csr(self._storage)
        return csr.T if self._transposed else csr.tocsc()

    def tocoo(self, copy: bool = False) -> sp.coo_array[Any, tuple[int, int]]:
        """Return a canonical ``coo_array`` on the host; see `tocsr`."""
        coo = _convert.to_coo(self._storage)
        return coo.T if self._transposed else coo

    def tobsr(self, blocksize: tuple[int, int] | None = None, copy: bool = False) -> sp.bsr_array:
        """Return a ``bsr_array`` on the host; scipy estimates the block size if none is given."""
        return self.tocsr().tobsr(blocksize=blocksize)

    def to_cupyx(self, format: Literal["csr", "csc", "coo"] = "csr") -> Any:
        """Return a canonical matrix of ``cupyx.scipy.sparse`` on the GPU.

        A matrix on a GPU stays there. 16-bit and 8-bit floats become float32, as CuPy has none.

        Raises
        ------
        FormatError
            If CuPy has no sparse matrix of this dtype; it has floats, complex numbers and booleans.
        BackendError
            If CuPy is not installed.
        """
        return to_cupyx(self._storage, self._transposed, format)

    def to_24(self, form: Form24 = "positions") -> tuple[Array, Array]:
        """Return the values and positions of a matrix that is 2:4; the inverse of `from_24`.

        Raises
        ------
        FormatError
            If a group of four columns holds more than two values, the matrix is transposed, or
            its shape or dtype has no such form.
        """
        storage = _components.untransposed(self._storage, self._transposed, "to_24")
        return _convert.to_24_form(storage, form)

    def asformat(self, format: str | None, copy: bool = False) -> Any:
        """Return the matrix as tvw, csr, csc, coo, bsr, dok, lil or dia, or dense as "array"."""
        if format in (None, "tvw"):
            return self.totvw(copy)
        if format in ("array", "dense"):
            return self.toarray()
        return self.tocsr().asformat(format)  # type: ignore[call-overload]  # any name scipy knows

    def totvw(self, copy: bool = False) -> Self:
        """Return this matrix, or a copy."""
        return self.copy() if copy else self

    def todia(self, copy: bool = False) -> sp.dia_array:
        """Return a ``dia_array`` on the host; see `tocsr`."""
        return self.tocsr().todia()

    def todok(self, copy: bool = False) -> sp.dok_array[Any, tuple[int, int]]:
        """Return a ``dok_array`` on the host; see `tocsr`."""
        return self.tocsr().todok()

    def tolil(self, copy: bool = False) -> sp.lil_array:
        """Return a ``lil_array`` on the host, to edit; see `tocsr`."""
        return self.tocsr().tolil()

    def astype(self, dtype: Any, casting: str = "unsafe", copy: bool = True) -> Self:
        """Cast the values; the layout is shared. `casting` is that of ``numpy.can_cast``."""
        storage = elementwise.astype(self._storage, value_dtype(dtype), casting)
        if storage is self._storage:
            return self.totvw(copy)
        return self.from_storage(storage, transposed=self._transposed)

    def to_torch(self, layout: str = "components", **options: Any) -> Any:
        """Return the matrix for PyTorch; see `tvwarray.torch.to_torch`."""
        return _frameworks.package("torch").to_torch(self, layout, **options)

    def to_jax(self) -> Any:
        """Return the matrix as a ``jax.experimental.sparse.BCSR``; see `tvwarray.jax.to_jax`."""
        return _frameworks.package("jax").to_jax(self)

    def to_tf(self) -> Any:
        """Return the matrix as a ``tf.SparseTensor``; see `tvwarray.tf.to_tf`."""
        return _frameworks.package("tf").to_tf(self)

    def to_dask(self, parts: int) -> Any:
        """Return the matrix in `parts` blocks of rows for Dask; see `tvwarray.dask.to_dask`."""
        return _frameworks.package("dask").to_dask(self, parts)

    def to_device(self, device: Any) -> Self:
        """Return the matrix on ``"cpu"``, or where the array `device` lies."""
        if isinstance(device, str) and device == "cpu":
            storage = self._storage.mapped(to_host)
        else:
            like = _frameworks.native(device)
            storage = self._storage.mapped(lambda x: from_host(to_host(x), like=like))
        return self.from_storage(storage, transposed=self._transposed)
