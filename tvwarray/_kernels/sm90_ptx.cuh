// What sm_90a adds: barriers in shared memory, bulk copies, the asynchronous proxy, wgmma's control.
//
// The product itself, multiply_async, is in wgmma.cuh, which is written for the config: an instruction
// names each of its 32 to 128 accumulators.
#pragma once
#include "config.cuh"

using Half = unsigned short;  // a float16 or bfloat16, as bits
using Word = unsigned int;    // a 32-bit register: two Halfs, or eight nibbles of metadata
struct alignas(16) Chunk {    // 16 bytes, the unit of every copy
    Word word[4];
};
using Descriptor = unsigned long long;  // where a matrix in shared memory lies, for wgmma

// ---- Barriers with phases ----------------------------------------------------------------------
//
// An mbarrier completes a phase when `count` arrivals have come and all expected bytes have. Who waits
// names the parity of the phase; before the first completion the phase "before" counts as complete,
// so that a ring's empty stages can be waited for like all others.
__device__ inline void init_barrier(Word barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

// Make initialised barriers visible to bulk copies, which signal them from outside the program order.
__device__ inline void publish_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void arrive(Word barrier) {
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrive, and let the phase wait for `bytes` more bytes of bulk copies.
__device__ inline void arrive_expecting(Word barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                 "r"(bytes)
                 : "memory");
}

// try_wait suspends the thread for a while by itself: the loop turns rarely.
__device__ inline void wait(Word barrier, Word parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// ---- Threads and memory --------------------------------------------------------------------------

// Shared memory is addressed by 32-bit offsets: half the registers of a generic pointer.
__device__ inline Word shared_address(const void* pointer) {
    return static_cast<Word>(__cvta_generic_to_shared(pointer));
}

__device__ inline void block_barrier() { asm volatile("bar.sync 0;" ::: "memory"); }

__device__ inline void warp_barrier() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

// Read-only loads: what they read no thread of the launch writes.
__device__ inline int load_int(const int* from) {
    int value;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(value) : "l"(from));
    return value;
}

__device__ inline int4 load_int4(const int* from) {
    int4 value;
    asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(from));
    return value;
}

__device__ inline Word load_shared(Word from) {
    Word value;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(from) : "memory");
    return value;
}

__device__ inline Chunk load_shared_chunk(Word from) {
    Chunk c;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(c.word[0]), "=r"(c.word[1]), "=r"(c.word[2]), "=r"(c.word[3])
                 : "r"(from)
                 : "memory");
    return c;
}

__device__ inline void store_global_chunk(Half* to, const Chunk& c) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(c.word[0]),
                 "r"(c.word[1]), "r"(c.word[2]), "r"(c.word[3])
                 : "memory");
}

// ---- Copies ------------------------------------------------------------------------------------

// Copy 16 bytes to shared memory without passing through registers, or 16 zeros if they are not
// wanted: then `from` is not read at all, so that a padding slot costs no traffic and cannot bring
// an Inf in. `.cg` keeps the gathered rows out of L1, where nothing would find them again.
__device__ inline void copy_async(Word to, const void* from, bool wanted) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(wanted ? 16 : 0)
                 : "memory");
}

// Copy `bytes` in a row, by the copy engine, which tells `barrier` as they land.
__device__ inline void copy_bulk(Word to, const void* from, int bytes, Word barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
}

// Wait for all of this thread's own cp.async.
__device__ inline void wait_for_all_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// wgmma reads shared memory through the asynchronous proxy. What threads wrote, also by cp.async, it
// sees only behind this fence, by the thread that wrote and before it tells anybody.
__device__ inline void fence_for_wgmma() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- wgmma -------------------------------------------------------------------------------------

// Before the first product, and whenever accumulators were written by anything else.
__device__ inline void begin_products() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Close the group of the products started since the last one.
__device__ inline void commit_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Wait until at most `newest` groups are under way. Accumulators, metadata registers and the shared
// memory of the others are free.
template <int newest>
__device__ inline void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(newest) : "memory");
}

// Registers move between warpgroups: those who copy need few, those who multiply hold the sums.
template <int registers>
__device__ inline void release_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ inline void claim_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

// ---- The result --------------------------------------------------------------------------------

// Store four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8. Each lane holds a
// pair of Halfs of row lane / 4 of each, which is how accumulators lie.
__device__ inline void store_matrices(Word to, Word a, Word b, Word c, Word d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a),
                 "r"(b), "r"(c), "r"(d)
                 : "memory");
}

// Round two sums to a pair of Halfs, `low` in the lower 16 bits; the PTX operand order is high first.
__device__ inline Word round_pair(float low, float high) {
    Word pair;
    if constexpr (config::bfloat16)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
