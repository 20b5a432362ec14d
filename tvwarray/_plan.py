"""`plan`: what would run a product, why, and what it is predicted to cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tvwarray._backends import cuda
from tvwarray._backends.dense import share_of_dense
from tvwarray._kernels.cost import predict_dense, predict_remainder
from tvwarray._kernels.devices import Device, named_device
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.launch import problem_for, ranked
from tvwarray._kernels.select import Choice
from tvwarray._kernels.workspace import workspace_bytes
from tvwarray._matmul import Selection, select_backend
from tvwarray._namespace import Array, array_namespace, device_of
from tvwarray._operands import Operand
from tvwarray._storage import TVWStorage


@dataclass(frozen=True)
class GpuPlan:
    """Which kernel a GPU would run, and what the dense product would take there."""

    device: Device
    choice: Choice
    """Every candidate with its modelled time, best first, or the reason why it is refused."""
    dense_seconds: float
    """Modelled time of the dense product of the same dtype."""
    remainder_seconds: float = 0.0
    """Modelled time of adding the product of the remainder, if there is one."""
    transposed_bytes: int = 0
    """What A.T takes beside A, if it is what is multiplied."""
    columns: Choice | None = None
    """The same candidates where the result is column-major, if that was asked for."""
    workspace_bytes: int | None = None
    """See `Plan.workspace_bytes`."""

    @property
    def seconds(self) -> float | None:
        """Modelled time of the best kernel and the remainder, or None if all are refused."""
        best = self.choice.candidates[0].prediction if self.choice.config else None
        return best.seconds + self.remainder_seconds if best else None

    def __str__(self) -> str:
        name, dense = self.device.name or f"sm_{self.device.architecture}", self.dense_seconds
        if self.seconds is None:
            refusals = sorted({c.refusal for c in self.choice.candidates}) or [
                "tensor cores have no such products"
            ]
            return "\n".join(f"{name}: no kernel, {reason}" for reason in refusals)
        share, verdict = self.seconds / dense, f"{dense / self.seconds:.2f} times as long"
        if share >= 1:
            verdict = (
                f"WARNING, the dense product is predicted to be {share:.2f} times as fast; "
                "multiply A.toarray() there"
            )
        lines = [f"{name}: {self.choice.candidates[0]}"]
        others = [c for c in self.choice.candidates if not c.refusal]
        if other := [c for c in others if c.config.kernel != others[0].config.kernel]:
            lines.append(f"{name}: instead of {other[0]}")
        if self.columns is not None:
            lines.append(f"{name}: with a row-major out of linear {self.columns.candidates[0]}")
        if self.transposed_bytes:
            size = 1e-6 * self.transposed_bytes
            lines.append(f"{name}: A.T takes {size:.3g} MB more, made by the first product with it")
        if self.remainder_seconds:
            lines.append(f"{name}: the remainder adds {1e6 * self.remainder_seconds:.3g} us (CSR)")
        lines.append(f"{name}: dense {1e6 * dense:.3g} us: {verdict}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Plan:
    """How ``A @ X`` would run; prints as a few lines."""

    shape: tuple[int, int]
    dtype: str
    n: int
    """Right-hand sides."""
    selection: Selection | None
    """The backend, and why the ones before it do not run; None if `plan` was asked of a GPU."""
    stored_share: float
    """Stored values over elements: the multiply-adds that are left of a dense product's."""
    predicted_share: float | None
    """Time over that of the dense product, where the backend has a model; on hosts on one core."""
    gpu: GpuPlan | None = None
    """The kernel, where the product would run on a GPU."""
    remainder_entries: int = 0
    """Entries beside the tiles, which are multiplied as CSR and added."""
    workspace_bytes: int | None = 0
    """What the `workspace` of a product with `n` columns is at least: 0 on hosts, where it is not
    read, and None where products allocate all the same and take none.

    Enough for contiguous operands of the plan's order that begin at multiples of 16 bytes, with a
    bias of A's dtype.
    """

    def __str__(self) -> str:
        rows, cols = self.shape
        lines = [f"({rows}, {cols}) {self.dtype} @ ({cols}, {self.n})"]
        lines += [f"  {line}" for line in str(self.selection or "").splitlines()]
        lines += [f"  {line}" for line in str(self.gpu or "").splitlines()]
        lines.append(f"  {100 * self.stored_share:.3g} % of the multiply-adds of a dense product")
        if self.remainder_entries:
            share = self.remainder_entries / max(1, rows * cols)
            lines.append(f"  and {self.remainder_entries:,} entries beside the tiles: {share:.2%}")
        if self.predicted_share is not None and self.gpu is None:
            lines.append(f"  predicted {self.predicted_share:.2g} of its time on one core")
        return "\n".join(lines)


