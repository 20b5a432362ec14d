// Sums of 8-bit values to Y, through shared memory as sums, 8 rows of a warp and 32 columns at a time:
// a lane holds pairs, and memory wants 16 bytes of a row.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "epilogue.cuh"
#include "sm90_finish.cuh"
#include "sm90_layout8.cuh"

// A warpgroup's sums: accumulators of each piece of 64 rows.
using Sums = Sum[pieces][config::wg_n / 2];

// Where a warp's share of them belongs in Y.
struct Where {
    const int* rows;  // the block's row list
    int height;       // how many rows it has
    int first;        // the warp's first row of the first piece
    int n;            // its first column

    // Which row of Y row `row` of piece m is, or -1.
    __device__ int at(int m, int row) const {
        const int of_block = first + m * slab_rows + row;
        return of_block < height ? load_int(rows + of_block) : -1;
    }
};

// What a warp stores to.
struct Target {
    Output* y;
    int ldy, n;
    bool aligned;  // rows begin at multiples of 16 bytes
    Word buffer;   // the warp's, y_bytes of shared memory
};

constexpr int lane_outputs = chunk_bytes / output_bytes;  // that a lane stores at once
constexpr int lane_chunks = lane_outputs / 4;             // of sums
constexpr int row_lanes = y_part / lane_outputs;
constexpr int store_rows = 32 / row_lanes;  // by one instruction of a warp
constexpr int part_sums = y_part / 2;       // of a lane, in 16 rows
constexpr int row_parts = config::wg_n / y_part;

// What a finished sum's bits are as a result of less or no bits.
__device__ inline float finished(Word bits) {
    return config::fused ? __uint_as_float(bits) : value_of<Sum>(bits);
}

// Results of a lane, from sums of its row.
__device__ inline Chunk outputs_of(const Chunk (&got)[lane_chunks], int turned) {
    if constexpr (config::output == Element::int32) {
        return got[0];
    } else {
        float sum[lane_outputs];
#pragma unroll
        for (int e = 0; e < lane_outputs; ++e) {
            const Word first = got[0].word[e % 4];
            const Word last = got[lane_chunks - 1].word[e % 4];
            sum[e] = finished(e / 4 == turned ? first : last);
        }
        Chunk chunk;
#pragma unroll
        for (int w = 0; w < 4; ++w)
            chunk.word[w] = output_bytes == 2 ? round_pair(sum[2 * w % lane_outputs],
                                                           sum[(2 * w + 1) % lane_outputs])
                                              : bits_of(sum[w]);
        return chunk;
    }
}

// Store 8 rows of a part of piece m: of 16 rows the upper half, or the lower one. Chunk j of row r
// waits at j ^ 2 (r % 4): four rows, two chunks of each, are all banks.
__device__ inline void store_half(const Sum* sums, int m, int half, int n, const Where& where,
                                  const Target& target) {
    const int lane = threadIdx.x % 32;
    const auto at = [&](int row, int chunk) {
        return target.buffer + row * y_row_bytes + (chunk ^ row % 4 * 2) * chunk_bytes;
    };
    warp_barrier();
#pragma unroll
    for (int j = 0; j < y_part / 8; ++j) {
        const Sum* const s = sums + 4 * j;
        store_shared_pair(at(lane / 4, 2 * j + lane % 4 / 2) + lane % 2 * 8,
                          bits_of(half ? s[2] : s[0]), bits_of(half ? s[3] : s[1]));
    }
    warp_barrier();
    const int mine = lane % row_lanes;
    const int n0 = n + mine * lane_outputs;
#pragma unroll 1
    for (int i = 0; i < y_rows / store_rows; ++i) {
        const int row = i * store_rows + lane / row_lanes;
        const int to_row = where.at(m, half * y_rows + row);
        if (to_row < 0) continue;
        // Of two chunks, odd rows begin with the second, for the sake of the banks.
        const int turned = lane_chunks == 2 ? row % 2 : 0;
        Chunk got[lane_chunks];
#pragma unroll
        for (int h = 0; h < lane_chunks; ++h)
            got[h] = load_shared_chunk(at(row, mine * lane_chunks + (h ^ turned)));
        const Chunk chunk = outputs_of(got, turned);
        Output* const to = target.y + static_cast<long long>(to_row) * target.ldy + n0;
        if (target.aligned && n0 + lane_outputs <= target.n) {
            store_global_chunk(to, chunk);
        } else {
#pragma unroll
            for (int e = 0; e < lane_outputs; ++e)
                if (n0 + e < target.n) to[e] = output_of(chunk, e);
        }
    }
}

// Finish the sums, if there is anything to do, and store them.
__device__ inline void store_sums(Sums& c, const Where& where, const Epilogue& by,
                                  const Target& target) {
    const int lane = threadIdx.x % 32;
#pragma unroll(one_place ? 1 : pieces * row_parts)
    for (int part = 0; part < pieces * row_parts; ++part) {
        const int m = part / row_parts;
        const int n = where.n + part % row_parts * y_part;
        Sum* const sums = one_place ? c[0] : c[m] + part % row_parts * part_sums;
        if constexpr (config::fused) {
            const LanePlace place = {{where.at(m, lane / 4), where.at(m, y_rows + lane / 4)},
                                     n + lane % 4 * 2};
            finish_lane<part_sums>(sums, by, place, target.n);
        }
#pragma unroll(one_place && output_bytes == 2 ? 2 : 1)  // whichever spills no registers
        for (int half = 0; half < 2; ++half) store_half(sums, m, half, n, where, target);
        if constexpr (one_place) bring_down<part_sums>(c);
    }
}
