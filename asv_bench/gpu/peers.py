"""The other libraries' products of the same size and sparsity, each as a function to be timed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import cache

import torch

Run = Callable[[], object]

_CUDA_TYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 14}
_BSR_ALG1, _INT32, _ROW_MAJOR = 14, 2, 2


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


def _cusparse_call(name: str, *args: object) -> None:
    if status := getattr(ctypes.CDLL("libcusparse.so.12"), name)(*args):
        raise RuntimeError(f"{name} of cuSPARSE fails with status {status}")


@cache
def _cusparse_handle() -> c_void_p:
    handle = c_void_p()
    _cusparse_call("cusparseCreate", byref(handle))
    return handle


def cusparse_bsr(rows: int, cols: int, x: torch.Tensor, sparsity: float, block: int) -> Run:
    """Return cuSPARSE's product of random blocks, float32 sums, all matrices in rows.

    PyTorch has cuSPARSE's for float32 alone, so the library is called here; the product is compared
    with the dense one.
    """
    keep = torch.rand(rows // block, cols // block, device="cuda") >= sparsity
    counts = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.sum(1).cumsum(0)]).int()
    indices, values = (
        keep.nonzero()[:, 1].int().contiguous(),
        torch.randn(int(keep.sum()), block, block, device="cuda").to(x.dtype),
    )
    y = torch.empty(rows, x.shape[1], dtype=x.dtype, device="cuda")
    kind, call, handle = c_int(_CUDA_TYPES[x.dtype]), _cusparse_call, _cusparse_handle()
    a, b, c = (c_void_p() for _ in range(3))
    call(
        "cusparseCreateBsr", byref(a), *map(c_int64, (*keep.shape, len(indices), block, block)),
        *(c_void_p(t.data_ptr()) for t in (counts, indices, values)),
        c_int(_INT32), c_int(_INT32), c_int(0), kind, c_int(_ROW_MAJOR),
    )  # fmt: skip
    for made, matrix in ((b, x), (c, y)):
        height, width = matrix.shape
        call("cusparseCreateDnMat", byref(made), *map(c_int64, (height, width, width)),
             c_void_p(matrix.data_ptr()), kind, c_int(_ROW_MAJOR))  # fmt: skip
    one, zero, size = c_float(1), c_float(0), c_size_t()
    passed = (
        handle, c_int(0), c_int(0), byref(one), a, b, byref(zero), c,
        c_int(_CUDA_TYPES[torch.float32]), c_int(_BSR_ALG1),
    )  # fmt: skip
    call("cusparseSpMM_bufferSize", *passed, byref(size))
    buffer = torch.empty(max(1, size.value), dtype=torch.uint8, device="cuda")

    def run() -> object:
        call("cusparseSetStream", handle, c_void_p(torch.cuda.current_stream().cuda_stream))
        call("cusparseSpMM", *passed, c_void_p(buffer.data_ptr()))
        return y, x, counts, indices, values  # alive as long as this function

    run()
    dense = torch.zeros(*keep.shape, block, block, dtype=x.dtype, device="cuda")
    dense[keep] = values
    exact = dense.swapaxes(1, 2).reshape(rows, cols).float() @ x.float()
    if not torch.allclose(y.float(), exact, rtol=2**-7, atol=2**-7 * cols**0.5):
        raise AssertionError("cuSPARSE's product of blocks is not that of the dense matrix")
    return run
