"""Compiling without a GPU: the cache, the errors, and the gate that every shipped config passes.

The gate reads what the assembler made, for each architecture and each config that `select` may
choose on it: no spills, no local memory, registers and shared memory within what the config states,
and in the machine code at least the tensor-core instructions that the main loop needs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tvwarray._errors import BackendError
from tvwarray._kernels import compile as compilation
from tvwarray._kernels.compile import compile_kernel, shipped_sources
from tvwarray._kernels.config import ARCHITECTURES, KernelConfig
from tvwarray._kernels.devices import RESERVED_SHARED, SHARED_LIMITS, generation
from tvwarray._kernels.select import configs

DTYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def shipped(architecture: str) -> list[KernelConfig]:
    """Return every config that may be chosen on an architecture."""
    return [
        c
        for dtype in DTYPES
        for sparse in (True, False)
        for c in configs(architecture, dtype, sparse)
    ]


def disassembler() -> str:
    """Return the path of nvdisasm: from its wheel, else on the PATH."""
    spec = find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        for found in Path(place).glob("cu*/bin/nvdisasm"):
            return str(found)
    found_on_path = shutil.which("nvdisasm")
    assert found_on_path, "nvdisasm is missing: install nvidia-cuda-nvdisasm"
    return found_on_path


def machine_code(cubin: Path) -> str:
    """Return the disassembly of a cubin."""
    done = subprocess.run(
        [disassembler(), "-c", str(cubin)], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def workers() -> Iterator[ThreadPoolExecutor]:
    """NVRTC and the disassembler release the interpreter lock: use all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield pool


