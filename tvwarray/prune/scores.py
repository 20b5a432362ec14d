"""How much each weight matters: the scores that patterns rank."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvwarray._dtypes import FLOAT32, NARROW_FLOATS
from tvwarray._errors import FormatError
from tvwarray._namespace import Array, to_host
from tvwarray._storage import HostArray


def magnitude(weights: Array) -> HostArray:
    """Return ``|weights|`` on the host, in float32 at least.

    Parameters
    ----------
    weights : array, shape (rows, cols)
        Of any array library and dtype, complex included.
    """
    host = to_host(weights)
    if host.dtype in NARROW_FLOATS or host.dtype.kind in "biu":
        # abs(int8(-128)) is -128; every narrow value has an exact wider one.
        host = host.astype(FLOAT32 if host.dtype.itemsize <= 2 else np.float64)
    return np.asarray(np.abs(host))


def checked_scores(scores: Array) -> HostArray:
    """Return `scores` on the host if they can be ranked.

    Raises
    ------
    FormatError
        If they are not a real matrix, or one of them is negative, infinite or NaN.
    """
    host: np.ndarray[Any, Any] = to_host(scores)
    if host.ndim != 2:
        raise FormatError(f"scores have {host.ndim} dimensions; they have 2, as the matrix.")
    if host.dtype.kind not in "fiub":
        host = host.astype(FLOAT32) if host.dtype in NARROW_FLOATS else host
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
