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
//
// float32 is multiplied as a sum of bfloat16 parts, x = x0 + x1 + x2, each the rounded rest of those
// before: the products of parts i and j with i + j < parts are summed, which share the metadata. The
// micro-steps then run through the parts of X as well. What is not x0 y0 is summed apart, since it is
// far smaller; and where x0 y0 is infinite it is left out, which 0 * Inf would make NaN.
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "layout.cuh"
#include "epilogue.cuh"

constexpr int group_columns = warp_columns < 4 ? warp_columns : 4;  // of a micro-step
constexpr int groups = warp_columns / group_columns;
constexpr int parts = config::parts;
constexpr int k_micro_steps = parts * groups;
constexpr int micro_steps = k_steps * k_micro_steps;
constexpr bool split_sums = parts > 1;

// A warp gathers warp_slots rows of a stage, gather_rows by one instruction, pass_rows apart: over
// a multiple of 8 rows the swizzle repeats, so the copies of a lane differ by constants only.
constexpr int warp_slots = step_slots / warps;
constexpr int gather_rows = 32 / x_chunks;
constexpr int gathers = warp_slots / gather_rows;
constexpr int pass_rows = warps * gather_rows;
constexpr int value_copies = ceil_div(value_bytes, threads * chunk_bytes);  // of a part
constexpr int meta_copies = config::sparse ? ceil_div(meta_bytes, threads * chunk_bytes) : 1;

static_assert(k_steps % 2 == 0, "fragments of A alternate between two sets");
static_assert(warp_slots <= 32 && gathers * gather_rows == warp_slots, "a warp gathers whole rows");
static_assert(pass_rows % 8 == 0, "the swizzle repeats every 8 rows");
static_assert((warp_columns & (warp_columns - 1)) == 0, "columns of a warp differ by an XOR");
static_assert(element_bytes <= 2 || x_chunks >= 8, "rows of X are whole lines");
static_assert(config::stages >= 2, "one stage is read while another arrives");

