"""`Backend`, what runs products."""

from __future__ import annotations

from typing import Any, Protocol

from tvwarray._dtypes import Precision
from tvwarray._epilogue import IDENTITY, Epilogue
from tvwarray._namespace import Array
from tvwarray._storage import TVWStorage


class Backend(Protocol):
    """What runs products.

    A new one implements these three methods and joins `tvwarray._matmul.BACKENDS`.
    """

    name: str
    takes_remainder: bool
    """Whether `matmul` adds the product of a storage's remainder."""

    def refusal(
        self,
        storage: TVWStorage,
        x: Array,
        *,
        transposed: bool = False,
        precision: Precision = "default",
    ) -> str:
        """Return why this product cannot run here, in a sentence, or an empty string."""
        ...

    def pack(self, storage: TVWStorage) -> Any:
        """Bring a matrix into the backend's own order; done once for each matrix."""
        ...

    def matmul(
        self,
        packed: Any,
        x: Array,
        out: Array | None = None,
        *,
        transposed: bool = False,
        epilogue: Epilogue = IDENTITY,
        precision: Precision = "default",
    ) -> Array:
        """Return `epilogue` of ``A @ x``, or ``A.T @ x`` if `transposed`; `x` is (cols, n).

        What a backend does not fuse it leaves to `tvwarray._epilogue.finish`.
        """
        ...
