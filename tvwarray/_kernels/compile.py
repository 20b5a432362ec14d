"""Source, `KernelConfig` and architecture to PTX and cubin, through NVRTC and a cache on disk.

NVRTC needs neither a driver nor a GPU, so users, tests and CI share this one path. The sources
include no CUDA header: three files, and ``config.cuh`` made from the config, are all there is.

An entry of the cache is a folder named by a hash of all that the result depends on. It is written
beside its place and moved there by one rename, so a reader sees all of it or nothing; its contents
carry checksums, and an entry that does not match them is made anew.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shutil
import struct
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Protocol

from tvwarray._errors import BackendError
from tvwarray._kernels.config import REGISTERS_PER_MULTIPROCESSOR
from tvwarray._kernels.devices import RESERVED_SHARED

CACHE_VARIABLE: Final = "TVWARRAY_CACHE_DIR"
"""The environment variable that says where compiled kernels are kept."""

FLAGS: Final = ("--std=c++17", "--ptxas-options=-v")

_REGISTERS: Final = (4, 0x2F)
"""How an entry of a cubin begins that holds a kernel's registers: its form, and what it says."""

_PARTS: Final = ("kernel.ptx", "kernel.cubin", "log.txt")


class Config(Protocol):
    """What is compiled: the constants of a kernel, as text, and what a launch of it takes."""

    @property
    def kernel(self) -> str:
        """The source file, and the name of the kernel in it."""
        ...

    @property
    def threads(self) -> int:
        """Threads of a block."""
        ...

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        ...

    def refusal(self) -> str:
        """Return which rule of the kernel this config breaks, or an empty string."""
        ...

    def target(self, architecture: str) -> str:
        """Return what to compile for, on a device of `architecture`."""
        ...

    def headers(self) -> dict[str, str]:
        """Return the texts of the headers that are made from the config, by name."""
        ...


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel for one config and one architecture."""

    name: str
    config: Config
    architecture: str
    folder: Path
    """Where ``kernel.ptx``, ``kernel.cubin`` and ``log.txt`` lie."""

    @property
    def cubin_path(self) -> Path:
        """The machine code: what ``cupy.RawModule(path=...)`` loads."""
        return self.folder / "kernel.cubin"

    @property
    def ptx(self) -> str:
        """The text that the machine code was assembled from."""
        return (self.folder / "kernel.ptx").read_text()

    @property
    def log(self) -> str:
        """What the compiler said."""
        return (self.folder / "log.txt").read_text()

    @property
    def usage(self) -> Usage:
        """What the assembler reports of the kernel."""
        return Usage.of_log(self.log)

    def resident_blocks(self, shared_per_multiprocessor: int) -> int:
        """Return how many blocks a multiprocessor holds at once, by registers and shared memory."""
        return _resident(self, shared_per_multiprocessor)

    def module(self) -> Any:
        """Return the kernel's ``cupy.RawModule``; loading needs a GPU."""
        import cupy

        return cupy.RawModule(path=str(self.cubin_path))


