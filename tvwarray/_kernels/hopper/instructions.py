"""The text of ``wgmma.cuh``: the one instruction whose operands depend on its width.

``wgmma.mma_async`` names each accumulator register of a thread, half as many as it is columns wide:
inline assembly cannot leave their number open, so the text is made for the config.
"""

from __future__ import annotations

from typing import Final

from tvwarray._kernels.config import Element

WIDTHS: Final = tuple(range(8, 257, 8))
"""Columns that one instruction can have; of integers some are missing."""


def wgmma_header(width: int, *, bfloat16: bool) -> str:
    """Return the text of ``wgmma.cuh``.

    Parameters
    ----------
    width : int
        Columns of the product, N of m64nNk32.
    bfloat16 : bool
        Operands are bfloat16, else float16; sums are float32.

    Raises
    ------
    ValueError
        If there is no instruction of that width.

    References
    ----------
    .. [1] PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions: wgmma.mma_async.sp".
    """
    if width not in WIDTHS:
        raise ValueError(f"wgmma has widths 8, 16 .. 256, not {width}")
    kind = "bf16" if bfloat16 else "f16"
    return _header(
        width, "float", "f", f"m64n{width}k32.f32.{kind}.{kind}", ", 1, 1, 0, 1",
        comment="""\
// C (+)= A B over 32 slots, A with two values in every group of four: 64 rows of the warpgroup, 16
// of each warp. Asynchronous: C, the metadata and what the descriptors name belong to the product
// until wait_for_products. The selector says which pair of lanes of each quad supplies the
// metadata: the word covers 64 slots, two products. The first product of a sum overwrites C, which
// saves clearing it, and the compiler from placing that between two products. The last operands:
// both signs kept, A as it lies, B with n contiguous.""",
    )  # fmt: skip


def wgmma_byte_header(width: int, element: Element) -> str:
    """Return the text of ``wgmma.cuh`` for 8-bit values.

    Parameters
    ----------
    width : int
        Columns of the product, N of m64nNk64.
    element : {"int8", "float8_e4m3", "float8_e5m2"}
        What operands are; sums are int32 of int8, else float32.

    Raises
    ------
    ValueError
        If there is no instruction of that width.
    """
    integers, kind = element == "int8", _BYTES[element]
    if width not in WIDTHS or (integers and width % 16 and width not in (8, 24)):
        raise ValueError(
            f"wgmma has widths 8, 16 .. 256, of int8 8, 16, 24, 32, 48 .., not {width}"
        )
    name = f"m64n{width}k64.{'s32' if integers else 'f32'}.{kind}.{kind}"
    return _header(
        width, "int" if integers else "float", "r" if integers else "f", name,
        "" if integers else ", 1, 1",
        comment="""\
// C (+)= A B over 64 slots, A with two values in every group of four: 64 rows of the warpgroup, 16
// of each warp. Asynchronous: C, the metadata and what the descriptors name belong to the product
// until wait_for_products. All lanes supply metadata, a word for the product: the selector is 0.
// Both operands lie with slots contiguous. The first product of a sum overwrites C.""",
    )  # fmt: skip


_BYTES: Final[dict[str, str]] = {"int8": "s8", "float8_e4m3": "e4m3", "float8_e5m2": "e5m2"}


def _header(width: int, sum_type: str, constraint: str, name: str, end: str, comment: str) -> str:
    """Return the text for the instruction `name`, whose constant operands finish with `end`."""
    sums = width // 2
    registers = _lines([f"%{i}" for i in range(sums)], 16)
    added = "\n              ".join(_lines([f'"+{constraint}"(c[{i}])' for i in range(sums)], 6))
    begun = added.replace('"+', '"=')
    a, b, meta, selector = (f"%{sums + i}" for i in range(4))
    parameters = f"{sum_type} (&c)[{sums}], Descriptor a, Descriptor b, Word meta"
    quoted = "\n".join(f'            "{line} "' for line in registers)
    operands = '"l"(a), "l"(b), "r"(meta), "n"(selector)'
    return f"""\
// Made by hopper/instructions.py for products of 64 rows x {width} columns.
#pragma once
#include "sm90_ptx.cuh"

{comment}
template <int selector, bool first>
__device__ inline void multiply_async({parameters}) {{
    if constexpr (first)
        asm volatile(
            "wgmma.mma_async.sp.sync.aligned.{name} {{"
{quoted}
            "}}, {a}, {b}, {meta}, {selector}, 0{end};"
            : {begun}
            : {operands});
    else
        asm volatile(
            "wgmma.mma_async.sp.sync.aligned.{name} {{"
{quoted}
            "}}, {a}, {b}, {meta}, {selector}, 1{end};"
            : {added}
            : {operands});
}}
"""


def _lines(items: list[str], per_line: int) -> list[str]:
    """Return the items in lines, separated by commas."""
    lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
    return [*(line + "," for line in lines[:-1]), lines[-1]]
