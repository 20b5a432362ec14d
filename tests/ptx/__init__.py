"""A PTX interpreter: runs the shipped kernels on a CPU and reports what a GPU would let pass.

    from ptx import Interpreter, RaceError

    machine = Interpreter(ptx_text, order="random", seed=1)
    report = machine.launch("gemm", grid=(2, 2), block=256, args=[A, X, C, 256], shared_bytes=49152)
    assert report.worst_conflict("ldmatrix") == 1
    assert report.count("mma.sp") == 4096          # executed, once a warp

Arguments are given in the order of the kernel's parameters: a NumPy array becomes a global buffer
of exactly its bytes and is changed in place; ints, floats and NumPy scalars are passed by value;
``bytes`` is a struct by value. A struct may hold addresses, and buffers may outlive a launch:

    a = machine.memory.to_device(A, name="A")      # an int
    c = machine.memory.to_device(np.zeros((m, n), np.float16), initialised=False, name="C")
    machine.launch("gemm", grid, block, [struct.pack("<QQi4x", a, c, m)])
    C = machine.memory.to_host(c, (m, n), np.float16)

Executed are the instructions that compilers emit for such kernels, warp by warp between barriers in
forward, reverse or random order. Every misuse is an exception of its own (`errors`), which says
where: accesses out of bounds or misaligned, uninitialised reads, races in shared memory (missing
barrier, missing ``cp.async`` wait, overwriting what others still read) and in global memory (two
blocks, or two threads without a barrier), collectives that part of a warp never reaches, invalid
sparsity metadata and selectors, deadlocks, instructions that are not known.

Not shown: speed, the rounding of tensor cores (here products are summed in float64 and rounded
once), and what only ``ptxas`` and the driver know. Memory is sequentially consistent: weak-memory
bugs between blocks do not show, and a kernel with fences or global atomics may order its blocks
itself, so that only races within a block are looked for there. Calls must be inlined. What
``cp.async.bulk`` and ``wgmma`` do is there for 8-bit and 16-bit operands, tensor copies for two
dimensions in the 128-byte swizzle; of shared memory of other blocks of a cluster, mbarriers and
multicast.

What runs asynchronously on Hopper has rules of its own: a bulk copy lands at the end of a round and
is ordered only for those who waited for its ``mbarrier``; a ``wgmma`` owns its registers and reads
its shared memory until the wait; it reads through the asynchronous proxy, which sees what threads
wrote only behind a ``fence.proxy.async`` (`Clocks.shown`); phases that can no longer complete are a
deadlock; ``setmaxnreg`` takes from a pool.

The parts, bottom up: `errors`; `tokens`, `program`, `parse` (text to records); `warp`, `clocks`,
`shadow`, `shared`, `memory`, `copies`, `mbarrier`, `bulk`, `cluster`, `products`, `registers`,
`barriers`, `launch`, `report` (the state); `operands`, `decode`, `rounding` and ``ops_*``
(instructions to closures); `tensor`, `wgmma`, `tensor_map` (lane maps and layouts, as records that
prove themselves); `arguments`, `scheduler`, `machine` (running a launch). For tests: `snippets` (a
few instructions on one value a thread), `exact` (fractions to floats), `fragments` (the lane maps
in the ISA's words). NumPy 2 is needed, for its promotion rules.
"""

from .errors import (
    AccumulatorInUse,
    BarrierDeadlock,
    BarrierMisuse,
    DivergentCollective,
    IllegalSelector,
    IntegerDivisionByZero,
    InvalidMetadata,
    InvalidOperand,
    KernelTrap,
    LaunchError,
    Livelock,
    Misaligned,
    OutOfBounds,
    ParseError,
    PtxError,
    RaceError,
    UndefinedShuffle,
    UninitialisedRead,
    UninitialisedRegister,
    UnknownOpcode,
)
from .machine import Interpreter
from .parse import parse
from .program import Module
from .report import Conflicts, Report
from .tensor_map import TensorMap

__all__ = [
    "AccumulatorInUse",
    "BarrierDeadlock",
    "BarrierMisuse",
    "Conflicts",
    "DivergentCollective",
    "IllegalSelector",
    "IntegerDivisionByZero",
    "Interpreter",
    "InvalidMetadata",
    "InvalidOperand",
    "KernelTrap",
    "LaunchError",
    "Livelock",
    "Misaligned",
    "Module",
    "OutOfBounds",
    "ParseError",
    "PtxError",
    "RaceError",
    "Report",
    "TensorMap",
    "UndefinedShuffle",
    "UninitialisedRead",
    "UninitialisedRegister",
    "UnknownOpcode",
    "parse",
]
