"""How much each weight matters: the scores that patterns rank.

====================  ============================================================================
`magnitude`           ``|w|``
`taylor`, "abs"       ``|w g|``, the first-order change of the loss without the weight [1]_
`taylor`, "square"    ``(w g)^2`` [2]_
`taylor`, "mask"      ``(g w^2)^2``: the square of ``w g`` again, with the gradient by a factor of
                      the weight, ``g w``, in place of ``g``, as an artifact of tile-wise pruning
                      computes it [3]_
`fisher`              ``w^2 F / 2`` with F the mean of ``g^2``: the second-order change, with the
                      diagonal of the empirical Fisher information as curvature [4]_
====================  ============================================================================

Gradients of several batches are accumulated by `ScoreAccumulator`.

References
----------
.. [1] C. Guo et al., "Accelerating Sparse DNN Models without Hardware-Support via Tile-Wise
   Sparsity", SC 2020.
.. [2] P. Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019.
.. [3] The code published with [1]_.
.. [4] L. Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from tvwarray._dtypes import FLOAT32, NARROW_FLOATS
from tvwarray._errors import FormatError
from tvwarray._namespace import Array, array_namespace, as_dtype, dtype_of, to_host
from tvwarray._storage import HostArray

TaylorForm = Literal["abs", "square", "mask"]
ScoreForm = Literal["abs", "square", "mask", "fisher"]


def magnitude(weights: Array) -> HostArray:
    """Return ``|weights|`` on the host, in float32 at least.

    Parameters
    ----------
    weights : array, shape (rows, cols)
        Of any array library and dtype, complex included.
    """
    # abs(int8(-128)) is -128; every narrow value has an exact wider one.
    return _to_host(_absolute(_wide(weights)))


def taylor(weights: Array, gradients: Array, form: TaylorForm = "abs") -> HostArray:
    """Return first-order scores of one batch on the host, in float32 at least.

    Parameters
    ----------
    weights, gradients : arrays of one shape
        Of any one array library; `gradients` are those of the loss by the weights.
    form : {"abs", "square", "mask"}
        ``|w g|``, ``(w g)^2`` or ``(g w^2)^2``.

    Raises
    ------
    FormatError
        If the shapes differ or the form is not known.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> w, g = np.array([[1.0, -2.0]]), np.array([[0.5, 0.1]])
    >>> prune.taylor(w, g)
    array([[0.5, 0.2]])
    """
    if form not in get_args(TaylorForm):
        raise FormatError(f'form is {form!r}; it is "abs", "square" or "mask".')
    return _to_host(_of_batch(weights, gradients, form))


def fisher(weights: Array, squared_gradients: Array) -> HostArray:
    """Return second-order scores, ``weights^2 * squared_gradients / 2``, on the host.

    Parameters
    ----------
    weights : array
        Of any array library.
    squared_gradients : array of the same shape
        The mean of the squared gradients over samples or batches.

    Raises
    ------
    FormatError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> w, g = np.array([[1.0, -2.0]]), np.array([[0.5, 0.1]])
    >>> prune.fisher(w, g**2)
    array([[0.125, 0.02 ]])
    """
    w, f = _wide_pair(weights, squared_gradients)
    return _to_host(_absolute(w * w * f) / 2)


class ScoreAccumulator:
    """Scores summed over batches, on the device of the weights.

    Parameters
    ----------
    form : {"abs", "square", "mask", "fisher"}
        What is summed; see this module.

    Attributes
    ----------
    totals : dict of arrays
        For each name the sum so far, in float32 at least, where the weights are.
    batches : int
        How many have been added. Both together are all the state there is.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> weights = {"layer": np.array([[1.0, -2.0]])}
    >>> scores = prune.ScoreAccumulator()
    >>> scores.add(weights, {"layer": np.array([[0.5, 0.5]])})
    >>> scores.add(weights, {"layer": np.array([[-0.5, 0.0]])})
    >>> scores.scores(weights)
    {'layer': array([[0.5, 0.5]])}
    """

    def __init__(self, form: ScoreForm = "abs") -> None:
        if form not in get_args(ScoreForm):
            raise FormatError(f'form is {form!r}; it is "abs", "square", "mask" or "fisher".')
        self.form = form
        self.totals: dict[str, Array] = {}
        self.batches = 0

    def add(self, weights: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """Add the scores of a batch.

        Parameters
        ----------
        weights, gradients : mappings of str to array
            With the same names in every batch.

        Raises
        ------
        FormatError
            If the names or shapes differ from one another or from those of the batches before;
            nothing has been added then.
        """
        if weights.keys() != gradients.keys():
            odd = min(weights.keys() ^ gradients.keys())
            raise FormatError(f"{odd}: there are weights or gradients of it, but not both.")
        if self.batches and weights.keys() != self.totals.keys():
            odd = min(weights.keys() ^ self.totals.keys())
            raise FormatError(f"{odd} is in this batch or in those before, but not in both.")
        added = {}
        for name, w in weights.items():
            try:
                batch = _of_batch(w, gradients[name], self.form)
            except FormatError as e:
                raise FormatError(f"{name}: {e}") from e
            total = self.totals.get(name)
            if total is not None and total.shape != batch.shape:
                raise FormatError(
                    f"{name}: shape {batch.shape}, in the batches before {total.shape}."
                )
            added[name] = batch if total is None else total + batch
        self.totals = added
        self.batches += 1

    def scores(self, weights: Mapping[str, Array] | None = None) -> dict[str, HostArray]:
        """Return the mean over the batches for each name, on the host.

        Parameters
        ----------
        weights : mapping of str to array, optional
            Needed for "fisher", which sums squared gradients alone; others do not look at it.

        Raises
        ------
        FormatError
            If no batch has been added, or "fisher" lacks weights.
        """
        if not self.batches:
            raise FormatError("no batch has been added; call add(weights, gradients) first.")
        means = {name: total / self.batches for name, total in self.totals.items()}
        if self.form != "fisher":
            return {name: _to_host(mean) for name, mean in means.items()}
        if weights is None or means.keys() - weights.keys():
            raise FormatError('form "fisher" needs the weights of every name: scores(weights).')
        return {name: fisher(weights[name], mean) for name, mean in means.items()}


def checked_scores(scores: Array) -> HostArray:
    """Return `scores` on the host if they can be ranked.

    Raises
    ------
    FormatError
        If they are not a real matrix, or one of them is negative, infinite or NaN.
    """
    host: np.ndarray[Any, Any] = _to_host(scores)
    if host.ndim != 2:
        raise FormatError(f"scores have {host.ndim} dimensions; they have 2, as the matrix.")
    if host.dtype in NARROW_FLOATS:
        host = host.astype(FLOAT32)
    if host.dtype.kind not in "fiub":
        raise FormatError(f"scores are {host.dtype}; they must be real numbers.")
    good = np.isfinite(host) & (host >= 0)
    if not good.all():
        row, col = (int(i) for i in np.argwhere(~good)[0])
        raise FormatError(
            f"the score at row {row}, column {col} is {host[row, col]}; scores are finite and not "
            "negative.\nPass scores=... of your own where the matrix holds NaN or infinity."
        )
    return host


def _of_batch(weights: Array, gradients: Array, form: ScoreForm) -> Array:
    w, g = _wide_pair(weights, gradients)
    if form == "fisher":
        return _absolute(g * g)
    if form == "mask":
        g = g * w
    product = _absolute(w * g)
    return product if form == "abs" else product * product


def _wide_pair(weights: Array, other: Array) -> tuple[Array, Array]:
    if tuple(weights.shape) != tuple(other.shape):
        raise FormatError(
            f"weights have shape {tuple(weights.shape)}, gradients {tuple(other.shape)}; they must "
            "be equal."
        )
    return _wide(weights), _wide(other)


def _wide(x: Array) -> Array:
    """Return `x` in float32 at least, without what its library knows of its gradients."""
    x = x.detach() if hasattr(x, "detach") else x
    if not hasattr(x, "dtype"):
        x = np.asarray(x)
    dtype = dtype_of(x)
    if dtype in NARROW_FLOATS or dtype.kind in "biu":
        return as_dtype(x, FLOAT32 if dtype.itemsize <= 2 else np.dtype(np.float64))
    return x


def _absolute(x: Array) -> Array:
    return array_namespace(x).abs(x)


def _to_host(x: Array) -> HostArray:
    return to_host(x.detach() if hasattr(x, "detach") else x)
