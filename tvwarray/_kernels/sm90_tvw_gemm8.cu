// Y = A X on Hopper's tensor cores by wgmma.sp, for 8-bit A in tile-vector-wise format (sm_90a).
//
// As sm90_tvw_gemm.cu, with one thing more. wgmma takes 16-bit operands as rows of X lie in memory,
// n contiguous; 8-bit ones it wants with k contiguous. So the copying warps turn X on its way:
//
//   copying warps                                                         multiplying warpgroups
//   -------------                                                         ----------------------
//   rows of X, cp.async  -->  landing                      shared memory
//   wait until a stage is empty          <-----  empty[s] --------------+
//   bulk copy of its slabs of A          ----->  A slabs  --+           |  wait until the stage is full
//   landing -> ldmatrix, PRMT, stmatrix  ----->  X          --> wgmma   |  start its products
//   fence, arrive                        ----->  full[s]  --------------+  wait for those of the stage
//   rows of X for a later step, cp.async -->  landing                      before, and free that one
//
// The copying warps form groups that take turns at the steps, so that what one waits for - a stage, its
// copies, the fence - others use. Inside, a warp works for itself: it has its slots of the step, its own
// landings, and waits for its own copies. Rows land ahead of being turned, across the ends of items.
//
// The tensor cores add float8 products with some 14 bits. `promote` says after how many steps their
// sums are added up in float32 by the threads and begun anew; 0 is never.
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "epilogue.cuh"
#include "sm90_ptx.cuh"
#include "sm90_work.cuh"
#include "sm90_layout8.cuh"
#include "sm90_result8.cuh"
#include "wgmma.cuh"

