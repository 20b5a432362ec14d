"""The interpreter's instruction tests once more, on a GPU: hardware must pass the same oracles.

Each test of one instruction compares with a loop over lanes. Here the same PTX is assembled by the
driver and run on the device, so that interpreter, oracle and hardware are held against each other.
What an architecture lacks or the driver's assembler refuses is run by the interpreter instead; the
last test says how much that was. Left out: approximate functions, whose errors are bounded and not
equal, and what is an error here and undefined there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import test_ptx_collective
import test_ptx_convert
import test_ptx_float
import test_ptx_integer
import test_ptx_tensor
from ptx import snippets

pytestmark = pytest.mark.gpu


class Device(snippets.Backend):
    """Runs snippets on the GPU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran = self.refused = 0

    def launch(self, text: str, grid: int, block: int, args: list[np.ndarray]) -> None:
        import cupy

        path = self.folder / f"{self.ran + self.refused}.ptx"
        path.write_text(text)
        try:
            function = cupy.RawModule(path=str(path)).get_function("k")
        except cupy.cuda.driver.CUDADriverError:
            self.refused += 1
            super().launch(text, grid, block, args)
            return
        self.ran += 1
        device = [cupy.asarray(array) for array in args]
        function((grid,), (block,), tuple(device))
        for array, moved in zip(args, device, strict=True):
            array[...] = moved.get()


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    found = Device(tmp_path_factory.mktemp("snippets"))
    before, snippets.backend = snippets.backend, found
    yield found
    snippets.backend = before


INTEGERS = test_ptx_integer.INTEGERS
FLOATS = test_ptx_float.KINDS
Case = tuple[Callable[..., None], tuple[object, ...]]


def each(function: Callable[..., None], *values: object) -> list[Case]:
    return [(function, (value,)) for value in values]


CASES: list[Case] = [
    *each(test_ptx_integer.test_add_sub_mul_mad, *INTEGERS),
    *each(test_ptx_integer.test_div_and_rem_truncate, *INTEGERS),
    *each(test_ptx_integer.test_min_max_abs_neg_sad, *INTEGERS),
    (test_ptx_integer.test_saturating_add_and_sub, ()),
    *each(test_ptx_integer.test_carry_chain, "u32", "u64"),
    (test_ptx_integer.test_mul24, ()),
    *each(test_ptx_integer.test_logic, 16, 32, 64),
    *each(test_ptx_integer.test_shifts_by_registers_and_constants, 16, 32, 64),
    (test_ptx_integer.test_funnel_shift, ()),
    *each(test_ptx_integer.test_counting_bits, 32, 64),
    *each(test_ptx_integer.test_bit_fields, 32, 64),
    (test_ptx_integer.test_byte_permutation, ()),
    *each(test_ptx_integer.test_lop3, 0x80, 0x96, 0xCA),
    (test_ptx_integer.test_dot_products, ()),
    (test_ptx_integer.test_packed_halfword_arithmetic, ()),
    *each(test_ptx_integer.test_setp_and_its_combinations, *INTEGERS),
    (test_ptx_integer.test_selections, ()),
    (test_ptx_integer.test_mov_packs_and_unpacks, ()),
    *each(test_ptx_float.test_add_sub_mul_round_once, *FLOATS),
    *each(test_ptx_float.test_fma_rounds_once, *FLOATS),
    *each(test_ptx_float.test_directed_rounding, "rz", "rm", "rp"),
    (test_ptx_float.test_division_and_roots_round_once, ()),
    (test_ptx_float.test_subnormals_are_flushed_where_asked, ()),
    (test_ptx_float.test_saturation, ()),
    *each(test_ptx_float.test_min_max_know_zeros_and_nan, *FLOATS),
    *each(test_ptx_float.test_signs, *FLOATS),
    (test_ptx_float.test_testp, ()),
    (test_ptx_float.test_comparisons_with_nan, ()),
    (test_ptx_float.test_relu_and_saturating_halves, ()),
    *product(
        (test_ptx_convert.test_integer_to_integer_wraps_or_saturates,),
        product(test_ptx_convert.INTEGERS, test_ptx_convert.INTEGERS),
    ),
    *product(
        (test_ptx_convert.test_float_to_integer_clamps,),
        product(("f16", "f32", "f64"), test_ptx_convert.ROUND),
    ),
    *product(
        (test_ptx_convert.test_integer_to_float_rounds_once,),
        product(test_ptx_convert.INTEGERS, ("rn", "rz")),
    ),
    *product((test_ptx_convert.test_float_to_float_rounds_once,), product(FLOATS, FLOATS)),
    (test_ptx_convert.test_integral_floats, ()),
    (test_ptx_convert.test_saturated_and_relu_conversions, ()),
    *product(
        (test_ptx_convert.test_packed_conversion_puts_the_first_operand_on_top,),
        product(("f16", "bf16"), ("rn", "rz")),
    ),
    (test_ptx_convert.test_tf32_keeps_ten_bits, ()),
    *product(
        (test_ptx_collective.test_shuffles,),
        product(("up", "down", "bfly", "idx"), (0, 31, 0x1807, 0x181F)),
    ),
    *product((test_ptx_collective.test_redux,), product(("add", "min", "xor"), ("u32", "s32"))),
    (test_ptx_collective.test_votes_and_masks, ()),
    *each(test_ptx_collective.test_match, "u32", "u64"),
    (test_ptx_collective.test_movmatrix_transposes, ()),
    *product((test_ptx_tensor.test_dense_products,), test_ptx_tensor.DENSE),
    *(
        (test_ptx_tensor.test_sparse_products, (*case, form))
        for case, form in product(test_ptx_tensor.SPARSE, ("sp", "sp::ordered_metadata"))
    ),
    (test_ptx_tensor.test_half_accumulators, ()),
    *each(test_ptx_tensor.test_integer_sums_wrap_or_saturate, "", ".satfinite"),
    (test_ptx_tensor.test_mixed_signs_of_bytes, ()),
    (test_ptx_tensor.test_all_eight_bit_floats, ()),
]


def label(case: Case) -> str:
    function, arguments = case
    return "-".join([function.__name__.removeprefix("test_"), *(str(a) for a in arguments)])


@pytest.mark.parametrize("case", CASES, ids=label)
def test_hardware_passes_the_oracle(device: Device, case: Case) -> None:
    function, arguments = case
    function(*arguments)


def test_most_of_it_ran_on_the_device(device: Device) -> None:
    """Conversions of bfloat16 in directed modes and the like are what the assembler refuses."""
    total = device.ran + device.refused
    assert device.ran > 0.8 * total, f"{device.refused} of {total} snippets were refused"
