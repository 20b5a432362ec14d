"""`TVWMatrix`: the class users hold. Every method delegates; nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import scipy.sparse as sp

from tvwarray import _components, _convert, _describe, _frameworks
from tvwarray._advice import warn_if_it_cannot_pay
from tvwarray._convert import Form24
from tvwarray._dtypes import value_dtype
from tvwarray._layouts.find import LayoutName
from tvwarray._layouts.tiles import TileRows
from tvwarray._namespace import Array, device_of, to_host
from tvwarray._partition import Part, Partition, split
from tvwarray._sparray import elementwise
from tvwarray._sparray.construct import check_shape, construct
from tvwarray._sparray.conversions import Conversions
from tvwarray._sparray.registration import registered
from tvwarray._spy import spy
from tvwarray._storage import Tile, Tiles, TVWStorage, Vector
from tvwarray.prune.selection import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@registered
class TVWMatrix(Conversions, sp.sparray):
    """A sparse matrix in tile-vector-wise format, the left operand of products.

    Tiles of up to `tile_rows` rows each keep columns of their own, and in every group of four kept
    columns a row holds two values (2:4). Any matrix has such a form without loss; one that was
    pruned for it (`tvwarray.sparsify`) multiplies faster than the dense matrix.

    Parameters
    ----------
    arg
        What ``scipy.sparse.bsr_array`` takes:

        - a dense matrix, of any array library or framework;
        - a sparse matrix of scipy.sparse, cupyx.scipy.sparse, PyTorch, JAX or TensorFlow, or a
          TVWMatrix;
        - ``(rows, cols)``, an empty matrix;
        - ``(data, (row, col))``, triples, duplicates add up;
        - ``(data, indices, indptr)``, BSR (or CSR, with flat `data`).
    shape : (int, int), optional
        Needed where `arg` does not tell.
    dtype : dtype, optional
        Values are cast to it, as by `astype`.
    copy : bool
        A TVWMatrix shares its arrays with the new one unless `copy`; everything else is copied.
    tile_rows : int or "auto"
        The most rows of a tile, 16 to 1024. "auto" takes what is modelled to cost least: of a
        pruned matrix the tiles it was pruned in, of a 2:4 matrix 1024, elsewhere 32 to 128.
    vector : (2, 4) or None
        Values stored for each group of slots; None stores every kept column (tile-wise sparsity).

    Notes
    -----
    Immutable: arrays are read-only, so that a matrix can be packed once for each backend. A zero
    is no entry, -0.0 included; NaN and infinity are kept bit for bit.

    Examples
    --------
    >>> import numpy as np, tvwarray
    >>> A = tvwarray.TVWMatrix(np.diag(np.arange(1.0, 33.0)))
    >>> A.shape, A.nnz
    ((32, 32), 32)
    >>> (A @ np.ones(32))[:3]
    array([1., 2., 3.])
    """

    def __init__(
        self,
        arg: Any,
        shape: tuple[int, int] | None = None,
        dtype: Any = None,
        copy: bool = False,
        *,
        tile_rows: TileRows = "auto",
        vector: Vector = (2, 4),
    ) -> None:
        if isinstance(arg, TVWMatrix):
            check_shape(shape, arg.shape)
            self._storage, self._transposed = arg.totvw(copy).storage, arg.transposed
        else:
            self._storage = construct(arg, shape, dtype, tile_rows, vector)
            warn_if_it_cannot_pay(self._storage)
            self._transposed = False
        if dtype is not None:
            self._storage = elementwise.astype(self._storage, value_dtype(dtype))

    @classmethod
    def from_dense(
        cls,
        a: Array,
        *,
        mask: Array | None = None,
        tile_rows: TileRows = "auto",
        vector: Vector = (2, 4),
        layout: LayoutName = "lossless",
        memory_limit: int | None = None,
    ) -> TVWMatrix:
        """Convert a dense matrix.

        Parameters
        ----------
        a : array, shape (rows, cols)
            Of any array library; the matrix lies where `a` does.
        mask : bool array, shape (rows, cols), optional
            Which entries to store; by default those not equal to zero.
        tile_rows : int or "auto"
            The most rows of a tile, 16 to 1024; see the class.
        vector : (2, 4) or None
            Values stored for each group of slots; None stores every kept column.
        layout : {"lossless", "exact", "hybrid"}
            "lossless" holds any matrix in tiles; "exact" refuses one that is not TVW or 2:4 as it
            stands; "hybrid" keeps entries that no tile holds economically beside the tiles, in
            CSR (`remainder`): at most 15 % of them, unless `memory_limit` asks for more.
        memory_limit : int, optional
            The most bytes that a "hybrid" matrix may take.

        Raises
        ------
        FormatError
            If `a` is no matrix of a storable dtype, ``layout="exact"`` meets a crowded group, or
            no layout keeps `memory_limit`.

        Examples
        --------
        >>> import numpy as np, tvwarray
        >>> W = np.zeros((64, 128))
        >>> W[:32, ::4] = 1.0
        >>> A = tvwarray.TVWMatrix.from_dense(W)
        >>> bool((A.toarray() == W).all()), A.nnz
        (True, 1024)
        """
        options: dict[str, Any] = {"tile_rows": tile_rows, "vector": vector, "layout": layout}
        a, mask = _frameworks.native(a), _frameworks.native(mask)
        made = _convert.from_dense(a, mask=mask, memory_limit=memory_limit, **options)
        warn_if_it_cannot_pay(made)
        return cls.from_storage(made)

    @classmethod
    def from_selection(cls, a: Array, selection: Selection) -> TVWMatrix:
        """Store what a pattern selected of a dense matrix, in the layout it chose.

        Parameters
        ----------
        a : array, shape (rows, cols)
            Of any array library; the matrix lies where `a` does.
        selection : tvwarray.prune.Selection
            From `tvwarray.prune.global_selections` or a pattern's ``select``. Without a layout one
            is found as by `from_dense`; what the layout has no place for is the remainder.

        Raises
        ------
        FormatError
            If `a` has another shape than the selection, or no storable dtype.
        """
        return cls.from_storage(_convert.from_selection(a, selection.mask, selection.layout))

    @classmethod
    def from_scipy(
        cls,
        s: Any,
        *,
        tile_rows: TileRows = "auto",
        vector: Vector = (2, 4),
        layout: LayoutName = "lossless",
        memory_limit: int | None = None,
    ) -> TVWMatrix:
        """Convert a sparse matrix or array of scipy.sparse, of any format.

        Duplicates add up, explicit zeros are dropped. `tile_rows`, `vector`, `layout` and
        `memory_limit` are those of `from_dense`.
        """
        options: dict[str, Any] = {"tile_rows": tile_rows, "vector": vector, "layout": layout}
        made = _convert.from_sparse(s, memory_limit=memory_limit, **options)
        warn_if_it_cannot_pay(made)
        return cls.from_storage(made)

    @classmethod
    def from_24(
        cls,
        values: Array,
        positions: Array,
        *,
        form: Form24 = "positions",
        tile_rows: int = 1024,
    ) -> TVWMatrix:
        """Take a 2:4-compressed matrix as it is, of any array library or framework.

        Parameters
        ----------
        values : array, shape (rows, cols // 2)
            Two values for each group of four columns.
        positions : array
            Where they stand, in the form that `form` names.
        form : {"positions", "cutlass", "bitmask"}
            "positions": integers 0-3 of the shape of `values`, the place of each value in its
            group, the two of a group ascending. "cutlass": int16 words of shape (rows, cols // 16),
            int32 of (rows, cols // 32) beside int8 values, in the order of PyTorch's
            ``SparseSemiStructuredTensorCUTLASS``. "bitmask": uint8 of shape
            (rows, ceil(cols / 8)), lowest bit first, as compressed-tensors writes it.
        tile_rows : int
            The most rows of a tile, 16 to 1024; tall tiles store fewer column lists.

        Raises
        ------
        FormatError
            If a shape or dtype does not fit, or a group holds other than two values.

        Examples
        --------
        >>> import numpy as np, tvwarray
        >>> values = np.array([[1.0, 2.0, 3.0, 4.0]])
        >>> tvwarray.TVWMatrix.from_24(values, np.array([[0, 3, 1, 2]])).toarray()
        array([[1., 0., 0., 2., 0., 3., 4., 0.]])
        >>> mask = np.array([[0b01101001]], np.uint8)
        >>> tvwarray.TVWMatrix.from_24(values, mask, form="bitmask").toarray()
        array([[1., 0., 0., 2., 0., 3., 4., 0.]])
        """
        values, positions = _frameworks.native(values), _frameworks.native(positions)
        return cls.from_storage(_convert.from_24_form(values, positions, form, tile_rows))

    @classmethod
    def from_components(
        cls,
        *,
        shape: tuple[int, int],
        tile_rows: int = 128,
        vector: Vector = (2, 4),
        **arrays: Array,
    ) -> TVWMatrix:
        """Assemble a matrix from the arrays of `to_components`, and check every rule of the format.

        Parameters
        ----------
        shape : (int, int)
        tile_rows : int
        vector : (2, 4) or None
        **arrays
            row_indptr, row_indices, col_indptr, col_indices, data, and meta with 2:4.

        Raises
        ------
        FormatError
            At the first rule that is broken, saying where.
        """
        return cls.from_storage(_components.from_components(shape, tile_rows, vector, arrays))

    def to_components(self) -> dict[str, Any]:
        """Return shape, tile_rows, vector and copies of the arrays, C-contiguous and writable.

        A transposed matrix is stored as the matrix it is the transpose of; see `transposed`.
        """
        return _components.to_components(self._storage)

    # What it is

    @property
    def nnz(self) -> int:
        """How many stored values are not zero."""
        return self._storage.nnz

    size = nnz

    @property
    def density(self) -> float:
        """`nnz` over rows times columns; 0 for a matrix without elements."""
        return self.nnz / max(1, self.shape[0] * self.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return self._storage.nbytes

    @property
    def tile_rows(self) -> int:
        """The most rows a tile may have."""
        return self._storage.tile_rows

    @property
    def vector(self) -> Vector:
        """``(2, 4)``, or None where every kept column is stored."""
        return self._storage.vector

    @property
    def tiles(self) -> Sequence[Tile]:
        """The tiles, as read-only views."""
        return Tiles(self._storage)

    @property
    def remainder(self) -> sp.csr_array[Any, tuple[int, int]] | None:
        """The entries beside the tiles, on the host, or None; see `with_remainder`."""
        csr = _convert.remainder_csr(self._storage)
        return csr.T.tocsr() if csr is not None and self._transposed else csr

    @property
    def device(self) -> Any:
        """Where the arrays lie."""
        return device_of(self._storage.data)

    def transpose(self, axes: Any = None, copy: bool = False) -> TVWMatrix:
        """Return the transpose; `axes` is there for NumPy: None or ``(1, 0)``."""
        if axes not in (None, (1, 0)):
            raise ValueError(f"axes is {axes!r}; a matrix has one transpose, pass None.")
        return self.T.copy() if copy else self.T

    def with_remainder(self, s: Any) -> TVWMatrix:
        """Return this matrix plus the sparse matrix `s`, which is kept in CSR beside the tiles.

        For entries that no tile holds economically: single large weights, outliers. A product adds
        both, which rounds 16-bit types once more; the CSR part runs at the speed of scipy.sparse.

        Parameters
        ----------
        s : sparse matrix or array of scipy.sparse, shape (rows, cols)

        Raises
        ------
        FormatError
            If the shapes differ, or a value of `s` has no exact counterpart in this dtype.
        """
        added = s.T if self._transposed else s
        storage = _convert.with_remainder(self._storage, added)
        return self.from_storage(storage, transposed=self._transposed)

    def partition(self, k: int) -> Partition:
        """Split the matrix into at most `k` parts of about the same work, to multiply apart.

        Parameters
        ----------
        k : int
            How many workers or devices there are.

        Returns
        -------
        Partition
            A sequence of ``(rows, matrix)``: row i of `matrix` is row ``rows[i]`` of this one.
            ``partition @ X`` puts the products of the parts together;
            ``partition.to_devices(...)`` spreads them over GPUs first.

        Raises
        ------
        ValueError
            If `k` is not positive.
        FormatError
            If the matrix is transposed: its tiles own columns, whose products add up.
        """
        storage = _components.untransposed(self._storage, self._transposed, "partition")
        parts = (Part(rows, self.from_storage(part)) for rows, part in split(storage, k))
        return Partition(self.shape, self.dtype, tuple(parts))

    def spy(self, ax: Axes | None = None, *, cells: int = 512, colorbar: bool = True) -> Axes:
        """Draw the matrix with matplotlib: where tiles keep columns, and how full those are.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            By default one of a new figure.
        cells : int
            The picture has at most so many cells a side, whatever the size of the matrix.
        colorbar : bool

        Returns
        -------
        matplotlib.axes.Axes
            The paler a cell, the less of it is kept; its colour is the share of nonzeros in what
            is kept. Entries of a remainder are orange points.

        Raises
        ------
        ImportError
            If matplotlib is not installed; it comes with ``tvwarray[plot]``.

        Examples
        --------
        >>> import numpy as np, tvwarray
        >>> A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((512, 256)), 0.75)
        >>> A.spy().get_title()
        '512 x 256 float64, 4 tiles'
        """
        return spy(self._storage, ax, transposed=self._transposed, cells=cells, colorbar=colorbar)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._storage.mapped(to_host), self._transposed)

    def __repr__(self) -> str:
        return _describe.text(self._storage, self._transposed)

    def __str__(self) -> str:
        return _describe.listing(repr(self), self.tocoo())

    def _repr_html_(self) -> str:
        return _describe.html(self._storage, self._transposed)


def _restore(storage: TVWStorage, transposed: bool) -> TVWMatrix:
    return TVWMatrix.from_storage(storage, transposed=transposed)
