// The PTX instructions of the kernels, one small function each; why this variant stands beside it.
//
// No CUDA header is included anywhere: a 16-bit value is only moved and multiplied by tensor cores,
// so its type is the bit pattern, and what the compiler must know about the format is in the
// instruction's name. NVRTC then needs nothing but the kernel's own text.
#pragma once
#include "types.cuh"
#include "config.cuh"

using Half = unsigned short;  // a float16 or bfloat16, as bits
using Word = unsigned int;    // a 32-bit register: two Halfs, or eight nibbles of metadata

struct alignas(16) Chunk {  // 16 bytes, the unit of every copy
    Word word[4];
};

// Shared memory is addressed by 32-bit offsets: half the registers of a generic pointer.
__device__ inline Word shared_address(const void* pointer) {
    return static_cast<Word>(__cvta_generic_to_shared(pointer));
}

// Copy 16 bytes to shared memory without passing through registers, or 16 zeros if they are not
// wanted: then `from` is not read at all, so that a padding slot costs no traffic and cannot bring
// an Inf in. `.cg` keeps the gathered rows out of L1, where nothing would find them again.
__device__ inline void copy_async(Word to, const void* from, bool wanted) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(wanted ? 16 : 0)
                 : "memory");
}

// Close the group of all copies this thread has started since the last one; it may be empty.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until at most stages - 2 of this thread's groups are still under way: of the stages ahead,
// the next one has arrived. Says nothing about other threads' copies: a barrier must follow.
__device__ inline void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(config::stages - 2) : "memory");
}

// Which block this is. Volatile, so that what is derived from it may be derived again later instead
// of being kept in registers through a main loop.
__device__ inline int block_index() {
    int index;
    asm volatile("mov.u32 %0, %ctaid.x;" : "=r"(index));
    return index;
}

// The same, of whichever number of groups.
template <int most>
__device__ inline void wait_for_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(most) : "memory");
}

__device__ inline void wait_for_all_copies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ inline void block_barrier() { asm volatile("bar.sync 0;" ::: "memory"); }

__device__ inline void warp_barrier() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

// What `value` is in lane `lane` of the warp.
__device__ inline int from_lane(int value, int lane) {
    int got;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;"
                 : "=r"(got)
                 : "r"(value), "r"(lane));
    return got;
}

// Read-only loads: what they read no thread of the launch writes.
__device__ inline int load_int(const int* from) {
    int value;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(value) : "l"(from));
    return value;
}

__device__ inline Half load_half(const Half* from) {
    Half value;
    asm volatile("ld.global.nc.b16 %0, [%1];" : "=h"(value) : "l"(from));
    return value;
}

// Bring a line of 128 bytes into L2, without waiting for it.
__device__ inline void prefetch(const void* from) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

__device__ inline Chunk load_constant_chunk(const void* from) {
    Chunk c;
    asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(c.word[0]), "=r"(c.word[1]), "=r"(c.word[2]), "=r"(c.word[3])
                 : "l"(from));
    return c;
}

// What another block of this launch has written: not through the cache of read-only loads.
__device__ inline float load_written(const float* from) {
    float value;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(value) : "l"(from) : "memory");
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

__device__ inline Half load_shared_half(Word from) {
    Half value;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(from) : "memory");
    return value;
}

__device__ inline void store_shared_half(Word to, Half value) {
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(to), "h"(value) : "memory");
}

struct WordPair {
    Word low, high;
};
__device__ inline WordPair load_shared_pair(Word from) {
    WordPair p;
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];"
                 : "=r"(p.low), "=r"(p.high)
                 : "r"(from)
                 : "memory");
    return p;
}

__device__ inline Chunk load_shared_chunk(Word from) {
    Chunk c;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(c.word[0]), "=r"(c.word[1]), "=r"(c.word[2]), "=r"(c.word[3])
                 : "r"(from)
                 : "memory");
    return c;
}

__device__ inline void store_shared(Word to, Word value) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}

__device__ inline void store_shared_pair(Word to, Word low, Word high) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(low), "r"(high) : "memory");
}

__device__ inline void store_shared_chunk(Word to, const Chunk& c) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(c.word[0]),
                 "r"(c.word[1]), "r"(c.word[2]), "r"(c.word[3])
                 : "memory");
}

__device__ inline Chunk load_global_chunk(const void* from) {
    Chunk c;
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(c.word[0]), "=r"(c.word[1]), "=r"(c.word[2]), "=r"(c.word[3])
                 : "l"(from)
                 : "memory");
    return c;
}

__device__ inline void store_global_pair(void* to, Word low, Word high) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(low), "r"(high) : "memory");
}

__device__ inline void store_global_chunk(void* to, const Chunk& c) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(c.word[0]),
                 "r"(c.word[1]), "r"(c.word[2]), "r"(c.word[3])
                 : "memory");
}

// Read four 8 x 8 matrices, transposed; lane l gives the address of row l % 8 of matrix l / 8.
// A stage of X holds [slot][n] with n contiguous, while the B operand wants pairs of slots in one
// register: the transpose on the way is free. Matrices 0-3 are slots 0-7, 8-15, 16-23, 24-31 at
// the same eight columns, so one instruction fills the whole FragmentB.
__device__ inline Chunk load_matrices_transposed(Word from) {
    Chunk b;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b.word[0]), "=r"(b.word[1]), "=r"(b.word[2]), "=r"(b.word[3])
                 : "r"(from)
                 : "memory");
    return b;
}

// Four bytes of the eight of `low` and `high`, chosen by the nibbles of `choice`, lowest first.
__device__ inline Word permute_bytes(Word low, Word high, Word choice) {
    Word got;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(got) : "r"(low), "r"(high), "r"(choice));
    return got;
}

// Count up, and back to zero from `last`: returns what was counted before.
__device__ inline Word count_and_wrap(Word* counter, Word last) {
    Word before;
    asm volatile("atom.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(last)
                 : "memory");
    return before;
}

// What this thread has written to memory before is seen by all who see what it writes after.
__device__ inline void memory_fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// The two halves of a float64 and back.
__device__ inline double join(Word low, Word high) {
    double whole;
    asm("mov.b64 %0, {%1, %2};" : "=d"(whole) : "r"(low), "r"(high));
    return whole;
}

__device__ inline void split(double whole, Word& low, Word& high) {
    asm("mov.b64 {%0, %1}, %2;" : "=r"(low), "=r"(high) : "d"(whole));
}

template <class Of>
__device__ inline Word bits_of(Of value) {
    return static_cast<Word>(value);
}
template <>
__device__ inline Word bits_of(float value) {
    return __float_as_uint(value);
}

// Round two accumulators to a pair of Halfs, `low` in the lower 16 bits; the PTX operand order is
// high first.
__device__ inline Word round_pair(float low, float high) {
    Word pair;
    if constexpr (config::bfloat16)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
