// Y = A X on tensor cores by mma.sp, for A in tile-vector-wise format (sm_80 and later).
//
//        cols (gathered)            n                          n
//      +---------------+      +-----------+              +-----------+
// tile | .  a  .  .  b |      |           |         row  |           |
// rows | .  c  .  .  d |  x   | X[col]    |   ->    list | Y[row]    |  whole rows, scattered
//      +---------------+      | contiguous|              |           |
//                             +-----------+              +-----------+
//
// Skipping a column of a tile skips a contiguous row of X, so the gather is made of plain 16-byte
// copies and nothing is ever transposed in global memory. One launch serves all tiles, and the
// rows in no tile as well, which are a tile without slots.
//
// The way of the data, through a ring of `stages` stages in shared memory:
//
//   global   X rows --cp.async--+                       values, metadata --cp.async--+
//   shared                      +-> swizzled [slot][n]      fragment order <---------+
//   lanes    ldmatrix.trans ------> FragmentB           16-byte loads --> FragmentA, metadata
//                                        \                 /
//                                         mma.sp, FragmentC in registers --> shared --> Y rows
//
// Values go through shared memory although each lane could load its fragments straight from global
// memory: all warps of a row of warps need the same ones.
//
// A stage holds a step of 64 slots. It is worked through in micro-steps, 32 slots x part of the
// warp's columns each. A micro-step loads the fragments of the next one before it multiplies its
// own, so that the tensor cores do not wait for shared memory, and starts a share of the copies of
// a later stage. The last one hands over to the next stage:
//
//   micro-step      0         1         2         3       |     0
//   loads           1         2         3       0 of next |     1          (fragments)
//   multiplies      0         1         2         3       |     0
//   copies        share     share     share      none     |   share        stage read last -> new
//                                             ^ hand-over: wait, barrier
//
// float32 is multiplied as a sum of bfloat16 parts, x = x0 + x1 + x2, each the rounded rest of those
// before: the products of parts i and j with i + j < parts are summed, which share the metadata. The
// micro-steps then run through the parts of X as well. What is not x0 y0 is summed apart, since it is
// far smaller.
//
// A block takes one item of the work list, or, if blocks persist, one after another. Then the next
// item's first stages are fetched before the sums of this one leave, through the end of the ring:
//
//   ring      | stage 0 | stage 1 | stage 2 | stage 3 |
//              next item's first    this item's sums      barrier, the rest of the first stages
//
// Nobody waits for another block, and which item comes next was decided before the launch.
//
// Each part of the way is a header of its own:
//
//   sm80_copies.cuh      global to shared
//   sm80_fragments.cuh   shared to registers, and the products
//   sm80_pieces.cuh      sums of a tile that several blocks work on
//   sm80_store.cuh       registers to Y
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "layout.cuh"
#include "epilogue.cuh"
#include "sm80_copies.cuh"
#include "sm80_fragments.cuh"
#include "sm80_pieces.cuh"
#include "sm80_store.cuh"

