// Sums to Y, through shared memory, 16 rows of a warp at a time: a lane holds pairs of sums, and
// memory wants whole lines.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "epilogue.cuh"
#include "sm90_ptx.cuh"
#include "sm90_layout.cuh"

// A warpgroup's sums: accumulators of each piece of 64 rows.
using Sums = float[pieces][config::wg_n / 2];

// Where a warp's share of them belongs in Y.
struct Where {
    int rows[pieces];  // 16 of each piece, row r in lane r % 16; -1 where there is none
    int n;             // the first column
};

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

// ---- Bare: sums are rounded, and that is all ---------------------------------------------------
//
// In parts of 16 rows x 64 columns of a warp.
constexpr int row_parts = config::wg_n / atom_columns;
constexpr int result_parts = pieces * row_parts;

struct Part {
    Word pairs[2 * atom_chunks];
};

__device__ inline Part round_part(const Sums& c, int index) {
    Part part;
#pragma unroll
    for (int i = 0; i < 2 * atom_chunks; ++i) {
        const float* const s =
            c[index / row_parts] + (index % row_parts * 2 * atom_chunks + i) * 2;
        part.pairs[i] = round_pair(s[0], s[1]);
    }
    return part;
}

// Chunk j of row r waits at j ^ (r % 8).
__device__ inline void store_part(const Part& part, int index, const Where& where,
                                  const Target& target) {
    const int lane = threadIdx.x % 32;
    const int from_row = lane % 8 + lane / 8 % 2 * 8;  // of stmatrix: two by two
    warp_barrier();
#pragma unroll
    for (int j = 0; j < atom_chunks; j += 2) {
        const Word* const pair = part.pairs + 2 * j;
        const int at = from_row * atom_row_bytes + (j + lane / 16 ^ from_row % 8) * chunk_bytes;
        store_matrices(target.buffer + at, pair[0], pair[1], pair[2], pair[3]);
    }
    warp_barrier();
    const int my_chunk = lane % 8;
    const int n0 = where.n + index % row_parts * atom_columns + my_chunk * chunk_halfs;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = 4 * i + lane / 8;
        const Chunk chunk = load_shared_chunk(target.buffer + row * atom_row_bytes +
                                              (my_chunk ^ row % 8) * chunk_bytes);
        const int to_row = from_lane(where.rows[index / row_parts], row);
        if (to_row >= 0) target.store(chunk, to_row, n0);
    }
}

__device__ inline void store_sums(const Sums& c, const Where& where, const Target& target) {
#pragma unroll
    for (int i = 0; i < result_parts; ++i) store_part(round_part(c, i), i, where, target);
}

// ---- Fused -------------------------------------------------------------------------------------

// As sums, 32 columns, so that the epilogue sees 16 bytes of a row as well. Chunk j of row r waits at
// j ^ 2 (r % 4): four rows, two chunks of each, are all banks.
__device__ inline void finish_sums(const Sums& c, const Where& at, const Epilogue& by,
                                   const Target& target) {
    const int lane = threadIdx.x % 32;
    constexpr int part_columns = atom_columns / 2;
    const auto place_of = [&](int row, int chunk) {
        return target.buffer + row * atom_row_bytes + (chunk ^ row % 4 * 2) * chunk_bytes;
    };
#pragma unroll
    for (int m = 0; m < pieces; ++m)
#pragma unroll
        for (int part = 0; part < config::wg_n / part_columns; ++part) {
            warp_barrier();
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int j = 0; j < part_columns / 8; ++j) {
                    const float* const s = c[m] + (part * 4 + j) * 4 + 2 * half;
                    store_shared_pair(
                        place_of(half * 8 + lane / 4, 2 * j + lane % 4 / 2) + lane % 2 * 8,
                        bits_of(s[0]), bits_of(s[1]));
                }
            warp_barrier();
            const int n0 = at.n + part * part_columns + lane % 4 * chunk_halfs;
#pragma unroll 1
            for (int i = 0; i < 2; ++i) {
                const int row = 8 * i + lane / 4;
                const int to_row = from_lane(at.rows[m], row);
                if (to_row < 0) continue;
                // Odd rows begin with their second chunk, for the sake of the banks.
                const int turn = row % 2;
                const Chunk one = load_shared_chunk(place_of(row, 2 * (lane % 4) + turn));
                const Chunk two = load_shared_chunk(place_of(row, 2 * (lane % 4) + 1 - turn));
                float sum[chunk_halfs];
#pragma unroll
                for (int e = 0; e < chunk_halfs; ++e) {
                    const Word first = one.word[e % 4], second = two.word[e % 4];
                    sum[e] = __uint_as_float(e / 4 == turn ? first : second);
                }
                finish(sum, by, to_row, n0, target.n - n0);
                target.store({round_pair(sum[0], sum[1]), round_pair(sum[2], sum[3]),
                              round_pair(sum[4], sum[5]), round_pair(sum[6], sum[7])},
                             to_row, n0);
            }
        }
}
