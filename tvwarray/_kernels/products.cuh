// Tensor-core products: operands of every element type in fragments of equal size.
//
// A lane holds 16 bytes of A and 16 bytes of B for every instruction, whatever the element; what
// differs is how many slots that is:
//
//   bytes   slots of a FragmentB   mma.sp, A            mma (all slots), two for one FragmentB
//   1       64                     m16n8k64 2:4         m16n8k32
//   2       32                     m16n8k32 2:4         m16n8k16
//   4       16                     m16n8k16 1:2 (tf32)  m16n8k8
//   8        8                     none                 m8n8k4, two for 16 rows
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"

constexpr int element_bytes = bytes_of(config::element);

// What sums are: the accumulator type of the element.
template <Element element>
struct SumOf {
    using Type = float;
};
template <>
struct SumOf<Element::int8> {
    using Type = int;
};
template <>
struct SumOf<Element::float64> {
    using Type = double;
};
using Sum = SumOf<config::element>::Type;

// What one lane holds of an operand of a warp-wide product. Every index into a fragment must be a
// compile-time constant: registers have no addresses, and a run-time index sends the array to
// local memory, which is global memory by another name.
struct alignas(16) FragmentA {  // 16 rows x a FragmentB's slots with 2:4, or half of them
    Word word[4];
};
struct FragmentB {  // slots x 8 columns of X
    Word word[4];
};
struct FragmentC {  // 16 rows x 8 columns: words 0, 1 of row g, words 2, 3 of row g + 8
    Sum word[4];
};

// Sums as 16 bytes, four of them or two of float64, and back.
__device__ inline Chunk chunk_of(const Sum* sum) {
    Chunk chunk;
    if constexpr (sizeof(Sum) == 8) {
        split(sum[0], chunk.word[0], chunk.word[1]);
        split(sum[1], chunk.word[2], chunk.word[3]);
    } else {
        chunk = {bits_of(sum[0]), bits_of(sum[1]), bits_of(sum[2]), bits_of(sum[3])};
    }
    return chunk;
}

// A sum as float32, from its bits.
template <class Of>
__device__ inline float value_of(Word bits) {
    return __uint_as_float(bits);
}
template <>
__device__ inline float value_of<int>(Word bits) {
    return static_cast<float>(static_cast<int>(bits));
}

template <class Of>
__device__ inline Of from_bits(Word bits) {
    return __uint_as_float(bits);
}
template <>
__device__ inline int from_bits<int>(Word bits) {
    return static_cast<int>(bits);
}

__device__ inline void sums_of(const Chunk& chunk, Sum* sum) {
    if constexpr (sizeof(Sum) == 8) {
        sum[0] = join(chunk.word[0], chunk.word[1]);
        sum[1] = join(chunk.word[2], chunk.word[3]);
    } else {
#pragma unroll
        for (int w = 0; w < 4; ++w) sum[w] = from_bits<Sum>(chunk.word[w]);
    }
}

__device__ inline void add_sums(const Chunk& chunk, Sum* sum) {
    Sum more[4];
    sums_of(chunk, more);
#pragma unroll
    for (int w = 0; w < 16 / static_cast<int>(sizeof(Sum)); ++w) sum[w] += more[w];
}

// C += A B, A with two values in every group of four slots (of tf32: one in two). `ordered_metadata`
// because the stored positions ascend; on some chips the plain form is emulated, four times slower.
// A word of metadata of 16-bit values or tf32 serves two such steps: the selector says which pair of
// lanes of each quad supplies this one (0: lanes 0 and 1, 1: lanes 2 and 3), and is an immediate.
// Of 8-bit values all four lanes supply one step, and the selector is 0. (`Sums` is FragmentC; as a
// template's own it is not checked where it does not fit.)
template <int selector, class Sums>
__device__ inline void multiply_sparse(Sums& c, const FragmentA& a, const FragmentB& b,
                                       Word meta) {
    if constexpr (config::element == Element::bfloat16)
        asm("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]),
              "r"(b.word[1]), "r"(b.word[2]), "r"(b.word[3]), "r"(meta), "n"(selector));
    else if constexpr (config::element == Element::float16)
        asm("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]),
              "r"(b.word[1]), "r"(b.word[2]), "r"(b.word[3]), "r"(meta), "n"(selector));
    else if constexpr (config::element == Element::tf32)
        asm("mma.sp::ordered_metadata.sync.aligned.m16n8k16.row.col.f32.tf32.tf32.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]),
              "r"(b.word[1]), "r"(b.word[2]), "r"(b.word[3]), "r"(meta), "n"(selector));
    else if constexpr (config::element == Element::float8_e4m3)
        asm("mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.f32.e4m3.e4m3.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, 0;"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]),
              "r"(b.word[1]), "r"(b.word[2]), "r"(b.word[3]), "r"(meta));
    else if constexpr (config::element == Element::float8_e5m2)
        asm("mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.f32.e5m2.e5m2.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, 0;"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]),
              "r"(b.word[1]), "r"(b.word[2]), "r"(b.word[3]), "r"(meta));
    else if constexpr (config::element == Element::int8)
        asm("mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, 0;"
            : "+r"(c.word[0]), "+r"(c.word[1]), "+r"(c.word[2]), "+r"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]),
              "r"(b.word[1]), "r"(b.word[2]), "r"(b.word[3]), "r"(meta));
}

// C += A B over half of a FragmentB's slots, all of A stored: `half` says which. The operand B of
// these instructions is two words, one half of FragmentB as it stands.
template <int half, class Sums>
__device__ inline void multiply_dense(Sums& c, const FragmentA& a, const FragmentB& b) {
    if constexpr (config::element == Element::bfloat16)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]),
              "r"(b.word[2 * half]), "r"(b.word[2 * half + 1]));
    else if constexpr (config::element == Element::float16)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]),
              "r"(b.word[2 * half]), "r"(b.word[2 * half + 1]));
    else if constexpr (config::element == Element::tf32)
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]),
              "r"(b.word[2 * half]), "r"(b.word[2 * half + 1]));
    else if constexpr (config::element == Element::float8_e4m3)
        asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]),
              "r"(b.word[2 * half]), "r"(b.word[2 * half + 1]));
    else if constexpr (config::element == Element::float8_e5m2)
        asm("mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c.word[0]), "+f"(c.word[1]), "+f"(c.word[2]), "+f"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]),
              "r"(b.word[2 * half]), "r"(b.word[2 * half + 1]));
    else if constexpr (config::element == Element::int8)
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+r"(c.word[0]), "+r"(c.word[1]), "+r"(c.word[2]), "+r"(c.word[3])
            : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]),
              "r"(b.word[2 * half]), "r"(b.word[2 * half + 1]));
    else {
        const double column = join(b.word[2 * half], b.word[2 * half + 1]);
#pragma unroll
        for (int rows = 0; rows < 2; ++rows)
            asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                : "+d"(c.word[2 * rows]), "+d"(c.word[2 * rows + 1])
                : "d"(join(a.word[2 * rows], a.word[2 * rows + 1])), "d"(column));
    }
}
