// Z = A^T Y on tensor cores by mma, for A in tile-vector-wise format (sm_80 and later).
//
// A tile's kept columns are rows of Z, and 2:4 metadata describe the wrong direction: its values are
// expanded, and multiplied by the dense instruction. What is skipped is the columns it dropped.
//
//          a range of columns of A             n                             n
//        +---------------------+           +--------+               +------------------+
// tile 0 |  a  .  b  c  .  .  d |  rows    |        |  of tile 0    | c  added to  c   |
// tile 1 |  .  e  f  .  .  g  . |   of     | Y[row] |               | row by row, into |  Z of the
// tile 2 |  h  .  .  i  .  .  . | tile 2   |        |               | sums of float32  |  range
//        +---------------------+           +--------+               +------------------+
//                                                                     in shared memory
//
// A block owns a range of A's columns x block_n columns of Y, and the sums of all of it in shared
// memory. It goes through the tiles: of each it takes the columns that the tile keeps in the range,
// 16 of them a fragment, multiplies them by the tile's rows of Y, in registers, and adds those to the
// rows of the sums that the columns are. Within an item, a tile's columns in a range, all are
// different (a column that repeats is an item more), so that each sum is added to by one lane, and
// from tile to tile in their order: the result is always the same, and no sum is atomic.
//
// An item is worked through in steps of one or two slices, 32 rows of its tile each, which arrive in
// a ring of stages:
//
//   global   Y rows --cp.async--+              expanded values, fragment order --cp.async--+
//   shared                      +-> swizzled [row][n]                           as it is <--+
//   lanes    ldmatrix.trans ------> FragmentB              16-byte loads --> FragmentA
//                                        \                   /
//                                         mma, FragmentC in registers
//                                               | at an item's last step
//   shared                      sums += FragmentC, 16 bytes a lane
//
// What a step is, and which rows of Y it takes, is its header. Headers have a ring of their own and
// come as many steps before their step's copies as these come before its products: where steps are
// short, every load from memory that somebody waits for would be the time of a step.
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "swizzle.cuh"
#include "strips.cuh"
#include "epilogue.cuh"

constexpr int warps = config::warps;
constexpr int threads = 32 * warps;
constexpr int chunk_bytes = sizeof(Chunk);
constexpr int chunk_elements = chunk_bytes / element_bytes;

// ---- The packed matrix: see transposed/pack.py -------------------------------------------------

constexpr int slice_rows = 32;      // of a tile: what a FragmentB holds
constexpr int fragment_slots = 16;  // kept columns
constexpr int halves = 2;           // FragmentA for a FragmentB
constexpr int fragment_bytes = halves * 32 * sizeof(FragmentA);  // of 16 slots in a slice
constexpr int place_bytes = fragment_slots * sizeof(Half);       // rows of the sums of 16 slots
constexpr int no_place = 0xffff;  // of what fills up the last fragment of an item

// What a step is, in the order of its 4 words; its rows of Y follow, -1 for what fills up.
struct Step {
    int block;      // where its values are, in fragments
    int places;     // where the places of the item's slots are, in fragments
    int fragments;  // of 16 slots; with `slices` above, and whether it is the last of its item
    int slices;
    bool last;
};
constexpr int step_rows = config::slices * slice_rows;
constexpr int header_bytes = (4 + step_rows) * sizeof(int);

// ---- Shared memory: the sums, a ring of stages, a ring of headers ------------------------------
//
// A stage: rows of Y, swizzled; values, slice after slice; places, with an item's last step.
constexpr int y_chunks = config::block_n / chunk_elements;  // of a row
constexpr int y_row_bytes = y_chunks * chunk_bytes;
constexpr int y_bytes = step_rows * y_row_bytes;
constexpr int value_bytes = config::slices * config::fragments * fragment_bytes;
constexpr int places_at = y_bytes + value_bytes;
constexpr int stage_bytes = places_at + config::fragments * place_bytes;
constexpr int headers = 2 * config::stages - 1;
constexpr int sum_row_bytes = config::block_n * sizeof(float);
constexpr int sums_bytes = config::block_columns * sum_row_bytes;

