"""`TransposedConfig`: every constant that ``sm80_tvw_transposed`` leaves open, as data.

Each field is one ``constexpr`` of the same name in ``config.cuh``. How many columns of A a block
owns, and what a step holds, depends on the chip and on the share of columns that tiles keep: the
matrix is packed for it, by a `RangeShape`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Final, Literal, NamedTuple

from tvwarray._kernels.config import (
    ELEMENT_BYTES,
    REGISTERS_PER_MULTIPROCESSOR,
    SIXTEEN_BIT,
    Element,
    config_header,
)
from tvwarray._kernels.devices import SHARED_LIMITS, generation
from tvwarray._kernels.elements import Form

SLICE_ROWS: Final = 32
"""Rows of a tile that are multiplied at once."""

FRAGMENT_SLOTS: Final = 16
"""Kept columns of a tensor-core instruction; the unit in which the matrix is packed."""

FRAGMENT_VALUES: Final = SLICE_ROWS * FRAGMENT_SLOTS
"""Values of a fragment in a slice."""


class RangeShape(NamedTuple):
    """What a matrix is packed for."""

    columns: int
    """Columns of A that one block owns: their sums stand in shared memory."""
    fragments: int
    """Fragments of a step at most; where a tile keeps more of a range, it is several items."""
    slices: int
    """Slices of a step at most."""


@dataclass(frozen=True)
class TransposedConfig:
    """The constants of one kernel.

    The fields other than `kernel` are ``constexpr`` values of ``config.cuh``.
    """

    element: Element
    """What the values of A and Y are: 16 bits."""
    block_columns: int
    """Columns of A, rows of the result, that one block owns."""
    fragments: int
    """Fragments of 16 kept columns that a step has at most."""
    slices: int
    """Slices of 32 rows that a step has at most."""
    block_n: int
    """Columns of Y that one block computes."""
    warp_n: int
    """Columns of Y that one warp computes."""
    stages: int
    """Stages of a step each in the ring in shared memory: one is read, the others arrive."""
    warps: int = 8
    """Warps of a block."""
    min_blocks: int = 1
    """Blocks a multiprocessor must have registers for."""
    output: Element = "float32"
    """What the result is stored as."""
    fused: bool = False
    """Whether anything happens to the sums but a cast."""
    activation: Literal["none", "relu", "gelu", "gelu_tanh", "silu"] = "none"
    kernel: str = "sm80_tvw_transposed"
    """The source file, and the name of the kernel in it."""

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def range_shape(self) -> RangeShape:
        """What the matrix must be packed for."""
        return RangeShape(self.block_columns, self.fragments, self.slices)

    @property
    def warps_m(self) -> int:
        """Rows of warps, which the fragments of a step go round."""
        return self.warps * self.warp_n // self.block_n

    @property
    def y_stage_bytes(self) -> int:
        """Bytes of Y in a stage."""
        return self.slices * SLICE_ROWS * self.block_n * ELEMENT_BYTES[self.element]

    @property
    def stage_bytes(self) -> int:
        """Bytes of one stage: rows of Y, values, and the places of slots."""
        values = self.slices * FRAGMENT_VALUES * ELEMENT_BYTES[self.element]
        return self.y_stage_bytes + self.fragments * (values + 2 * FRAGMENT_SLOTS)

    @property
    def header_bytes(self) -> int:
        """Bytes of the header of a step: 4 words, and its rows of Y."""
        return 4 * (4 + self.slices * SLICE_ROWS)

    @property
    def sums_bytes(self) -> int:
        """Bytes of the sums of a block, float32."""
        return 4 * self.block_columns * self.block_n

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        headers = (2 * self.stages - 1) * self.header_bytes
        return self.sums_bytes + self.stages * self.stage_bytes + headers

    @property
    def max_registers(self) -> int:
        """Registers a thread may have, by `threads`, `min_blocks` and the instruction format."""
        return min(255, REGISTERS_PER_MULTIPROCESSOR // (self.threads * self.min_blocks) // 8 * 8)

    @property
    def products(self) -> int:
        """Tensor-core instructions that the loop body of one warp holds."""
        return self.slices * -(-self.fragments // self.warps_m) * (self.warp_n // 8) * 2

    def refusal(self) -> str:
        """Return which rule of the kernel this config breaks, or an empty string."""
        if self.element not in SIXTEEN_BIT:
            return f"A.T @ Y is multiplied in 16 bits, not in {self.element}"
        if self.output not in ("float32", *SIXTEEN_BIT):
            return f"products of {self.element} are not stored as {self.output}"
        if self.block_n not in (64, 128):
            return f"block_n is {self.block_n}; it must be 64 or 128"
        if self.block_columns % FRAGMENT_SLOTS:
            return f"a block owns multiples of {FRAGMENT_SLOTS} columns, not {self.block_columns}"
        if self.slices not in (1, 2) or not 0 < self.fragments <= 16:
            held = f"{self.slices} of {self.fragments}"
            return f"a step holds 1 or 2 slices of 1 to 16 fragments, not {held}"
        if (
            self.warp_n % 32
            or self.block_n % self.warp_n
            or self.warps % (self.block_n // self.warp_n)
        ):
            return f"{self.warps} warps of {self.warp_n} columns do not tile {self.block_n}"
        if self.slices * SLICE_ROWS * self.block_n < 8 * self.threads:
            return f"{self.threads} threads are more than a step of Y has chunks of 16 bytes"
        if self.stages < 2:
            return "stages is below 2; one is read while another arrives"
        return ""

    def target(self, architecture: str) -> str:
        """Return what to compile for, on a device of `architecture`."""
        return architecture

    def headers(self) -> dict[str, str]:
        """Return the text of ``config.cuh``, by name."""
        return {"config.cuh": config_header(self, bfloat16=self.output == "bfloat16")}

    def __str__(self) -> str:
        """Return a line such as ``sm80_tvw_transposed float16 256x128, steps of 8x2, ...``."""
        text = (
            f"{self.kernel} {self.element} {self.block_columns}x{self.block_n}, steps of "
            f"{self.fragments}x{self.slices}, {self.warps} warps of {self.warp_n}, "
            f"{self.stages} stages"
        )
        if self.output != self.element:
            text += f", to {self.output}"
        return text + (f", fused {self.activation}" if self.fused else "")


_Shapes = tuple[tuple[RangeShape, tuple[tuple[int, int, int, int], ...]], ...]

_SHAPES: Final[dict[str, _Shapes]] = {
    # what the matrix is packed for, and for each width of blocks that of warps, stages, and warps
    "80": (
        (RangeShape(192, 4, 1), ((128, 32, 5, 16), (128, 64, 5, 8), (64, 32, 8, 8))),
        (RangeShape(192, 8, 1), ((128, 32, 4, 16), (128, 64, 4, 8), (64, 32, 6, 8))),
        (RangeShape(192, 12, 1), ((128, 32, 3, 16), (128, 64, 3, 8), (64, 32, 5, 8))),
    ),
    "90": (
        (RangeShape(256, 4, 2), ((128, 32, 4, 16), (128, 64, 4, 8), (64, 32, 6, 16))),
        (RangeShape(256, 8, 2), ((128, 32, 3, 16), (128, 64, 3, 8), (64, 32, 5, 16))),
        (RangeShape(224, 8, 2), ((128, 32, 3, 16), (128, 32, 3, 8), (64, 32, 5, 16))),
        (RangeShape(256, 16, 1), ((128, 32, 4, 8), (64, 32, 5, 8))),
    ),
    "89": ((RangeShape(128, 8, 1), ((128, 32, 2, 16), (128, 64, 2, 8), (64, 32, 4, 8))),),
}
"""By the shared memory of a chip, those for few kept columns first; configs in order of preference
where the model sees no difference."""


def refusal_of(form: Form) -> str:
    """Return why there is no ``A.T @ Y`` of values in a form, in a sentence, or an empty string."""
    if form.element in SIXTEEN_BIT and form.parts == 1:
        return ""
    what = "float32" if form.parts > 1 or form.element == "tf32" else form.element
    return f"sm80_tvw_transposed multiplies float16 and bfloat16, not {what}"


def range_shape(architecture: str, kept: float) -> RangeShape:
    """Return what to pack a matrix for whose tiles keep a share `kept` of the columns.

    The first shape whose steps hold what a tile keeps of a range, by chance too: two standard
    deviations above the mean.
    """
    shapes = [shape for shape, _ in _shapes(architecture)]
    for shape in shapes:
        mean = kept * shape.columns
        if mean + 2 * sqrt(mean * max(0.0, 1 - kept)) <= FRAGMENT_SLOTS * shape.fragments:
            return shape
    return shapes[-1]


def transposed_configs(
    architecture: str, element: Element, shape: RangeShape | None = None
) -> tuple[TransposedConfig, ...]:
    """Return the configs that are shipped for an architecture, and for one `shape` if it is given.

    In order of preference.
    """
    return tuple(
        TransposedConfig(element, *known, block_n, warp_n, stages, warps, output=element)
        for known, configs in _shapes(architecture)
        for block_n, warp_n, stages, warps in configs
        if shape is None or known == shape
    )


def _shapes(architecture: str) -> _Shapes:
    per_block = SHARED_LIMITS[generation(architecture)][0]
    fitting = [(least, n) for n in _SHAPES if (least := SHARED_LIMITS[n][0]) <= per_block]
    return _SHAPES[max(fitting)[1]]
