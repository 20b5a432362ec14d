// Y = A X for few columns of X (at most 64), on tensor cores, at the speed of memory (sm_80 and later).
//
// With few columns a product takes as long as reading A. So every value of A goes from memory to the
// registers of the one warp that multiplies it, 16 bytes a lane, many loads under way; X is small,
// and the rows that a block needs are gathered into shared memory first.
//
//           steps of this piece               n                       n
//         +---------------------+         +-------+              +-------+
//  warp 0 | brick ->            |         |       |              |       | warp 0
//  warp 1 | brick ->            |   x     | X[col]|     ->       |       | warp 1
//   ...   |                     |         |       |              |       |  ...
//  warp 0 | brick ->            |         +-------+              |       | warp 0
//         +---------------------+       in shared memory         +-------+
//
// A tile's steps are shared out to many blocks, the pieces, so that all multiprocessors read at once.
// Each leaves its sums in the workspace; the one that comes last adds them up, first to last
// whoever it is, applies the epilogue and stores. X and Y may have any strides.
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "layout.cuh"
#include "epilogue.cuh"

constexpr int most_steps = config::stages;  // of a piece: what shared memory holds of X
constexpr int n_fragments = config::block_n / 8;
constexpr int ahead = 4;     // steps whose values are under way
constexpr int together = 8;  // sums of pieces that are

static_assert(element_bytes == 2 && config::parts == 1, "16-bit values");

