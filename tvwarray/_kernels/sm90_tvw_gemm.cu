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
// The copying warps form groups that take turns at the steps. A group stays with its stage until all
// has landed, while the others copy theirs: so every free stage of the ring is on its way, and a
// thread tells of its copies itself, behind the fence that shows them to the tensor cores.
//
// Products of a stage are one group of wgmma. One group is always under way: the next one is started
// before the last one is waited for, so that the tensor cores never run dry between stages. Metadata
// alternates between two sets of registers, because a group under way still reads its own.
//
// Blocks are persistent: copying runs ahead into the next item while the last one is stored.
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "epilogue.cuh"
#include "sm90_ptx.cuh"
#include "sm90_layout.cuh"
#include "wgmma.cuh"

// A copying thread has one chunk of `thread_slots` neighbouring rows of each atom of a stage: what it
// knows of a row serves all atoms, whose addresses differ by constants.
constexpr int row_lanes = 32 * config::gather_warps / atom_chunks;
constexpr int thread_slots = step_slots / row_lanes;
constexpr int column_loads = thread_slots / 4;

static_assert(row_lanes * thread_slots == step_slots && thread_slots % 4 == 0, "columns come in fours");
static_assert((thread_slots & (thread_slots - 1)) == 0, "rows of a thread differ by an XOR");
static_assert(slab_bytes % 512 == 0, "the 64-byte swizzle repeats after 512 bytes");

// A place in the ring: the stage, and how often the ring has been gone round.
struct Place {
    int stage;
    Word round;
    __device__ void advance(int by) {
        stage += by;
        if (stage >= config::stages) {
            stage -= config::stages;
            round ^= 1;
        }
    }
};

