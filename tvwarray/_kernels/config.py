"""`KernelConfig`: every constant that a kernel's source leaves open, as data.

A config is written into a header, ``config.cuh``, that the sources include; each field is one
``constexpr`` of the same name. It can be printed, compared, hashed and refused with a reason, and
it knows what it costs: threads, shared memory, and the instructions a stage takes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

STEP_SLOTS: Final = 64
"""Slots of a step of all but 8-bit values; see `step_slots`."""

BRICK_ROWS: Final = 16
"""Rows of a tensor-core instruction; the unit in which tiles are packed."""

ARCHITECTURES: Final = ("80", "86", "89", "90", "90a", "100", "120")
"""What the kernels are compiled for in the tests; other minor versions of these compile too."""

REGISTERS_PER_MULTIPROCESSOR: Final = 65536

SIXTEEN_BIT: Final = ("float16", "bfloat16")


Element = Literal[
    "float16", "bfloat16", "int8", "float8_e4m3", "float8_e5m2", "tf32", "float64",
    "float32", "int32",
]  # fmt: skip
"""What values are. The last two are results only: tensor cores have no products of them."""

ELEMENT_BYTES: Final[dict[str, int]] = {
    "float16": 2, "bfloat16": 2, "int8": 1, "float8_e4m3": 1, "float8_e5m2": 1, "tf32": 4,
    "float64": 8, "float32": 4, "int32": 4,
}  # fmt: skip

SUM_OF: Final[dict[str, Element]] = {"int8": "int32", "float64": "float64"}
"""What products are summed in, where that is not float32."""


def step_slots(element: str) -> int:
    """Return the slots of a step: what a brick is wide, 64, or 128 of 8-bit values."""
    return 128 if ELEMENT_BYTES[element] == 1 else 64


def brick_value_bytes(element: str, sparse: bool) -> int:
    """Return the bytes of a brick's values, without those of further parts."""
    return BRICK_ROWS * step_slots(element) * ELEMENT_BYTES[element] // (2 if sparse else 1)


def brick_meta_bytes(element: str, sparse: bool) -> int:
    """Return the bytes of a brick's metadata: a nibble for four slots, or for two of tf32."""
    group = 2 if element == "tf32" else 4
    return BRICK_ROWS * step_slots(element) // group // 2 if sparse else 0


def config_header(config: Any, **derived: Any) -> str:
    """Return the text of ``config.cuh``: a constant for each field, and those derived from them."""
    held = {field.name: getattr(config, field.name) for field in fields(config)}
    del held["kernel"]
    lines = [_constant(name, value) for name, value in (held | derived).items()]
    return "\n".join(["#pragma once", "namespace config {", *lines, "}  // namespace config", ""])


def _constant(name: str, value: Any) -> str:
    if name in ("element", "output"):
        return f"constexpr Element {name} = Element::{value};"
    if name == "activation":
        return f"constexpr Activation {name} = Activation::{value};"
    kind = "bool" if isinstance(value, bool) else "int"
    return f"constexpr {kind} {name} = {str(value).lower()};"


