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

// Where a block's results go. Lines are rows of Y, or columns where these are contiguous.
struct Target {
    Output* y;        // the result of its X, lines ldy apart, any alignment
    int ldy;
    int n;            // columns
    bool aligned;     // whether lines of y begin at multiples of 16 bytes
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

    // Store 16 bytes of a column: at once where the rows follow each other, else one by one.
    __device__ inline void store_column(const Chunk& chunk, const int (&row)[lane_outputs],
                                        bool together, int column) const {
        Output* const to = y + static_cast<long long>(column) * ldy;
        if (aligned && together) {
            store_global_chunk(to + row[0], chunk);
        } else {
#pragma unroll
            for (int e = 0; e < lane_outputs; ++e)
                if (row[e] >= 0) to[row[e]] = output_of(chunk, e);
        }
    }

    // Which row of Y is row `row` of the block, or -1.
    __device__ inline int row_of(int row) const {
        return row < block.bricks * brick_rows ? load_int(rows + block.rows + row) : -1;
    }
};

using Sums = FragmentC[warp_bricks][warp_columns];

// Sums leave through the end of the ring: rounded all at once, or a brick of each warp as they are.
// The stages before that may hold the next item's already.
constexpr bool rounded_first = plain && !config::column_major;
constexpr int sums_row_bytes = config::warp_n * sizeof(Sum);
constexpr int staging_bytes = rounded_first ? config::block_rows * config::block_n * 2
                                            : warps * brick_rows * sums_row_bytes;
constexpr int free_stages = (config::stages * stage_bytes - staging_bytes) / stage_bytes;
constexpr int early_stages =
    config::persistent && free_stages < config::stages - 1 ? free_stages : config::stages - 1;
static_assert(staging_bytes <= config::stages * stage_bytes, "the ring holds it");

// Sums that nothing happens to: rounded first, all rows at once. `staging` is memory that is free by
// now; `warp_n0` the warp's first column of Y.
__device__ inline void store_rounded(const Sums& sums, Word staging, const Target& to, int warp_m,
                                     int warp_n0) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int my_chunk = lane % row_lanes;
    const int n0 = warp_n0 + my_chunk * lane_outputs;
    constexpr int row_bytes = warp_columns * chunk_bytes;
    constexpr int stores = config::warp_rows / store_rows;
    const Word part = staging + warp * config::warp_rows * row_bytes;
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

// Finished results as 16 bytes.
__device__ inline Chunk rounded(const float (&value)[lane_outputs]) {
    Chunk chunk;
#pragma unroll
    for (int w = 0; w < 4; ++w)
        chunk.word[w] = output_bytes == 2 ? round_pair(value[2 * w % lane_outputs],
                                                       value[(2 * w + 1) % lane_outputs])
                                          : bits_of(value[w % lane_outputs]);
    return chunk;
}

// Where element `column` of row `row` of a brick of sums stands, from the beginning of the brick on.
__device__ inline Word place_of_sum(int row, int column) {
    constexpr int row_chunks = sums_row_bytes / chunk_bytes;
    constexpr int of_chunk = chunk_bytes / sizeof(Sum);
    return row * sums_row_bytes + swizzle_sums(row, column / of_chunk, row_chunks) * chunk_bytes +
           column % of_chunk * sizeof(Sum);
}

// Sums of brick m as they are, to memory of the warp's own, `to`.
__device__ inline void stage_brick(const Sums& sums, int m, Word to) {
    const int lane = threadIdx.x % 32;
    warp_barrier();  // the brick before has been read
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = half * 8 + lane / 4;
#pragma unroll
        for (int j = 0; j < warp_columns; ++j) {
            const Sum* const pair = sums[m][j].word + 2 * half;
            const Word at = to + place_of_sum(row, element_bytes == 1 ? j * 8 + lane % 4 * 4
                                                                      : j * 8 + lane % 4 * 2);
            if constexpr (sizeof(Sum) == 8) {
                store_shared_chunk(at, chunk_of(pair));
            } else if constexpr (element_bytes == 1) {
                if (j % 2) continue;
                const Sum* const odd = sums[m][j + 1].word + 2 * half;
                store_shared_chunk(at, {bits_of(pair[0]), bits_of(odd[0]), bits_of(pair[1]),
                                        bits_of(odd[1])});
            } else {
                store_shared_pair(at, bits_of(pair[0]), bits_of(pair[1]));
            }
        }
    }
    warp_barrier();
}

// Sums as they are, a brick of rows at a time, so that the epilogue sees 16 bytes of a row as well.
__device__ inline void store_finished(const Sums& sums, Word staging, const Target& to,
                                      const Epilogue& by, int warp_m, int warp_n0) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int my_chunk = lane % row_lanes;
    const int n0 = warp_n0 + my_chunk * lane_outputs;
    constexpr int sum_chunk = chunk_bytes / sizeof(Sum);
    constexpr int lane_chunks = lane_outputs * sizeof(Sum) / chunk_bytes;
    constexpr int stores = ceil_div(brick_rows, store_rows);
    const Word part = staging + warp * brick_rows * sums_row_bytes;
#pragma unroll
    for (int m = 0; m < warp_bricks; ++m) {
        stage_brick(sums, m, part);
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
                got[h] = load_shared_chunk(part + place_of_sum(row, chunk * sum_chunk));
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
                to.store(rounded(sum), to_row, n0);
            }
        }
    }
}

