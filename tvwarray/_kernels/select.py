"""Which `KernelConfig` a product runs: a problem and a device in, ranked candidates out.

`choose` is data to data. Every candidate is either refused with a reason or given a modelled time
(`cost`), and the result prints as the table of both; measured times may replace the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Final, NamedTuple, TypeAlias, TypeGuard

from tvwarray._dtypes import DType, Precision
from tvwarray._kernels.config import (
    ELEMENT_BYTES,
    FEW_ROWS,
    MOST_ELEMENTS,
    MOST_FEW,
    SIXTEEN_BIT,
    Element,
    FewConfig,
    KernelConfig,
    few_config,
)
from tvwarray._kernels.cost import Prediction, Problem, predict, predict_few
from tvwarray._kernels.devices import RESERVED_SHARED, SHARED_LIMITS, Device, generation
from tvwarray._kernels.elements import Form, form_of
from tvwarray._kernels.elements import refusal as refusal_of
from tvwarray._kernels.hopper.config import HopperConfig, hopper_configs
from tvwarray._kernels.hopper.config8 import ByteConfig, byte_configs
from tvwarray._kernels.hopper.cost import predict_hopper

AnyConfig: TypeAlias = KernelConfig | HopperConfig | ByteConfig
"""The constants of any of the kernels."""

STAGES: Final = (2, 3, 4, 5)
"""How many stages a ring may have."""


class Shape(NamedTuple):
    """A candidate before the stages are known, which depend on the chip."""

    block_rows: int
    block_n: int
    warp_rows: int
    warp_n: int
    blocks: int
    """Blocks to aim for on a multiprocessor with room for them."""
    stages: int
    """Stages to aim for."""


SPARSE_SHAPES: Final = (
    Shape(128, 256, 64, 64, 1, 4),
    Shape(256, 128, 64, 64, 1, 4),
    Shape(128, 128, 64, 64, 2, 4),
    Shape(64, 256, 64, 32, 1, 4),
    Shape(256, 64, 64, 32, 1, 4),
    Shape(64, 128, 64, 32, 2, 4),
    Shape(128, 64, 64, 32, 2, 4),
    Shape(64, 64, 32, 32, 3, 4),
    Shape(32, 128, 32, 32, 3, 4),
    Shape(16, 128, 16, 32, 4, 4),
    Shape(32, 32, 16, 16, 6, 4),
)
"""In order of preference where the model sees no difference. 256 x 256 is not there: its sums alone
are the register file of a multiprocessor."""

DENSE_SHAPES: Final = (
    Shape(128, 128, 64, 32, 1, 4),
    Shape(64, 128, 64, 32, 2, 4),
    Shape(64, 64, 32, 32, 3, 4),
    Shape(32, 128, 32, 32, 3, 4),
    Shape(16, 128, 16, 32, 4, 4),
    Shape(32, 32, 16, 16, 6, 4),
)


NOT_SHIPPED: Final = {
    ("90", 128, 128): "at the rate of mma.sp it reads 50 bytes a clock through L2, of which sm_90 "
    "gives a multiprocessor 36: 72 % of that rate at most; 128x256 and 256x128 reach 87 and 96 %",
}
"""Shapes of 16-bit 2:4 products that a generation cannot feed, and why (docs/kernels.md)."""


MOST_PERSISTENT: Final = 4
"""Blocks on a multiprocessor that may persist: six of 32 x 32 took 7 % longer on an H200."""


def one_item_reason(config: KernelConfig) -> str:
    """Return why blocks of a config take one item each, or an empty string if they may persist."""
    if ELEMENT_BYTES[config.element] == 1 and config.warp_rows * config.warp_n >= 64 * 64:
        return (
            "8-bit values in warps of 64x64 leave no registers for the next item (4 to 84 bytes "
            "would be spilled); each block takes one"
        )
    if config.min_blocks > MOST_PERSISTENT:
        return (
            f"{config.min_blocks} blocks on a multiprocessor are handed out better by the hardware "
            "than by a list; each takes one item"
        )
    return ""


class Candidate(NamedTuple):
    """A config and what was found about it."""

    config: AnyConfig
    prediction: Prediction | None
    """None if refused."""
    refusal: str
    measured: float | None = None
    """Seconds on this GPU, if they are known."""

    def __str__(self) -> str:
        if self.refusal or self.measured is None:
            return f"{self.config}: {self.refusal or self.prediction}"
        return f"{self.config}: measured {1e6 * self.measured:.3g} us, predicted {self.prediction}"


@dataclass(frozen=True)
class Choice:
    """The candidates, best first, refused ones last."""

    candidates: tuple[Candidate, ...]

    @property
    def config(self) -> AnyConfig | None:
        """The best candidate that is not refused, or None."""
        best = self.candidates[0] if self.candidates else None
        return best.config if best and not best.refusal else None

    def behind_transpose(self, seconds: float, n: int) -> Choice:
        """Return the ranking where X has `n` columns, each contiguous: transposed in `seconds`.

        Kernels for few columns read up to `MOST_ELEMENTS` in any order.
        """

        def later(candidate: Candidate) -> Candidate:
            reads = isinstance(candidate.config, FewConfig) and n <= MOST_ELEMENTS
            if candidate.prediction is None or reads:
                return candidate
            slower = candidate.measured and candidate.measured + seconds
            predicted = candidate.prediction.behind("transpose", seconds)
            return candidate._replace(prediction=predicted, measured=slower)

        return Choice(tuple(sorted(map(later, self.candidates), key=_rank)))

    def into_columns(self, transpose: float, direct: float) -> Choice:
        """Return the ranking where the result is column-major.

        It is stored so, which takes `direct` seconds more, by the kernels that can where that is
        faster, and by the others in rows that are transposed in `transpose` seconds. Kernels for
        few columns write any order.
        """

        def stored(candidate: Candidate) -> Candidate:
            config, prediction = candidate.config, candidate.prediction
            if prediction is None or isinstance(config, FewConfig):
                return candidate
            name, seconds = "transposed result", transpose
            if _stores_columns(config) and direct <= transpose:
                name, seconds = "columns", direct
                config = replace(config, column_major=True)
            slower = candidate.measured and candidate.measured + seconds
            return Candidate(config, prediction.before(name, seconds), "", slower)

        return Choice(tuple(sorted(map(stored, self.candidates), key=_rank)))

    def __str__(self) -> str:
        """Return a line for each candidate."""
        return "\n".join(map(str, self.candidates))


WIDE_SPARSE_SHAPES: Final = (
    Shape(128, 64, 32, 32, 1, 3),
    Shape(64, 64, 32, 32, 1, 3),
    Shape(32, 32, 16, 16, 3, 3),
)
"""Of float32 in parts: every stage holds all parts, every lane two sets of sums."""

TF32_SHAPES: Final = (
    Shape(128, 64, 32, 32, 1, 4),
    Shape(64, 64, 32, 16, 1, 4),
    Shape(32, 32, 16, 16, 3, 4),
)
FLOAT64_SHAPES: Final = (
    Shape(64, 64, 32, 16, 1, 3),
    Shape(32, 32, 16, 16, 2, 3),
)


def configs(
    architecture: str, dtype: DType, sparse: bool, precision: Precision = "default"
) -> tuple[KernelConfig, ...]:
    """Return the configs of ``sm80_tvw_gemm`` for an architecture, in order of preference."""
    form = form_of(dtype, precision)
    return () if form is None else configs_of(architecture, form, sparse)


def configs_of(architecture: str, form: Form, sparse: bool) -> tuple[KernelConfig, ...]:
    """Return the configs for values that are multiplied as `form` says."""
    return tuple(c for c, refusal in _made(architecture, form, sparse) if not refusal)


def _made(architecture: str, form: Form, sparse: bool) -> list[tuple[KernelConfig, str]]:
    """Return the config of every shape that fits, and why it is not shipped, if it is not."""
    per_block, per_multiprocessor = SHARED_LIMITS[generation(architecture)]
    ruled = sparse and form.element in SIXTEEN_BIT and form.parts == 1
    found = []
    for shape in _shapes(form, sparse):
        for blocks, stages in _fallbacks(shape):
            config = KernelConfig(
                kernel="sm80_tvw_gemm", element=form.element, sparse=form.keeps_pattern(sparse),
                block_rows=shape.block_rows, block_n=shape.block_n,
                warp_rows=shape.warp_rows, warp_n=shape.warp_n,
                stages=stages, min_blocks=blocks, parts=form.parts, output=_output(form),
            )  # fmt: skip
            total = blocks * (config.shared_bytes + RESERVED_SHARED)
            if config.shared_bytes <= per_block and total <= per_multiprocessor:
                key = generation(architecture), shape.block_rows, shape.block_n
                found.append((config, NOT_SHIPPED.get(key, "") if ruled else ""))
                break
    return found


def _shapes(form: Form, sparse: bool) -> tuple[Shape, ...]:
    if form.parts > 1:
        return WIDE_SPARSE_SHAPES
    if form.element == "tf32":
        return TF32_SHAPES
    if form.element == "float64":
        return FLOAT64_SHAPES
    return SPARSE_SHAPES if sparse else DENSE_SHAPES


def _output(form: Form) -> Element:
    """Return what a bare product is stored as."""
    if form.parts > 1 or form.element == "tf32" or form.element.startswith("float8"):
        return "float32"
    return "int32" if form.element == "int8" else form.element


def choose(problem: Problem, device: Device) -> Choice:
    """Rank the configs of all kernels for a problem on a device, those refused last."""
    what = device.architecture, problem.form, problem.sparse
    made = _made(*what)
    shipped: list[AnyConfig] = []
    shipped += hopper_configs(
        device.architecture, problem.dtype, problem.sparse, problem.every_column
    )
    shipped += byte_configs(*what)
    if problem.n <= MOST_FEW and problem.form.element in SIXTEEN_BIT and problem.form.parts == 1:
        element, cols = problem.form.element, problem.shape[1]
        few = (few_config(element, problem.sparse, problem.n, cols, rows) for rows in FEW_ROWS)
        shipped += [c for c in few if not c.refusal()]
    candidates = [_better(c, problem, device) for c, refusal in made if not refusal]
    candidates += [judged(config, problem, device) for config in shipped]
    persistent = (replace(c, persistent=True) for c, refusal in made if not refusal)
    candidates += [Candidate(c, None, reason) for c in persistent if (reason := one_item_reason(c))]
    candidates += [Candidate(config, None, refusal) for config, refusal in made if refusal]
    return Choice(tuple(sorted(candidates, key=_seconds)))


def _better(config: KernelConfig, problem: Problem, device: Device) -> Candidate:
    """Return the config with blocks of one item, or with persistent ones where these are faster."""
    one = judged(config, problem, device)
    if one.refusal or one_item_reason(config):
        return one
    persistent = judged(replace(config, persistent=True), problem, device)
    return persistent if _seconds(persistent) < _seconds(one) else one


def variants(config: AnyConfig, device: Device) -> list[KernelConfig]:
    """Return what else a config of ``sm80_tvw_gemm`` may be; the model hardly tells them apart.

    The other depths of its ring, 2 to 5, that fit, and blocks of one item or persistent ones.
    """
    if isinstance(config, HopperConfig | ByteConfig | FewConfig):
        return []
    others = [replace(config, stages=n) for n in STAGES if n != config.stages]
    if not one_item_reason(config):
        others.append(replace(config, persistent=not config.persistent))
    return [
        c
        for c in others
        if not c.refusal()
        and c.shared_bytes <= device.shared_per_block
        and c.min_blocks * (c.shared_bytes + RESERVED_SHARED) <= device.shared_per_multiprocessor
    ]


def _fallbacks(shape: Shape) -> list[tuple[int, int]]:
    """Return blocks and stages to try: fewer stages first, then fewer blocks."""
    return [
        (blocks, stages)
        for blocks in range(shape.blocks, 0, -1)
        for stages in range(shape.stages, 2 if blocks > 1 else 1, -1)
    ]


def _stores_columns(config: AnyConfig) -> TypeGuard[KernelConfig]:
    if not isinstance(config, KernelConfig) or isinstance(config, FewConfig):
        return False
    return config.element != "float64"


def _rank(candidate: Candidate) -> tuple[bool, float, float]:
    return bool(candidate.refusal), candidate.measured or inf, _seconds(candidate)


def _seconds(candidate: Candidate) -> float:
    return candidate.prediction.seconds if candidate.prediction else inf


def judged(config: AnyConfig, problem: Problem, device: Device) -> Candidate:
    """Return what is found about one config: a modelled time, or a refusal."""
    refusal = config.refusal()
    if not refusal and config.shared_bytes > device.shared_per_block:
        refusal = (
            f"needs {config.shared_bytes} bytes of shared memory, the device allows a block "
            f"{device.shared_per_block}"
        )
    wgmma = isinstance(config, HopperConfig | ByteConfig)
    refusal = refusal or refusal_of(problem.form, device.architecture, wgmma=wgmma)
    if refusal:
        return Candidate(config, None, refusal)
    if isinstance(config, HopperConfig | ByteConfig):
        return Candidate(config, predict_hopper(config, problem, device), "")
    if isinstance(config, FewConfig):
        return Candidate(config, predict_few(config, problem, device), "")
    return Candidate(config, predict(config, problem, device), "")
