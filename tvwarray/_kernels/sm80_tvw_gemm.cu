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
// Fragments that are being loaded and those that are multiplied are two sets of registers: loading
// into what a product has just read makes the load wait for the tensor core, and costs a fifth.
#include "config.cuh"
#include "ptx.cuh"
#include "layout.cuh"

constexpr int k_slots = 32;  // of a micro-step: one mma.sp, or two mma
constexpr int k_steps = step_slots / k_slots;
constexpr int k_fragments = brick_fragments / k_steps;  // of A, for a brick in a micro-step
constexpr int part_columns = warp_columns < 4 ? warp_columns : 4;
constexpr int parts = warp_columns / part_columns;
constexpr int micro_steps = k_steps * parts;

// A warp gathers warp_slots rows of a stage, gather_rows by one instruction, pass_rows apart: over
// a multiple of 8 rows the swizzle repeats, so the copies of a lane differ by constants only.
constexpr int warp_slots = step_slots / warps;
constexpr int gather_rows = 32 / x_chunks;
constexpr int gathers = warp_slots / gather_rows;
constexpr int pass_rows = warps * gather_rows;
constexpr int value_copies = ceil_div(value_bytes, threads * chunk_bytes);
constexpr int meta_copies = config::sparse ? ceil_div(meta_bytes, threads * chunk_bytes) : 1;

static_assert(k_steps == 2, "a metadata word has two selectors");
static_assert(warp_slots <= 32 && gathers * gather_rows == warp_slots, "a warp gathers whole rows");
static_assert(pass_rows % 8 == 0, "the swizzle repeats every 8 rows");
static_assert((warp_columns & (warp_columns - 1)) == 0, "columns of a warp differ by an XOR");
static_assert(config::stages >= 2, "one stage is read while another arrives");
static_assert(config::block_rows * x_row_bytes <= config::stages * stage_bytes, "Y is staged too");