def plan(
    A: Operand, n: int = 1, *, device: str | None = None, order: Literal["C", "F"] = "C"
) -> Plan:
    """Say what would run ``A @ X`` for `n` right-hand sides of the dtype of `A`.

    Parameters
    ----------
    A : TVWMatrix, shape (rows, cols)
    n : int
        Columns of `X`.
    device : str, optional
        A GPU to plan for, which need not be there: "A100", "H200", "RTX 4090", ..., or an
        architecture, "sm_90". By default, what would run here.
    order : {"C", "F"}
        Memory order of `X` on a GPU: "F" is that of ``x.T`` for activations `x` as frameworks hold
        them, as in ``x @ A.T`` and `linear`, of which most kernels need a transposed copy. The plan
        then says what `linear` with a row-major `out` runs, too: that stores columns.

    Returns
    -------
    Plan
        With the backend or the kernel, each refusal's reason, and a prediction.

    Raises
    ------
    ValueError
        If `device` is not known, the message lists the names; or if `order` is not.

    Examples
    --------
    >>> import numpy as np, tvwarray
    >>> A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((256, 256)), 0.75)
    >>> round(tvwarray.plan(A, 64).stored_share, 2)
    0.25
    >>> half = A.astype(np.float16)
    >>> tvwarray.plan(half, 4096, device="A100").gpu.choice.config.kernel
    'sm80_tvw_gemm'
    """
    if order not in ("C", "F"):
        raise ValueError(f"order is {order!r}; it is 'C' or 'F'.")
    storage = A.storage
    selection, share, gpu = None, None, None
    if device is None:
        x = _operand(A, n)
        selection = select_backend(A, x)
        name = "" if selection.backend is None else selection.backend.name
        share = 1.0 if name == "dense" else share_of_dense(storage, name, n)
        if isinstance(selection.backend, cuda.CudaBackend):
            gpu = _gpu_plan(A, n, selection.backend.launcher.device(x), order)
    else:
        gpu = _gpu_plan(A, n, named_device(device), order)
    workspace = 0 if isinstance(storage.data, np.ndarray) else None
    if gpu is not None:
        workspace = gpu.workspace_bytes
    if gpu is not None and gpu.seconds is not None:
        share = gpu.seconds / gpu.dense_seconds
    return Plan(
        shape=A.shape,
        dtype=storage.dtype.name,
        n=n,
        selection=selection,
        stored_share=int(storage.data.shape[0]) / max(1, storage.shape[0] * storage.shape[1]),
        predicted_share=share,
        gpu=gpu,
        remainder_entries=_entries(storage),
        workspace_bytes=workspace,
    )


def _entries(storage: TVWStorage) -> int:
    return int(storage.remainder.data.shape[0]) if storage.remainder else 0


def _gpu_plan(A: Operand, n: int, device: Device, order: str) -> GpuPlan:
    storage, size = A.storage, A.storage.dtype.itemsize
    beside = predict_remainder(_entries(storage), A.shape, n, size, device)
    dense = predict_dense(A.shape, n, size, device)
    nbytes, form = 0, form_of(storage.dtype)
    if A.transposed and form is not None:
        storage = cuda.transpose_for(storage, form, device.architecture)
        nbytes = storage.nbytes
    problem = problem_for(storage, n)
    if problem is None:
        return GpuPlan(device, Choice(()), dense, beside, nbytes)
    by_columns, columns, workspace = order == "F" and n > 1, None, None
    choice = ranked(problem, device, column_major=by_columns)
    if by_columns and choice.config and not A.transposed:
        columns = ranked(problem, device, column_major=True, columns_out=True)
    if choice.config is not None and not A.storage.remainder:
        both = [choice] if columns is None else [choice, columns]
        workspace = max(workspace_bytes(c, problem, device, column_major=by_columns) for c in both)
    return GpuPlan(device, choice, dense, beside, nbytes, columns, workspace)


def _operand(A: Operand, n: int) -> Array:
    """Return an X of the right shape, library and device that takes no memory."""
    data = A.storage.data
    xp = array_namespace(data)
    one = xp.zeros((1, 1), dtype=data.dtype, device=device_of(data))
    return xp.broadcast_to(one, (A.shape[1], n))
