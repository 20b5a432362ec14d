"""The backend "cuda": products on NVIDIA tensor cores, for CuPy arrays.

float16, bfloat16, int8 and float8 are multiplied as they are, float32 in bfloat16 parts or as tf32
by `precision`, float64 by the tensor cores of sm_80 and sm_90; see `tvwarray._kernels.elements`.
``A.T @ Y`` is the product of a matrix laid out for it, by the same kernels; see
`tvwarray._convert.transposed`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np

from tvwarray._convert.transposed import transposed_pattern
from tvwarray._dtypes import Precision
from tvwarray._epilogue import IDENTITY, Epilogue
from tvwarray._errors import BackendError
from tvwarray._kernels import elements
from tvwarray._kernels.config import BRICK_ROWS, step_slots
from tvwarray._kernels.devices import generation
from tvwarray._kernels.elements import Form, as_pairs, form_of
from tvwarray._kernels.launch import CupyLauncher, Launcher, choose_config
from tvwarray._kernels.pack import PackedMatrix, crowded_pairs, pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import Choice
from tvwarray._kernels.streams import beside_capture, settled
from tvwarray._kernels.transpose import is_column_major
from tvwarray._namespace import Array, dtype_of
from tvwarray._storage import TVWStorage, Vector

_INDEX_MAX: Final = 2**31 - 1


@dataclass(frozen=True, eq=False)
class CudaPacked:
    """A matrix, and what was packed of it: once for each way its values are multiplied."""

    storage: TVWStorage
    launcher: Launcher
    forms: dict[tuple[Form, bool], PackedMatrix] = field(default_factory=dict)
    """By the form, and whether it is A.T."""
    _by_precision: dict[tuple[Precision, bool], PackedMatrix] = field(default_factory=dict)
    """The same matrices again, found without asking for their form."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, precision: Precision = "default", transposed: bool = False) -> PackedMatrix:
        """Return A, or A.T, as it is multiplied with `precision`, packed now or earlier."""
        if (found := self._by_precision.get((precision, transposed))) is not None:
            return found
        form, storage = form_of(self.storage.dtype, precision), self.storage
        assert form is not None, "refusal() was not asked"
        with self._lock:
            if (form, transposed) not in self.forms:
                with settled(storage.data):
                    if transposed:
                        architecture = self.launcher.device(storage.data).architecture
                        storage = transpose_for(storage, form, architecture)
                    self.forms[form, transposed] = pack(storage, form)
            found = self._by_precision[precision, transposed] = self.forms[form, transposed]
            return found

    @property
    def nbytes(self) -> int:
        """Bytes of all that was packed until now."""
        return sum(p.nbytes for p in self.forms.values())


def transpose_for(storage: TVWStorage, form: Form, architecture: str) -> TVWStorage:
    """Return A.T, without a remainder, in the layout in which `form` is multiplied.

    With pattern (2, 4), but where there is no sparse product, or one that takes less than that; in
    tiles as tall as the largest blocks of the architecture (H200: taller ones have more slots, 10 %
    at 75 %, and take 15 % less time).
    """
    vector: Vector = None if form.element in ("float64", "tf32") else (2, 4)
    tall = generation(architecture) == "90" and form in (Form("float16"), Form("bfloat16"))
    return transposed_pattern(storage, vector, 256 if tall else 128).fill(storage)


