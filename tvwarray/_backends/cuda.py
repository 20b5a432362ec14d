"""The backend "cuda": products on NVIDIA tensor cores, for CuPy arrays of 16-bit floats."""

from __future__ import annotations

from typing import Final

from tvwarray._dtypes import BFLOAT16, FLOAT16, Precision, accumulate_dtype
from tvwarray._epilogue import IDENTITY, Epilogue, finish
from tvwarray._errors import BackendError
from tvwarray._kernels.config import BRICK_ROWS, STEP_SLOTS
from tvwarray._kernels.launch import CupyLauncher, Launcher, choose_config, multiply
from tvwarray._kernels.pack import PackedMatrix, pack
from tvwarray._kernels.select import Choice
from tvwarray._namespace import Array, as_dtype, dtype_of
from tvwarray._storage import TVWStorage

_INDEX_MAX: Final = 2**31 - 1


class CudaBackend:
    """Runs ``A @ X`` by the kernel ``sm80_tvw_gemm``.

    Parameters
    ----------
    launcher : Launcher, optional
        What starts the kernels: CuPy by default.
    """

    name = "cuda"

    def __init__(self, launcher: Launcher | None = None) -> None:
        self.launcher: Launcher = CupyLauncher() if launcher is None else launcher

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
        if transposed:
            return "A.T @ Y is not implemented by sm80_tvw_gemm"
        for dtype in (storage.dtype, dtype_of(x)):
            if dtype not in (FLOAT16, BFLOAT16):
                return f"needs float16 or bfloat16, got {dtype.name}"
        if dtype_of(x) != storage.dtype:
            return f"needs A and X of one dtype, got {storage.dtype.name} and {dtype_of(x).name}"
        padded_rows = -(-storage.rows_of // BRICK_ROWS)
        steps = -(-storage.slots_of // STEP_SLOTS)
        # The kernel counts slots, bricks and columns in 32 bits.
        if max(int(steps.sum()) * STEP_SLOTS, int((padded_rows * steps).sum())) > _INDEX_MAX // 2:
            return "has more than 2**30 slots or bricks"
        if x.shape[1] > _INDEX_MAX // 4:
            return f"needs at most 2**29 columns of X, got {x.shape[1]}"
        return ""

    def pack(self, storage: TVWStorage) -> PackedMatrix:
        """Return `storage` in the order of the kernel, on its device."""
        with self.launcher.using(storage.data):
            return pack(storage)

    def plan(self, packed: PackedMatrix, x: Array) -> Choice:
        """Return the kernels that could run ``A @ x``, best first, refused ones with the reason."""
        return choose_config(packed, int(x.shape[1]), self.launcher.device(x))

    def matmul(
        self,
        packed: object,
        x: Array,
        out: Array | None = None,
        *,
        transposed: bool = False,
        epilogue: Epilogue = IDENTITY,
        precision: Precision = "default",
    ) -> Array:
        """Return `epilogue` of ``A @ x``, written to `out` if it is given.

        Parameters
        ----------
        packed : PackedMatrix
            What `pack` made.
        x : array, shape (cols, n)
            Read in place if its rows are contiguous and begin at multiples of 16 bytes and n is
            a multiple of 8; otherwise it is copied first.
        out : array, shape (rows, n), optional

        Raises
        ------
        BackendError
            If `transposed`, or if the kernel does not compile or is refused by the device.
        """
        if transposed or not isinstance(packed, PackedMatrix):
            raise BackendError("backend cuda runs A @ X for what its pack() made, nothing else.")
        if epilogue is IDENTITY:
            return multiply(self.launcher, packed, x, out)
        dtype = packed.dtype
        product = as_dtype(multiply(self.launcher, packed, x), accumulate_dtype(dtype))
        return finish(epilogue, product, dtype, out)


BACKEND: Final = CudaBackend()
"""The backend that `select_backend` offers."""
