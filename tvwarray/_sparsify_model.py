"""`sparsify_model`: the weights of a whole model pruned together, and what that did to each layer.

weights {name: array}  --adapters-->  matrices  --global_selections-->  masks, layouts
                                                --_convert-->           {name: TVWMatrix}, report
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any, Final

import numpy as np

from tvwarray import _convert
from tvwarray._dtypes import VALUE_DTYPES
from tvwarray._errors import FormatError
from tvwarray._matrix import TVWMatrix
from tvwarray._namespace import Array, dtype_of, to_host
from tvwarray._storage import MIN_TILE_ROWS, HostArray
from tvwarray.prune import Selection, global_selections, magnitude
from tvwarray.prune.adapters import Adapter, default_adapter
from tvwarray.prune.patterns import Pattern, PatternName
from tvwarray.prune.selection import Progress

_INDICES: Final = frozenset({"int32", "int64", "uint32", "uint64", "bool"})
NOT_ASKED_FOR: Final = "it is not asked for"
_LOOKED_UP: Final = ("embed", "wte", "wpe")


@dataclass(frozen=True)
class LayerReport:
    """What pruning did to one matrix."""

    name: str
    """Of the matrix: that of the weights, and of the part where an adapter cuts them."""
    shape: tuple[int, int]
    dtype: str
    sparsity: float
    """The pruned share of its entries."""
    score_kept: float
    """The share of the sum of its scores that was kept."""
    nbytes: int
    """Bytes of the TVW matrix."""
    dense_nbytes: int
    tiles: int


@dataclass(frozen=True)
class SparsifiedModel:
    """What `sparsify_model` returns."""

    matrices: dict[str, TVWMatrix]
    """The pruned layers, (outputs, inputs) each, on the host; `tvwarray.save` takes them."""
    masks: dict[str, Array]
    """bool, in the shape of each weight: what was kept."""
    layers: tuple[LayerReport, ...]
    """In the order of the matrices."""
    left_alone: dict[str, str]
    """The weights that were not pruned, and why."""

    @property
    def sparsity(self) -> float:
        """The pruned share of all entries of the pruned layers."""
        size = sum(x.shape[0] * x.shape[1] for x in self.layers)
        pruned = sum(x.sparsity * x.shape[0] * x.shape[1] for x in self.layers)
        return pruned / size if size else 0.0

    def report(self) -> dict[str, Any]:
        """Return everything but the matrices, ready for JSON."""
        return {
            "sparsity": self.sparsity,
            "nbytes": sum(x.nbytes for x in self.layers),
            "dense_nbytes": sum(x.dense_nbytes for x in self.layers),
            "layers": [asdict(x) for x in self.layers],
            "left_alone": self.left_alone,
        }


def sparsify_model(
    weights: Mapping[str, Array],
    sparsity: float | None = None,
    *,
    pattern: PatternName | Pattern = "tvw",
    scores: Mapping[str, Array] | None = None,
    selections: Mapping[str, Selection] | None = None,
    only: Sequence[str] = (),
    adapters: Mapping[str, Adapter] | None = None,
    progress: Progress | None = None,
    **ranking: Any,
) -> SparsifiedModel:
    """Prune the weights of a model, ranked together, to tile-vector-wise matrices.

    Parameters
    ----------
    weights : mapping of str to array
        All weights of a model, of any array library and any shapes. Those that are no matrices of a
        product are left alone: vectors, integers, embeddings (by their names), and matrices of
        fewer than 16 rows or columns.
    sparsity : float, optional
        Share of all entries of the pruned layers to prune; needed without `selections`.
    pattern : {"tvw", "tw", "tew", "ew", "vw", "bw", "vnm"} or Pattern
    scores : mapping of str to array, optional
        What the weights are worth, for every layer pruned, in the shapes of the weights; their
        magnitudes by default.
    selections : mapping of str to Selection, optional
        What to keep, by matrix, such as ``StagePruner.selections``: nothing is ranked then, and
        weights without one are left alone.
    only : sequence of str
        Shell patterns, such as ``"encoder.*"``: prune all weights with such a name, and no others.
    adapters : mapping of str to Adapter, optional
        By shell pattern, the first that matches a name: how those weights become matrices, small
        ones and embeddings too.
        Otherwise (out, in) and (out, in, ...) are taken for linear layers and convolutions.
    progress : callable, optional
        Called with a list of what is to be done, yields it again: ``tqdm.tqdm`` is one.
    **ranking
        Further options of `prune.global_selections`: ``scope``, ``floor``, ``tile_rows``, ...
        Rows are grouped only if asked, with ``group_rows=True``; see `sparsify`.

    Returns
    -------
    SparsifiedModel

    Raises
    ------
    FormatError
        If no weight is left to prune, scores or selections do not fit the weights, or the pattern
        does not reach the sparsity.

    Examples
    --------
    >>> import numpy as np, tvwarray
    >>> rng = np.random.default_rng(0)
    >>> weights = {
    ...     "up.weight": rng.standard_normal((512, 256), dtype=np.float32),
    ...     "up.bias": np.zeros(512, np.float32),
    ...     "conv.weight": rng.standard_normal((64, 32, 3, 3), dtype=np.float32),
    ... }
    >>> model = tvwarray.sparsify_model(weights, 0.75, tile_rows=64)
    >>> {name: A.shape for name, A in model.matrices.items()}
    {'up.weight': (512, 256), 'conv.weight': (64, 288)}
    >>> model.left_alone
    {'up.bias': 'it has 1 dimension'}
    >>> round(model.sparsity, 2)
    0.75
    """
    if (sparsity is None) == (selections is None):
        raise FormatError("pass sparsity, or selections that say what to keep; one of them.")
    adapters = adapters or {}
    left_alone = {}
    for n, w in weights.items():
        named = selections or any(fnmatchcase(n, p) for p in adapters)
        why = spared(n, tuple(w.shape), dtype_of(w).name, only or (["*"] if named else ()))
        if not why and selections is not None and not _selected(n, selections):
            why = "there is no selection of it"
        if why:
            left_alone[n] = why
    chosen = {n: w for n, w in weights.items() if n not in left_alone}
    if not chosen:
        raise FormatError(
            "none of the weights is a matrix to prune; name some with only=...\n"
            + "\n".join(f"  {n}: {why}" for n, why in list(left_alone.items())[:5])
        )
    layers = {n: _adapter(n, w, adapters) for n, w in chosen.items()}
    matrices = _split(chosen, layers)
    given = {n: magnitude(w) for n, w in chosen.items()} if scores is None else scores
    worth = _split({n: _scored(n, w, given) for n, w in chosen.items()}, layers)
    if selections is None:
        assert sparsity is not None
        options = {"group_rows": False, **ranking}  # as in `sparsify`
        selections = global_selections(worth, sparsity, pattern, progress=progress, **options)
    elif ranking:
        raise FormatError(f"{min(ranking)} says how to rank; with selections nothing is ranked.")
    _check_selections(matrices, selections)

    made: dict[str, TVWMatrix] = {}
    reports = []
    steps: Iterable[str] = list(matrices) if progress is None else progress(list(matrices))
    for name in steps:
        matrix, selection = to_host(matrices[name]), selections[name]
        storage = _convert.from_selection(matrix, selection.mask, selection.layout)
        made[name] = TVWMatrix.from_storage(storage)
        reports.append(_report(name, made[name], worth[name], selection))
    masks = {n: _joined(n, tuple(w.shape), layers[n], selections) for n, w in chosen.items()}
    return SparsifiedModel(made, masks, tuple(reports), left_alone)


def spared(name: str, shape: tuple[int, ...], dtype: str, only: Sequence[str]) -> str:
    """Return why a weight is left alone, or an empty string; `only` is as in `sparsify_model`."""
    if only and not any(fnmatchcase(name, p) for p in only):
        return NOT_ASKED_FOR
    if len(shape) < 2 or len(shape) > 5:
        return f"it has {len(shape)} dimension{'s' if len(shape) != 1 else ''}"
    if dtype not in VALUE_DTYPES:
        return f"a matrix cannot hold {dtype} values"
    if only:
        return ""
    if dtype in _INDICES:
        return f"{dtype} values are indices rather than weights"
    if any(word in name.lower() for word in _LOOKED_UP):
        return "by its name it is looked up, not multiplied"
    if min(shape[0], prod(shape[1:])) < MIN_TILE_ROWS:
        return f"it has fewer than {MIN_TILE_ROWS} rows or columns"
    return ""


def _selected(name: str, selections: Mapping[str, Selection]) -> bool:
    return any(s == name or s.startswith(f"{name}.") for s in selections)


def _adapter(name: str, weight: Array, adapters: Mapping[str, Adapter]) -> Adapter:
    for pattern, adapter in adapters.items():
        if fnmatchcase(name, pattern):
            return adapter
    return default_adapter(tuple(weight.shape))


def _split(arrays: Mapping[str, Array], layers: Mapping[str, Adapter]) -> dict[str, Array]:
    """Return the matrices of all layers, by the name of the weights and of the part."""
    made: dict[str, Array] = {}
    for name, array in arrays.items():
        try:
            parts = layers[name].split(array)
        except FormatError as e:
            raise FormatError(f"{name}: {e}") from e
        for part, matrix in parts.items():
            whole = _part_name(name, part)
            if whole in made:
                raise FormatError(f"two matrices are called {whole}; rename the weights of one.")
            made[whole] = matrix
    return made


def _part_name(name: str, part: str) -> str:
    return f"{name}.{part}" if part else name


def _scored(name: str, weight: Array, scores: Mapping[str, Array]) -> Array:
    if name not in scores:
        raise FormatError(f"{name}: there are no scores of it; leave it out with only=...")
    if tuple(scores[name].shape) != tuple(weight.shape):
        raise FormatError(
            f"{name}: scores have shape {tuple(scores[name].shape)}, the weights have "
            f"{tuple(weight.shape)}; they must be equal."
        )
    return scores[name]


def _check_selections(matrices: Mapping[str, Array], selections: Mapping[str, Selection]) -> None:
    missing = matrices.keys() - selections.keys()
    if missing:
        raise FormatError(
            f"{min(missing)}: there is no selection of it; leave it out with only=..."
        )
    for name, matrix in matrices.items():
        if selections[name].mask.shape != tuple(matrix.shape):
            raise FormatError(
                f"{name}: its selection has shape {selections[name].mask.shape}, the matrix has "
                f"{tuple(matrix.shape)}; they must be equal."
            )


def _joined(
    name: str, shape: tuple[int, ...], adapter: Adapter, selections: Mapping[str, Selection]
) -> HostArray:
    """Return the mask of a weight in its own shape."""
    parts = adapter.split(np.empty(shape, np.bool_))
    masks = {part: selections[_part_name(name, part)].mask for part in parts}
    joined: HostArray = adapter.join(masks, shape)
    return joined


def _report(name: str, A: TVWMatrix, scores: Array, selection: Selection) -> LayerReport:
    host = to_host(scores)
    total = float(host.sum(dtype=np.float64))
    kept = float(host.sum(where=selection.mask, dtype=np.float64))
    rows, cols = A.shape
    return LayerReport(
        name,
        (rows, cols),
        A.dtype.name,
        selection.sparsity,
        kept / total if total else 1.0,
        A.nbytes,
        rows * cols * A.dtype.itemsize,
        A.storage.num_tiles,
    )
