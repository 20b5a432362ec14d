// Y = A X on Hopper's tensor cores by wgmma.sp, for A in tile-vector-wise format (sm_90a).
//
// What is computed is as in sm80_tvw_gemm.cu: each tile gathers its rows of X and scatters its rows
// of Y. How differs, because here the tensor cores read both operands from shared memory by
// themselves and run beside the threads that start them. So threads have roles:
//
//   copying warps                          shared memory                multiplying warpgroups
//   -------------                          -------------                ----------------------
//   wait until a stage is empty       <----- empty[s] ---------------+
//   bulk copy of its slabs of A       --->   A slabs  ----+          |  wait until the stage is full
//   gather of its rows of X, cp.async --->   X atoms  ----+--> wgmma |  start its products
//   wait, fence, arrive               -----> full[s]  ---------------+  wait for those of the stage
//                                                                       before, and free that one
//
// sm90_copy.cuh has the copying, also the other way: X in boxes, for tiles that keep every column.
//
// Products of a stage are one group of wgmma. One group is always under way: the next one is started
// before the last one is waited for, so that the tensor cores never run dry between stages. Metadata
// alternates between two sets of registers, because a group under way still reads its own.
//
// Blocks are persistent: copying runs ahead into the next item while the last one is stored
// (sm90_result.cuh). With clusters, several blocks take items together and share copies.
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "sm90_ptx.cuh"
#include "sm90_layout.cuh"
#include "sm90_copy.cuh"
#include "sm90_result.cuh"
#include "sm90_pieces.cuh"
#include "wgmma.cuh"

// What the kernel is given as X: an array, or its map.
template <bool boxes>
struct RightOperand {
    using Type = const Half*;
};
template <>
struct RightOperand<true> {
    using Type = TensorMap;
};

using X = RightOperand<config::boxes>::Type;