extern "C" __global__ void __launch_bounds__(threads, config::min_blocks) sm80_tvw_few(
    const Half* __restrict__ x,       // (cols, n), any strides, in elements
    long long x_row,                  //
    long long x_column,               //
    Output* y,                        // (rows, n), any strides, in elements
    long long y_row,                  //
    long long y_column,               //
    const char* __restrict__ values,  // bricks of values
    const char* __restrict__ meta,    // bricks of metadata; not read without 2:4
    const int* __restrict__ cols,     // column lists: whole steps of a tile, -1 is padding
    const int* __restrict__ rows,     // row lists: a multiple of 16 rows a tile, -1 is padding
    const int* __restrict__ list,     // the work list, a Block of 8 words for each block
    int n,                            // columns of X, at most block_n
    float* partials,                  // (rows of all pieces, block_n)
    const int* __restrict__ sums_at,  // where the sums of the first piece of each block's tile are
    Word* arrived,                    // (blocks,), zeros before and after
    float alpha,                      // the epilogue: see epilogue.cuh; not read if not fused
    float beta,                       //
    const Output* c,                  //
    long long c_row,                  //
    long long c_column,               //
    const Output* residual,           //
    long long residual_row,           //
    long long residual_column,        //
    const float* row_bias,            //
    const float* column_bias,         //
    const float* row_scale,           //
    const float* column_scale) {
    extern __shared__ __align__(128) char shared[];
    const Word stage = shared_address(shared);
    const Block block = load_block(list, blockIdx.x);
    const int thread = threadIdx.x;
    const int lane = thread % 32;
    const int warp = thread / 32;
    const int slots = block.steps * step_slots;

    // ---- A from memory -------------------------------------------------------------------------

    FragmentA a[ahead][k_steps][k_fragments];
    Word metadata[ahead] = {};
    const auto load = [&](int m, int step, int place) {
        const long long brick = block.brick + static_cast<long long>(step) * block.stride + m;
#pragma unroll
        for (int f = 0; f < brick_fragments; ++f) {
            const Chunk got = load_constant_chunk(values + brick * brick_value_bytes +
                                                  f * fragment_bytes + lane * chunk_bytes);
            a[place][f / k_fragments][f % k_fragments] = {got.word[0], got.word[1], got.word[2],
                                                          got.word[3]};
        }
        if constexpr (config::sparse)
            metadata[place] =
                load_int(reinterpret_cast<const int*>(meta + brick * brick_meta_bytes) + lane);
    };
    const auto load_ahead = [&](int m, int step) {
#pragma unroll
        for (int i = 0; i < ahead; ++i)
            if (step + i < block.steps) load(m, step + i, i);
    };
    if (warp < block.bricks) load_ahead(warp, 0);  // under way while X is gathered

    // ---- X to shared memory --------------------------------------------------------------------

    const bool whole = x_column == 1 && n % chunk_elements == 0 && x_row % chunk_elements == 0 &&
                       reinterpret_cast<unsigned long long>(x) % chunk_bytes == 0;
    for (int i = thread; i < slots * x_chunks; i += threads) {
        // Along the slots where columns of X are contiguous, as activations are, else along n.
        const int slot = x_row == 1 ? i % slots : i / x_chunks;
        const int chunk = x_row == 1 ? i / slots : i % x_chunks;
        const int column = load_int(cols + block.slots + slot);
        const Word to = stage + slot * x_row_bytes + swizzle(slot, chunk, x_chunks) * chunk_bytes;
        const int n0 = chunk * chunk_elements;
        const Half* const from = x + column * x_row + n0 * x_column;
        if (whole) {
            copy_async(to, from, column >= 0 && n0 < n);
        } else {
            Chunk got = {};
#pragma unroll
            for (int e = 0; e < chunk_elements; ++e)
                if (column >= 0 && n0 + e < n)
                    got.word[e / 2] |= Word(load_half(from + e * x_column)) << e % 2 * 16;
            store_shared_chunk(to, got);
        }
    }
    wait_for_all_copies();
    block_barrier();

    // ---- Tensor cores --------------------------------------------------------------------------

    float* const sums_of_tile = partials + static_cast<long long>(load_int(sums_at + blockIdx.x)) *
                                               config::block_n;
    const long long piece_sums = static_cast<long long>(block.bricks) * brick_rows * config::block_n;
    for (int m = warp; m < block.bricks; m += warps) {
        FragmentC sums[n_fragments] = {};
        const auto multiply = [&](int step, int place) {
#pragma unroll
            for (int k = 0; k < k_steps; ++k) {
                const int row = step * step_slots + k * k_slots + lane;
#pragma unroll
                for (int j = 0; j < n_fragments; ++j) {
                    const Chunk got = load_matrices_transposed(
                        stage + row * x_row_bytes + swizzle(row, j, x_chunks) * chunk_bytes);
                    const FragmentB b = {got.word[0], got.word[1], got.word[2], got.word[3]};
                    const FragmentA(&of)[k_fragments] = a[place][k];
                    if constexpr (config::sparse) {
                        if (k == 0) multiply_sparse<0>(sums[j], of[0], b, metadata[place]);
                        if (k == 1) multiply_sparse<1>(sums[j], of[0], b, metadata[place]);
                    } else {
                        multiply_dense<0>(sums[j], of[0], b);
                        multiply_dense<1>(sums[j], of[k_fragments - 1], b);
                    }
                }
            }
        };

#pragma unroll 1
        for (int step = 0; step < block.steps; step += ahead) {
            if (m != warp || step > 0) load_ahead(m, step);
#pragma unroll
            for (int i = 0; i < ahead; ++i)
                if (step + i < block.steps) multiply(step + i, i);
        }

        float* const to = sums_of_tile + block.piece * piece_sums +
                          (m * brick_rows + lane / 4) * config::block_n + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < n_fragments; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int e = 0; e < 2; ++e)
                    if (j * 8 + lane % 4 * 2 + e < n)
                        to[half * 8 * config::block_n + j * 8 + e] = sums[j].word[2 * half + e];
    }

    // ---- The last piece adds up and stores -----------------------------------------------------

    memory_fence();
    block_barrier();
    if (thread == 0)
        store_shared(stage, count_and_wrap(arrived + block.first_piece, block.pieces - 1));
    block_barrier();
    if (static_cast<int>(load_shared(stage)) != block.pieces - 1) return;
    memory_fence();

    const Epilogue by = {
        alpha,     beta,        {c, c_row, c_column}, {residual, residual_row, residual_column},
        row_bias,  column_bias, row_scale,            column_scale,
    };
    for (int i = thread; i < block.bricks * brick_rows * n; i += threads) {
        const int place = i / n;
        const int column = i - place * n;
        const int row = load_int(rows + block.rows + place);
        if (row < 0) continue;
        const float* const from = sums_of_tile + place * config::block_n + column;
        float sum[1] = {};
        for (int piece = 0; piece < block.pieces; piece += together) {
            float part[together];
#pragma unroll
            for (int i = 0; i < together; ++i)
                part[i] = piece + i < block.pieces ? load_written(from + (piece + i) * piece_sums)
                                                   : 0.0f;
#pragma unroll
            for (int i = 0; i < together; ++i) sum[0] += part[i];
        }
        if constexpr (config::fused) finish(sum, by, row, column, 1);
        const Word bits = output_bytes == 2 ? round_pair(sum[0], sum[0]) : bits_of(sum[0]);
        y[row * y_row + column * y_column] = static_cast<Output>(bits);
    }
}
