// Sums to Y, through shared memory, 16 rows of a warp at a time: a lane holds pairs of sums, and
// memory wants whole lines.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "epilogue.cuh"
#include "sm90_finish.cuh"
#include "sm90_ptx.cuh"
#include "sm90_layout.cuh"

// A warpgroup's sums: accumulators of each piece of 64 rows.
using Sums = float[pieces][config::wg_n / 2];

// Where a warp's share of them belongs in Y.
struct Where {
    int rows;  // 16 of each piece, row r of piece m in lane 16 m + r; -1 where there is none
    int n;     // the first column
};
static_assert(pieces <= 2, "a warp knows 32 rows");

// What a warp stores to.
struct Target {
    Half* y;
    int ldy, n;
    bool aligned;  // rows begin at multiples of 16 bytes
    Word buffer;   // the warp's, y_bytes of shared memory

    // Store eight Halfs of a row from column n0 on, those that there are.
    __device__ void store(const Chunk& chunk, int row, int n0) const {
        Half* const to = y + static_cast<long long>(row) * ldy + n0;
        if (aligned && n0 + chunk_halfs <= n) {
            store_global_chunk(to, chunk);
        } else {
#pragma unroll
            for (int e = 0; e < chunk_halfs; ++e)
                if (n0 + e < n) to[e] = chunk.word[e / 2] >> 16 * (e % 2) & 0xffff;
        }
    }
};

// In parts of 16 rows x 64 columns of a warp: 32 sums of a lane.
constexpr int row_parts = config::wg_n / atom_columns;
constexpr int result_parts = pieces * row_parts;
constexpr int part_sums = atom_columns / 2;

// Chunk j of row r waits at j ^ (r % 8).
__device__ inline void store_part(const float* sums, int m, const Where& where, int n,
                                  const Target& target) {
    const int lane = threadIdx.x % 32;
    const int from_row = lane % 8 + lane / 8 % 2 * 8;  // of stmatrix: two by two
    warp_barrier();
#pragma unroll
    for (int j = 0; j < atom_chunks; j += 2) {
        const float* const s = sums + 4 * j;
        const int at = from_row * atom_row_bytes + (j + lane / 16 ^ from_row % 8) * chunk_bytes;
        store_matrices(target.buffer + at, round_pair(s[0], s[1]), round_pair(s[2], s[3]),
                       round_pair(s[4], s[5]), round_pair(s[6], s[7]));
    }
    warp_barrier();
    const int my_chunk = lane % 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = 4 * i + lane / 8;
        const Chunk chunk = load_shared_chunk(target.buffer + row * atom_row_bytes +
                                              (my_chunk ^ row % 8) * chunk_bytes);
        const int to_row = from_lane(where.rows, 16 * m + row);
        if (to_row >= 0) target.store(chunk, to_row, n + my_chunk * chunk_halfs);
    }
}

// Finish the sums, if there is anything to do, and store them.
__device__ inline void store_sums(Sums& c, const Where& where, const Epilogue& by,
                                  const Target& target) {
    const int lane = threadIdx.x % 32;
#pragma unroll(one_place ? 1 : result_parts)
    for (int i = 0; i < result_parts; ++i) {
        float* const sums =
            one_place ? c[0] : c[i / row_parts] + i % row_parts * part_sums;
        const int m = i / row_parts;
        const int n = where.n + i % row_parts * atom_columns;
        if constexpr (config::fused) {
            const int upper = 16 * m + lane / 4;
            const LanePlace at = {{from_lane(where.rows, upper), from_lane(where.rows, upper + 8)},
                                  n + lane % 4 * 2};
            finish_lane<part_sums>(sums, by, at, target.n);
        }
        store_part(sums, m, where, n, target);
        if constexpr (one_place) bring_down<part_sums>(c);
    }
}
