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
// by arithmetic. The last is shortened: all blocks together ask for all of X before they know which
// of its rows they want, so that these come from L2.
//
// What is under way in a warp, with `ahead` = 4 steps, while step 0 is multiplied:
//
//   values, rows of X    steps 0 1 2 3    (0, 1, 2 ... are the warp's own steps)
//   columns                      4 5 6 7
//
// Up to 8 columns of X go through registers and may have any strides; more are copied straight to
// shared memory, and are rows of whole 16-byte chunks. Tiles so long that too few blocks would read
// are cut into pieces.
#include "few.cuh"
#include "epilogue.cuh"

constexpr bool copied = config::copied;  // X goes to shared memory without passing through registers
constexpr int n_fragments = config::block_n / 8;
constexpr int lane_chunks = slots_of_lane * x_chunks;  // of a step's rows of X
constexpr int buffers = copied ? ahead : 2;
constexpr int outputs = config::block_rows * config::block_n;
constexpr int sums_bytes = outputs * sizeof(float);
constexpr int warp_bytes = buffers * x_bytes > sums_bytes ? buffers * x_bytes : sums_bytes;

// Store four sums side by side.
__device__ inline void store_run(Output* to, const float (&sum)[4]) {
    if constexpr (output_bytes == 2)
        store_global_pair(to, round_pair(sum[0], sum[1]), round_pair(sum[2], sum[3]));
    else
        store_global_chunk(to, chunk_of(sum));
}

static_assert(ahead % buffers == 0, "steps alternate between buffers");
static_assert(config::block_rows <= 32, "a lane knows one row");