// Where the sums of a row stand: in the order in which lanes hold them, so that a lane adds 16 bytes
// at once. Lane 4 g + t holds of two neighbouring FragmentC, 2 p and 2 p + 1, four sums of row g:
//
//   chunk 4 p + t    columns 16 p + 2 t, 16 p + 2 t + 1, 16 p + 8 + 2 t, 16 p + 8 + 2 t + 1
//
// The rows of the 8 lanes that are served together are any two. Lanes of odd g begin with the next
// p and swap: those of even g are in one half of a 128-byte line, those of odd g in the other. The
// XOR is for reading a row from left to right, which takes one chunk of each p: it sends those of
// eight p to eight places. Of narrow rows two are read at once, and the row counts as well.
__device__ inline int sum_chunk(int row, int p, int t) {
    const int turn = config::block_n < 128 ? row % 2 * 2 : 0;
    return 4 * p + (t ^ (p / 2 % 4) ^ turn);
}

// ---- Who computes what -------------------------------------------------------------------------
//
// Fragments of 16 slots go round the rows of warps, as many as the item has; each warp multiplies
// its own by warp_n columns of Y. With few slots in a range, one or two rows of warps are better.
constexpr int warps_n = config::block_n / config::warp_n;
constexpr int warps_m = warps / warps_n;
constexpr int warp_fragments = ceil_div(config::fragments, warps_m);
constexpr int warp_columns = config::warp_n / 8;

constexpr int gathers = step_rows * y_chunks / threads;  // rows of Y that a thread has a chunk of
constexpr int value_copies = ceil_div(value_bytes, threads * chunk_bytes);

static_assert(element_bytes == 2, "16-bit values");
static_assert(warps_m * warps_n == warps, "warps tile the block");
static_assert(warp_columns % 4 == 0, "two pairs of fragments are added at once");
static_assert(gathers * threads == step_rows * y_chunks, "all threads gather");
static_assert(gathers == 1 || gathers % 2 == 0, "rows are read in pairs");

// What a block computes: an entry of the work list, made by transposed/pack.py. The steps of a range
// may be shared out to several blocks, the pieces.
struct Range {
    int first_column;
    int first_step;
    int steps;
    int piece;        // which piece of the range this is,
    int pieces;       // and of how many
    int first_piece;  // where the pieces' sums lie in the workspace
};

__device__ inline Range load_range(const int* list, int index) {
    const int4 head = load_int4(list + 8 * index);
    const int4 tail = load_int4(list + 8 * index + 4);
    return {head.x, head.y, head.z, head.w & 65535, head.w >> 16, tail.x};
}