extern "C" __global__ void __launch_bounds__(threads, 1) sm90_tvw_gemm(
    const Half* __restrict__ x,      // (cols, n), rows ldx apart, all 16-byte aligned
    int ldx,                         //
    Half* __restrict__ y,            // (rows, n), rows ldy apart, any alignment
    int ldy,                         //
    const char* __restrict__ slabs,  // slabs of values and metadata, 16-byte aligned
    const int* __restrict__ cols,    // column lists: a multiple of 64 slots a tile, -1 is padding
    const int* __restrict__ rows,    // row lists: a multiple of 16 rows a tile, -1 is padding
    const int* __restrict__ list,    // the work list, `entries` Blocks of 8 words
    int entries,                     //
    int n,                           // columns of X
    int n_blocks,                    // n / block_n, rounded up
    int strip,                       // blocks of columns that are worked on together
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

    const int thread = threadIdx.x;
    const int lane = thread % 32;
    const int warp = thread / 32;
    const int items = entries * n_blocks;

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
        if (group >= config::gather_groups) return;  // fills up the warpgroup
        const int member = thread - 32 * (multiply_warps + group * config::gather_warps);
        const int chunk = member % atom_chunks;
        const int first_slot = member / atom_chunks * thread_slots;
        const Word x_at = first_slot * atom_row_bytes + (chunk ^ first_slot % 8) * chunk_bytes;
        const Word x_pitch = ldx * sizeof(Half);

        Place place = {group, 0};
        int done = 0;  // steps of earlier items, modulo gather_groups: whose turn it is
        for (int item = blockIdx.x; item < items; item += gridDim.x) {
            const Work work = work_of(item, entries, n_blocks, strip);
            const Block block = load_block(list, work.entry);
            const int my_n = work.n + chunk * chunk_halfs;
            const char* const my_x = reinterpret_cast<const char*>(x + my_n);
            const int* const my_cols = cols + block.slots + first_slot;

            int4 columns[column_loads];
            const auto load_columns = [&](int step) {
#pragma unroll
                for (int i = 0; i < column_loads; ++i)
                    columns[i] = load_int4(my_cols + step * step_slots + 4 * i);
            };
            // Of a padding slot, and beyond n, zeros.
            const auto gather = [&](Word to, int column) {
                const char* const from =
                    my_x + static_cast<unsigned long long>(Word(column)) * x_pitch;
#pragma unroll
                for (int a = 0; a < x_atoms; ++a)
                    copy_async(to + a * atom_bytes, from + a * atom_row_bytes,
                               column >= 0 && my_n + a * atom_columns < n);
            };

            int step = group - done;
            if (step < 0) step += config::gather_groups;
            if (step < block.steps) load_columns(step);
            for (; step < block.steps; step += config::gather_groups) {
                const Word stage = stages + place.stage * stage_bytes;
                const Word my_full = full + 8 * place.stage;
                wait(empty + 8 * place.stage, place.round ^ 1);
                if (member == 0) {
                    const int bytes = block.slabs * slab_bytes;
                    const long long slab = block.slab + step * block.stride;
                    arrive_expecting(my_full, bytes);
                    copy_bulk(stage + x_bytes, slabs + slab * slab_bytes, bytes, my_full);
                }
#pragma unroll
                for (int i = 0; i < column_loads; ++i) {
                    const Word to = (stage + x_at ^ 4 * i % 8 * chunk_bytes) + 4 * i * atom_row_bytes;
                    gather(to, columns[i].x);
                    gather((to ^ 1 * chunk_bytes) + 1 * atom_row_bytes, columns[i].y);
                    gather((to ^ 2 * chunk_bytes) + 2 * atom_row_bytes, columns[i].z);
                    gather((to ^ 3 * chunk_bytes) + 3 * atom_row_bytes, columns[i].w);
                }
                if (step + config::gather_groups < block.steps)
                    load_columns(step + config::gather_groups);
                wait_for_all_copies();
                fence_for_wgmma();
                warp_barrier();
                if (lane == 0) arrive(my_full);
                place.advance(config::gather_groups);
            }
            done = (done + block.steps) % config::gather_groups;
        }
    } else {
        // ---- Multiply --------------------------------------------------------------------------
        claim_registers<config::multiply_registers>();
        const int wg_m = warp / 4 / wgs_n;  // the warpgroup's place in the item
        const int wg_n = warp / 4 % wgs_n;
        const Word x_at = wg_n * config::wg_n / atom_columns * atom_bytes;
        const Word y_buffer = y_buffers + warp * y_bytes;

        Place place = {0, 0};
        Word last_empty = 0;  // the barrier of the stage whose products are under way
        for (int item = blockIdx.x; item < items; item += gridDim.x) {
            const Work work = work_of(item, entries, n_blocks, strip);
            const Block block = load_block(list, work.entry);

            // A piece beyond the tile multiplies its last slab once more; nobody stores the result.
            Word slab_at[pieces];
#pragma unroll
            for (int m = 0; m < pieces; ++m)
                slab_at[m] = x_bytes + min(wg_m * pieces + m, block.slabs - 1) * slab_bytes;

            float c[pieces][config::wg_n / 2];

            // Start the products of the stage at `place`, as soon as it is full.
            const auto multiply = [&](Word(&meta)[pieces], bool first) {
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
                if (lane == 0) arrive(barrier);
            };
            const auto next = [&] {
                last_empty = empty + 8 * place.stage;
                place.advance(1);
            };

            if (block.steps > 0) {
                Word meta[pieces], other_meta[pieces];
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
#pragma unroll
                for (int m = 0; m < pieces; ++m) receive(c[m]);
                hand_back(last_empty);
            } else {
#pragma unroll
                for (int m = 0; m < pieces; ++m)
#pragma unroll
                    for (int i = 0; i < config::wg_n / 2; ++i) c[m][i] = 0;
            }

            // ---- Registers to Y ----------------------------------------------------------------

            const auto y_address = reinterpret_cast<unsigned long long>(y);
            const bool aligned = (y_address | ldy * sizeof(Half)) % chunk_bytes == 0;
            // Store eight Halfs of a row from column n0 on, those that there are.
            const auto store = [&](const Chunk& chunk, int row, int n0) {
                Half* const to = y + static_cast<long long>(row) * ldy + n0;
                if (aligned && n0 + chunk_halfs <= n) {
                    store_global_chunk(to, chunk);
                } else {
#pragma unroll
                    for (int e = 0; e < chunk_halfs; ++e)
                        if (n0 + e < n) to[e] = chunk.word[e / 2] >> 16 * (e % 2) & 0xffff;
                }
            };
            const auto row_of = [&](int m, int row) {
                row += (wg_m * pieces + m) * slab_rows + warp % 4 * y_rows;
                return row < block.height ? load_int(rows + block.rows + row) : -1;
            };
            const int first_n = work.n + wg_n * config::wg_n;

            // Through shared memory, 16 rows of a warp at a time: a lane holds pairs of sums, and
            // memory wants whole lines.
            if constexpr (!config::fused) {
                // As Halfs, 64 columns. Chunk j of row r waits at j ^ (r % 8).
                const int from_row = lane % 8 + lane / 8 % 2 * 8;  // of stmatrix: two by two
                const int from_chunk = lane / 16;
                const int my_chunk = lane % 8;
#pragma unroll
                for (int m = 0; m < pieces; ++m) {
                    int to_row[4];
#pragma unroll
                    for (int i = 0; i < 4; ++i) to_row[i] = row_of(m, 4 * i + lane / 8);
#pragma unroll
                    for (int part = 0; part < config::wg_n / atom_columns; ++part) {
                        warp_barrier();
#pragma unroll
                        for (int j = 0; j < atom_chunks; j += 2) {
                            const float* const s = c[m] + (part * atom_chunks + j) * 4;
                            const int place = from_row * atom_row_bytes +
                                              (j + from_chunk ^ from_row % 8) * chunk_bytes;
                            store_matrices(y_buffer + place, round_pair(s[0], s[1]),
                                           round_pair(s[2], s[3]), round_pair(s[4], s[5]),
                                           round_pair(s[6], s[7]));
                        }
                        warp_barrier();
                        const int n0 = first_n + part * atom_columns + my_chunk * chunk_halfs;
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            const int row = 4 * i + lane / 8;
                            const Chunk chunk =
                                load_shared_chunk(y_buffer + row * atom_row_bytes +
                                                  (my_chunk ^ row % 8) * chunk_bytes);
                            if (to_row[i] >= 0) store(chunk, to_row[i], n0);
                        }
                    }
                }
            } else {
                // As sums, 32 columns, so that the epilogue sees 16 bytes of a row as well. Chunk j
                // of row r waits at j ^ 2 (r % 4): four rows, two chunks of each, are all banks.
                const Epilogue by = {alpha, beta, {c_data, c_row, c_column},
                                     {residual, residual_row, residual_column},
                                     row_bias, column_bias, row_scale, column_scale};
                constexpr int part_columns = atom_columns / 2;
                const auto at = [&](int row, int chunk) {
                    return y_buffer + row * atom_row_bytes + (chunk ^ row % 4 * 2) * chunk_bytes;
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
                                    at(half * 8 + lane / 4, 2 * j + lane % 4 / 2) + lane % 2 * 8,
                                    bits_of(s[0]), bits_of(s[1]));
                            }
                        warp_barrier();
                        const int n0 = first_n + part * part_columns + lane % 4 * chunk_halfs;
#pragma unroll 1
                        for (int i = 0; i < 2; ++i) {
                            const int row = 8 * i + lane / 4;
                            const int to_row = row_of(m, row);
                            if (to_row < 0) continue;
                            // Odd rows begin with their second chunk, for the sake of the banks.
                            const int turn = row % 2;
                            const Chunk one = load_shared_chunk(at(row, 2 * (lane % 4) + turn));
                            const Chunk two = load_shared_chunk(at(row, 2 * (lane % 4) + 1 - turn));
                            float sum[chunk_halfs];
#pragma unroll
                            for (int e = 0; e < chunk_halfs; ++e) {
                                const Word first = one.word[e % 4], second = two.word[e % 4];
                                sum[e] = __uint_as_float(e / 4 == turn ? first : second);
                            }
                            finish(sum, by, to_row, n0, n - n0);
                            store({round_pair(sum[0], sum[1]), round_pair(sum[2], sum[3]),
                                   round_pair(sum[4], sum[5]), round_pair(sum[6], sum[7])},
                                  to_row, n0);
                        }
                    }
            }
        }
    }
}