extern "C" __global__ void __launch_bounds__(threads, 1) sm90_tvw_gemm8(
    const char* __restrict__ x,      // (batch, cols, n), rows x_pitch bytes apart, 16-byte aligned
    int x_pitch,                     //
    long long x_batch,               // bytes from one X to the next
    Output* __restrict__ y,          // (batch, rows, n), rows ldy apart, any alignment
    int ldy,                         //
    long long y_batch,               // elements from one Y to the next
    const char* __restrict__ slabs,  // slabs of values and metadata, 16-byte aligned
    const int* __restrict__ cols,    // column lists: a multiple of 128 slots a tile, -1 is padding
    const int* __restrict__ rows,    // row lists: a multiple of 16 rows a tile, -1 is padding
    const int* __restrict__ list,    // the work list, `entries` Blocks of 8 words
    const int* __restrict__ following,  // of each item, which its block takes next, or null: in turn
    int entries,                     //
    int n,                           // columns of X
    int n_blocks,                    // n / block_n, rounded up
    int columns,                     // blocks' widths of all X
    int strip,                       // of these, how many are worked on together
    float alpha,                     // the epilogue: see epilogue.cuh; not read if not fused
    float beta,                      //
    const Output* c_data,            //
    long long c_row,                 //
    long long c_column,              //
    long long c_batch,               //
    const Output* residual,          //
    long long residual_row,          //
    long long residual_column,       //
    long long residual_batch,        //
    const float* row_bias,           //
    const float* column_bias,        //
    const float* row_scale,          //
    const float* column_scale) {
    extern __shared__ __align__(1024) char shared[];
    const Word stages = shared_address(shared);
    const Word all_landings = stages + config::stages * stage_bytes;
    const Word y_buffers = all_landings + copy_warps * config::landings * landing_bytes;
    const Word full = y_buffers + multiply_warps * y_bytes;
    const Word empty = full + config::stages * 8;

    const int thread = threadIdx.x;
    const int lane = thread % 32;
    const int warp = thread / 32;
    const int items = entries * columns;

    if (thread == 0) {
        for (int s = 0; s < config::stages; ++s) {
            init_barrier(full + 8 * s, config::gather_warps + 1);
            init_barrier(empty + 8 * s, multiply_warps);
        }
        publish_barriers();
    }
    block_barrier();

    if (warp >= multiply_warps) {
        // ---- Copy ------------------------------------------------------------------------------
        release_registers<config::copy_registers>();
        const int group = (warp - multiply_warps) / config::gather_warps;
        const int member = (warp - multiply_warps) % config::gather_warps;  // whose slots of a step
        const Word landings =
            all_landings + (warp - multiply_warps) * config::landings * landing_bytes;

        // Rows of X to a landing: of 16 slots a lane has one chunk of four neighbouring rows.
        const Word pitch = x_pitch;
        const int chunk = lane % 8;
        const int first_row = lane / 8 * lane_rows;
        const Word lands_at = first_row * landing_row_bytes + (chunk ^ first_row % 8) * chunk_bytes;
        int item_ahead = blockIdx.x;
        int step_ahead = group;  // of that item
        int steps_ahead = 0;     // that it has
        const int* columns_ahead = cols;
        const char* x_ahead = x;
        int n_ahead = 0;
        // Go on to the item that has the step.
        const auto find_ahead = [&] {
            while (step_ahead >= steps_ahead && item_ahead < items) {
                const Work work = work_of(item_ahead, entries, columns, strip);
                const Block block = load_block(list, work.entry);
                if (step_ahead < block.steps) {
                    const int batch = work.column / n_blocks;
                    n_ahead =
                        (work.column - batch * n_blocks) * config::block_n + chunk * chunk_bytes;
                    x_ahead = x + batch * x_batch + n_ahead;
                    columns_ahead =
                        cols + block.slots + step_ahead * step_slots + member * warp_slots;
                    steps_ahead = block.steps;
                } else {
                    step_ahead -= block.steps;
                    item_ahead = item_after(following, item_ahead, gridDim.x);
                }
            }
        };
        // Each lane has the columns of some slots, which the others ask it for.
        const auto load_columns = [&](int(&column)[lane_columns]) {
            if (item_ahead < items)
#pragma unroll
                for (int i = 0; i < lane_columns; ++i)
                    column[i] = load_int(columns_ahead + (i * 32 + lane) % warp_slots);
        };
        // Of a padding slot, and beyond n, zeros.
        const auto fetch_row = [&](Word to, int of) {
            const char* const from = x_ahead + static_cast<unsigned long long>(Word(of)) * pitch;
#pragma unroll
            for (int s = 0; s < strips; ++s)
                copy_async(to + s * landing_strip_bytes, from + s * strip_columns,
                           of >= 0 && n_ahead + s * strip_columns < n);
        };
        const auto fetch = [&](const int(&column)[lane_columns], Word landing) {
            if (item_ahead < items) {
#pragma unroll
                for (int i = 0; i < warp_parts; ++i) {
                    const Word to = landing + i * landing_part_bytes + lands_at;
                    int of[lane_rows];
#pragma unroll
                    for (int k = 0; k < lane_rows; ++k)
                        of[k] = from_lane(column[i * part_slots / 32],
                                          i * part_slots % 32 + first_row + k);
#pragma unroll
                    for (int k = 0; k < lane_rows; ++k)
                        fetch_row((to ^ k * chunk_bytes) + k * landing_row_bytes, of[k]);
                }
                step_ahead += config::gather_groups;
                columns_ahead += config::gather_groups * step_slots;
                if (step_ahead >= steps_ahead) {
                    step_ahead -= steps_ahead;
                    steps_ahead = 0;
                    item_ahead = item_after(following, item_ahead, gridDim.x);
                }
                find_ahead();
            }
            commit_copies();
        };

        // From a landing to a stage. ldmatrix gives words of rows 0-7 and 8-15 for 16 columns, and for
        // the next 16. Lanes 0-15 take the even columns first and the others the odd ones, so that the
        // eight rows of a matrix that stmatrix stores are at eight places of the swizzle.
        const int row = lane % 16;
        const Word lies_at = row * landing_row_bytes + (lane / 16 ^ row % 8) * chunk_bytes;
        const Word first_bytes = lane < 16 ? 0x6420 : 0x7531;
        const Word second_bytes = lane < 16 ? 0x7531 : 0x6420;
        const int stored = lane % 8;  // the row of a matrix whose place this lane gives
        const int my_column = lane / 16 * 16 + 2 * stored + (lane / 8 % 2 ^ stored / 4);
        const Word goes_to =
            my_column * x_row_bytes + (member * warp_parts ^ my_column % 8) * chunk_bytes;
        const auto turn = [&](Word landing, Word stage) {
#pragma unroll
            for (int i = 0; i < warp_parts; ++i)
#pragma unroll
                for (int s = 0; s < strips; ++s)
#pragma unroll
                    for (int j = 0; j < strip_columns / 32; ++j) {
                        const Chunk words = load_matrices_transposed(
                            (landing + lies_at ^ j * 2 * chunk_bytes) + i * landing_part_bytes +
                            s * landing_strip_bytes);
                        store_matrices(
                            (stage + goes_to ^ i * chunk_bytes) +
                                (s * strip_columns + j * 32) * x_row_bytes,
                            permute_bytes(words.word[0], words.word[1], first_bytes),
                            permute_bytes(words.word[0], words.word[1], second_bytes),
                            permute_bytes(words.word[2], words.word[3], first_bytes),
                            permute_bytes(words.word[2], words.word[3], second_bytes));
                    }
        };

        find_ahead();
#pragma unroll 1
        for (int i = 0; i < config::landings; ++i) {
            int column[lane_columns];
            load_columns(column);
            fetch(column, landings + i * landing_bytes);
        }
        Place place = {group, 0};
        int landed = 0;
        int step = group;
        for (int item = blockIdx.x; item < items;
             item = item_after(following, item, gridDim.x)) {
            const Block block =
                load_block(list, work_of(item, entries, columns, strip).entry);
#pragma unroll 1
            for (; step < block.steps; step += config::gather_groups) {
                const Word stage = stages + place.stage * stage_bytes;
                const Word my_full = full + 8 * place.stage;
                const Word landing = landings + landed * landing_bytes;
                wait(empty + 8 * place.stage, place.round ^ 1);
                if (member == 0 && lane == 0) {
                    const int bytes = block.slabs * slab_bytes;
                    const long long slab = block.slab + step * block.stride;
                    arrive_expecting(my_full, bytes);
                    copy_bulk(stage + x_bytes, slabs + slab * slab_bytes, bytes, my_full);
                }
                wait_for_copies_but<config::landings - 1>();
                warp_barrier();
                turn(landing, stage);
                int column[lane_columns];
                load_columns(column);
                fence_for_wgmma();
                warp_barrier();
                if (lane == 0) arrive(my_full);
                fetch(column, landing);
                landed = landed + 1 < config::landings ? landed + 1 : 0;
                place.advance(config::gather_groups);
            }
            step -= block.steps;
        }
    } else {
        // ---- Multiply --------------------------------------------------------------------------
        claim_registers<config::multiply_registers>();
        const int wg_m = warp / 4 / wgs_n;  // the warpgroup's place in the item
        const int wg_n = warp / 4 % wgs_n;
        const Word x_at = wg_n * config::wg_n * x_row_bytes;
        const Word meta_at = slab_value_bytes + warp % 4 * warp_meta_bytes + lane * sizeof(Word);

        Place place = {0, 0};
        Word last_empty = 0;  // the barrier of the stage whose products are under way
        for (int item = blockIdx.x; item < items;
             item = item_after(following, item, gridDim.x)) {
            const Work work = work_of(item, entries, columns, strip);
            const Block block = load_block(list, work.entry);

            // A piece beyond the tile multiplies its last slab once more; nobody stores the result.
            Word slab_at[pieces];
#pragma unroll
            for (int m = 0; m < pieces; ++m)
                slab_at[m] = x_bytes + min(wg_m * pieces + m, block.slabs - 1) * slab_bytes;

            Sums c;

            // Start the products of the stage at `place`, as soon as it is full.
            const auto multiply = [&](Word(&meta)[pieces][2], bool first) {
                wait(full + 8 * place.stage, place.round);
                const Word stage = stages + place.stage * stage_bytes;
#pragma unroll
                for (int m = 0; m < pieces; ++m)
#pragma unroll
                    for (int k = 0; k < 2; ++k)
                        meta[m][k] = load_shared(stage + slab_at[m] + meta_at +
                                                 k * product_meta_bytes);
                const Descriptor b = describe_x(stage + x_at);
                begin_products();
#pragma unroll
                for (int m = 0; m < pieces; ++m) {
                    const Descriptor a = describe_a(stage + slab_at[m]);
                    if (first)
                        multiply_async<0, true>(c[m], a, b, meta[m][0]);
                    else
                        multiply_async<0, false>(c[m], a, b, meta[m][0]);
                    multiply_async<0, false>(c[m], a + next_a, b + next_x, meta[m][1]);
                }
                commit_products();
            };
            // The stage whose products are done is empty.
            const auto hand_back = [&](Word barrier) {
                if (lane == 0) arrive(barrier);
            };
            const auto next = [&] {
                last_empty = empty + 8 * place.stage;
                place.advance(1);
            };
            const auto clear = [&](Sums& sums) {
#pragma unroll
                for (int m = 0; m < pieces; ++m)
#pragma unroll
                    for (int i = 0; i < config::wg_n / 2; ++i) sums[m][i] = 0;
            };
            const auto receive_all = [&] {
#pragma unroll
                for (int m = 0; m < pieces; ++m) receive(c[m]);
            };

            if constexpr (config::promote > 0) {
                Sums total;
                clear(total);
                Word meta[pieces][2];
#pragma unroll 1
                for (int left = block.steps; left > 0; left -= config::promote) {
                    multiply(meta, true);
                    next();
#pragma unroll
                    for (int i = 1; i < config::promote; ++i)
                        if (i < left) {
                            Word other_meta[pieces][2];
                            multiply(other_meta, false);
                            wait_for_products<1>();
                            hand_back(last_empty);
                            next();
                        }
                    wait_for_products<0>();
                    receive_all();
                    hand_back(last_empty);
#pragma unroll
                    for (int m = 0; m < pieces; ++m)
#pragma unroll
                        for (int i = 0; i < config::wg_n / 2; ++i) total[m][i] += c[m][i];
                }
#pragma unroll
                for (int m = 0; m < pieces; ++m)
#pragma unroll
                    for (int i = 0; i < config::wg_n / 2; ++i) c[m][i] = total[m][i];
            } else if (block.steps > 0) {
                Word meta[pieces][2], other_meta[pieces][2];
                multiply(meta, true);
                next();
                int left = block.steps - 1;
                for (; left >= 2; left -= 2) {
                    multiply(other_meta, false);
                    wait_for_products<1>();
                    hand_back(last_empty);
                    next();
                    multiply(meta, false);
                    wait_for_products<1>();
                    hand_back(last_empty);
                    next();
                }
                if (left) {
                    multiply(other_meta, false);
                    wait_for_products<1>();
                    hand_back(last_empty);
                    next();
                }
                wait_for_products<0>();
                receive_all();
                hand_back(last_empty);
            } else {
                clear(c);
            }

            const int batch = work.column / n_blocks;
            const Where where = {
                rows + block.rows, block.height, (wg_m * pieces * 4 + warp % 4) * 2 * y_rows,
                (work.column - batch * n_blocks) * config::block_n + wg_n * config::wg_n};
            Output* const y_of = y + batch * y_batch;
            const auto y_address = reinterpret_cast<unsigned long long>(y_of);
            const Target target = {y_of, ldy, n,
                                   (y_address | ldy * sizeof(Output)) % chunk_bytes == 0,
                                   y_buffers + warp * y_bytes};
            const Epilogue by = {
                alpha,
                beta,
                {c_data ? c_data + batch * c_batch : nullptr, c_row, c_column},
                {residual ? residual + batch * residual_batch : nullptr, residual_row,
                 residual_column},
                row_bias,
                column_bias,
                row_scale,
                column_scale,
            };
            store_sums(c, where, by, target);
        }
    }
}
