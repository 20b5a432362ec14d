"""The other libraries' products of the same size and sparsity, each as a function to be timed."""

from __future__ import annotations

from collections.abc import Callable

import torch

Run = Callable[[], object]


def dense(rows: int, cols: int, x: torch.Tensor) -> Run:
    """Return cuBLAS, float32 accumulation."""
    a = torch.randn(rows, cols, device="cuda").to(x.dtype)
    y = torch.empty(rows, x.shape[1], dtype=x.dtype, device="cuda")
    return lambda: torch.matmul(a, x, out=y)


def dense_float8(side: int, *, fast: bool) -> Run:
    """Return cuBLAS's product of float8_e4m3fn to bfloat16; `fast` sums have fewer bits."""
    a, b = (torch.randn(side, side, device="cuda").to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device="cuda")
    options = {"out_dtype": torch.bfloat16, "use_fast_accum": fast}
    return lambda: torch._scaled_mm(a, b.t(), one, one, **options)


def dense_int8(side: int) -> Run:
    """Return cuBLAS's product of int8 to int32."""
    a, b = (torch.randint(-99, 99, (side, side), device="cuda").to(torch.int8) for _ in range(2))
    return lambda: torch._int_mm(a, b.t())


def two_four(rows: int, cols: int, x: torch.Tensor) -> Run:
    """Return cuSPARSELt's product of a random 2:4 matrix, through PyTorch."""
    torch.sparse.SparseSemiStructuredTensor._FORCE_CUTLASS = False
    w = torch.randn(rows, cols // 4, 4, device="cuda")
    kept = w.abs().argsort(-1)[..., 2:]
    a = torch.zeros_like(w).scatter_(2, kept, w.gather(2, kept)).view(rows, cols).to(x.dtype)
    packed = torch.sparse.to_sparse_semi_structured(a)
    return lambda: torch.mm(packed, x)


def csr(rows: int, cols: int, x: torch.Tensor, sparsity: float) -> Run:
    """Return cuSPARSE's CSR product of a random matrix, through PyTorch."""
    w = torch.randn(rows, cols, device="cuda")
    w[torch.rand(rows, cols, device="cuda") < sparsity] = 0
    packed = w.to(x.dtype).to_sparse_csr()
    return lambda: packed @ x


def bsr(rows: int, cols: int, x: torch.Tensor, sparsity: float, block: int) -> Run:
    """Return PyTorch's block-sparse product (a Triton kernel) of random blocks."""
    keep = torch.rand(rows // block, cols // block, device="cuda") >= sparsity
    w = torch.randn(rows, cols, device="cuda").to(x.dtype)
    w *= keep.repeat_interleave(block, 0).repeat_interleave(block, 1)
    packed = w.to_sparse_bsr((block, block))
    return lambda: packed @ x