extern "C" __global__ void __launch_bounds__(threads, config::min_blocks) sm80_tvw_gemm(
    const char* __restrict__ x,         // (batch, parts, cols, n), rows 16-byte aligned
    int x_pitch,                        // bytes from row to row, from part to part, from X to X
    long long x_part,                   //
    long long x_batch,                  //
    Output* y,                          // (batch, rows, n), rows ldy apart, any alignment;
                                        // column-major: columns
    int ldy,                            //
    long long y_batch,                  //
    const char* __restrict__ values,    // for each part: bricks of values
    long long value_part,               // bytes from part to part
    const char* __restrict__ meta,      // bricks of metadata; not read without 2:4
    const int* __restrict__ cols,       // column lists: whole steps of a tile, -1 is padding
    const int* __restrict__ rows,       // row lists: a multiple of 16 rows a tile, -1 is padding
    const int* __restrict__ list,       // the work list, `entries` Blocks of 8 words
    const int* __restrict__ following,  // which item comes after each; null: in turn
    int entries,                        //
    int n,                              // columns of an X
    int n_blocks,                       // n / block_n, rounded up
    int columns,                        // n_blocks of all X
    int strip,                          // of them, how many are worked on together
    Sum* partials,                      // (pieces, columns, threads, Sums of a lane)
    Word* arrived,                      // (pieces, columns), zeros before and after
    float alpha,                        // the epilogue: see epilogue.cuh; not read if not fused
    float beta,                         //
    const Output* c,                    //
    long long c_row,                    //
    long long c_column,                 //
    long long c_batch,                  //
    const Output* residual,             //
    long long residual_row,             //
    long long residual_column,          //
    long long residual_batch,           //
    const float* row_bias,              //
    const float* column_bias,           //
    const float* row_scale,             //
    const float* column_scale) {
    extern __shared__ __align__(128) char shared[];
    const Word ring = shared_address(shared);
    const Word ring_end = ring + config::stages * stage_bytes;
    const Word staging = ring_end - staging_bytes;
    const auto after = [&](Word stage) {
        return stage + stage_bytes == ring_end ? ring : stage + stage_bytes;
    };

    const int thread = threadIdx.x;
    const int warp_m = thread / 32 / warps_n;  // the warp's place in the block
    const int warp_n = thread / 32 % warps_n;
    const Items items = {list, following, entries, n_blocks, columns, strip};
    const Operand operand = {x, x_pitch, x_part, x_batch, n};
    const Packed packed = {values, value_part, meta, cols};
    Copies copies(operand, packed);

    // The column lists first: each is a trip to memory that the gathers must wait for.
    int first_columns[config::stages];
    const auto take = [&](int index) {
        copies.take(items.at(index));
#pragma unroll
        for (int s = 0; s < config::stages; ++s) first_columns[s] = copies.columns_of(s);
    };
    const auto fetch_stages = [&](int from, int to) {
#pragma unroll
        for (int s = from; s < to; ++s) {
            if (s < copies.steps) copies.fetch(ring + s * stage_bytes, first_columns[s], 0, 1);
            commit_copies();  // an empty group too: counting groups is counting stages
        }
    };
    int index = items.first();
    take(index);
    fetch_stages(0, early_stages);

    for (;;) {
        fetch_stages(early_stages, config::stages - 1);
        Fragments fragments(thread % 32, warp_m, warp_n);
        const int steps = copies.steps;
        if (steps > 0) {
            Word read = ring;
            Word write = ring + (config::stages - 1) * stage_bytes;
            int of_columns = first_columns[config::stages - 1];
            wait_for_copies();
            block_barrier();
            fragments.load(read, 0);

            for (int step = 0; step < steps; ++step) {
                const bool more = step + config::stages - 1 < steps;
                const int next_columns = copies.columns_of(step + config::stages);
                fragments.advance();
#pragma unroll
                for (int i = 0; i < micro_steps - 1; ++i) {
                    fragments.load(read, i + 1);
                    // The stage that was read last is free: every warp had loaded its last
                    // fragments before the barrier of the hand-over.
                    if (more) copies.fetch(write, of_columns, i, micro_steps - 1);
                    fragments.multiply(i);
                }
                // Hand over: my copies of the next stage are here, then everybody's are.
                commit_copies();
                wait_for_copies();
                block_barrier();
                write = read;
                read = after(read);
                of_columns = next_columns;
                if (step + 1 < steps) fragments.load(read, 0);
                fragments.multiply(micro_steps - 1);
            }
        }
        fragments.add_small();

        // The ring is free: the last hand-over was behind the last load. What the item is, is found
        // out once more each time, instead of being kept in registers.
        bool whole = true;
        if constexpr (config::pieces) {
            const Item item = items.again(index);
            const Workspace workspace = {partials, arrived, columns};
            if (item.block.pieces > 1) whole = add_pieces(fragments.sums, item, workspace, staging);
        }
        // The next item's first stages arrive while this one's sums leave through the rest.
        const int next = items.after(index);
        if (next < items.end()) {
            take(next);
            fetch_stages(0, early_stages);
        }
        if (whole) {
            const Item item = items.again(index);
            Output* const y_of = y + item.batch * y_batch;
            const auto y_address = reinterpret_cast<unsigned long long>(y_of);
            const bool aligned = (y_address | ldy * sizeof(Output)) % chunk_bytes == 0;
            const Target target = {y_of, ldy, n, aligned, rows, item.block};
            const int warp_n0 = item.n0 + warp_n * config::warp_n;
            if constexpr (rounded_first) {
                store_rounded(fragments.sums, staging, target, warp_m, warp_n0);
            } else {
                const Epilogue by = {
                    alpha,
                    beta,
                    {c ? c + item.batch * c_batch : nullptr, c_row, c_column},
                    {residual ? residual + item.batch * residual_batch : nullptr, residual_row,
                     residual_column},
                    row_bias,
                    column_bias,
                    row_scale,
                    column_scale,
                };
                if constexpr (config::column_major)
                    store_columns(fragments.sums, staging, target, by, warp_m, warp_n0);
                else
                    store_finished(fragments.sums, staging, target, by, warp_m, warp_n0);
            }
        }
        if (next >= items.end()) return;
        block_barrier();  // the sums have left the ring
        index = next;
    }
}