extern "C" __global__ void __launch_bounds__(threads, config::min_blocks) sm80_tvw_gemm(
    const Half* __restrict__ x,       // (cols, n), rows ldx apart, all 16-byte aligned
    int ldx,                          //
    Half* __restrict__ y,             // (rows, n), rows ldy apart, any alignment
    int ldy,                          //
    const char* __restrict__ values,  // bricks of values
    const char* __restrict__ meta,    // bricks of metadata; not read without 2:4
    const int* __restrict__ cols,     // column lists: a multiple of 64 slots a tile, -1 is padding
    const int* __restrict__ rows,     // row lists: a multiple of 16 rows a tile, -1 is padding
    const int* __restrict__ list,     // the work list, `entries` Blocks of 8 words
    int entries,                      //
    int n,                            // columns of X
    int n_blocks,                     // n / block_n, rounded up
    int strip) {                      // blocks of columns that are worked on together
    extern __shared__ __align__(128) char shared[];
    const Word ring = shared_address(shared);
    const Word ring_end = ring + config::stages * stage_bytes;

    const Work work = work_of(blockIdx.x, entries, n_blocks, strip);
    const Block block = load_block(list, work.entry);
    const int thread = threadIdx.x;
    const int lane = thread % 32;
    const int warp = thread / 32;
    const int warp_m = warp / warps_n;  // the warp's place in the block
    const int warp_n = warp % warps_n;

    const auto after = [&](Word stage) {
        return stage + stage_bytes == ring_end ? ring : stage + stage_bytes;
    };

    // ---- Global to shared ----------------------------------------------------------------------

    // Lane l knows the column of row l % gather_rows of the warp's gather l / gather_rows.
    const int my_slot = lane % warp_slots / gather_rows * pass_rows + lane % gather_rows;
    const int my_cols = block.slots + warp * gather_rows + my_slot;
    const auto columns_of = [&](int step) {
        return step < block.steps ? load_int(cols + (my_cols + step * step_slots)) : -1;
    };

    const int gather_row = lane / x_chunks;
    const int gather_chunk = lane % x_chunks;
    const int first_row = warp * gather_rows + gather_row;
    const Word x_at =
        first_row * x_row_bytes + swizzle(first_row, gather_chunk, x_chunks) * chunk_bytes;
    const int my_n = work.n + gather_chunk * chunk_halfs;
    const char* const my_x = reinterpret_cast<const char*>(x + my_n);
    const Word x_pitch = ldx * sizeof(Half);

    // Row i of this lane's rows of X. Of a padding slot, and beyond n, zeros.
    const auto gather = [&](Word stage, int columns, int i) {
        const int column = from_lane(columns, i * gather_rows + gather_row);
        const char* const from = my_x + static_cast<unsigned long long>(Word(column)) * x_pitch;
        copy_async(stage + x_at + i * pass_rows * x_row_bytes, from, column >= 0 && my_n < n);
    };

    // The block's bricks of a step are contiguous. Bricks beyond the tile's height are zeros: their
    // rows are never stored.
    const auto copy_values = [&](Word stage, int brick, int i) {
        const int at = (i * threads + thread) * chunk_bytes;
        const char* const from = values + static_cast<long long>(brick) * brick_value_bytes + at;
        if (value_bytes % (threads * chunk_bytes) == 0 || at < value_bytes)
            copy_async(stage + values_at + at, from, at < block.bricks * brick_value_bytes);
    };

    // Metadata of zeros is illegal: bricks beyond the tile's height repeat what is valid.
    const auto copy_meta = [&](Word stage, int brick, int i) {
        const int at = (i * threads + thread) * chunk_bytes;
        const int valid = min(at, block.bricks * brick_meta_bytes - chunk_bytes);
        const char* const from = meta + static_cast<long long>(brick) * brick_meta_bytes + valid;
        if (meta_bytes % (threads * chunk_bytes) == 0 || at < meta_bytes)
            copy_async(stage + meta_at + at, from, true);
    };

    // Start share `share` of `of` of the copies of the next step. Cut into shares they stand
    // between the products, instead of stopping them.
    int brick = block.brick;  // of the next step to be fetched
    const auto fetch = [&](Word stage, int columns, int share, int of) {
#pragma unroll
        for (int i = 0; i < gathers; ++i)
            if (i * of / gathers == share) gather(stage, columns, i);
#pragma unroll
        for (int i = 0; i < value_copies; ++i)
            if (i * of / value_copies == share) copy_values(stage, brick, i);
        if constexpr (config::sparse) {
#pragma unroll
            for (int i = 0; i < meta_copies; ++i)
                if (of - 1 - i * of / meta_copies == share) copy_meta(stage, brick, i);
        }
        if (share == of - 1) brick += block.stride;
    };

    // ---- Shared to registers to tensor cores ---------------------------------------------------

    FragmentC c[warp_bricks][warp_columns] = {};
    FragmentA a[k_steps][warp_bricks][k_fragments];
    FragmentB b[2][part_columns];
    Word metadata[warp_bricks], next_metadata[warp_bricks];

    const auto load_a = [&](Word stage, int k) {
#pragma unroll
        for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
            for (int f = 0; f < k_fragments; ++f) {
                const int brick = warp_m * warp_bricks + m;
                const int fragment = brick * brick_fragments + k * k_fragments + f;
                const Word from = stage + values_at + fragment * fragment_bytes;
                const Chunk chunk = load_shared_chunk(from + lane * chunk_bytes);
                a[k][m][f] = {chunk.word[0], chunk.word[1], chunk.word[2], chunk.word[3]};
            }
    };

    const auto load_metadata = [&](Word stage) {
#pragma unroll
        for (int m = 0; m < warp_bricks; ++m) {
            const int brick = warp_m * warp_bricks + m;
            const Word from = stage + meta_at + brick * brick_meta_bytes;
            next_metadata[m] = load_shared(from + lane * sizeof(Word));
        }
    };

    // The warp's columns begin at a power of two: in any row, chunk j is an XOR away from chunk 0.
    const Word b_at =
        lane * x_row_bytes + swizzle(lane, warp_n * warp_columns, x_chunks) * chunk_bytes;
    const auto load_b = [&](Word stage, int i) {
        const Word first = stage + i / parts * k_slots * x_row_bytes + b_at;
#pragma unroll
        for (int j = 0; j < part_columns; ++j) {
            const int chunk = i % parts * part_columns + j;
            b[i % 2][j] = load_matrices_transposed(first ^ chunk * chunk_bytes);
        }
    };

    const auto load_fragments = [&](Word stage, int i) {
        if (i % parts == 0) load_a(stage, i / parts);
        if (config::sparse && i == 0) load_metadata(stage);
        load_b(stage, i);
    };

    const auto multiply = [&](int i) {
        const int k = i / parts;
#pragma unroll
        for (int j = 0; j < part_columns; ++j)
#pragma unroll
            for (int m = 0; m < warp_bricks; ++m) {
                FragmentC& to = c[m][i % parts * part_columns + j];
                if constexpr (config::sparse) {
                    if (k == 0) multiply_sparse<0>(to, a[0][m][0], b[i % 2][j], metadata[m]);
                    if (k == 1) multiply_sparse<1>(to, a[1][m][0], b[i % 2][j], metadata[m]);
                } else {
                    multiply_dense<0>(to, a[k][m][0], b[i % 2][j]);
                    multiply_dense<1>(to, a[k][m][k_fragments - 1], b[i % 2][j]);
                }
            }
    };

    // ---- The main loop -------------------------------------------------------------------------

    if (block.steps > 0) {
        // The column lists first: each is a trip to memory that the gathers must wait for.
        int first_columns[config::stages];
#pragma unroll
        for (int s = 0; s < config::stages; ++s) first_columns[s] = columns_of(s);
#pragma unroll
        for (int s = 0; s < config::stages - 1; ++s) {
            if (s < block.steps) fetch(ring + s * stage_bytes, first_columns[s], 0, 1);
            commit_copies();  // an empty group too: counting groups is counting stages
        }

        Word read = ring;
        Word write = ring + (config::stages - 1) * stage_bytes;
        int columns = first_columns[config::stages - 1];
        wait_for_copies();
        block_barrier();
        load_fragments(read, 0);

        for (int step = 0; step < block.steps; ++step) {
            const bool more = step + config::stages - 1 < block.steps;
            const int next_columns = columns_of(step + config::stages);
#pragma unroll
            for (int m = 0; m < warp_bricks; ++m) metadata[m] = next_metadata[m];
#pragma unroll
            for (int i = 0; i < micro_steps - 1; ++i) {
                load_fragments(read, i + 1);
                // The stage that was read last is free: every warp had loaded its last fragments
                // before the barrier of the hand-over.
                if (more) fetch(write, columns, i, micro_steps - 1);
                multiply(i);
            }
            // Hand over: my copies of the next stage are here, then everybody's are.
            commit_copies();
            wait_for_copies();
            block_barrier();
            write = read;
            read = after(read);
            columns = next_columns;
            if (step + 1 < block.steps) load_fragments(read, 0);
            multiply(micro_steps - 1);
        }
    }

    // ---- Registers to Y ------------------------------------------------------------------------

    // Through shared memory, since a lane holds pairs of Halfs and memory wants 16 bytes: each warp
    // turns its own part around. The ring is free: the last hand-over was behind the last load.
    constexpr int row_bytes = warp_columns * chunk_bytes;
    constexpr int store_rows = 32 / warp_columns;  // by one instruction of a warp
    constexpr int stores = config::warp_rows / store_rows;
    const Word part = ring + warp * config::warp_rows * row_bytes;

    int to_row[stores];
#pragma unroll
    for (int i = 0; i < stores; ++i) {
        const int row = warp_m * config::warp_rows + i * store_rows + lane / warp_columns;
        to_row[i] = row < block.bricks * brick_rows ? load_int(rows + block.rows + row) : -1;
    }
#pragma unroll
    for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
        for (int j = 0; j < warp_columns; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = m * brick_rows + half * 8 + lane / 4;
                const int place = swizzle(row, j, warp_columns);
                const Word to = part + row * row_bytes + place * chunk_bytes;
                const float* const pair = c[m][j].word + 2 * half;
                store_shared(to + lane % 4 * sizeof(Word), round_pair(pair[0], pair[1]));
            }
    warp_barrier();

    const int my_chunk = lane % warp_columns;
    const int n0 = work.n + warp_n * config::warp_n + my_chunk * chunk_halfs;
    const auto y_address = reinterpret_cast<unsigned long long>(y);
    const bool aligned = (y_address | ldy * sizeof(Half)) % chunk_bytes == 0;
#pragma unroll
    for (int i = 0; i < stores; ++i) {
        const int row = i * store_rows + lane / warp_columns;
        const int place = swizzle(row, my_chunk, warp_columns);
        const Chunk chunk = load_shared_chunk(part + row * row_bytes + place * chunk_bytes);
        if (to_row[i] < 0) continue;
        Half* const to = y + static_cast<long long>(to_row[i]) * ldy + n0;
        if (aligned && n0 + chunk_halfs <= n) {
            store_global_chunk(to, chunk);
        } else {
#pragma unroll
            for (int e = 0; e < chunk_halfs; ++e)
                if (n0 + e < n) to[e] = chunk.word[e / 2] >> 16 * (e % 2) & 0xffff;
        }
    }
}
