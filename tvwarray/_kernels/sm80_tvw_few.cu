// Y = A X for few columns of X (at most 64), on tensor cores, at the speed of memory (sm_80 and later).
//
// With few columns a product takes as long as reading A, if A is asked for early enough: so every
// value goes from memory to the registers of the one warp that multiplies it, 16 bytes a lane, and a
// warp asks for all it can hold before it multiplies anything. A block has 16 or 32 rows of a tile;
// its warps take turns at the steps, each with its own rows of X, so that nobody waits for anybody:
//
//          step 0 1 2 3 4 5 6 7 8 ...                   n
//               +-+-+-+-+-+-+-+-+-                  +-------+
//   16 or 32    |w|w|w|w|w|w|w|w|w                  | sums  | of warp 0
//   rows        |0|1|2|3|4|5|6|7|0   x   X[col]  -> +-------+
//               +-+-+-+-+-+-+-+-+-                  | sums  | of warp 1  ...
//
// and at the end all threads add the warps' sums up, in their order, finish them and store. That is
// three trips to memory one after the other (the block's entry of the work list; its columns and values;
// its rows of X), and one barrier. The first is saved where all tiles are alike: their blocks are known
// by arithmetic.
//
// What is under way in a warp, with `ahead` = 4 steps, while step 0 is multiplied:
//
//   values, rows of X    steps 0 1 2 3    (0, 1, 2 ... are the warp's own steps)
//   columns                      4 5 6 7
//
// Tiles so long that too few blocks would read are cut into pieces; the one that comes last adds the
// others' sums up, first to last whoever it is. X and Y may have any strides.
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "layout.cuh"
#include "epilogue.cuh"

constexpr int few_warps = 8;
constexpr int few_threads = 32 * few_warps;
constexpr int ahead = config::stages;  // steps of a warp whose values are under way
constexpr int x_ahead = config::block_n == 8 ? ahead : 1;  // and whose rows of X are
constexpr int bricks = block_bricks;
constexpr int n_fragments = config::block_n / 8;
constexpr int slots_of_lane = step_slots / 32;
constexpr int lane_chunks = slots_of_lane * x_chunks;  // of a step's rows of X
constexpr int buffers = config::block_n <= 16 ? 2 : 1;
constexpr int outputs = config::block_rows * config::block_n;
constexpr int together = 8;  // sums of pieces that are under way

static_assert(ahead % buffers == 0, "steps alternate between buffers");
static_assert(element_bytes == 2 && config::parts == 1, "16-bit values");

// Blocks that arithmetic knows: those of tiles of equal height and length, one after another both in
// the work list and in the packed matrix.
struct Alike {
    int first, count;   // of the work list
    int bricks, steps;  // of a tile
    int brick, slots, rows;  // where the first tile's begin
};

__device__ inline Block block_of(const int* list, const Alike& alike, int index) {
    const int place = index - alike.first;
    if (place < 0 || place >= alike.count) return load_block(list, index);
    const int cuts = ceil_div(alike.bricks, bricks);
    const int tile = place / cuts;
    const int above = (place - tile * cuts) * bricks;
    return {alike.brick + tile * alike.bricks * alike.steps + above,
            alike.bricks,
            min(bricks, alike.bricks - above),
            alike.steps,
            alike.slots + tile * alike.steps * step_slots,
            alike.rows + (tile * alike.bricks + above) * brick_rows,
            0,
            1,
            0};
}

