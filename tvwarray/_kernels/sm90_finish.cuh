// The epilogue of sums where products leave them: in registers.
//
// Of 8 columns a lane has two neighbouring ones, of row lane / 4 and of the row 8 below:
//
//   columns    0 1    2 3    4 5    6 7  |  8 9   ...
//   row 0      lane 0 lane 1 lane 2 lane 3  lane 0          sums 0, 1 | 4, 5 | ...
//   row 1      lane 4 ...
//   row 8      lane 0 ...                                   sums 2, 3 | 6, 7 | ...
//
// So a lane needs two values of what belongs to rows and two for every 8 columns of what belongs to
// columns, and nothing passes shared memory that a bare product would not pass.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "epilogue.cuh"
#include "sm90_ptx.cuh"

// Where the sums of a lane belong.
struct LanePlace {
    int rows[2];  // of sums 0 and 1 of every four, and of 2 and 3; -1 where there is none
    int column;   // of sum 0
};

// A function's instructions for all sums of a lane are more than the cache of instructions holds. So
// parts come past one place, where they stand once; what costs little is written out instead.
constexpr bool one_place = config::fused && (config::activation == Activation::gelu ||
                                             config::activation == Activation::gelu_tanh ||
                                             config::activation == Activation::silu);

// The sums behind the first `count` take the places of those before.
template <int count, class Of, int high, int wide>
__device__ inline void bring_down(Of (&sums)[high][wide]) {
#pragma unroll
    for (int i = 0; i + count < high * wide; ++i)
        sums[i / wide][i % wide] = sums[(i + count) / wide][(i + count) % wide];
}

// A finished sum in the register of the one it was: of an integer, as bits.
__device__ inline void keep(float& to, float value) { to = value; }
__device__ inline void keep(int& to, float value) { to = __float_as_int(value); }

// Two neighbours of a row of `from`, by one load if `paired`; beyond `end` there are none.
__device__ inline void load_neighbours(float (&value)[2], const Added& from, int row, int column,
                                       int end, bool paired) {
    const Output* const first = from.data + row * from.row + column * from.column;
    if (paired && column + 1 < end) {
        const WordPair pair = load_global_pair<output_bytes>(first);
        value[0] = widened(static_cast<Output>(pair.low));
        value[1] = widened(static_cast<Output>(pair.high));
    } else {
#pragma unroll
        for (int e = 0; e < 2; ++e)
            value[e] = column + e < end ? widened(first[e * from.column]) : 0.0f;
    }
}

// Finish `count` sums of a lane; Y has n columns.
template <int count, class Of>
__device__ inline void finish_lane(Of* sums, const Epilogue& by, const LanePlace& at, int n) {
    float value[count];
    enum Act { scale, add };
    const auto use = [](float& x, float of, Act act) { x = act == scale ? x * of : x + of; };
    const auto for_rows = [&](const float* from, Act act) {
        const float upper = load_float(from + max(at.rows[0], 0));
        const float lower = load_float(from + max(at.rows[1], 0));
#pragma unroll
        for (int i = 0; i < count; ++i) use(value[i], i % 4 < 2 ? upper : lower, act);
    };
    const auto for_columns = [&](const float* from, Act act) {
#pragma unroll
        for (int i = 0; i < count; i += 4)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float of = load_float(from + min(at.column + 2 * i + e, n - 1));
                use(value[i + e], of, act);
                use(value[i + 2 + e], of, act);
            }
    };
    const auto add_times = [&](float factor, const Added& from) {
        const auto address = reinterpret_cast<unsigned long long>(from.data);
        const bool paired = from.column == 1 && address % (2 * output_bytes) == 0 && from.row % 2 == 0;
#pragma unroll
        for (int i = 0; i < count; i += 2) {
            const int row = at.rows[i / 2 % 2];
            float pair[2] = {};
            if (row >= 0) load_neighbours(pair, from, row, at.column + i / 4 * 8, n, paired);
            value[i] += factor * pair[0];
            value[i + 1] += factor * pair[1];
        }
    };

#pragma unroll
    for (int i = 0; i < count; ++i) value[i] = by.alpha * static_cast<float>(sums[i]);
    if (by.row_scale) for_rows(by.row_scale, scale);
    if (by.column_scale) for_columns(by.column_scale, scale);
    if (by.c.data) add_times(by.beta, by.c);
    if (by.row_bias) for_rows(by.row_bias, add);
    if (by.column_bias) for_columns(by.column_bias, add);
#pragma unroll
    for (int i = 0; i < count; ++i) value[i] = activated(value[i]);
    if (by.residual.data) add_times(1.0f, by.residual);
#pragma unroll
    for (int i = 0; i < count; ++i) keep(sums[i], value[i]);
}