extern "C" __global__ void __launch_bounds__(threads, 1)
#include "cluster.cuh"
sm90_tvw_gemm(
    const __grid_constant__ X x,     // (cols, n), rows ldx apart, all 16-byte aligned
    int ldx,                         //
    Half* __restrict__ y,            // (rows, n), rows ldy apart, any alignment
    int ldy,                         //
    const char* __restrict__ slabs,  // slabs of values and metadata, 16-byte aligned
    const int* __restrict__ cols,    // column lists: a multiple of 64 slots a tile, -1 is padding
    const int* __restrict__ rows,    // row lists: a multiple of 16 rows a tile, -1 is padding
    const int* __restrict__ list,    // the work list, `entries` Blocks of 8 words
    const int* __restrict__ after,   // of each item, which its block takes next, or null: in turn
    int entries,                     //
    int n,                           // columns of X
    int n_blocks,                    // n / block_n, rounded up
    int strip,                       // blocks of columns that are worked on together
    float* partials,                 // sums of pieces: see sm90_pieces.cuh; not used if none is cut
    Word* arrived,                   //
    float alpha,                     // the epilogue: see epilogue.cuh; not read if not fused
    float beta,                      //
    const Output* c_data,            //
    long long c_row,                 //
    long long c_column,              //
    long long,                       // from one X to the next: there is one
    const Output* residual,          //
    long long residual_row,          //
    long long residual_column,       //
    long long,                       //
    const float* row_bias,           //
    const float* column_bias,        //
    const float* row_scale,          //
    const float* column_scale) {
    extern __shared__ __align__(1024) char shared[];
    const Word stages = shared_address(shared);
    const Word y_buffers = stages + config::stages * stage_bytes;
    const Word full = y_buffers + multiply_warps * y_bytes;
    const Word empty = full + config::stages * 8;
    const Ring ring = {stages, full, empty};
    const Items items = {list, after, entries, n_blocks, strip};

    const int thread = threadIdx.x;
    const int lane = thread % 32;
    const int warp = thread / 32;

    if (thread == 0) {
        for (int s = 0; s < config::stages; ++s) {
            init_barrier(full + 8 * s, config::boxes ? 1 : config::gather_warps + 1);
            init_barrier(empty + 8 * s, multiply_warps * config::cluster);
        }
        publish_barriers();
    }
    if constexpr (config::cluster > 1)
        cluster_barrier();
    else
        block_barrier();

    if (warp >= multiply_warps) {
        release_registers<config::copy_registers>();
        copy_items(x, ldx, n, slabs, cols, items, ring);
    } else {
        // ---- Multiply --------------------------------------------------------------------------
        claim_registers<config::multiply_registers>();
        const int wg_m = warp / 4 / wgs_n;  // the warpgroup's place in the item
        const int wg_n = warp / 4 % wgs_n;
        const Word x_at = wg_n * config::wg_n / atom_columns * atom_bytes;

        const bool aligned =
            (reinterpret_cast<unsigned long long>(y) | ldy * sizeof(Half)) % chunk_bytes == 0;
        const Target target = {y, ldy, n, aligned, y_buffers + warp * y_bytes};

        Place place = {0, 0};
        Word last_empty = 0;  // the barrier of the stage whose products are under way
        Item next_item = items.at(items.first());
        for (int i = items.first(), following; i < items.end(); i = following) {
            if constexpr (config::fused) next_item = items.at(i);
            const Item item = next_item;
            following = items.after(i);
            const Block& block = item.block;
            // What the next item is, is looked up while the last products of this one are under way.
            // Not before an epilogue: its arguments need the registers.
            const auto look_ahead = [&] {
                if (!config::fused && following < items.end()) next_item = items.at(following);
            };
            Where where;
            where.n = item.n + wg_n * config::wg_n;
            const int piece = wg_m * pieces + lane / y_rows % pieces;
            const int row = piece * slab_rows + warp % 4 * y_rows + lane % y_rows;
            where.rows = row < block.height ? load_int(rows + block.rows + row) : -1;

            // A piece beyond the tile multiplies its last slab once more; nobody stores the result.
            Word slab_at[pieces];
#pragma unroll
            for (int m = 0; m < pieces; ++m)
                slab_at[m] = x_bytes + min(wg_m * pieces + m, block.slabs - 1) * slab_bytes;

            Sums c;

            // Start the products of the stage at `place`, as soon as it is full.
            const auto start = [&](Word(&meta)[pieces], bool first) {
                wait(full + 8 * place.stage, place.round);
                const Word stage = stages + place.stage * stage_bytes;
                const Word meta_at = slab_value_bytes + thread % 128 * sizeof(Word);
#pragma unroll
                for (int m = 0; m < pieces; ++m)
                    meta[m] = load_shared(stage + slab_at[m] + meta_at);
                const Descriptor b = describe_x(stage + x_at);
                begin_products();
#pragma unroll
                for (int m = 0; m < pieces; ++m) {
                    const Descriptor a = describe_a(stage + slab_at[m]);
                    if (first)
                        multiply_async<0, true>(c[m], a, b, meta[m]);
                    else
                        multiply_async<0, false>(c[m], a, b, meta[m]);
                    multiply_async<1, false>(c[m], a + next_a, b + next_x, meta[m]);
                }
                commit_products();
            };
            // The stage whose products are done is empty.
            const auto hand_back = [&](Word barrier) {
                if constexpr (config::cluster > 1) {
                    if (lane < config::cluster) arrive_remotely(map_to(barrier, lane));
                } else {
                    if (lane == 0) arrive(barrier);
                }
            };
            const auto next = [&] {
                last_empty = empty + 8 * place.stage;
                place.advance(1);
            };
            // The products of a stage, and those of the stage before are done.
            const auto multiply = [&](Word(&meta)[pieces]) {
                start(meta, false);
                wait_for_products<1>();
                hand_back(last_empty);
                next();
            };

            if (block.steps > 0) {
                Word meta[pieces], other_meta[pieces];
                start(meta, true);
                next();
                int left = block.steps - 1;
                for (; left >= 2; left -= 2) {
                    multiply(other_meta);
                    multiply(meta);
                }
                if (left) multiply(other_meta);
                look_ahead();
                wait_for_products<0>();
#pragma unroll
                for (int m = 0; m < pieces; ++m) receive(c[m]);
                hand_back(last_empty);
            } else {
                look_ahead();
#pragma unroll
                for (int m = 0; m < pieces; ++m)
#pragma unroll
                    for (int j = 0; j < config::wg_n / 2; ++j) c[m][j] = 0;
            }

            if constexpr (config::cut)
                if (!add_pieces(c, item, {partials, arrived, n_blocks})) continue;
            const Epilogue by = {alpha, beta, {c_data, c_row, c_column},
                                 {residual, residual_row, residual_column},
                                 row_bias, column_bias, row_scale, column_scale};
            store_sums(c, where, by, target);
        }
    }
    if constexpr (config::cluster > 1) {
        warp_barrier();     // one thread may have copied alone
        cluster_barrier();  // until then others arrive at this block's barriers
    }
}