@pytest.fixture
def config() -> KernelConfig:
    return configs("90", DTYPES[0], True)[-1]


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(compilation.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gate(architecture: str, workers: ThreadPoolExecutor) -> None:
    """Spills, local memory, registers, shared memory, tensor-core instructions; every config."""
    per_block, per_multiprocessor = SHARED_LIMITS[generation(architecture)]
    kernels = list(workers.map(lambda c: compile_kernel(c, architecture), shipped(architecture)))
    texts = list(workers.map(lambda k: machine_code(k.cubin_path), kernels))
    assert len(kernels) >= 20
    for kernel, sass in zip(kernels, texts, strict=True):
        config, usage = kernel.config, kernel.usage
        context = f"{config} for sm_{architecture}: {usage}"
        assert "warning" not in kernel.log, kernel.log
        assert usage.spill_bytes == 0, context
        assert usage.stack_bytes == 0, context
        assert not re.search(r"\b(LDL|STL)\b", sass), context
        assert usage.registers <= config.max_registers, context
        assert config.shared_bytes <= per_block, context
        assert config.min_blocks * (config.shared_bytes + RESERVED_SHARED) <= per_multiprocessor
        assert static_shared_bytes(kernel.ptx) == 0, context
        products = r"\bHMMA\.SP\." if config.sparse else r"\bHMMA\.16816\."
        assert len(re.findall(products, sass)) >= config.products, context
        gathers = len(re.findall(r"\bLDGSTS\.E\.BYPASS(?:\.LTC128B)?\.128", sass))
        assert gathers >= config.stage_bytes // 16 // config.threads, context


def static_shared_bytes(ptx: str) -> int:
    """Return the bytes of shared memory that the text declares with a size."""
    return sum(int(n) for n in re.findall(r"^\s*\.shared .*\[(\d+)\];", ptx, re.MULTILINE))


def test_every_config_is_legal_and_distinct() -> None:
    for architecture in ARCHITECTURES:
        found = shipped(architecture)
        assert len(set(found)) == len(found)
        assert not any(c.refusal() for c in found)


def test_the_sources_state_the_config_by_name(config: KernelConfig) -> None:
    """Each field is a constexpr of the same name, and each is used."""
    sources = "".join(shipped_sources(config.kernel).values())
    for line in config.header().splitlines()[3:-1]:
        name = re.fullmatch(r"constexpr (?:int|bool|Element|Activation) (\w+) = [\w:]+;", line)[1]
        assert hasattr(config, name)
        assert f"config::{name}" in sources


def test_the_sources_include_nothing_but_themselves(config: KernelConfig) -> None:
    sources = {**shipped_sources(config.kernel), "config.cuh": config.header()}
    included = {n for text in sources.values() for n in re.findall(r"#include\s*(\S+)", text)}
    assert included == {f'"{name}"' for name in sources if name.endswith(".cuh")}
    assert not any(re.search(r"^\s*#\s*define", text, re.MULTILINE) for text in sources.values())


def test_a_second_compile_reads_the_cache(
    config: KernelConfig, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compile_kernel(config, "90")
    monkeypatch.setattr(compilation, "_run_nvrtc", None)
    again = compile_kernel(config, "90")
    assert again.folder == first.folder
    assert again.folder.parent == fresh_cache
    assert again.ptx.count(".target sm_90") == 1
    assert again.cubin_path.read_bytes().startswith(b"\x7fELF")
    assert not list(fresh_cache.glob(".making-*"))


def test_the_key_holds_everything_that_matters(config: KernelConfig, fresh_cache: Path) -> None:
    """Config, architecture, source, flags, compiler version: each makes another entry."""
    source = shipped_sources(config.kernel)["ptx.cuh"]
    folders = {
        compile_kernel(config, "90").folder,
        compile_kernel(config, "80").folder,
        compile_kernel(configs("90", DTYPES[1], True)[-1], "90").folder,
        compile_kernel(config, "90", {"ptx.cuh": source + "// changed\n"}).folder,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "FLAGS", (*compilation.FLAGS, "--maxrregcount=200"))
        folders.add(compile_kernel(config, "90").folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "nvrtc_version", lambda: (99, 0))
        folders.add(compile_kernel(config, "90").folder)
    assert len(folders) == 6


@pytest.mark.parametrize("part", ["kernel.ptx", "kernel.cubin", "log.txt", "entry.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_corrupt_entry_is_rebuilt(
    part: str, damage: str, config: KernelConfig, fresh_cache: Path
) -> None:
    kernel = compile_kernel(config, "90")
    good = (kernel.folder / part).read_bytes()
    if damage == "missing":
        (kernel.folder / part).unlink()
    else:
        bad = good[: len(good) // 2] if damage == "cut" else good.replace(b"a", b"b")
        (kernel.folder / part).write_bytes(bad)
    again = compile_kernel(config, "90")
    assert again.folder == kernel.folder
    if part != "log.txt":  # the log states how long the compiler took
        assert (again.folder / part).exists()
    assert again.usage.registers == kernel.usage.registers
    assert compile_kernel(config, "90").ptx == again.ptx


def test_an_empty_folder_in_the_place_of_an_entry_is_replaced(
    config: KernelConfig, fresh_cache: Path
) -> None:
    kernel = compile_kernel(config, "90")
    shutil.rmtree(kernel.folder)
    kernel.folder.mkdir()
    assert compile_kernel(config, "90").ptx.startswith("//")


COMPILE_ONE = """
from tvwarray._dtypes import FLOAT16
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.select import configs
print(compile_kernel(configs("90", FLOAT16, True)[-1], "90").folder)
"""


def test_processes_that_compile_at_once_agree(fresh_cache: Path) -> None:
    environment = {**os.environ, compilation.CACHE_VARIABLE: str(fresh_cache)}
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", COMPILE_ONE],
            env=environment,
            cwd=fresh_cache.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    folders = [process.communicate(timeout=120)[0].strip() for process in racing]
    assert [process.returncode for process in racing] == [0, 0, 0]
    assert len(set(folders)) == 1
    assert [p.name for p in fresh_cache.iterdir()] == [Path(folders[0]).name]


def test_a_cache_that_cannot_be_written_is_done_without(
    config: KernelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(compilation.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    assert compile_kernel(config, "90").cubin_path.exists()


def test_the_error_holds_the_compiler_log(config: KernelConfig) -> None:
    source = shipped_sources(config.kernel)["layout.cuh"] + "\nint unknown = undeclared_name;\n"
    with pytest.raises(BackendError, match=r"does not compile for sm_90[\s\S]*undeclared_name"):
        compile_kernel(config, "90", {"layout.cuh": source})


def test_an_architecture_that_nvrtc_does_not_know_is_an_error(config: KernelConfig) -> None:
    with pytest.raises(BackendError, match="sm_42"):
        compile_kernel(config, "42")


def test_an_illegal_config_is_refused_with_its_reason(config: KernelConfig) -> None:
    bad = KernelConfig(**{**vars(config), "stages": 1})
    with pytest.raises(BackendError, match="stages is below 2"):
        compile_kernel(bad, "90")


def test_cubins_are_whole(config: KernelConfig) -> None:
    """CuPy's binding cuts the last byte off; a whole image ends where its header says."""
    kernel = compile_kernel(config, "90")
    image = kernel.cubin_path.read_bytes()
    assert compilation._whole_elf(image[:-1]) == image
    assert compilation._whole_elf(image) == image
