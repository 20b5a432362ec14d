"""Whether the format pays for a matrix: in words, and as a warning when one is converted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Final

import numpy as np
import scipy.sparse as sp

from tvwarray._costs.cpu import REFERENCE, Way
from tvwarray._costs.work import work_of
from tvwarray._describe import csr_nbytes
from tvwarray._dtypes import FLOAT32
from tvwarray._storage import TVWStorage


class EfficiencyWarning(sp.SparseEfficiencyWarning):
    """A matrix in tile-vector-wise format that another format multiplies faster.

    Said once a process. Silence it with
    ``warnings.filterwarnings("ignore", category=tvwarray.EfficiencyWarning)``.
    """


FLOAT64: Final = np.dtype(np.float64)

SMALLEST: Final = 200_000
"""Nonzeros below which no warning is worth its line."""

_COUNTS: Final = (1, 8, 64, 512)
"""Right-hand sides for all of which another format must be predicted to be faster, ..."""

_MARGIN: Final = 1.3
"""... for all but one so many times as fast: predictions are right within 30 %."""

_NAMES: Final[dict[Way, str]] = {
    "tvw": "TVW",
    "csr": "CSR",
    "bsr": "BSR",
    "dense": "the dense matrix",
}

_said = False


def recommend(
    *,
    n: int,
    device: str,
    seconds: Mapping[Way, float],
    tile_rows: int,
    rho: float,
    density: float,
    bytes_of_csr: float,
) -> str:
    """Say which format to take for a product, and why.

    Parameters
    ----------
    n : int
        Right-hand sides.
    device : str
        What runs the product.
    seconds : mapping
        Predicted times.
    tile_rows : int
        The height of the tiles that suit the device.
    rho : float
        Nonzeros for each slot.
    density : float
        Nonzeros over elements.
    bytes_of_csr : float
        Bytes of the matrix in tiles over those in CSR.
    """
    others = {way: s for way, s in seconds.items() if way != "tvw"}
    rival = min(others, key=lambda way: others[way])
    gain = others[rival] / seconds["tvw"]
    where = f"at n = {n} on {device}"
    memory = ""
    if bytes_of_csr > 1:
        memory = (
            f' It takes {bytes_of_csr:.2g} times the bytes of CSR; layout="hybrid" takes fewer '
            "at some cost of time."
        )
    if gain >= 1:
        how = f"{gain:.2g} times as fast as {_NAMES[rival]}" if gain >= 1.05 else "as fast as any"
        why = f"each fetched row of X serves {rho:.2g} nonzeros"
        take = f"TVWMatrix(A, tile_rows={tile_rows})"
        return f"Take {take}: predicted to be {how} {where}, since {why}.{memory}"
    if rival == "dense":
        why = f"{100 * density:.2g} % of the elements are nonzero, too many to skip the others"
        if density < 0.3:
            why = "the matrix is so small that overheads decide, or BLAS is that much faster"
    elif rival == "bsr":
        why = "its nonzeros fill aligned blocks, which need no metadata"
    else:
        why = f"a fetched row of X serves {rho:.2g} nonzeros, and what pads the tiles costs more"
    return (
        f"Keep {_NAMES[rival]}: predicted to be {1 / gain:.2g} times as fast as TVW {where}, "
        f"since {why}."
    )


def warn_if_it_cannot_pay(storage: TVWStorage, *, stacklevel: int = 3) -> None:
    """Warn once if CSR or the dense matrix is predicted to be faster whatever it multiplies.

    Predictions are those of the processor that the model was fitted on: nothing is measured. Of
    other types than float32 and float64 nothing is said, since BLAS and CSR have no fast products
    of most, and 16-bit ones are for GPUs.
    """
    global _said
    if _said or storage.nnz < SMALLEST or not isinstance(storage.data, np.ndarray):
        return
    if storage.dtype not in (FLOAT32, FLOAT64):
        return
    work = work_of(storage)
    losses: list[float] = []
    for n in _COUNTS:
        seconds = {w: REFERENCE.seconds(w, work, n) for w in ("tvw", "csr", "dense")}
        losses.append(seconds["tvw"] / min(seconds["csr"], seconds["dense"]))
    least, second, *_, most = sorted(losses)
    if least < 1 or second < _MARGIN:
        return
    _said = True
    rho = work.nnz / max(1, work.slots)
    warnings.warn(
        f"this {storage.shape[0]}x{storage.shape[1]} matrix is predicted to multiply {least:.2g} "
        f"to {most:.2g} times as fast in CSR or dense: a slot holds {rho:.2g} nonzeros, and tiles "
        f"take {storage.nbytes / csr_nbytes(storage):.2g} times the bytes of CSR.\n"
        "tvwarray.analyze(A) has the figures. This is said once; silence it with "
        'warnings.filterwarnings("ignore", category=tvwarray.EfficiencyWarning).',
        EfficiencyWarning,
        stacklevel=stacklevel,
    )
