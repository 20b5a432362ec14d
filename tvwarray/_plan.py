"""`plan`: what would run a product, why, and what it is predicted to cost."""

from __future__ import annotations

from dataclasses import dataclass

from tvwarray._backends.dense import share_of_dense
from tvwarray._matmul import Operand, Selection, select_backend
from tvwarray._namespace import array_namespace, device_of


@dataclass(frozen=True)
class Plan:
    """How ``A @ X`` would run; prints as a few lines."""

    shape: tuple[int, int]
    dtype: str
    n: int
    """Right-hand sides."""
    selection: Selection
    """The backend, and why the ones before it do not run."""
    stored_share: float
    """Stored values over elements: the multiply-adds that are left of a dense product's."""
    predicted_share: float | None
    """Time over that of the dense product on one core, where the backend has a model."""

    def __str__(self) -> str:
        rows, cols = self.shape
        lines = [f"({rows}, {cols}) {self.dtype} @ ({cols}, {self.n})"]
        lines += [f"  {line}" for line in str(self.selection).splitlines()]
        lines.append(f"  {100 * self.stored_share:.3g} % of the multiply-adds of a dense product")
        if self.predicted_share is not None:
            lines.append(f"  predicted {self.predicted_share:.2g} of its time on one core")
        return "\n".join(lines)


def plan(A: Operand, n: int = 1) -> Plan:
    """Say what would run ``A @ X`` for `n` right-hand sides of the dtype of `A`.

    Parameters
    ----------
    A : TVWMatrix, shape (rows, cols)
    n : int
        Columns of `X`.

    Returns
    -------
    Plan
        With the backend, each refusal's reason, and a prediction.

    Examples
    --------
    >>> import numpy as np, tvwarray
    >>> A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((256, 256)), 0.75)
    >>> round(tvwarray.plan(A, 64).stored_share, 2)
    0.25
    """
    storage = A.storage
    xp, data = array_namespace(storage.data), storage.data
    x = xp.broadcast_to(xp.zeros((1, 1), dtype=data.dtype, device=device_of(data)), (A.shape[1], n))
    selection = select_backend(A, x)
    name = "" if selection.backend is None else selection.backend.name
    return Plan(
        shape=A.shape,
        dtype=storage.dtype.name,
        n=n,
        selection=selection,
        stored_share=int(data.shape[0]) / max(1, storage.shape[0] * storage.shape[1]),
        predicted_share=1.0 if name == "dense" else share_of_dense(storage, name, n),
    )