class CudaBackend:
    """Runs ``A @ X`` and ``A.T @ Y`` by the kernels of `choose_config`.

    Parameters
    ----------
    launcher : Launcher, optional
        What starts the kernels: CuPy by default.
    """

    name = "cuda"
    takes_remainder = False

    def __init__(self, launcher: Launcher | None = None) -> None:
        self.launcher: Launcher = CupyLauncher() if launcher is None else launcher
        self._crowded: WeakKeyDictionary[TVWStorage, int] = WeakKeyDictionary()

    def refusal(
        self,
        storage: TVWStorage,
        x: Array,
        *,
        transposed: bool = False,
        precision: Precision = "default",
    ) -> str:
        """Return why ``A @ x`` cannot run here, in a sentence, or an empty string."""
        if reason := self.launcher.refusal(storage.data, x):
            return reason
        form = form_of(storage.dtype, precision)
        if form is None:
            return f"tensor cores have no products of {storage.dtype.name}"
        if dtype_of(x) != storage.dtype:
            return f"needs A and X of one dtype, got {storage.dtype.name} and {dtype_of(x).name}"
        if x.shape[-1] > _INDEX_MAX // 4:
            return f"needs at most 2**29 columns of X, got {x.shape[-1]}"
        # A.T has pattern (2, 4) whatever A has.
        wgmma, device = transposed or storage.vector is not None, self.launcher.device(x)
        if reason := elements.refusal(form, device.architecture, wgmma=wgmma):
            return reason
        if transposed:
            return _too_large_transposed(storage)
        if form.element == "tf32" and (crowded := self._crowded_pairs(storage)):
            return crowded_pairs(crowded)
        rows, slots = _counts(storage)
        padded_rows, width = -(-rows // BRICK_ROWS), step_slots(form.element)
        steps = -(-slots // width)
        # The kernel counts slots, bricks and columns in 32 bits.
        if max(int(steps.sum()) * width, int((padded_rows * steps).sum())) > _INDEX_MAX // 2:
            return "has more than 2**30 slots or bricks"
        return ""

    def _crowded_pairs(self, storage: TVWStorage) -> int:
        """Return how many pairs of slots hold two values, which tf32 cannot multiply."""
        if storage.meta is None:
            return 0
        if storage not in self._crowded:
            with settled(storage.data):
                self._crowded[storage] = as_pairs(storage.data, storage.meta).crowded
        return self._crowded[storage]

    def pack(self, storage: TVWStorage) -> CudaPacked:
        """Return the order of the kernel for `storage`, which is packed when it is first used."""
        return CudaPacked(replace(storage), self.launcher)

    def plan(
        self,
        packed: CudaPacked,
        x: Array,
        precision: Precision = "default",
        *,
        transposed: bool = False,
    ) -> Choice:
        """Return the kernels that could run ``A @ x``, best first, refused ones with the reason."""
        n, device = int(x.shape[-1]), self.launcher.device(x)
        whole = packed.of(precision, transposed)
        return choose_config(whole, n, device, column_major=is_column_major(x))

    def matmul(
        self,
        packed: object,
        x: Array,
        out: Array | None = None,
        *,
        transposed: bool = False,
        epilogue: Epilogue = IDENTITY,
        precision: Precision = "default",
        workspace: Array | None = None,
    ) -> Array:
        """Return `epilogue` of ``A @ x``, written to `out` if it is given.

        Parameters
        ----------
        packed : CudaPacked
            What `pack` made.
        x : array, shape (cols, n) or (batch, cols, n)
            Read in place if its rows are contiguous, and begin at multiples of 16 bytes and are as
            long; otherwise it is copied first.
        out : array, shape (rows, n) or (batch, rows, n), optional
        transposed : bool
            Multiply by A.T: `x` has A's rows, the product A's columns.
        epilogue : Epilogue
            Fused, but for functions that are no named activation, integers and float64.
        precision : {"default", "highest", "high", "tf32"}
        workspace : uint8 array, shape (bytes,), optional
            What is written to beside `out`, where nothing may be allocated.

        Raises
        ------
        BackendError
            If the kernel does not compile or is refused by the device, or this product takes no
            workspace.
        """
        if not isinstance(packed, CudaPacked):
            raise BackendError("backend cuda multiplies what its pack() made, nothing else.")
        whole = packed.of(precision, transposed)
        return multiply(self.launcher, whole, x, out, epilogue=epilogue, workspace=workspace)


def _counts(storage: TVWStorage) -> tuple[Any, Any]:
    """Return the rows and slots of each tile, int64 (tiles,), which come from the device."""
    with beside_capture(storage.data):
        return storage.rows_of.astype(np.int64), storage.slots_of.astype(np.int64)


def _too_large_transposed(storage: TVWStorage) -> str:
    # Each may take a slot of its own, of which the kernel counts 2**30.
    if int(storage.data.shape[0]) > _INDEX_MAX // 4:
        return "has more than 2**29 stored values, which A.T may need a slot for each"
    return ""


BACKEND: Final = CudaBackend()
"""The backend that `select_backend` offers."""
