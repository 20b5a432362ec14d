// The PTX instructions of the kernels, one small function each; why this variant stands beside it.
//
// No CUDA header is included anywhere: a 16-bit value is only moved and multiplied by tensor cores,
// so its type is the bit pattern, and what the compiler must know about the format is in the
// instruction's name. NVRTC then needs nothing but the kernel's own text.
#pragma once
#include "config.cuh"

using Half = unsigned short;  // a float16 or bfloat16, as bits
using Word = unsigned int;    // a 32-bit register: two Halfs, or eight nibbles of metadata

// What one lane holds of an operand of a warp-wide product. Every index into a fragment must be a
// compile-time constant: registers have no addresses, and a run-time index sends the array to
// local memory, which is global memory by another name.
struct alignas(16) FragmentA {  // 16 rows: 16 stored values of 32 slots, or 16 slots without 2:4
    Word word[4];
};
struct FragmentB {  // 32 slots x 8 columns of X
    Word word[4];
};
struct FragmentC {  // 16 rows x 8 columns, float32: words 0, 1 of row g, words 2, 3 of row g + 8
    float word[4];
};
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

__device__ inline void store_shared(Word to, Word value) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}

__device__ inline void store_global_chunk(Half* to, const Chunk& c) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(c.word[0]),
                 "r"(c.word[1]), "r"(c.word[2]), "r"(c.word[3])
                 : "memory");
}

// Read four 8 x 8 matrices, transposed; lane l gives the address of row l % 8 of matrix l / 8.
// A stage of X holds [slot][n] with n contiguous, while the B operand wants pairs of slots in one
// register: the transpose on the way is free. Matrices 0-3 are slots 0-7, 8-15, 16-23, 24-31 at
// the same eight columns, so one instruction fills the whole FragmentB.
__device__ inline FragmentB load_matrices_transposed(Word from) {
    FragmentB b;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b.word[0]), "=r"(b.word[1]), "=r"(b.word[2]), "=r"(b.word[3])
                 : "r"(from)
                 : "memory");
    return b;
}

// C += A B over 32 slots, A with two values in every group of four slots. `ordered_metadata`
// because the stored positions ascend; on some chips the plain form is emulated, four times
// slower. One word of metadata serves two such steps: the selector says which pair of lanes of
// each quad supplies this one (0: lanes 0 and 1, 1: lanes 2 and 3), and is an immediate.
template <int selector>
__device__ inline void multiply_sparse(FragmentC& c, const FragmentA& a, const FragmentB& b,
                                       Word meta) {
    if constexpr (config::bfloat16)
        asm("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]),
              "r"(b.word[1]), "r"(b.word[2]), "r"(b.word[3]), "r"(meta), "n"(selector));
    else
        asm("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]),
              "r"(b.word[1]), "r"(b.word[2]), "r"(b.word[3]), "r"(meta), "n"(selector));
}

// C += A B over 16 slots, all of A stored: `half` says which 16 of the fragment's 32 slots of X.
// The m16n8k16 operand B is two words, slots 0-7 and 8-15: one half of FragmentB as it stands.
template <int half>
__device__ inline void multiply_dense(FragmentC& c, const FragmentA& a, const FragmentB& b) {
    if constexpr (config::bfloat16)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]),
              "r"(b.word[2 * half]), "r"(b.word[2 * half + 1]));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]),
              "r"(b.word[2 * half]), "r"(b.word[2 * half + 1]));
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