extern "C" __global__ void __launch_bounds__(threads, config::min_blocks) sm80_tvw_transposed(
    const char* __restrict__ y,          // (batch, rows, n), rows 16-byte aligned
    int y_pitch,                         // bytes from row to row
    long long y_batch,                   // and from Y to Y
    Output* z,                           // (batch, cols, n), any strides, in elements
    long long z_row,                     //
    long long z_column,                  //
    long long z_batch,                   //
    const char* __restrict__ values,     // fragments, step after step
    const char* __restrict__ steps,      // headers of all steps
    const char* __restrict__ places,     // 8 words a fragment: slot g, and slot g + 8 above it
    const int* __restrict__ list,        // the work list, a Range of 8 words for each entry
    int entries,                         // of the work list
    int cols,                            // of A
    int n,                               // columns of Y
    int n_blocks,                        // blocks side by side
    int columns,                         // and of all Y
    int strip,                           // blocks' widths of Y that stay in L2
    float* partials,                     // sums of all pieces, of each column of blocks
    Word* arrived,                       // (pieces, columns), zeros before and after
    float alpha,                         // the epilogue: see epilogue.cuh; not read if not fused
    float beta,                          //
    const Output* c,                     //
    long long c_row,                     //
    long long c_column,                  //
    long long c_batch,                   //
    const Output* residual,              //
    long long residual_row,              //
    long long residual_column,           //
    long long residual_batch,            //
    const float* row_bias,               //
    const float* column_bias,            //
    const float* row_scale,              //
    const float* column_scale) {
    extern __shared__ __align__(128) char shared[];
    const Word all_sums = shared_address(shared);
    const Word ring = all_sums + sums_bytes;
    const Word ring_end = ring + config::stages * stage_bytes;
    const Word headers_end = ring_end + headers * header_bytes;
    const int thread = threadIdx.x;
    const int lane = thread % 32;
    const int warp_m = thread / 32 / warps_n;
    const int warp_n0 = thread / 32 % warps_n * config::warp_n;
    const Work work = work_of(block_index(), entries, columns, strip);
    const Range range = load_range(list, work.entry);
    const int batch = work.column / n_blocks;
    const int block_n0 = (work.column - batch * n_blocks) * config::block_n;

    for (int i = thread; i < sums_bytes / chunk_bytes; i += threads)
        store_shared_chunk(all_sums + i * chunk_bytes, {});

    // ---- Copies into the ring ------------------------------------------------------------------

    const int my_row = thread / y_chunks * gathers;  // the first of them
    const int my_chunk = thread % y_chunks;
    const bool in_n = block_n0 + my_chunk * chunk_elements < n;
    const char* const my_values = values + thread * chunk_bytes;
    const char* const my_y = y + batch * y_batch + block_n0 * element_bytes + my_chunk * chunk_bytes;

    const auto copy_header = [&](Word to, int step) {
        if (step < range.steps && thread < header_bytes / chunk_bytes)
            copy_async(to + thread * chunk_bytes,
                       steps + static_cast<long long>(range.first_step + step) * header_bytes +
                           thread * chunk_bytes,
                       true);
    };
    const auto read_header = [&](Word from) -> Step {
        const Chunk head = load_shared_chunk(from);
        const int sizes = static_cast<int>(head.word[2]);
        return {static_cast<int>(head.word[0]), static_cast<int>(head.word[1]), sizes & 255,
                sizes >> 8 & 255, sizes >> 16 != 0};
    };
    struct Rows {
        int row[gathers];
    };
    const auto read_rows = [&](Word header) {
        const Word at = header + (4 + my_row) * sizeof(int);
        Rows found;
        if constexpr (gathers == 1) {
            found.row[0] = static_cast<int>(load_shared(at));
        } else {
#pragma unroll
            for (int i = 0; i < gathers; i += 2) {
                const WordPair pair = load_shared_pair(at + i * sizeof(int));
                found.row[i] = static_cast<int>(pair.low);
                found.row[i + 1] = static_cast<int>(pair.high);
            }
        }
        return found;
    };
    const auto fetch = [&](Word stage, Word header) {
        const Step step = read_header(header);
        const Rows from = read_rows(header);
#pragma unroll
        for (int i = 0; i < gathers; ++i) {
            const int row = my_row + i;
            copy_async(stage + row * y_row_bytes + swizzle(row, my_chunk, y_chunks) * chunk_bytes,
                       my_y + static_cast<long long>(from.row[i]) * y_pitch,
                       from.row[i] >= 0 && in_n);
        }
        const char* const first = my_values + static_cast<long long>(step.block) * fragment_bytes;
        const int whole = step.slices * step.fragments * fragment_bytes - thread * chunk_bytes;
        const Word to = stage + y_bytes + thread * chunk_bytes;
#pragma unroll
        for (int i = 0; i < value_copies; ++i)
            if (i * threads * chunk_bytes < whole)
                copy_async(to + i * threads * chunk_bytes, first + i * threads * chunk_bytes, true);
        if (step.last && thread * chunk_bytes < step.fragments * place_bytes)
            copy_async(stage + places_at + thread * chunk_bytes,
                       places + static_cast<long long>(step.places) * place_bytes +
                           thread * chunk_bytes,
                       true);
    };
    const auto after = [&](Word stage) {
        const Word next = stage + stage_bytes;
        return next == ring_end ? ring : next;
    };
    const auto after_header = [&](Word header) {
        const Word next = header + header_bytes;
        return next == headers_end ? ring_end : next;
    };

    // ---- Products ------------------------------------------------------------------------------

    FragmentC sums[warp_fragments][warp_columns] = {};
    const auto multiply = [&](Word stage, int slice, int fragments) {
        const Word values_of = stage + y_bytes + slice * fragments * fragment_bytes;
        const int row = slice * slice_rows + lane;
        FragmentB b[warp_columns];
#pragma unroll
        for (int j = 0; j < warp_columns; ++j) {
            const Chunk got = load_matrices_transposed(
                stage + row * y_row_bytes +
                swizzle(row, warp_n0 / chunk_elements + j, y_chunks) * chunk_bytes);
            b[j] = {got.word[0], got.word[1], got.word[2], got.word[3]};
        }
        // Of the fragment after the one that is multiplied, so that no product waits; 16 warps have no
        // registers for that, and wait in turns.
        constexpr int sets = warps > 8 ? 1 : 2;
        FragmentA a[sets][halves] = {};
        const auto load_a = [&](int m) {
            const int f = warp_m + m * warps_m;
            if (m < warp_fragments && f < fragments)
#pragma unroll
                for (int half = 0; half < halves; ++half) {
                    const Chunk got = load_shared_chunk(values_of + f * fragment_bytes +
                                                        (half * 32 + lane) * chunk_bytes);
                    a[m % sets][half] = {got.word[0], got.word[1], got.word[2], got.word[3]};
                }
        };
        if (sets == 2) load_a(0);
#pragma unroll
        for (int m = 0; m < warp_fragments; ++m) {
            load_a(m + sets - 1);
            if (warp_m + m * warps_m < fragments) {
#pragma unroll
                for (int j = 0; j < warp_columns; ++j)
                    multiply_dense<0>(sums[m][j], a[m % sets][0], b[j]);
#pragma unroll
                for (int j = 0; j < warp_columns; ++j)
                    multiply_dense<1>(sums[m][j], a[m % sets][1], b[j]);
            }
        }
    };

    // ---- Registers to the sums -----------------------------------------------------------------

    const int g = lane / 4, t = lane % 4;
    const auto add = [&](Word stage, int fragments) {
        constexpr int row_chunks = warp_columns / 2;  // of a row that a lane adds to
        // As registers allow: of 16 warps each has half as many.
        constexpr int rows_at_once = warp_fragments * warp_columns > (warps > 8 ? 4 : 24) ? 1 : 2;
#pragma unroll
        for (int m = 0; m < warp_fragments; ++m) {
            const int f = warp_m + m * warps_m;
            if (f >= fragments) break;
            const Word place = load_shared(stage + places_at + f * place_bytes + g * sizeof(Word));
            const int row[2] = {static_cast<int>(place & 0xffff), static_cast<int>(place >> 16)};
            const bool odd = g % 2 != 0;
            // Chunk i of the lane's part of a row: pairs of them are exchanged where g is odd.
            const auto at = [&](int half, int i) {
                const int p = warp_n0 / 16 + (i ^ (odd ? 1 : 0));
                return all_sums + row[half] * sum_row_bytes +
                       sum_chunk(row[half], p, t) * chunk_bytes;
            };
#pragma unroll
            for (int first = 0; first < 2; first += rows_at_once) {
                Chunk before[rows_at_once][row_chunks];  // all under way before one is needed
#pragma unroll
                for (int h = 0; h < rows_at_once; ++h)
                    if (row[first + h] != no_place)
#pragma unroll
                        for (int i = 0; i < row_chunks; ++i)
                            before[h][i] = load_shared_chunk(at(first + h, i));
#pragma unroll
                for (int h = 0; h < rows_at_once; ++h)
                    if (row[first + h] != no_place)
#pragma unroll
                        for (int i = 0; i < row_chunks; ++i) {
                            float sum[4];
#pragma unroll
                            for (int e = 0; e < 4; ++e) {
                                const int j = 2 * i + e / 2, word = 2 * (first + h) + e % 2;
                                sum[e] = odd ? sums[m][j ^ 2].word[word] : sums[m][j].word[word];
                            }
                            add_sums(before[h][i], sum);
                            store_shared_chunk(at(first + h, i), chunk_of(sum));
                        }
            }
#pragma unroll
            for (int j = 0; j < warp_columns; ++j) sums[m][j] = {};
        }
    };

    // ---- The main loop -------------------------------------------------------------------------

    if (range.steps > 0) {
#pragma unroll
        for (int s = 0; s < headers - 1; ++s) copy_header(ring_end + s * header_bytes, s);
        wait_for_all_copies();
        block_barrier();
#pragma unroll
        for (int s = 0; s < config::stages - 1; ++s) {
            if (s < range.steps) fetch(ring + s * stage_bytes, ring_end + s * header_bytes);
            commit_copies();  // an empty group too: counting groups is counting stages
        }
        Word read = ring, write = ring + (config::stages - 1) * stage_bytes;
        Word header = ring_end;                                               // of this step,
        Word ahead = ring_end + (config::stages - 1) * header_bytes;          // of that copied,
        Word free = ring_end + (headers - 1) * header_bytes;                  // and for that to come
        for (int i = 0; i < range.steps; ++i) {
            wait_for_copies();
            // All copies of this step are here, and the header of the one to be copied; everybody is
            // done with what was read last, and with adding to the sums.
            block_barrier();
            if (i + config::stages - 1 < range.steps) fetch(write, ahead);
            copy_header(free, i + headers - 1);
            commit_copies();
            const Step step = read_header(header);
#pragma unroll
            for (int slice = 0; slice < config::slices; ++slice)
                if (slice < step.slices && warp_m < step.fragments)
                    multiply(read, slice, step.fragments);
            if (step.last) add(read, step.fragments);
            write = read;
            read = after(read);
            free = header;
            header = after_header(header);
            ahead = after_header(ahead);
        }
    }
    block_barrier();

    // ---- Pieces of a range ---------------------------------------------------------------------

    // Each piece leaves its sums in the workspace. The one that comes last adds all of them up, from
    // the first piece to the last whoever it is, so that the result is always the same.
    const int range_columns = min(config::block_columns, cols - range.first_column);
    const int used_chunks = range_columns * (sum_row_bytes / chunk_bytes);
    if (range.pieces > 1) {
        const long long counter = static_cast<long long>(range.first_piece) * columns + work.column;
        char* const left = reinterpret_cast<char*>(partials) + counter * sums_bytes;
        const long long apart = static_cast<long long>(columns) * sums_bytes;
        for (int i = thread; i < used_chunks; i += threads)
            store_global_chunk(left + range.piece * apart + i * chunk_bytes,
                               load_shared_chunk(all_sums + i * chunk_bytes));
        memory_fence();
        block_barrier();
        if (thread == 0) store_shared(ring, count_and_wrap(arrived + counter, range.pieces - 1));
        block_barrier();
        if (static_cast<int>(load_shared(ring)) != range.pieces - 1) return;
        memory_fence();
        for (int i = thread; i < used_chunks; i += threads) {
            float sum[4] = {};
#pragma unroll 4
            for (int piece = 0; piece < range.pieces; ++piece)
                add_sums(load_global_chunk(left + piece * apart + i * chunk_bytes), sum);
            store_shared_chunk(all_sums + i * chunk_bytes, chunk_of(sum));
        }
        block_barrier();
    }

    // ---- Sums to Z -----------------------------------------------------------------------------

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
    constexpr int lane_outputs = chunk_bytes / output_bytes;  // that a lane stores at once
    Output* const z_of = z + batch * z_batch;
    // Results that follow each other `apart` elements apart, of which `valid` are there.
    const auto store = [&](Output* to, long long apart, const float (&sum)[lane_outputs], int valid) {
        Chunk chunk;
#pragma unroll
        for (int w = 0; w < 4; ++w)
            chunk.word[w] = output_bytes == 2 ? round_pair(sum[2 * w % lane_outputs],
                                                           sum[(2 * w + 1) % lane_outputs])
                                              : bits_of(sum[w]);
        if (apart == 1 && valid >= lane_outputs &&
            reinterpret_cast<unsigned long long>(to) % chunk_bytes == 0) {
            store_global_chunk(to, chunk);
        } else {
#pragma unroll
            for (int e = 0; e < lane_outputs; ++e)
                if (e < valid) to[e * apart] = output_of(chunk, e);
        }
    };
    if (z_row != 1 || z_column == 1) {
        // Along the rows of Z.
        constexpr int row_lanes = config::block_n / lane_outputs;
        for (int i = thread; i < range_columns * row_lanes; i += threads) {
            const int row = i / row_lanes;
            const int column = i % row_lanes * lane_outputs;
            const int n0 = block_n0 + column;
            if (n0 >= n) continue;
            float sum[lane_outputs];
#pragma unroll
            for (int e = 0; e < lane_outputs; e += 2) {
                const int chunk = sum_chunk(row, column / 16, column % 8 / 2 + e / 2);
                const WordPair pair = load_shared_pair(all_sums + row * sum_row_bytes +
                                                       chunk * chunk_bytes + column / 8 % 2 * 8);
                sum[e] = __uint_as_float(pair.low);
                sum[e + 1] = __uint_as_float(pair.high);
            }
            const int to_row = range.first_column + row;
            if constexpr (config::fused) finish(sum, by, to_row, n0, n - n0);
            store(z_of + to_row * z_row + n0 * z_column, z_column, sum, n - n0);
        }
    } else {
        // Down its columns, where those are contiguous: neighbouring lanes read neighbouring banks.
        const int groups = ceil_div(range_columns, lane_outputs);
        for (int i = thread; i < groups * config::block_n; i += threads) {
            const int column = i % config::block_n;
            const int row = i / config::block_n * lane_outputs;
            const int n0 = block_n0 + column;
            if (n0 >= n) continue;
            const int valid = range_columns - row, to_row = range.first_column + row;
            float sum[lane_outputs];
#pragma unroll
            for (int e = 0; e < lane_outputs; ++e) {
                const int chunk = sum_chunk(row + e, column / 16, column % 8 / 2);
                float one[1] = {};
                if (e < valid)
                    one[0] = __uint_as_float(
                        load_shared(all_sums + (row + e) * sum_row_bytes + chunk * chunk_bytes +
                                    column / 8 % 2 * 8 + column % 2 * 4));
                if constexpr (config::fused)
                    if (e < valid) finish(one, by, to_row + e, n0, 1);
                sum[e] = one[0];
            }
            store(z_of + to_row + n0 * z_column, 1, sum, valid);
        }
    }
}