@dataclass(frozen=True)
class KernelConfig:
    """The constants of one kernel.

    The fields other than `kernel` are the ``constexpr`` values of ``config.cuh``.
    """

    kernel: str
    """The source file, and the name of the kernel in it."""
    element: Element
    """What the values of A and X are, as tensor cores take them."""
    sparse: bool
    """Pattern (2, 4) through ``mma.sp``, else all slots stored, through ``mma``."""
    block_rows: int
    """Rows of a tile that one block computes at most."""
    block_n: int
    """Columns of X that one block computes."""
    warp_rows: int
    """Rows of the block that one warp computes."""
    warp_n: int
    """Columns of the block that one warp computes."""
    stages: int
    """Stages of a step each in the ring in shared memory: one is read, the others arrive."""
    min_blocks: int
    """Blocks a multiprocessor must have registers for."""
    parts: int = 1
    """Parts that a value is the sum of: float32 as two or three bfloat16."""
    output: Element = "float32"
    """What the result is stored as."""
    fused: bool = False
    """Whether anything happens to the sums but a cast."""
    activation: Literal["none", "relu", "gelu", "gelu_tanh", "silu"] = "none"
    pieces: bool = False
    """Whether the work list may hold pieces of tiles, whose sums are added up."""
    column_major: bool = False
    """Whether columns of the result are contiguous, instead of rows."""
    persistent: bool = False
    """Whether as many blocks as the GPU holds take one item after another, or each block one."""

    @property
    def bfloat16(self) -> bool:
        """Whether 16-bit results are bfloat16."""
        return self.output == "bfloat16"

    @property
    def sum_element(self) -> Element:
        """What products are summed in."""
        return SUM_OF.get(self.element, "float32")

    @property
    def step_slots(self) -> int:
        """Slots of a step."""
        return step_slots(self.element)

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return (self.block_rows // self.warp_rows) * (self.block_n // self.warp_n)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def x_stage_bytes(self) -> int:
        """Bytes of X in a stage."""
        return self.parts * self.step_slots * self.block_n * ELEMENT_BYTES[self.element]

    @property
    def a_stage_bytes(self) -> int:
        """Bytes of values and metadata in a stage."""
        values = self.parts * brick_value_bytes(self.element, self.sparse)
        brick = values + brick_meta_bytes(self.element, self.sparse)
        return self.block_rows // BRICK_ROWS * brick

    @property
    def stage_bytes(self) -> int:
        """Bytes of one stage."""
        return self.x_stage_bytes + self.a_stage_bytes

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return self.stages * self.stage_bytes

    @property
    def max_registers(self) -> int:
        """Registers a thread may have, by `threads`, `min_blocks` and the instruction format."""
        return min(255, REGISTERS_PER_MULTIPROCESSOR // (self.threads * self.min_blocks) // 8 * 8)

    @property
    def products(self) -> int:
        """Tensor-core instructions that the loop body of one warp holds."""
        slots = 64 // ELEMENT_BYTES[self.element] // (1 if self.sparse else 2)
        pairs = self.parts * (self.parts + 1) // 2
        of_step = (self.warp_rows // 16) * (self.warp_n // 8) * (self.step_slots // slots) * pairs
        return of_step * (2 if self.element == "float64" else 1)

    def refusal(self) -> str:
        """Return which rule of the kernel this config breaks, or an empty string."""
        if self.block_rows % self.warp_rows or self.block_n % self.warp_n:
            return f"warps of {self.warp_rows} x {self.warp_n} do not tile the block"
        if self.warp_rows % BRICK_ROWS or self.warp_n % 16:
            return "a warp computes multiples of 16 rows and of 16 columns"
        chunks = self.block_n * ELEMENT_BYTES[self.element] // 16
        if chunks not in (2, 4, 8, 16, 32):
            return (
                f"block_n is {self.block_n}; a row of a stage is {chunks} chunks and must be 2, 4, "
                "8, 16 or 32"
            )
        rows_at_once = 32 // chunks * self.warps
        if rows_at_once % 8 or self.step_slots % rows_at_once:
            return f"the block gathers {rows_at_once} rows at once; it must be 8, 16, 32 or 64"
        if self.step_slots // self.warps > 32:
            return f"{self.warps} warps gather more than 32 rows each"
        if self.stages < 2:
            return "stages is below 2; one is read while another arrives"
        if self.parts > 1 and self.element != "bfloat16":
            return "parts are bfloat16"
        if self.element in ("float32", "int32"):
            return f"tensor cores have no products of {self.element}"
        if self.sparse and self.element == "float64":
            return "float64 has no mma.sp"
        if self.element in ("int8", "float64") and self.output not in (
            ("float64",) if self.element == "float64" else ("int32", "float32", *SIXTEEN_BIT)
        ):
            return f"products of {self.element} are not stored as {self.output}"
        if self.column_major and self.output == "float64":
            return "columns of float64 are not stored"
        staged = ELEMENT_BYTES[self.output] if self.is_plain else 4
        if self.block_rows * self.block_n * staged > self.shared_bytes and self.is_plain:
            return "the result does not fit into the ring through which it is stored"
        return ""

    def target(self, architecture: str) -> str:
        """Return what to compile for, on a device of `architecture`."""
        return architecture

    def headers(self) -> dict[str, str]:
        """Return the texts of the headers that are made from the config, by name."""
        return {"config.cuh": self.header()}

    @property
    def is_plain(self) -> bool:
        """Whether sums are rounded to 16 bits and stored, and nothing else."""
        rows = not self.fused and not self.column_major
        return rows and self.output in SIXTEEN_BIT and self.sum_element == "float32"

    def header(self) -> str:
        """Return the text of ``config.cuh``."""
        return config_header(self, bfloat16=self.bfloat16)

    def __str__(self) -> str:
        """Return a line such as ``sm80_tvw_gemm float16 2:4 128x256, warps 64x64, 4 stages``."""
        element = f"{self.element} x {self.parts}" if self.parts > 1 else self.element
        text = (
            f"{self.kernel} {element} {'2:4' if self.sparse else 'all slots'} "
            f"{self.block_rows}x{self.block_n}, warps {self.warp_rows}x{self.warp_n}, "
            f"{self.stages} stages"
        )
        if self.output != self.element and not (self.parts > 1 and self.output == "float32"):
            text += f", to {self.output}"
        if self.fused:
            text += f", fused {self.activation}"
        if self.column_major:
            text += ", in columns"
        if self.pieces:
            text += ", in pieces"
        if self.persistent:
            text += ", persistent"
        return text


MOST_FEW: Final = 64
"""Columns of X that `FewConfig` runs."""

MOST_ELEMENTS: Final = 7
"""Columns of a column-major X that are read an element at a time; with 8 it is transposed first,
which takes less on an H200."""

MOST_STAGED: Final = 16384
"""Elements of a vector that blocks of ``sm80_tvw_vector`` keep in shared memory, three at a time on
the smallest chips; longer ones go through ``sm80_tvw_few``."""

FEW_PIECE_STEPS: Final = 64
"""Of a piece of a tile at least: a block reads so many in the time that joining pieces takes."""

FEW_ROWS: Final = (16, 32)
"""Rows of a block for few columns: X is read once for so many."""

FEW_WARPS: Final = 8
"""Warps of a block of ``sm80_tvw_few``, which take turns at the steps of its rows."""


@dataclass(frozen=True)
class FewConfig(KernelConfig):
    """The constants of ``sm80_tvw_few``, for few columns of X.

    `block_n` columns at most, `stages` steps of a warp under way, every warp with all of the
    block's rows. Other rules hold than those of a ring of stages.
    """

    copied: bool = False
    """Whether rows of X are copied straight to shared memory, and must be whole chunks; else they
    go through registers, and X may have any strides."""

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return FEW_WARPS

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: steps' rows of X for each warp, then their sums."""
        buffers = self.stages if self.copied else 2
        return FEW_WARPS * max(buffers * self.x_stage_bytes, 4 * self.block_rows * self.block_n)

    def takes(self, cols: int, n: int) -> bool:
        """Return whether it multiplies by X of shape (cols, n)."""
        return n <= self.block_n

    def with_room(self) -> FewConfig:
        """Return the variant that has the registers for an epilogue and for pieces."""
        crowded = self.block_rows * self.block_n >= 1024 and (self.fused or self.pieces)
        return replace(self, min_blocks=1) if crowded else self

    def refusal(self) -> str:
        """Return which rule of the kernel this config breaks, or an empty string."""
        if self.element not in SIXTEEN_BIT or self.parts != 1:
            return "few columns are multiplied in 16 bits"
        if self.block_n not in (8, 16, 32, 64) or self.warp_n != self.block_n:
            return f"block_n is {self.block_n}; few columns are 8, 16, 32 or 64"
        if self.block_rows not in FEW_ROWS or self.warp_rows != self.block_rows:
            return f"block_rows is {self.block_rows}; few columns are multiplied by 16 or 32 rows"
        if self.copied != (self.block_n > 8):
            return f"block_n is {self.block_n}; registers hold 8 columns of X, more are copied"
        if self.stages not in (2, 4):
            return f"stages is {self.stages}; 2 or 4 steps are under way"
        return ""


@dataclass(frozen=True)
class VectorConfig(FewConfig):
    """The constants of ``sm80_tvw_vector``, for one column of X: all of it in shared memory."""

    staged: int = 0
    """Elements of X that shared memory has room for."""

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: X, and for each warp what its steps take of it."""
        return 2 * self.staged + FEW_WARPS * self.stages * 2 * self.step_slots

    def takes(self, cols: int, n: int) -> bool:
        """Return whether it multiplies by X of shape (cols, n)."""
        return n == 1 and cols <= self.staged

    def refusal(self) -> str:
        """Return which rule of the kernel this config breaks, or an empty string."""
        if self.block_n != 8 or self.copied:
            return f"block_n is {self.block_n}; a vector is multiplied as 8 columns"
        if not 0 < self.staged <= MOST_STAGED or self.staged % 8:
            return f"staged is {self.staged}; it is a multiple of 8, at most {MOST_STAGED}"
        return super().refusal()


def few_config(
    element: Element, sparse: bool, n: int, cols: int, block_rows: int = 16
) -> FewConfig:
    """Return the config for X of shape (cols, n)."""
    width = next(w for w in (8, 16, 32, 64) if n <= w)
    # As many as registers hold: the values of 16 rows x 4 steps, or 32 rows x 2, and X's. With
    # more columns two are as fast as four.
    stages = 4 if block_rows == 16 and sparse and width == 8 else 2
    common: dict[str, Any] = {
        "element": element, "sparse": sparse, "block_rows": block_rows, "block_n": width,
        "warp_rows": block_rows, "warp_n": width, "stages": stages,
        "min_blocks": 2 if width * block_rows <= 1024 else 1, "output": element,
    }  # fmt: skip
    if n == 1 and cols <= MOST_STAGED:
        staged = max(2048, 1 << (cols - 1).bit_length())
        return VectorConfig(kernel="sm80_tvw_vector", staged=staged, **common)
    return FewConfig(kernel="sm80_tvw_few", copied=width > 8, **common)