extern "C" __global__ void __launch_bounds__(threads, config::min_blocks) sm80_tvw_gemm(
    const char* __restrict__ x,         // (batch, parts, cols, n), rows 16-byte aligned
    int x_pitch,                        // bytes from row to row, from part to part, from X to X
    long long x_part,                   //
    long long x_batch,                  //
    Output* y,                          // (batch, rows, n), rows ldy apart, any alignment
    int ldy,                            //
    long long y_batch,                  //
    const char* __restrict__ values,    // for each part: bricks of values
    long long value_part,               // bytes from part to part
    const char* __restrict__ meta,      // bricks of metadata; not read without 2:4
    const int* __restrict__ cols,       // column lists: whole steps of a tile, -1 is padding
    const int* __restrict__ rows,       // row lists: a multiple of 16 rows a tile, -1 is padding
    const int* __restrict__ list,       // the work list, `entries` Blocks of 8 words
    int entries,                        //
    int n,                              // columns of an X
    int n_blocks,                       // n / block_n, rounded up
    int columns,                        // n_blocks of all X
    int strip,                          // of them, how many are worked on together
    Sum* partials,                      // (pieces, columns, threads, Sums of a lane); see below
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

    const int thread = threadIdx.x;
    const int lane = thread % 32;
    const int warp = thread / 32;
    const int warp_m = warp / warps_n;  // the warp's place in the block
    const int warp_n = warp % warps_n;

    const auto after = [&](Word stage) {
        return stage + stage_bytes == ring_end ? ring : stage + stage_bytes;
    };

    // ---- Global to shared ----------------------------------------------------------------------

    Work work = work_of(block_index(), entries, columns, strip);
    Block block = load_block(list, work.entry);
    int batch = work.column / n_blocks;
    int block_n0 = (work.column - batch * n_blocks) * config::block_n;

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
        first_row * x_row_bytes + swizzle_x(first_row, gather_chunk) * chunk_bytes;
    const int my_n = block_n0 + gather_chunk * chunk_elements;
    const char* const my_x = x + batch * x_batch + my_n * element_bytes;

    // Row i of this lane's rows of X, of one part. Of a padding slot, and beyond n, zeros.
    const auto gather = [&](Word stage, int columns, int part, int i) {
        const int column = from_lane(columns, i * gather_rows + gather_row);
        const char* const from =
            my_x + part * x_part + static_cast<unsigned long long>(Word(column)) * Word(x_pitch);
        const Word to = stage + part * x_bytes + x_at + i * pass_rows * x_row_bytes;
        copy_async(to, from, column >= 0 && my_n < n);
    };

    // The block's bricks of a step are contiguous. Bricks beyond the tile's height are zeros: their
    // rows are never stored.
    const auto copy_values = [&](Word stage, int brick, int part, int i) {
        const int at = (i * threads + thread) * chunk_bytes;
        const char* const from = values + part * value_part +
                                 static_cast<long long>(brick) * brick_value_bytes + at;
        const Word to = stage + values_at + part * value_bytes + at;
        if (value_bytes % (threads * chunk_bytes) == 0 || at < value_bytes)
            copy_async(to, from, at < block.bricks * brick_value_bytes);
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
        for (int i = 0; i < parts * gathers; ++i)
            if (i * of / (parts * gathers) == share)
                gather(stage, columns, i / gathers, i % gathers);
#pragma unroll
        for (int i = 0; i < parts * value_copies; ++i)
            if (i * of / (parts * value_copies) == share)
                copy_values(stage, brick, i / value_copies, i % value_copies);
        if constexpr (config::sparse) {
#pragma unroll
            for (int i = 0; i < meta_copies; ++i)
                if (of - 1 - i * of / meta_copies == share) copy_meta(stage, brick, i);
        }
        if (share == of - 1) brick += block.stride;
    };

    // ---- Shared to registers to tensor cores ---------------------------------------------------

    FragmentC sums[warp_bricks][warp_columns] = {};
    FragmentC small[split_sums ? warp_bricks : 1][split_sums ? warp_columns : 1] = {};
    FragmentA a[2][parts][warp_bricks][k_fragments];
    FragmentB b[2][group_columns];
    Word metadata[warp_bricks][meta_words] = {}, next_metadata[warp_bricks][meta_words] = {};

    const auto load_a = [&](Word stage, int k) {
#pragma unroll
        for (int part = 0; part < parts; ++part)
#pragma unroll
            for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
                for (int f = 0; f < k_fragments; ++f) {
                    const int brick = warp_m * warp_bricks + m;
                    const int fragment = brick * brick_fragments + k * k_fragments + f;
                    const Word from =
                        stage + values_at + part * value_bytes + fragment * fragment_bytes;
                    const Chunk chunk = load_shared_chunk(from + lane * chunk_bytes);
                    a[k % 2][part][m][f] = {chunk.word[0], chunk.word[1], chunk.word[2],
                                            chunk.word[3]};
                }
    };

    const auto load_metadata = [&](Word stage) {
#pragma unroll
        for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
            for (int w = 0; w < meta_words; ++w) {
                const int brick = warp_m * warp_bricks + m;
                const Word from = stage + meta_at + brick * brick_meta_bytes;
                next_metadata[m][w] = load_shared(from + (w * 32 + lane) * sizeof(Word));
            }
    };

    // The warp's columns begin at a power of two: in any row, chunk j is an XOR away from chunk 0.
    // Where ldmatrix is used a lane gives the address of row `lane`, else it reads row lane % 4.
    constexpr int warp_chunks = config::warp_n / chunk_elements;
    constexpr int group_chunks = warp_chunks / groups;
    const int b_row = element_bytes <= 2 ? lane : lane % 4;
    const Word b_at = b_row * x_row_bytes + swizzle_x(b_row, warp_n * warp_chunks) * chunk_bytes;
    const auto load_b = [&](Word stage, int i) {
        const int k = i / k_micro_steps;
        const int part = i / groups % parts;
        FragmentB(&to)[group_columns] = b[i % 2];
        const Word first = stage + part * x_bytes + k * k_slots * x_row_bytes + b_at;
        if constexpr (element_bytes == 2) {
#pragma unroll
            for (int j = 0; j < group_columns; ++j) {
                const int chunk = i % groups * group_chunks + j;
                const Chunk got = load_matrices_transposed(first ^ chunk * chunk_bytes);
                to[j] = {got.word[0], got.word[1], got.word[2], got.word[3]};
            }
        } else if constexpr (element_bytes == 1) {
            // Pairs of bytes are transposed, so a register holds two columns of two slots. Two
            // registers make one of the even and one of the odd columns: a FragmentB of columns
            // 0, 2, 4 .. 14 of a chunk, and one of 1, 3, 5 .. 15. Which slot is where: pack.py.
#pragma unroll
            for (int j = 0; j < group_columns / 2; ++j) {
                const int chunk = i % groups * group_chunks + j;
                const Word from = first ^ chunk * chunk_bytes;
                const Chunk upper = load_matrices_transposed(from);
                const Chunk lower = load_matrices_transposed(from + 32 * x_row_bytes);
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    to[2 * j].word[r] =
                        permute_bytes(upper.word[2 * r], upper.word[2 * r + 1], 0x6420);
                    to[2 * j + 1].word[r] =
                        permute_bytes(upper.word[2 * r], upper.word[2 * r + 1], 0x7531);
                    to[2 * j].word[2 + r] =
                        permute_bytes(lower.word[2 * r], lower.word[2 * r + 1], 0x6420);
                    to[2 * j + 1].word[2 + r] =
                        permute_bytes(lower.word[2 * r], lower.word[2 * r + 1], 0x7531);
                }
            }
        } else {
#pragma unroll
            for (int j = 0; j < group_columns; ++j) {
                const int column = lane / 4 * element_bytes;  // of the fragment, in bytes
                const int chunk = i % groups * group_chunks + j * (element_bytes / 2);
                const Word from = (first ^ chunk * chunk_bytes ^ column / chunk_bytes * chunk_bytes) +
                                  column % chunk_bytes;
#pragma unroll
                for (int r = 0; r < 16 / element_bytes; ++r)
                    if constexpr (element_bytes == 4) {
                        to[j].word[r] = load_shared(from + 4 * r * x_row_bytes);
                    } else {
                        const WordPair got = load_shared_pair(from + 4 * r * x_row_bytes);
                        to[j].word[2 * r] = got.low;
                        to[j].word[2 * r + 1] = got.high;
                    }
            }
        }
    };

    const auto load_fragments = [&](Word stage, int i) {
        if (i % k_micro_steps == 0) load_a(stage, i / k_micro_steps);
        if (config::sparse && i == 0) load_metadata(stage);
        load_b(stage, i);
    };

    const auto multiply_one = [&](FragmentC& to, int k, int part, int m, int i, int j) {
        const FragmentA(&of)[k_fragments] = a[k % 2][part][m];
        if constexpr (config::sparse) {
            const Word word = metadata[m][k / selectors];
            if (k % selectors == 0) multiply_sparse<0>(to, of[0], b[i % 2][j], word);
            if (k % selectors == 1) multiply_sparse<1>(to, of[0], b[i % 2][j], word);
        } else {
            multiply_dense<0>(to, of[0], b[i % 2][j]);
            multiply_dense<1>(to, of[k_fragments - 1], b[i % 2][j]);
        }
    };

    const auto multiply = [&](int i) {
        const int k = i / k_micro_steps;
        const int x_of = i / groups % parts;  // the part of X
#pragma unroll
        for (int part = 0; part < parts - x_of; ++part)
#pragma unroll
            for (int j = 0; j < group_columns; ++j)
#pragma unroll
                for (int m = 0; m < warp_bricks; ++m) {
                    const int column = i % groups * group_columns + j;
                    if (part + x_of == 0)
                        multiply_one(sums[m][column], k, part, m, i, j);
                    else
                        multiply_one(small[split_sums ? m : 0][split_sums ? column : 0], k, part,
                                     m, i, j);
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
            for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
                for (int w = 0; w < meta_words; ++w) metadata[m][w] = next_metadata[m][w];
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

    if constexpr (split_sums) {
#pragma unroll
        for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
            for (int j = 0; j < warp_columns; ++j)
#pragma unroll
                for (int w = 0; w < 4; ++w) {
                    const float large = sums[m][j].word[w];
                    const bool finite = fabsf(large) <= 3.4028234e38f;
                    sums[m][j].word[w] = finite ? large + small[m][j].word[w] : large;
                }
    }

    // Found out once more, instead of being kept in registers all the time.
    const auto find_work = [&] {
        work = work_of(block_index(), entries, columns, strip);
        block = load_block(list, work.entry);
        batch = work.column / n_blocks;
        block_n0 = (work.column - batch * n_blocks) * config::block_n;
    };
    find_work();

    // ---- Pieces of a tile ----------------------------------------------------------------------

    // Each piece leaves its sums in the workspace, lane by lane. The one that comes last adds all of
    // them up, from the first piece to the last whoever it is, so that the result is always the same.
    if (config::pieces && block.pieces > 1) {
        constexpr int lane_chunks = warp_bricks * warp_columns * sizeof(FragmentC) / chunk_bytes;
        constexpr int fragment_chunks = sizeof(FragmentC) / chunk_bytes;
        enum Act { leave, take, add };
        const auto each_sum = [&](int piece, Act act) {
            const long long of_piece =
                static_cast<long long>(block.first_piece + piece) * columns + work.column;
            char* const first = reinterpret_cast<char*>(partials) +
                                (of_piece * lane_chunks * threads + thread) * chunk_bytes;
#pragma unroll
            for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
                for (int j = 0; j < warp_columns; ++j)
#pragma unroll
                    for (int h = 0; h < fragment_chunks; ++h) {
                        const int i = (m * warp_columns + j) * fragment_chunks + h;
                        Sum* const sum = &sums[m][j].word[4 / fragment_chunks * h];
                        char* const at = first + i * threads * chunk_bytes;
                        if (act == leave) store_global_chunk(at, chunk_of(sum));
                        if (act == take) sums_of(load_global_chunk(at), sum);
                        if (act == add) add_sums(load_global_chunk(at), sum);
                    }
        };
        each_sum(block.piece, leave);
        memory_fence();
        block_barrier();
        if (thread == 0) {
            const long long counter =
                static_cast<long long>(block.first_piece) * columns + work.column;
            store_shared(ring, count_and_wrap(arrived + counter, block.pieces - 1));
        }
        block_barrier();
        if (static_cast<int>(load_shared(ring)) != block.pieces - 1) return;
        memory_fence();
        block_barrier();
        each_sum(0, take);
#pragma unroll 1
        for (int piece = 1; piece < block.pieces; ++piece) each_sum(piece, add);
        find_work();
    }

    // ---- Registers to Y ------------------------------------------------------------------------

    // Through shared memory, since a lane holds pairs of neighbours and memory wants 16 bytes: each
    // warp turns its own part around. The ring is free: the last hand-over was behind the last load.
    const int warp_n0 = block_n0 + warp_n * config::warp_n;
    Output* const y_of = y + batch * y_batch;
    const auto y_address = reinterpret_cast<unsigned long long>(y_of);
    const bool aligned = (y_address | ldy * sizeof(Output)) % chunk_bytes == 0;
    constexpr int lane_outputs = chunk_bytes / output_bytes;  // that a lane stores at once
    constexpr int row_lanes = config::warp_n / lane_outputs;
    constexpr int store_rows = 32 / row_lanes;  // by one instruction of a warp
    const int my_chunk = lane % row_lanes;
    const int n0 = warp_n0 + my_chunk * lane_outputs;

    const auto store = [&](const Chunk& chunk, int row) {
        Output* const to = y_of + static_cast<long long>(row) * ldy + n0;
        if (aligned && n0 + lane_outputs <= n) {
            store_global_chunk(to, chunk);
        } else {
#pragma unroll
            for (int e = 0; e < lane_outputs; ++e)
                if (n0 + e < n) to[e] = output_of(chunk, e);
        }
    };
    const auto row_of = [&](int row) {
        return row < block.bricks * brick_rows ? load_int(rows + block.rows + row) : -1;
    };

    if constexpr (plain) {
        // Rounded first, all rows at once.
        constexpr int row_bytes = warp_columns * chunk_bytes;
        constexpr int stores = config::warp_rows / store_rows;
        static_assert(!plain || config::block_rows * config::block_n * 2 <=
                                    config::stages * stage_bytes,
                      "the ring holds all of it");
        const Word part = ring + warp * config::warp_rows * row_bytes;
        int to_row[stores];
#pragma unroll
        for (int i = 0; i < stores; ++i)
            to_row[i] = row_of(warp_m * config::warp_rows + i * store_rows + lane / row_lanes);
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
                    const Word to = part + row * row_bytes + place * chunk_bytes;
                    store_shared(to + word % 4 * sizeof(Word), round_pair(low, high));
                }
        warp_barrier();
#pragma unroll
        for (int i = 0; i < stores; ++i) {
            const int row = i * store_rows + lane / row_lanes;
            const int place = swizzle(row, my_chunk, warp_columns);
            const Chunk chunk = load_shared_chunk(part + row * row_bytes + place * chunk_bytes);
            if (to_row[i] >= 0) store(chunk, to_row[i]);
        }
    } else {
        // As sums, a brick of rows at a time, so that the epilogue sees 16 bytes of a row as well.
        constexpr int row_chunks = config::warp_n * sizeof(Sum) / chunk_bytes;
        constexpr int row_bytes = row_chunks * chunk_bytes;
        constexpr int lane_chunks = lane_outputs * sizeof(Sum) / chunk_bytes;
        constexpr int stores = ceil_div(brick_rows, store_rows);
        static_assert(warps * brick_rows * row_bytes <= config::stages * stage_bytes,
                      "the ring holds a brick of each warp");
        const Word part = ring + warp * brick_rows * row_bytes;
        const Epilogue by = {
            alpha,
            beta,
            {c ? c + batch * c_batch : nullptr, c_row, c_column},
            {residual ? residual + batch * residual_batch : nullptr, residual_row, residual_column},
            row_bias,
            column_bias,
            row_scale,
            column_scale,
        };
#pragma unroll
        for (int m = 0; m < warp_bricks; ++m) {
            warp_barrier();  // the brick before has been read
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = half * 8 + lane / 4;
                const auto at = [&](int chunk) {
                    return part + row * row_bytes +
                           swizzle_sums(row, chunk, row_chunks) * chunk_bytes;
                };
#pragma unroll
                for (int j = 0; j < warp_columns; ++j) {
                    const Sum* const pair = sums[m][j].word + 2 * half;
                    if constexpr (sizeof(Sum) == 8) {
                        store_shared_chunk(at(4 * j + lane % 4), chunk_of(pair));
                    } else if constexpr (element_bytes == 1) {
                        if (j % 2) continue;
                        const Sum* const odd = sums[m][j + 1].word + 2 * half;
                        store_shared_chunk(at(2 * j + lane % 4),
                                           {bits_of(pair[0]), bits_of(odd[0]), bits_of(pair[1]),
                                            bits_of(odd[1])});
                    } else {
                        store_shared_pair(at(2 * j + lane % 4 / 2) + lane % 2 * 8,
                                          bits_of(pair[0]), bits_of(pair[1]));
                    }
                }
            }
            warp_barrier();
#pragma unroll 1
            for (int i = 0; i < stores; ++i) {
                const int row = i * store_rows + lane / row_lanes;
                const int brick = warp_m * warp_bricks + m;
                const int to_row = row < brick_rows ? row_of(brick * brick_rows + row) : -1;
                if (to_row < 0) continue;
                // Two chunks: half of the lanes begin with the second, for the sake of the banks.
                Chunk got[lane_chunks];
                const int turn = lane_chunks == 2 ? lane / 4 % 2 : 0;
#pragma unroll
                for (int h = 0; h < lane_chunks; ++h) {
                    const int chunk = my_chunk * lane_chunks + (h ^ turn);
                    got[h] = load_shared_chunk(
                        part + row * row_bytes + swizzle_sums(row, chunk, row_chunks) * chunk_bytes);
                }
                if constexpr (sizeof(Sum) == 8 || config::output == Element::int32) {
                    store(got[0], to_row);
                } else {
                    float sum[lane_outputs];
#pragma unroll
                    for (int e = 0; e < lane_outputs; ++e) {
                        const Word first = got[0].word[e % 4], last = got[lane_chunks - 1].word[e % 4];
                        sum[e] = value_of<Sum>((e / 4 ^ turn) == 0 ? first : last);
                    }
                    if constexpr (config::fused) finish(sum, by, to_row, n0, n - n0);
                    Chunk chunk;
#pragma unroll
                    for (int w = 0; w < 4; ++w)
                        chunk.word[w] = output_bytes == 2
                                            ? round_pair(sum[2 * w % lane_outputs],
                                                         sum[(2 * w + 1) % lane_outputs])
                                            : bits_of(sum[w]);
                    store(chunk, to_row);
                }
            }
        }
    }
}