extern "C" __global__ void __launch_bounds__(few_threads, config::min_blocks) sm80_tvw_few(
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
    int alike_first,                  // struct Alike
    int alike_count,                  //
    int alike_bricks,                 //
    int alike_steps,                  //
    int alike_brick,                  //
    int alike_slots,                  //
    int alike_rows,                   //
    int n,                            // columns of X, at most block_n
    float* partials,                  // (pieces, outputs)
    Word* arrived,                    // (pieces,), zeros before and after
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
    const Word memory = shared_address(shared);
    const int thread = threadIdx.x;
    const int lane = thread % 32;
    const int warp = thread / 32;
    const Alike alike = {alike_first, alike_count, alike_bricks, alike_steps,
                         alike_brick, alike_slots, alike_rows};
    const Block block = block_of(list, alike, blockIdx.x);

    // ---- Memory to registers -------------------------------------------------------------------

    // The columns of slots `lane` and `lane` + 32 of a step.
    int columns[x_ahead][slots_of_lane];
    const auto load_columns = [&](int step, int place) {
#pragma unroll
        for (int s = 0; s < slots_of_lane; ++s)
            columns[place][s] =
                step < block.steps
                    ? load_int(cols + (block.slots + step * step_slots + s * 32 + lane))
                    : -1;
    };

    FragmentA a[ahead][bricks][k_steps][k_fragments] = {};
    Word metadata[ahead][bricks];
    const auto load_values = [&](int step, int place) {
#pragma unroll
        for (int m = 0; m < bricks; ++m) {
            // Bricks beyond the tile's height stay zeros, with metadata that is valid.
            metadata[place][m] = 0x44444444;
            if (step >= block.steps || m >= block.bricks) continue;
            const long long brick = block.brick + static_cast<long long>(step) * block.stride + m;
            const char* const from = values + brick * brick_value_bytes + lane * chunk_bytes;
#pragma unroll
            for (int f = 0; f < brick_fragments; ++f) {
                const Chunk got = load_constant_chunk(from + f * fragment_bytes);
                a[place][m][f / k_fragments][f % k_fragments] = {got.word[0], got.word[1],
                                                                 got.word[2], got.word[3]};
            }
            if constexpr (config::sparse)
                metadata[place][m] =
                    load_int(reinterpret_cast<const int*>(meta + brick * brick_meta_bytes) + lane);
        }
    };

    // A lane's chunks of a step's rows of X: 16 bytes each, neighbours in a row, then the next row.
    Chunk of_x[x_ahead][lane_chunks];
    const bool whole = x_column == 1 && n % chunk_elements == 0 && x_row % chunk_elements == 0 &&
                       reinterpret_cast<unsigned long long>(x) % chunk_bytes == 0;
    const auto load_x = [&](int place) {
#pragma unroll
        for (int i = 0; i < lane_chunks; ++i) {
            const int slot = i * (32 / x_chunks) + lane / x_chunks;
            const int own = columns[place][i / x_chunks];
            const int column = x_chunks == 1 ? own : from_lane(own, slot % 32);
            const int n0 = lane % x_chunks * chunk_elements;
            const Half* from = x + column * x_row + n0 * x_column;
            Chunk got = {};
            if (column >= 0 && n0 < n) {
                if (config::vector) {
                    got.word[0] = load_half(from);
                } else if (whole) {
                    got = load_constant_chunk(from);
                } else {
#pragma unroll
                    for (int e = 0; e < chunk_elements; ++e) {
                        if (n0 + e < n) got.word[e / 2] |= Word(load_half(from)) << e % 2 * 16;
                        from += x_column;
                    }
                }
            }
            of_x[place][i] = got;
        }
    };

    // ---- Registers to tensor cores -------------------------------------------------------------

    FragmentC sums[bricks][n_fragments] = {};
    const auto multiply = [&](int place, int buffer) {
        const Word own = memory + (buffer * few_warps + warp) * x_bytes;
        if (buffers == 1) warp_barrier();  // the step before has been read
#pragma unroll
        for (int i = 0; i < lane_chunks; ++i) {
            const int slot = i * (32 / x_chunks) + lane / x_chunks;
            store_shared_chunk(
                own + slot * x_row_bytes + swizzle(slot, lane % x_chunks, x_chunks) * chunk_bytes,
                of_x[place % x_ahead][i]);
        }
        warp_barrier();
#pragma unroll
        for (int k = 0; k < k_steps; ++k) {
            const int row = k * k_slots + lane;
#pragma unroll
            for (int j = 0; j < n_fragments; ++j) {
                const Chunk got = load_matrices_transposed(
                    own + row * x_row_bytes + swizzle(row, j, x_chunks) * chunk_bytes);
                const FragmentB b = {got.word[0], got.word[1], got.word[2], got.word[3]};
#pragma unroll
                for (int m = 0; m < bricks; ++m) {
                    const FragmentA(&of)[k_fragments] = a[place][m][k];
                    if constexpr (config::sparse) {
                        if (k == 0) multiply_sparse<0>(sums[m][j], of[0], b, metadata[place][m]);
                        if (k == 1) multiply_sparse<1>(sums[m][j], of[0], b, metadata[place][m]);
                    } else {
                        multiply_dense<0>(sums[m][j], of[0], b);
                        multiply_dense<1>(sums[m][j], of[k_fragments - 1], b);
                    }
                }
            }
        }
    };

#pragma unroll
    for (int i = 0; i < x_ahead; ++i) load_columns(warp + i * few_warps, i);
    // Which row this thread stores first: known long before it is needed.
    const auto row_of = [&](int output) {
        const int row = output / (brick_rows * config::block_n) * brick_rows + output / 8 % brick_rows;
        return row < block.bricks * brick_rows ? load_int(rows + block.rows + row) : -1;
    };
    const int first_row = thread < outputs ? row_of(thread) : -1;

    // The first round multiplies nothing and loads the first steps: the code of both is there once,
    // because instructions come from memory too.
#pragma unroll 1
    for (int step = warp - ahead * few_warps; step < block.steps; step += ahead * few_warps) {
#pragma unroll
        for (int i = 0; i < ahead; ++i) {
            const int mine = step + i * few_warps;
            if (mine >= block.steps) break;
            if (mine >= 0) multiply(i, i % buffers);
            load_values(mine + ahead * few_warps, i);
            if (mine + x_ahead * few_warps >= 0) {
                load_x(i % x_ahead);
                load_columns(mine + 2 * x_ahead * few_warps, i % x_ahead);
            }
        }
    }

    // ---- The sums of all warps -----------------------------------------------------------------

    // In shared memory as fragments, 16 rows x 8 columns each: output (m, j, row, column), of all warps.
    block_barrier();  // X has been read
    const Word own = memory + warp * outputs * sizeof(float);
#pragma unroll
    for (int m = 0; m < bricks; ++m)
#pragma unroll
        for (int j = 0; j < n_fragments; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float* const pair = sums[m][j].word + 2 * half;
                const int at = ((m * n_fragments + j) * 2 + half) * 64 + lane * 2;
                store_shared_pair(own + at * sizeof(float), bits_of(pair[0]), bits_of(pair[1]));
            }
    block_barrier();

    const auto sum_of_warps = [&](int output) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < few_warps; ++w)
            sum += __uint_as_float(load_shared(memory + (w * outputs + output) * sizeof(float)));
        return sum;
    };

    // ---- Pieces: the one that comes last adds up ------------------------------------------------

    float* const of_tile = partials + static_cast<long long>(block.first_piece) * outputs;
    const bool joined = config::pieces && block.pieces > 1;
    if (joined) {
        for (int i = thread; i < outputs; i += few_threads)
            of_tile[block.piece * outputs + i] = sum_of_warps(i);
        memory_fence();
        block_barrier();
        if (thread == 0)
            store_shared(memory, count_and_wrap(arrived + block.first_piece, block.pieces - 1));
        block_barrier();
        if (static_cast<int>(load_shared(memory)) != block.pieces - 1) return;
        memory_fence();
    }
    const auto sum_of_pieces = [&](int output) {
        float sum = 0;
#pragma unroll 1
        for (int piece = 0; piece < block.pieces; piece += together) {
            float part[together];
#pragma unroll
            for (int i = 0; i < together; ++i)
                part[i] = piece + i < block.pieces
                              ? load_written(of_tile + (piece + i) * outputs + output)
                              : 0.0f;
#pragma unroll
            for (int i = 0; i < together; ++i) sum += part[i];
        }
        return sum;
    };

    const Epilogue by = {
        alpha,     beta,        {c, c_row, c_column}, {residual, residual_row, residual_column},
        row_bias,  column_bias, row_scale,            column_scale,
    };
#pragma unroll 1
    for (int i = thread; i < outputs; i += few_threads) {
        const int row = i == thread ? first_row : row_of(i);
        const int column = i / 128 % n_fragments * 8 + i % 8;
        if (row < 0 || column >= n) continue;
        float sum[1] = {joined ? sum_of_pieces(i) : sum_of_warps(i)};
        if constexpr (config::fused) finish(sum, by, row, column, 1);
        const Word bits = output_bytes == 2 ? round_pair(sum[0], sum[0]) : bits_of(sum[0]);
        y[row * y_row + column * y_column] = static_cast<Output>(bits);
    }
}
