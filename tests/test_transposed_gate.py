"""What the assembler makes of ``sm80_tvw_transposed``, and what its loop allows, counted."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from main_loop import main_loop
from test_compile import machine_code, static_shared_bytes

from tvwarray._kernels.compile import compile_kernel, shipped_sources
from tvwarray._kernels.config import ARCHITECTURES
from tvwarray._kernels.devices import SHARED_LIMITS, generation
from tvwarray._kernels.select import RESERVED_SHARED
from tvwarray._kernels.transposed.config import transposed_configs


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "90a"])
def test_gate(architecture: str) -> None:
    """Spills, local memory, registers, shared memory, instructions; the longest epilogue too."""
    per_block, per_multiprocessor = SHARED_LIMITS[generation(architecture)]
    shipped = transposed_configs(architecture, "bfloat16")
    longest = replace(shipped[0], output="float32", fused=True, activation="gelu")
    for config in (*shipped, longest):
        assert not config.refusal()
        kernel = compile_kernel(config, architecture)
        sass, usage = machine_code(kernel.cubin_path), kernel.usage
        context = f"{config} for sm_{architecture}: {usage}"
        assert "warning" not in kernel.log, kernel.log
        assert usage.spill_bytes == usage.stack_bytes == 0, context
        assert not re.search(r"\b(LDL|STL)\b", sass), context
        assert usage.registers <= config.max_registers, context
        assert config.shared_bytes <= per_block, context
        assert config.min_blocks * (config.shared_bytes + RESERVED_SHARED) <= per_multiprocessor
        assert static_shared_bytes(kernel.ptx) == 0, context
        assert len(re.findall(r"\bHMMA\.16816\.", sass)) >= config.products, context
        gathers = len(re.findall(r"\bLDGSTS\.E\.BYPASS(?:\.LTC128B)?\.128", sass))
        assert gathers >= config.stage_bytes // 16 // config.threads, context
        assert not re.search(r"\b(RED|ATOMG?|ATOMS)\.[\w.]*F(16|32)", sass), "no atomic sums"


def test_the_sources_state_the_config_by_name() -> None:
    """Each field is a constexpr of the same name, and each is used."""
    config = transposed_configs("90", "float16")[0]
    sources = "".join(shipped_sources(config.kernel).values())
    for line in config.headers()["config.cuh"].splitlines()[3:-1]:
        name = re.fullmatch(r"constexpr (?:int|bool|Element|Activation) (\w+) = [\w:]+;", line)[1]
        assert hasattr(config, name) or name == "bfloat16"
        assert f"config::{name}" in sources


@pytest.mark.parametrize("architecture", ["80", "89", "90"])
def test_the_main_loop_holds_what_the_model_counts(architecture: str) -> None:
    """Products, reads of both operands, and the adds of an item; the same as `cost` reckons."""
    for config in transposed_configs(architecture, "float16"):
        body = main_loop(compile_kernel(config, architecture).ptx)

        def count(pattern: str, body: list[str] = body) -> int:
            return sum(bool(re.search(pattern, line)) for line in body)

        fragments = -(-config.fragments // config.warps_m)
        added = fragments * 2 * config.warp_n // 16
        assert count(r"mma\.sync") == config.products
        assert count("ldmatrix") == config.slices * config.warp_n // 8
        headers = 2  # that of the step, and of the one whose copies are started
        assert count(r"ld\.shared\.v4") == 2 * fragments * config.slices + added + headers
        assert count(r"ld\.global") == 0  # nothing in the loop waits for memory
        assert count(r"st\.shared\.v4") == added
        assert count(r"cp\.async\.cg") * 16 * config.threads >= config.stage_bytes
        assert count(r"bar\.sync") == 1