extern "C" __global__ void __launch_bounds__(few_threads, config::min_blocks) sm80_tvw_few(
    const Half* __restrict__ x,       // (cols, n), any strides, in elements; if copied, whole chunks
    int x_rows,                       // cols
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
    const Word own = memory + warp * warp_bytes;
    const Alike alike = {alike_first, alike_count, alike_bricks, alike_steps,
                         alike_brick, alike_slots, alike_rows};
    const Block block = block_of(list, alike, blockIdx.x);

    // ---- Memory to registers, or to shared memory ----------------------------------------------

    Steps steps(values, meta, cols, block, lane);

    // A lane's chunks of a step's rows of X: 16 bytes each, neighbours in a row, then the next row.
    const auto slot_of = [&](int i) { return i * (32 / x_chunks) + lane / x_chunks; };
    const auto column_of = [&](int place, int i) {
        const int of_warp = steps.columns[place][i / x_chunks];
        return x_chunks == 1 ? of_warp : from_lane(of_warp, slot_of(i) % 32);
    };
    const auto chunk_at = [&](int buffer, int i) {
        return own + buffer * x_bytes + slot_of(i) * x_row_bytes +
               swizzle(slot_of(i), lane % x_chunks, x_chunks) * chunk_bytes;
    };
    const int n0 = lane % x_chunks * chunk_elements;

    Chunk of_x[ahead][lane_chunks];
    const bool whole = x_column == 1 && n % chunk_elements == 0 && x_row % chunk_elements == 0 &&
                       reinterpret_cast<unsigned long long>(x) % chunk_bytes == 0;
    const auto load_x = [&](int place) {
#pragma unroll
        for (int i = 0; i < lane_chunks; ++i) {
            const int column = column_of(place, i);
            const Half* from = x + column * x_row + n0 * x_column;
            const bool wanted = column >= 0 && n0 < n;
            if constexpr (copied) {
                copy_async(chunk_at(place, i), from, wanted);
                continue;
            }
            Chunk got = {};
            if (wanted) {
                if (whole) {
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
        if constexpr (copied) {
            wait_for_groups<ahead - 1>();
        } else {
#pragma unroll
            for (int i = 0; i < lane_chunks; ++i)
                store_shared_chunk(chunk_at(buffer, i), of_x[place][i]);
        }
        warp_barrier();
#pragma unroll
        for (int k = 0; k < k_steps; ++k) {
            const int row = k * k_slots + lane;
#pragma unroll
            for (int j = 0; j < n_fragments; ++j) {
                const Chunk got =
                    load_matrices_transposed(own + buffer * x_bytes + row * x_row_bytes +
                                             swizzle(row, j, x_chunks) * chunk_bytes);
                const FragmentB b = {got.word[0], got.word[1], got.word[2], got.word[3]};
#pragma unroll
                for (int m = 0; m < bricks; ++m) steps.multiply(sums[m][j], place, m, k, b);
            }
        }
    };

    // The columns first, which the rows of X wait for; then what waits for nothing.
#pragma unroll
    for (int i = 0; i < ahead; ++i) steps.load_columns(warp + i * few_warps, i);
    if (x_column == 1 && x_row == n) {
        const int lines = (x_rows * n * static_cast<int>(sizeof(Half)) + 127) / 128;
        for (int i = thread * gridDim.x + blockIdx.x; i < lines; i += few_threads * gridDim.x)
            prefetch(reinterpret_cast<const char*>(x) + i * 128);
    }
#pragma unroll
    for (int i = 0; i < ahead; ++i) steps.load_values(warp + i * few_warps, i);
    // Which rows are stored, one a lane: known long before they are needed.
    const int row_of_lane =
        lane < block.bricks * brick_rows ? load_int(rows + block.rows + lane) : -1;

    const auto next_x = [&](int step, int place) {
        if (!copied || step < block.steps) load_x(place);
        if (copied) commit_copies();  // an empty group too: counting groups is counting steps
        steps.load_columns(step + ahead * few_warps, place);
    };
#pragma unroll
    for (int i = 0; i < ahead; ++i) next_x(warp + i * few_warps, i);

#pragma unroll 1
    for (int step = warp; step < block.steps; step += ahead * few_warps) {
#pragma unroll
        for (int i = 0; i < ahead; ++i) {
            const int mine = step + i * few_warps;
            if (mine >= block.steps) break;
            multiply(i, i % buffers);
            if (copied) warp_barrier();  // all have read what is written next
            steps.load_values(mine + ahead * few_warps, i);
            next_x(mine + ahead * few_warps, i);
        }
    }

    // ---- The sums of all warps -----------------------------------------------------------------

    // In shared memory as fragments, 16 rows x 8 columns each: output (m, j, row, column), of all warps.
    warp_barrier();  // X has been read
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
            sum += __uint_as_float(load_shared(memory + w * warp_bytes + output * sizeof(float)));
        return sum;
    };

    const bool joined = config::pieces && block.pieces > 1;
    const Pieces pieces = {partials + static_cast<long long>(block.first_piece) * outputs,
                           arrived + block.first_piece};
    // `memory` holds a sum of warp 0, which nobody reads any more.
    if (joined && !leave_piece(pieces, block, outputs, memory, sum_of_warps)) return;

    const Epilogue by = {
        alpha,     beta,        {c, c_row, c_column}, {residual, residual_row, residual_column},
        row_bias,  column_bias, row_scale,            column_scale,
    };
    // Four columns of a row a thread.
    constexpr int run = 4;
    const bool aligned = y_column == 1 && n % run == 0 && y_row % run == 0 &&
                         reinterpret_cast<unsigned long long>(y) % (run * sizeof(Output)) == 0;
#pragma unroll 1
    for (int i = thread * run; i < outputs; i += few_threads * run) {
        const int place = i / (brick_rows * config::block_n) * brick_rows + i / 8 % brick_rows;
        const int row = from_lane(row_of_lane, place);
        const int column = i / 128 % n_fragments * 8 + i % 8;
        if (row < 0 || column >= n) continue;
        float sum[run] = {};
        if (joined) {
#pragma unroll
            for (int e = 0; e < run; ++e) sum[e] = sum_of_pieces(pieces, block, outputs, i + e);
        } else {
#pragma unroll
            for (int w = 0; w < few_warps; ++w)
                add_sums(load_shared_chunk(memory + w * warp_bytes + i * sizeof(float)), sum);
        }
        if constexpr (config::fused) finish(sum, by, row, column, min(run, n - column));
        Output* const to = y + row * y_row + column * y_column;
        if (aligned) {
            store_run(to, sum);
        } else {
#pragma unroll
            for (int e = 0; e < run; ++e) {
                const Word bits = output_bytes == 2 ? round_pair(sum[e], sum[e]) : bits_of(sum[e]);
                if (column + e < n) to[e * y_column] = static_cast<Output>(bits);
            }
        }
    }
}
