// What sm_90a adds: barriers in shared memory, bulk copies, the asynchronous proxy, wgmma's control.
//
// The product itself, multiply_async, is in wgmma.cuh, which is written for the config: an instruction
// names each of its 32 to 128 accumulators.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"

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

// ---- Clusters ----------------------------------------------------------------------------------
//
// Blocks of a cluster run at the same time, and reach each other's shared memory. An address within
// a block's own is the same place in the cluster's addresses; map_to gives that of another block.
__device__ inline int cluster_rank() {
    int rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ inline Word map_to(Word address, Word rank) {
    Word mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
    return mapped;
}

// All threads of all blocks that have not left.
__device__ inline void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// As arrive, at a barrier of another block.
__device__ inline void arrive_remotely(Word mapped) {
    asm volatile("mbarrier.arrive.release.cta.shared::cluster.b64 _, [%0];" ::"r"(mapped)
                 : "memory");
}

// As wait, for what threads of other blocks did before they arrived.
__device__ inline void wait_for_cluster(Word barrier, Word parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// ---- Copies ------------------------------------------------------------------------------------

// Copy `bytes` in a row, by the copy engine, which tells `barrier` as they land.
__device__ inline void copy_bulk(Word to, const void* from, int bytes, Word barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
}

// The same to all `blocks` of the cluster, one bit each: to the same place there, telling the
// barrier that is in the same place there.
__device__ inline void copy_bulk_to(Word to, const void* from, int bytes, Word barrier, Half blocks) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1], %2, [%3], %4;" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier), "h"(blocks)
        : "memory");
}

// What a matrix in global memory is to the copy engine: address, sizes, strides, the box that one copy
// moves, how that lies in shared memory. Made by the driver, hopper/tensor_map.py.
struct alignas(64) TensorMap {
    unsigned long long word[16];
};

// Copy the box whose first element is at (column, row), zeros beyond the edges, likewise.
__device__ inline void copy_box_to(Word to, const TensorMap& map, int column, int row, Word barrier,
                                   Half blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"(blocks)
        : "memory");
}

// Wait until at most `newest` groups of this thread's own copies are under way.
template <int newest>
__device__ inline void wait_for_copies_but() {
    asm volatile("cp.async.wait_group %0;" ::"n"(newest) : "memory");
}

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

// Sums that have been waited for. To the compiler the wait has nothing to do with them: without this
// it reads them earlier, where that suits it.
template <int count>
__device__ inline void receive(float (&c)[count]) {
#pragma unroll
    for (int i = 0; i < count; ++i) asm volatile("" : "+f"(c[i])::"memory");
}
template <int count>
__device__ inline void receive(int (&c)[count]) {
#pragma unroll
    for (int i = 0; i < count; ++i) asm volatile("" : "+r"(c[i])::"memory");
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

// Two neighbours in memory, of two or four bytes each.
template <int bytes>
__device__ inline WordPair load_global_pair(const void* from) {
    WordPair p;
    if constexpr (bytes == 4) {
        asm volatile("ld.global.v2.b32 {%0, %1}, [%2];"
                     : "=r"(p.low), "=r"(p.high)
                     : "l"(from)
                     : "memory");
    } else {
        Word both;
        asm volatile("ld.global.b32 %0, [%1];" : "=r"(both) : "l"(from) : "memory");
        p = {both & 0xffff, both >> 16};
    }
    return p;
}

// Store four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8. Each lane holds a
// pair of Halfs of row lane / 4 of each, which is how accumulators lie.
__device__ inline void store_matrices(Word to, Word a, Word b, Word c, Word d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a),
                 "r"(b), "r"(c), "r"(d)
                 : "memory");
}