// Finish sums of a column. Rows that are none are finished like row 0 and not stored: without
// branches the loads of all rows are under way at once.
__device__ inline void finish_column(float (&sum)[lane_outputs], const Epilogue& by,
                                     const int (&rows)[lane_outputs], int column) {
    const auto added = [&](const Added& from, int e) {
        return widened(from.data[max(rows[e], 0) * from.row + column * from.column]);
    };
    float scale[lane_outputs], bias[lane_outputs], c[lane_outputs];
#pragma unroll
    for (int e = 0; e < lane_outputs; ++e) scale[e] = by.alpha;
    if (by.row_scale) {
#pragma unroll
        for (int e = 0; e < lane_outputs; ++e)
            scale[e] = by.alpha * load_float(by.row_scale + max(rows[e], 0));
    }
#pragma unroll
    for (int e = 0; e < lane_outputs; ++e) sum[e] *= scale[e];
    if (by.column_scale) {
        const float of_column = load_float(by.column_scale + column);
#pragma unroll
        for (int e = 0; e < lane_outputs; ++e) sum[e] *= of_column;
    }
    if (by.c.data) {
#pragma unroll
        for (int e = 0; e < lane_outputs; ++e) c[e] = added(by.c, e);
#pragma unroll
        for (int e = 0; e < lane_outputs; ++e) sum[e] += by.beta * c[e];
    }
    if (by.row_bias) {
#pragma unroll
        for (int e = 0; e < lane_outputs; ++e)
            bias[e] = load_float(by.row_bias + max(rows[e], 0));
#pragma unroll
        for (int e = 0; e < lane_outputs; ++e) sum[e] += bias[e];
    }
    if (by.column_bias) {
        const float of_column = load_float(by.column_bias + column);
#pragma unroll
        for (int e = 0; e < lane_outputs; ++e) sum[e] += of_column;
    }
#pragma unroll
    for (int e = 0; e < lane_outputs; ++e) sum[e] = activated(sum[e]);
    if (by.residual.data) {
#pragma unroll
        for (int e = 0; e < lane_outputs; ++e) c[e] = added(by.residual, e);
#pragma unroll
        for (int e = 0; e < lane_outputs; ++e) sum[e] += c[e];
    }
}

// The same where columns of Y are contiguous: a lane stores `lane_outputs` rows of a column at once,
// neighbours of a tile that often are neighbours in Y. A warp's lanes side by side:
//
//            column 0   1   2 ..                 of 16-bit results
//   rows 0-7      lane 0  2   4                  two lanes a column, 16 columns at once
//   rows 8-15     lane 1  3   5                  so that 32 bytes of a column are whole
//
// Run r reads its sums in the order e ^ r: rows that lanes read at once then differ in what
// swizzle_sums looks at, and meet in no bank.
__device__ inline void store_columns(const Sums& sums, Word staging, const Target& to,
                                     const Epilogue& by, int warp_m, int warp_n0) {
    constexpr int runs = brick_rows / lane_outputs;
    constexpr int columns_at_once = 32 / runs;
    static_assert(!config::column_major || sizeof(Sum) == 4, "columns of float64 are not stored");
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int run = lane % runs;
    const Word part = staging + warp * brick_rows * sums_row_bytes;
#pragma unroll
    for (int m = 0; m < warp_bricks; ++m) {
        stage_brick(sums, m, part);
        int row[lane_outputs];
#pragma unroll
        for (int e = 0; e < lane_outputs; ++e)
            row[e] = to.row_of((warp_m * warp_bricks + m) * brick_rows + run * lane_outputs + e);
        bool together = row[0] >= 0 && row[0] % lane_outputs == 0;
#pragma unroll
        for (int e = 1; e < lane_outputs; ++e) together = together && row[e] == row[0] + e;
#pragma unroll 1
        for (int i = 0; i < config::warp_n; i += columns_at_once) {
            const int column = i + lane / runs;
            Word got[lane_outputs], sum[lane_outputs];
#pragma unroll
            for (int e = 0; e < lane_outputs; ++e)
                got[e] = load_shared(part +
                                     place_of_sum(run * lane_outputs + (e ^ run), column));
#pragma unroll
            for (int e = 0; e < lane_outputs; ++e) sum[e] = run & 1 ? got[e ^ 1] : got[e];
            if constexpr (runs == 4) {
#pragma unroll
                for (int e = 0; e < lane_outputs; ++e) got[e] = sum[e];
#pragma unroll
                for (int e = 0; e < lane_outputs; ++e) sum[e] = run & 2 ? got[e ^ 2] : got[e];
            }
            if (warp_n0 + column >= to.n) continue;
            Chunk chunk;
            if constexpr (config::output == Element::int32) {
#pragma unroll
                for (int e = 0; e < lane_outputs; ++e) chunk.word[e % 4] = sum[e];
            } else {
                float value[lane_outputs];
#pragma unroll
                for (int e = 0; e < lane_outputs; ++e) value[e] = value_of<Sum>(sum[e]);
                if constexpr (config::fused) finish_column(value, by, row, warp_n0 + column);
                chunk = rounded(value);
            }
            to.store_column(chunk, row, together, warp_n0 + column);
        }
    }
}