@cache
def _resident(kernel: CompiledKernel, shared_per_multiprocessor: int) -> int:
    config = kernel.config
    by_shared = shared_per_multiprocessor // (config.shared_bytes + RESERVED_SHARED)
    # A warp's registers are given out in lots of 8 for each thread.
    registers = -(-registers_of(kernel.cubin_path.read_bytes()) // 8) * 8 * config.threads
    return max(1, min(by_shared, REGISTERS_PER_MULTIPROCESSOR // registers))


def registers_of(cubin: bytes) -> int:
    """Return the registers of a thread of the one kernel in a cubin.

    The assembler's report has them too, but NVRTC gives none for what its own cache holds. They are
    an entry of the section ``.nv.info``: a byte of form, one that says what it is, a length.
    """
    (table,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<3H", cubin, 58)
    sections = [struct.unpack_from("<2I4Q", cubin, table + i * size) for i in range(count)]
    named = sections[names][4]
    for name, *_, start, length in sections:
        if not cubin.startswith(b".nv.info\0", named + name):
            continue
        at, end = start, start + length
        while at < end:
            form, kind, value = struct.unpack_from("<2BH", cubin, at)
            if (form, kind) == _REGISTERS:
                return int(struct.unpack_from("<2I", cubin, at + 4)[1])
            at += 4 + (value if form == _REGISTERS[0] else 0)
    raise BackendError("the cubin does not say how many registers its kernel takes.")


@dataclass(frozen=True)
class Usage:
    """Registers and local memory of a kernel, as ptxas reports them."""

    registers: int
    spill_bytes: int
    stack_bytes: int

    @classmethod
    def of_log(cls, log: str) -> Usage:
        """Read the report in a compiler log."""
        registers = re.search(r"Used (\d+) registers", log)
        stack = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log
        )
        if registers is None or stack is None:
            raise ValueError(f"the compiler log holds no ptxas report:\n{log}")
        return cls(int(registers[1]), max(int(stack[2]), int(stack[3])), int(stack[1]))


def compile_kernel(
    config: Config, architecture: str, sources: Mapping[str, str] | None = None
) -> CompiledKernel:
    """Return the kernel of `config` for `architecture`, compiled now or earlier.

    Parameters
    ----------
    config : Config
    architecture : str
        As in the name of a target: "80" for sm_80, "90a" for sm_90a.
    sources : mapping of str to str, optional
        Texts to use in place of the shipped files of the same names.

    Raises
    ------
    BackendError
        If NVRTC cannot be loaded, does not know the architecture, or refuses the source; the
        message holds its log.
    """
    if reason := config.refusal():
        raise BackendError(f"{config} breaks a rule of the kernel: {reason}.")
    architecture = config.target(architecture)
    texts = {**shipped_sources(config.kernel), **(sources or {}), **config.headers()}
    folder = compile_source(f"{config.kernel}.cu", texts, architecture)
    return CompiledKernel(config.kernel, config, architecture, folder)


def compile_source(main: str, texts: Mapping[str, str], architecture: str) -> Path:
    """Return the folder with what the file `main` compiles to, made now or earlier.

    Parameters
    ----------
    main : str
        The name of the file to compile.
    texts : mapping of str to str
        Its text, and those of all files it includes, by name.
    architecture : str

    Raises
    ------
    BackendError
        As `compile_kernel`.
    """
    key = _key(main, texts, architecture)
    name = main.removesuffix(".cu")
    folder = cache_folder() / f"{name}-sm_{architecture}-{key[:32]}"
    if _is_whole(folder, key):
        return folder
    ptx, cubin, log = _run_nvrtc(main, texts, architecture)
    return _store(folder, key, (ptx, cubin, log.encode()))


@cache
def shipped_sources(kernel: str) -> Mapping[str, str]:
    """Return the texts of the kernel file and of the headers it includes, by name."""
    package = resources.files("tvwarray._kernels")
    texts: dict[str, str] = {}
    wanted = [f"{kernel}.cu"]
    while wanted:
        name = wanted.pop()
        if name in texts or not package.joinpath(name).is_file():
            continue  # those that are made from the config are not there
        texts[name] = package.joinpath(name).read_text()
        wanted += re.findall(r'^#include "(.+)"', texts[name], re.MULTILINE)
    return texts


def cache_folder() -> Path:
    """Return where compiled kernels are kept.

    ``$TVWARRAY_CACHE_DIR``, else ``tvwarray`` in the user's cache folder; if that cannot be
    written, a folder that lives as long as the process.
    """
    configured = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(configured) if configured else Path(base).expanduser() / "tvwarray"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _process_folder()
    return folder if os.access(folder, os.W_OK) else _process_folder()


@cache
def nvrtc_version() -> tuple[int, int]:
    """Return the version of NVRTC that CuPy has found, such as (13, 0)."""
    major, minor = _nvrtc().getVersion()
    return int(major), int(minor)


@cache
def _process_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="tvwarray-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


_LOADING: Final = threading.Lock()


def _nvrtc() -> Any:
    # CuPy loads NVRTC and its builtins one after the other, at the first call: a second thread
    # that came in between would compile without builtins.
    with _LOADING:
        return _loaded_nvrtc()


@cache
def _loaded_nvrtc() -> Any:
    try:
        from cupy.cuda import nvrtc
    except ImportError as e:
        raise BackendError(
            "kernels are compiled through CuPy, which cannot be imported.\n"
            "Install tvwarray[cuda13] or tvwarray[cuda12]."
        ) from e
    try:
        nvrtc.getVersion()
    except Exception as e:
        raise BackendError(
            f"NVRTC, the CUDA run-time compiler, cannot be loaded: {e}\n"
            "Install tvwarray[cuda13], which brings it, or a CUDA toolkit."
        ) from e
    return nvrtc


def _key(main: str, texts: Mapping[str, str], architecture: str) -> str:
    everything = [main, dict(texts), architecture, FLAGS, nvrtc_version()]
    described = json.dumps(everything, sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def _run_nvrtc(main: str, texts: Mapping[str, str], architecture: str) -> tuple[bytes, bytes, str]:
    nvrtc = _nvrtc()
    headers = {name: text for name, text in texts.items() if name != main}
    program = nvrtc.createProgram(
        texts[main], main, [t.encode() for t in headers.values()], [n.encode() for n in headers]
    )
    try:
        try:
            nvrtc.compileProgram(program, [f"--gpu-architecture=sm_{architecture}", *FLAGS])
        except nvrtc.NVRTCError as e:
            log = nvrtc.getProgramLog(program).strip()
            raise BackendError(
                f"{main} does not compile for sm_{architecture} with NVRTC "
                f"{'.'.join(map(str, nvrtc_version()))}: {e}\n{log}"
            ) from e
        ptx = nvrtc.getPTX(program)
        cubin = nvrtc.getCUBIN(program)
        log = nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)
    return bytes(ptx).rstrip(b"\0"), _whole_elf(bytes(cubin)), str(log).rstrip("\0 ")


def _whole_elf(cubin: bytes) -> bytes:
    """Put back the last byte that CuPy's ``getCUBIN`` cuts off, if it did.

    It takes the image for a C string. How long an ELF image is follows from its header: up to the
    end of the later of its two tables.
    """
    program_table, section_table = struct.unpack_from("<QQ", cubin, 32)
    program_size, program_count, section_size, section_count = struct.unpack_from("<4H", cubin, 54)
    end = max(
        program_table + program_size * program_count, section_table + section_size * section_count
    )
    return cubin + bytes(max(0, end - len(cubin)))


def _is_whole(folder: Path, key: str) -> bool:
    try:
        entry = json.loads((folder / "entry.json").read_text())
        return bool(entry["key"] == key) and all(
            entry["sha256"][part] == _sha256((folder / part).read_bytes()) for part in _PARTS
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _store(folder: Path, key: str, contents: tuple[bytes, bytes, bytes]) -> Path:
    """Write an entry beside its place and move it there; return where it is."""
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    for part, content in zip(_PARTS, contents, strict=True):
        (made / part).write_bytes(content)
    sums = {part: _sha256(content) for part, content in zip(_PARTS, contents, strict=True)}
    (made / "entry.json").write_text(json.dumps({"key": key, "sha256": sums}))
    made.chmod(0o755)
    if _moved(made, folder):
        return folder
    # The place is taken: by another process that made the same entry, or by a corrupt one.
    if not _is_whole(folder, key):
        shutil.rmtree(folder, ignore_errors=True)
        if _moved(made, folder):
            return folder
    if _is_whole(folder, key):
        shutil.rmtree(made)
        return folder
    return made  # others rebuild the entry at the same time; this process's own copy is as good


def _moved(made: Path, folder: Path) -> bool:
    try:
        made.rename(folder)
    except OSError:
        return False
    return True


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
