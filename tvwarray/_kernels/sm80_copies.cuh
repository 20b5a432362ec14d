// Global to shared: what a thread copies of a stage, in shares that stand between products.
//
//   warp 0   X rows  0- 1   8- 9  ...      gathers: whole rows, `gather_rows` by an instruction
//   warp 1           2- 3  10-11
//    ...                                   values, metadata: a contiguous piece, 16 bytes a thread
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "layout.cuh"

// A warp gathers warp_slots rows of a stage, gather_rows by one instruction, pass_rows apart: over
// a multiple of 8 rows the swizzle repeats, so the copies of a lane differ by constants only.
constexpr int warp_slots = step_slots / warps;
constexpr int gather_rows = 32 / x_chunks;
constexpr int gathers = warp_slots / gather_rows;
constexpr int pass_rows = warps * gather_rows;
constexpr int value_copies = ceil_div(value_bytes, threads * chunk_bytes);  // of a part
constexpr int meta_copies = config::sparse ? ceil_div(meta_bytes, threads * chunk_bytes) : 1;

static_assert(warp_slots <= 32 && gathers * gather_rows == warp_slots, "a warp gathers whole rows");
static_assert(pass_rows % 8 == 0, "the swizzle repeats every 8 rows");
static_assert(config::stages >= 2, "one stage is read while another arrives");

// X as the launch is passed it: bytes from row to row, from part to part, from X to X.
struct Operand {
    const char* data;
    int pitch;
    long long part;
    long long batch;
    int n;  // columns
};

// The packed matrix as the launch is passed it; see layout.cuh.
struct Packed {
    const char* values;
    long long value_part;  // bytes from part to part
    const char* meta;
    const int* cols;
};

struct Copies {
    const Operand& x;
    const Packed& a;
    const int thread;
    const int gather_row;    // of a gather, which row this lane copies a chunk of
    const int gather_chunk;  // and which chunk
    const Word x_at;         // where in a stage it goes

    // Of the item at hand; see Block.
    int steps, stride;
    int bricks;
    int brick;    // of the next step to be fetched
    int my_cols;  // where this lane's columns begin
    int my_n;     // its column of X
    const char* my_x;

    __device__ inline Copies(const Operand& x, const Packed& a)
        : x(x),
          a(a),
          thread(threadIdx.x),
          gather_row(thread % 32 / x_chunks),
          gather_chunk(thread % 32 % x_chunks),
          x_at(place_of(thread / 32 * gather_rows + gather_row, gather_chunk)) {}

    __device__ static inline Word place_of(int row, int chunk) {
        return row * x_row_bytes + swizzle_x(row, chunk) * chunk_bytes;
    }

    // From now on, copy for `item`.
    __device__ inline void take(const Item& item) {
        const int lane = thread % 32;
        const int my_slot = lane % warp_slots / gather_rows * pass_rows + lane % gather_rows;
        steps = item.block.steps;
        stride = item.block.stride;
        bricks = item.block.bricks;
        brick = item.block.brick;
        my_cols = item.block.slots + thread / 32 * gather_rows + my_slot;
        my_n = item.n0 + gather_chunk * chunk_elements;
        my_x = x.data + item.batch * x.batch + my_n * element_bytes;
    }

    // Lane l knows the column of row l % gather_rows of the warp's gather l / gather_rows.
    __device__ inline int columns_of(int step) const {
        return step < steps ? load_int(a.cols + (my_cols + step * step_slots)) : -1;
    }

    // Row i of this lane's rows of X, of one part. Of a padding slot, and beyond n, zeros.
    __device__ inline void gather(Word stage, int columns, int part, int i) {
        const int column = from_lane(columns, i * gather_rows + gather_row);
        const char* const from =
            my_x + part * x.part + static_cast<unsigned long long>(Word(column)) * Word(x.pitch);
        const Word to = stage + part * x_bytes + x_at + i * pass_rows * x_row_bytes;
        copy_async(to, from, column >= 0 && my_n < x.n);
    }

    // The block's bricks of a step are contiguous. Bricks beyond the tile's height are zeros: their
    // rows are never stored.
    __device__ inline void copy_values(Word stage, int brick, int part, int i) {
        const int at = (i * threads + thread) * chunk_bytes;
        const char* const from = a.values + part * a.value_part +
                                 static_cast<long long>(brick) * brick_value_bytes + at;
        const Word to = stage + values_at + part * value_bytes + at;
        if (value_bytes % (threads * chunk_bytes) == 0 || at < value_bytes)
            copy_async(to, from, at < bricks * brick_value_bytes);
    }

    // Metadata of zeros is illegal: bricks beyond the tile's height repeat what is valid.
    __device__ inline void copy_meta(Word stage, int brick, int i) {
        const int at = (i * threads + thread) * chunk_bytes;
        const int valid = min(at, bricks * brick_meta_bytes - chunk_bytes);
        const char* const from = a.meta + static_cast<long long>(brick) * brick_meta_bytes + valid;
        if (meta_bytes % (threads * chunk_bytes) == 0 || at < meta_bytes)
            copy_async(stage + meta_at + at, from, true);
    }

    // Start share `share` of `of` of the copies of the next step. Cut into shares they stand
    // between the products, instead of stopping them.
    __device__ inline void fetch(Word stage, int columns, int share, int of) {
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
        if (share == of - 1) brick += stride;
    }
};
