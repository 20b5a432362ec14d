// What happens to sums before they are stored, in float32:
//
//   y = activation(alpha * row_scale * sum * col_scale + beta * c + bias) + residual
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"

// What a result is, as bits.
template <int bytes>
struct BitsOf {
    using Type = Word;
};
template <>
struct BitsOf<2> {
    using Type = Half;
};
template <>
struct BitsOf<8> {
    using Type = unsigned long long;
};
constexpr int output_bytes = bytes_of(config::output);
using Output = BitsOf<output_bytes>::Type;

// Whether sums are rounded to 16 bits and stored, and nothing else.
constexpr bool plain = !config::fused && output_bytes == 2 && config::element != Element::int8;

// Element e of 16 bytes of results.
__device__ inline Output output_of(const Chunk& chunk, int e) {
    if constexpr (output_bytes == 8)
        return __double_as_longlong(join(chunk.word[2 * e], chunk.word[2 * e + 1]));
    return output_bytes == 2 ? chunk.word[e / 2] >> 16 * (e % 2) & 0xffff : chunk.word[e];
}

// A matrix of the output's type that is added; any strides, in elements. Absent: a null pointer.
struct Added {
    const Output* data;
    long long row, column;
};

struct Epilogue {
    float alpha, beta;
    Added c, residual;
    const float* row_bias;  // each may be null
    const float* column_bias;
    const float* row_scale;
    const float* column_scale;
};

// A result as float32. bfloat16 is the upper half of one.
__device__ inline float widened(Output bits) {
    if constexpr (config::output == Element::bfloat16) {
        return __uint_as_float(Word(bits) << 16);
    } else if constexpr (config::output == Element::float16) {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<Half>(bits)));
        return value;
    } else {
        return __uint_as_float(static_cast<Word>(bits));
    }
}

__device__ inline float load_float(const float* from) { return __ldg(from); }

__device__ inline float activated(float x) {
    if constexpr (config::activation == Activation::relu) return x != x ? x : fmaxf(x, 0.0f);
    if constexpr (config::activation == Activation::gelu)
        return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    if constexpr (config::activation == Activation::gelu_tanh)
        return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    // x / (1 + exp(-x)), without the overflow
    if constexpr (config::activation == Activation::silu)
        return 0.5f * x * (1.0f + tanhf(0.5f * x));
    return x;
}

// Elements (row, column) to (row, column + count - 1) of `from`, 16 bytes at once where that is
// possible; beyond `valid` there are none.
template <int count>
__device__ inline void load_added(float (&value)[count], const Added& from, int row, int column,
                                  int valid) {
    const Output* const first = from.data + row * from.row + column * from.column;
    const bool whole = count * output_bytes == sizeof(Chunk) && valid >= count && from.column == 1 &&
                       reinterpret_cast<unsigned long long>(first) % sizeof(Chunk) == 0;
    if (whole) {
        const Chunk chunk = load_global_chunk(first);
#pragma unroll
        for (int e = 0; e < count; ++e) {
            const Word word = chunk.word[e * output_bytes / 4];
            value[e] = widened(static_cast<Output>(output_bytes == 2 ? word >> e % 2 * 16 : word));
        }
    } else {
#pragma unroll
        for (int e = 0; e < count; ++e)
            value[e] = e < valid ? widened(first[e * from.column]) : 0.0f;
    }
}

// Finish the sums of `count` columns of a row, of which `valid` are stored.
template <int count>
__device__ inline void finish(float (&sum)[count], const Epilogue& by, int row, int column,
                              int valid) {
    const float scale = by.row_scale ? by.alpha * load_float(by.row_scale + row) : by.alpha;
    const float bias = by.row_bias ? load_float(by.row_bias + row) : 0.0f;
    float added[count] = {};
    if (by.c.data) load_added(added, by.c, row, column, valid);
#pragma unroll
    for (int e = 0; e < count; ++e) {
        float value = scale * sum[e];
        if (by.column_scale && e < valid) value *= load_float(by.column_scale + column + e);
        if (by.c.data) value += by.beta * added[e];
        if (by.row_bias) value += bias;
        if (by.column_bias && e < valid) value += load_float(by.column_bias + column + e);
        sum[e] = activated(value);
    }
    if (by.residual.data) {
        load_added(added, by.residual, row, column, valid);
#pragma unroll
        for (int e = 0; e < count; ++e) sum[e] += added[e];
    }
}
