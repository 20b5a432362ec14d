// Registers to Y, through shared memory: a lane holds pairs of neighbours and memory wants 16 bytes.
// Each warp turns its own part around.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "layout.cuh"
#include "epilogue.cuh"

constexpr int lane_outputs = chunk_bytes / output_bytes;  // that a lane stores at once
constexpr int row_lanes = config::warp_n / lane_outputs;
constexpr int store_rows = 32 / row_lanes;  // by one instruction of a warp

// Where a block's results go.
struct Target {
    Output* y;        // the result of its X, rows ldy apart, any alignment
    int ldy;
    int n;            // columns
    bool aligned;     // whether rows of y begin at multiples of 16 bytes
    const int* rows;  // row lists, -1 is padding
    const Block& block;

    // Store 16 bytes of a row from column n0 on, those that there are.
    __device__ inline void store(const Chunk& chunk, int row, int n0) const {
        Output* const to = y + static_cast<long long>(row) * ldy + n0;
        if (aligned && n0 + lane_outputs <= n) {
            store_global_chunk(to, chunk);
        } else {
#pragma unroll
            for (int e = 0; e < lane_outputs; ++e)
                if (n0 + e < n) to[e] = output_of(chunk, e);
        }
    }

    // Which row of Y is row `row` of the block, or -1.
    __device__ inline int row_of(int row) const {
        return row < block.bricks * brick_rows ? load_int(rows + block.rows + row) : -1;
    }
};

using Sums = FragmentC[warp_bricks][warp_columns];

// Sums that nothing happens to: rounded first, all rows at once. `ring` is the stages' memory, free
// by now; `warp_n0` the warp's first column of Y.
__device__ inline void store_rounded(const Sums& sums, Word ring, const Target& to, int warp_m,
                                     int warp_n0) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int my_chunk = lane % row_lanes;
    const int n0 = warp_n0 + my_chunk * lane_outputs;
    constexpr int row_bytes = warp_columns * chunk_bytes;
    constexpr int stores = config::warp_rows / store_rows;
    static_assert(!plain || config::block_rows * config::block_n * 2 <=
                                config::stages * stage_bytes,
                  "the ring holds all of it");
    const Word part = ring + warp * config::warp_rows * row_bytes;
    int to_row[stores];
#pragma unroll
    for (int i = 0; i < stores; ++i)
        to_row[i] = to.row_of(warp_m * config::warp_rows + i * store_rows + lane / row_lanes);
#pragma unroll
    for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
        for (int j = 0; j < warp_columns; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // Of 8-bit values, fragments 2 i and 2 i + 1 are even and odd columns.
                const int row = m * brick_rows + half * 8 + lane / 4;
                const bool mixed = element_bytes == 1;
                const Sum* const own = sums[m][j].word + 2 * half;
                const Sum* const even = sums[m][j / 2 * 2].word + 2 * half;
                const Sum* const odd = sums[m][j / 2 * 2 + 1].word + 2 * half;
                const float low = mixed ? even[j % 2] : own[0];
                const float high = mixed ? odd[j % 2] : own[1];
                const int word = element_bytes == 1 ? j / 2 * 8 + lane % 4 * 2 + j % 2
                                                    : j * 4 + lane % 4;
                const int place = swizzle(row, word / 4, warp_columns);
                const Word at = part + row * row_bytes + place * chunk_bytes;
                store_shared(at + word % 4 * sizeof(Word), round_pair(low, high));
            }
    warp_barrier();
#pragma unroll
    for (int i = 0; i < stores; ++i) {
        const int row = i * store_rows + lane / row_lanes;
        const int place = swizzle(row, my_chunk, warp_columns);
        const Chunk chunk = load_shared_chunk(part + row * row_bytes + place * chunk_bytes);
        if (to_row[i] >= 0) to.store(chunk, to_row[i], n0);
    }
}

// Sums as they are, a brick of rows at a time, so that the epilogue sees 16 bytes of a row as well.
__device__ inline void store_finished(const Sums& sums, Word ring, const Target& to,
                                      const Epilogue& by, int warp_m, int warp_n0) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int my_chunk = lane % row_lanes;
    const int n0 = warp_n0 + my_chunk * lane_outputs;
    constexpr int row_chunks = config::warp_n * sizeof(Sum) / chunk_bytes;
    constexpr int row_bytes = row_chunks * chunk_bytes;
    constexpr int lane_chunks = lane_outputs * sizeof(Sum) / chunk_bytes;
    constexpr int stores = ceil_div(brick_rows, store_rows);
    static_assert(warps * brick_rows * row_bytes <= config::stages * stage_bytes,
                  "the ring holds a brick of each warp");
    const Word part = ring + warp * brick_rows * row_bytes;
#pragma unroll
    for (int m = 0; m < warp_bricks; ++m) {
        warp_barrier();  // the brick before has been read
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = half * 8 + lane / 4;
            const auto at = [&](int chunk) {
                return part + row * row_bytes +
                       swizzle_sums(row, chunk, row_chunks) * chunk_bytes;
            };
#pragma unroll
            for (int j = 0; j < warp_columns; ++j) {
                const Sum* const pair = sums[m][j].word + 2 * half;
                if constexpr (sizeof(Sum) == 8) {
                    store_shared_chunk(at(4 * j + lane % 4), chunk_of(pair));
                } else if constexpr (element_bytes == 1) {
                    if (j % 2) continue;
                    const Sum* const odd = sums[m][j + 1].word + 2 * half;
                    store_shared_chunk(at(2 * j + lane % 4),
                                       {bits_of(pair[0]), bits_of(odd[0]), bits_of(pair[1]),
                                        bits_of(odd[1])});
                } else {
                    store_shared_pair(at(2 * j + lane % 4 / 2) + lane % 2 * 8,
                                      bits_of(pair[0]), bits_of(pair[1]));
                }
            }
        }
        warp_barrier();
#pragma unroll 1
        for (int i = 0; i < stores; ++i) {
            const int row = i * store_rows + lane / row_lanes;
            const int brick = warp_m * warp_bricks + m;
            const int to_row = row < brick_rows ? to.row_of(brick * brick_rows + row) : -1;
            if (to_row < 0) continue;
            // Two chunks: half of the lanes begin with the second, for the sake of the banks.
            Chunk got[lane_chunks];
            const int turn = lane_chunks == 2 ? lane / 4 % 2 : 0;
#pragma unroll
            for (int h = 0; h < lane_chunks; ++h) {
                const int chunk = my_chunk * lane_chunks + (h ^ turn);
                got[h] = load_shared_chunk(
                    part + row * row_bytes + swizzle_sums(row, chunk, row_chunks) * chunk_bytes);
            }
            if constexpr (sizeof(Sum) == 8 || config::output == Element::int32) {
                to.store(got[0], to_row, n0);
            } else {
                float sum[lane_outputs];
#pragma unroll
                for (int e = 0; e < lane_outputs; ++e) {
                    const Word first = got[0].word[e % 4], last = got[lane_chunks - 1].word[e % 4];
                    sum[e] = value_of<Sum>((e / 4 ^ turn) == 0 ? first : last);
                }
                if constexpr (config::fused) finish(sum, by, to_row, n0, to.n - n0);
                Chunk chunk;
#pragma unroll
                for (int w = 0; w < 4; ++w)
                    chunk.word[w] = output_bytes == 2
                                        ? round_pair(sum[2 * w % lane_outputs],
                                                     sum[(2 * w + 1) % lane_outputs])
                                        : bits_of(sum[w]);
                to.store(chunk, to_row, n0);
            }
        }
    }
}
