"""PTX in small pieces: wraps a few instructions into a kernel and runs it on one value a thread."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .machine import Interpreter, Order
from .program import type_bytes
from .report import Report
from .warp import Array

__all__ = ["INOUT", "Backend", "evaluate", "kernel", "pointers", "result_of", "run", "words"]

_DTYPES = {
    "pred": np.uint8,
    "f16": np.uint16,
    "bf16": np.uint16,
    "f16x2": np.uint32,
    "bf16x2": np.uint32,
    "f32": np.float32,
    "f64": np.float64,
}
_INPUTS = "abcefg"
INOUT = ".param .u64 x, .param .u64 y"


class Backend:
    """What runs the snippets: the interpreter, unless a test puts a GPU in its place."""

    def launch(self, text: str, grid: int, block: int, args: list[Array]) -> None:
        """Run the kernel ``k`` on arrays, which it may change."""
        Interpreter(text).launch("k", grid, block, args)


backend = Backend()


def kernel(
    body: str, *, params: str = "", registers: str = "", declare: str = "", module: str = ""
) -> str:
    """A module with one kernel ``k``.

    Parameters
    ----------
    body : str
        Instructions. Declared already: predicates ``%p0-9``, ``%q0-9``; ``%h0-9`` of 16, ``%r0-39``
        of 32 and ``%rd0-19`` of 64 bits; ``%f0-19`` and ``%fd0-9``; ``%id`` of 32 bits holds the
        thread number in the block, ``%gid`` the one in the grid.
    params : str
        The parameter list, e.g. ``".param .u64 out, .param .u32 n"``.
    registers, declare, module : str
        Further register declarations, body declarations and module declarations.
    """
    return f"""
.version 9.0
.target sm_90
.address_size 64
{module}
.visible .entry k({params})
{{
    .reg .pred %p<10>, %q<10>;
    .reg .b16 %h<10>;
    .reg .b32 %r<40>, %id, %gid;
    .reg .b64 %rd<20>;
    .reg .f32 %f<20>;
    .reg .f64 %fd<10>;
    {registers}
    {declare}
    mov.u32 %id, %tid.x;
    mov.u32 %gid, %ctaid.x;
    mov.u32 %r39, %ntid.x;
    mad.lo.u32 %gid, %gid, %r39, %id;
    {body}
    ret;
}}
"""


def evaluate(
    body: str, result: str, *inputs: tuple[str, npt.ArrayLike], block: int = 64, some: bool = False
) -> Array:
    """Run instructions on every element of the inputs, one thread an element.

    Parameters
    ----------
    body : str
        Reads the inputs as ``%a``, ``%b``, ``%c``, ``%e``, ``%f``, ``%g`` and writes ``%d``.
    result : str
        Type of ``%d``. 16-bit floats are given and taken as bits.
    *inputs : (type, values)
        All of one length.
    block : int
        Threads of a block; the length must be a multiple of it.
    some : bool
        Only threads whose number is no multiple of three run the body; the others keep zero. That
        takes the masked path of every instruction.
    """
    arrays = [np.ascontiguousarray(values) for _, values in inputs]
    count = len(arrays[0])
    if count % block:
        raise ValueError(f"{count} elements are no multiple of {block} threads")
    out = np.zeros(count, _dtype(result))
    loads, declarations, parameters = [], [], []
    for name, (kind, _) in zip(_INPUTS, inputs, strict=False):
        declarations.append(f".reg .{_register(kind)} %{name};")
        parameters.append(f".param .u64 p_{name}")
        loads.append(_access("ld", kind, name))
    skip = ""
    if some:
        skip = "rem.u32 %r38, %gid, 3; setp.eq.u32 %p9, %r38, 0; @%p9 bra after;"
    text = kernel(
        f"""
        {"".join(loads)}
        {_zero(result)}
        {skip}
        {body}
        after:
        {_access("st", result, "d")}
        """,
        params=", ".join([*parameters, ".param .u64 p_d"]),
        registers=" ".join([*declarations, f".reg .{_register(result)} %d;"]),
    )
    backend.launch(text, count // block, block, [*arrays, out])
    return out


def result_of(body: str, result: str, *inputs: tuple[str, npt.ArrayLike]) -> Iterator[Array]:
    """`evaluate` for all threads and for some; the caller compares both with its oracle.

    The second array repeats the first one's values where threads were left out, after checking that
    these kept their zero.
    """
    everything = evaluate(body, result, *inputs)
    yield everything
    part = evaluate(body, result, *inputs, some=True)
    out = np.arange(len(part)) % 3 == 0
    assert not part[out].view(f"u{part.itemsize}").any(), "a thread that took no part was written"
    part[out] = everything[out]
    yield part


def _dtype(kind: str) -> npt.DTypeLike:
    if kind in _DTYPES:
        return _DTYPES[kind]
    return np.dtype(f"{'i' if kind[0] == 's' else 'u'}{type_bytes(kind)}")


def _register(kind: str) -> str:
    """Bytes live in 32-bit registers, as compilers have it."""
    if kind == "pred":
        return "pred"
    size = type_bytes(kind)
    return f"b{8 * size}" if size > 1 else "b32"


def _access(opcode: str, kind: str, name: str) -> str:
    size = type_bytes(kind)
    address = f"ld.param.u64 %rd19, [p_{name}]; mad.wide.u32 %rd19, %gid, {size}, %rd19;"
    value = f"%{name}"
    if kind == "pred":
        if opcode == "st":
            return f"{address} selp.u32 %r37, 1, 0, {value}; st.global.u8 [%rd19], %r37;"
        return f"{address} ld.global.u8 %r37, [%rd19]; setp.ne.u32 {value}, %r37, 0;"
    bits = f"b{8 * size}" if kind[0] != "s" else kind
    if opcode == "st":
        return f"{address} st.global.{bits} [%rd19], {value};"
    return f"{address} ld.global.{bits} {value}, [%rd19];"


def _zero(kind: str) -> str:
    if kind == "pred":
        return "setp.ne.u32 %d, 0, 0;"
    return f"mov.{_register(kind)} %d, 0;"


def pointers(size: int) -> str:
    """Code that puts this thread's element of the parameters x and y in ``%rd0`` and ``%rd1``."""
    return f"""
    ld.param.u64 %rd0, [x]; mad.wide.u32 %rd0, %gid, {size}, %rd0;
    ld.param.u64 %rd1, [y]; mad.wide.u32 %rd1, %gid, {size}, %rd1;
    """


def run(
    body: str,
    *args: object,
    threads: int = 32,
    grid: int = 1,
    params: str = INOUT,
    declare: str = "",
    order: Order = "forward",
) -> Report:
    """Run a body with parameters x and y (or others) on some threads."""
    machine = Interpreter(kernel(body, params=params, declare=declare), order=order)
    return machine.launch("k", grid, threads, args)


def words(count: int, dtype: npt.DTypeLike = np.uint32) -> Array:
    """Different nonzero values."""
    return ((np.arange(count) + 1) * 179).astype(dtype)
