// y = A x, one column of X, on tensor cores, at the speed of memory (sm_80 and later).
//
// A product with a vector takes as long as reading A, and two things more: what of the way to memory
// and back cannot be hidden behind other loads, and adding up. So a block asks for everything at once,
// all of x for its shared memory, its columns, and of its values what registers hold; none of these
// waits for another. A block has 16 or 32 rows of a tile, its warps take turns at the steps:
//
//          step 0 1 2 3 4 5 6 7 8 ...
//               +-+-+-+-+-+-+-+-+-
//   16 or 32    |w|w|w|w|w|w|w|w|w        x   x[col], from shared memory  ->  sums of warp 0, 1 ...
//   rows        |0|1|2|3|4|5|6|7|0
//               +-+-+-+-+-+-+-+-+-
//
// A tensor core multiplies by eight columns: x is each of them. Lane 4 g + t holds slots 2 t + h + 8 r
// of column g as word r, half h; so a warp puts a step's values of x into its own shared memory in
// this order, and reads them 16 bytes a lane:
//
//   half     0    1    2    3    4    5    6    7       8    9   10 ...
//   slot     0    1    8    9   16   17   24   25       2    3   10 ...     (32 slots, 64 bytes)
#include "few.cuh"
#include "epilogue.cuh"

constexpr int step_bytes = step_slots * sizeof(Half);
constexpr int staged_bytes = config::staged * sizeof(Half);
constexpr int warp_bytes = ahead * step_bytes;

static_assert(config::block_rows * sizeof(float) <= warp_bytes, "sums take the place of x");

extern "C" __global__ void __launch_bounds__(few_threads, config::min_blocks) sm80_tvw_vector(
    const Half* __restrict__ x,       // (cols,), any stride, in elements
    int x_rows,                       // cols, at most config::staged
    long long x_row,                  //
    Output* y,                        // (rows,), any stride
    long long y_row,                  //
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
    float* partials,                  // (pieces, block_rows)
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
    const Word own = memory + staged_bytes + warp * warp_bytes;
    const Alike alike = {alike_first, alike_count, alike_bricks, alike_steps,
                         alike_brick, alike_slots, alike_rows};
    const Block block = block_of(list, alike, blockIdx.x);

    // ---- Ask for everything --------------------------------------------------------------------

    // x as it lies, 16 bytes at a time where it can be.
    const bool whole = x_row == 1 && reinterpret_cast<unsigned long long>(x) % chunk_bytes == 0;
    const int chunks = whole ? x_rows / chunk_elements : 0;
#pragma unroll 2
    for (int i = thread; i < chunks; i += few_threads)
        copy_async(memory + i * chunk_bytes, x + i * chunk_elements, true);

    Steps steps(values, meta, cols, block, lane);
#pragma unroll
    for (int i = 0; i < ahead; ++i) steps.load_columns(warp + i * few_warps, i);
#pragma unroll
    for (int i = 0; i < ahead; ++i) steps.load_values(warp + i * few_warps, i);
    // Which row this thread stores: known long before it is needed.
    const int row = thread < block.bricks * brick_rows ? load_int(rows + block.rows + thread) : -1;

#pragma unroll 4
    for (int i = chunks * chunk_elements + thread; i < x_rows; i += few_threads)
        store_shared_half(memory + i * sizeof(Half), load_half(x + i * x_row));
    wait_for_all_copies();
    block_barrier();

    // ---- Multiply ------------------------------------------------------------------------------

    // Where this lane's slots of a step stand: slot `lane`, and 32 slots further on slot `lane` + 32.
    const Word put = own + (lane % 8 / 2 * 8 + lane / 8 * 2 + lane % 2) * sizeof(Half);
    const Word get = own + lane % 4 * chunk_bytes;
    FragmentC sums[bricks] = {};
#pragma unroll 1
    for (int step = warp; step < block.steps; step += ahead * few_warps) {
#pragma unroll
        for (int i = 0; i < ahead; ++i) {
#pragma unroll
            for (int s = 0; s < slots_of_lane; ++s) {
                const int column = steps.columns[i][s];
                const Half value =
                    column >= 0 ? load_shared_half(memory + column * sizeof(Half)) : Half(0);
                store_shared_half(put + (i * slots_of_lane + s) * 32 * sizeof(Half), value);
            }
            steps.load_columns(step + (i + ahead) * few_warps, i);
        }
        warp_barrier();
#pragma unroll
        for (int i = 0; i < ahead; ++i) {
            if (step + i * few_warps >= block.steps) break;
#pragma unroll
            for (int k = 0; k < k_steps; ++k) {
                const Chunk got = load_shared_chunk(get + (i * k_steps + k) * 32 * sizeof(Half));
                const FragmentB b = {got.word[0], got.word[1], got.word[2], got.word[3]};
#pragma unroll
                for (int m = 0; m < bricks; ++m) steps.multiply(sums[m], i, m, k, b);
            }
            steps.load_values(step + (i + ahead) * few_warps, i);
        }
        warp_barrier();  // x of these steps has been read
    }

    // ---- The sums of all warps -----------------------------------------------------------------

#pragma unroll
    for (int m = 0; m < bricks; ++m)
        if (lane % 4 == 0) {
            const Word to = own + (m * brick_rows + lane / 4) * sizeof(float);
            store_shared(to, bits_of(sums[m].word[0]));
            store_shared(to + 8 * sizeof(float), bits_of(sums[m].word[2]));
        }
    block_barrier();
    const auto sum_of_warps = [&](int output) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < few_warps; ++w)
            sum += __uint_as_float(load_shared(memory + staged_bytes + w * warp_bytes +
                                               output * sizeof(float)));
        return sum;
    };

    const bool joined = config::pieces && block.pieces > 1;
    const Pieces pieces = {
        partials + static_cast<long long>(block.first_piece) * config::block_rows,
        arrived + block.first_piece,
    };
    if (joined && !leave_piece(pieces, block, config::block_rows, memory, sum_of_warps)) return;
    if (row < 0) return;
    float sum[1] = {joined ? sum_of_pieces(pieces, block, config::block_rows, thread)
                           : sum_of_warps(thread)};
    if constexpr (config::fused) {
        const Epilogue by = {
            alpha,     beta,        {c, c_row, c_column}, {residual, residual_row, residual_column},
            row_bias,  column_bias, row_scale,            column_scale,
        };
        finish(sum, by, row, 0, 1);
    }
    const Word bits = output_bytes == 2 ? round_pair(sum[0], sum[0]) : bits_of(sum[0]);
    y[row * y_row] = static_cast<Output>(bits);
}
