// What the kernels for few columns of X share: who computes what, values on their way, pieces.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "layout.cuh"

constexpr int few_warps = 8;
constexpr int few_threads = 32 * few_warps;
constexpr int ahead = config::stages;  // steps of a warp whose values are under way
constexpr int bricks = block_bricks;
constexpr int slots_of_lane = step_slots / 32;
constexpr int together = 8;  // sums of pieces that are under way

static_assert(element_bytes == 2 && config::parts == 1, "16-bit values");

// Blocks that arithmetic knows: those of tiles of equal height and length, one after another both in
// the work list and in the packed matrix.
struct Alike {
    int first, count;   // of the work list
    int bricks, steps;  // of a tile
    int brick, slots, rows;  // where the first tile's begin
};

__device__ inline Block block_of(const int* list, const Alike& alike, int index) {
    const int place = index - alike.first;
    if (place < 0 || place >= alike.count) return load_block(list, index);
    const int cuts = ceil_div(alike.bricks, bricks);
    const int tile = place / cuts;
    const int above = (place - tile * cuts) * bricks;
    return {alike.brick + tile * alike.bricks * alike.steps + above,
            alike.bricks,
            min(bricks, alike.bricks - above),
            alike.steps,
            alike.slots + tile * alike.steps * step_slots,
            alike.rows + (tile * alike.bricks + above) * brick_rows,
            0,
            1,
            0};
}

// The packed matrix, and what of it the steps of a warp that are under way have, in registers.
struct Steps {
    const char* values;
    const char* meta;
    const int* cols;
    const Block block;
    const int lane;

    FragmentA a[ahead][bricks][k_steps][k_fragments] = {};
    Word metadata[ahead][bricks];
    int columns[ahead][slots_of_lane];  // of slots `lane` and `lane` + 32

    __device__ inline Steps(const char* values, const char* meta, const int* cols,
                            const Block& block, int lane)
        : values(values), meta(meta), cols(cols), block(block), lane(lane) {}

    __device__ inline void load_columns(int step, int place) {
#pragma unroll
        for (int s = 0; s < slots_of_lane; ++s)
            columns[place][s] =
                step < block.steps
                    ? load_int(cols + (block.slots + step * step_slots + s * 32 + lane))
                    : -1;
    }

    __device__ inline void load_values(int step, int place) {
#pragma unroll
        for (int m = 0; m < bricks; ++m) {
            // Bricks beyond the tile's height stay zeros, with metadata that is valid.
            metadata[place][m] = 0x44444444;
            if (step >= block.steps || m >= block.bricks) continue;
            const long long brick = block.brick + static_cast<long long>(step) * block.stride + m;
            const char* const from = values + brick * brick_value_bytes + lane * chunk_bytes;
#pragma unroll
            for (int f = 0; f < brick_fragments; ++f) {
                const Chunk got = load_constant_chunk(from + f * fragment_bytes);
                a[place][m][f / k_fragments][f % k_fragments] = {got.word[0], got.word[1],
                                                                 got.word[2], got.word[3]};
            }
            if constexpr (config::sparse)
                metadata[place][m] =
                    load_int(reinterpret_cast<const int*>(meta + brick * brick_meta_bytes) + lane);
        }
    }

    // Multiply k-step k of a step by 8 columns of X.
    __device__ inline void multiply(FragmentC& sums, int place, int m, int k, const FragmentB& b) {
        const FragmentA(&of)[k_fragments] = a[place][m][k];
        if constexpr (config::sparse) {
            if (k == 0) multiply_sparse<0>(sums, of[0], b, metadata[place][m]);
            if (k == 1) multiply_sparse<1>(sums, of[0], b, metadata[place][m]);
        } else {
            multiply_dense<0>(sums, of[0], b);
            multiply_dense<1>(sums, of[k_fragments - 1], b);
        }
    }
};

// Tiles in pieces: each leaves its sums in memory, and the one that comes last adds all of them up,
// from the first piece to the last whoever it is, so that the result is always the same.
struct Pieces {
    float* sums;    // of the block's tile: (pieces, outputs)
    Word* arrived;  // zero before and after
};

// Leave `sum_of(output)` of all outputs; say whether this is the last piece. `shared` is a word of
// shared memory that nobody reads or writes any more once the sums are left.
template <class SumOf>
__device__ inline bool leave_piece(const Pieces& to, const Block& block, int outputs, Word shared,
                                   const SumOf& sum_of) {
    for (int i = threadIdx.x; i < outputs; i += few_threads)
        to.sums[block.piece * outputs + i] = sum_of(i);
    memory_fence();
    block_barrier();
    if (threadIdx.x == 0) store_shared(shared, count_and_wrap(to.arrived, block.pieces - 1));
    block_barrier();
    if (static_cast<int>(load_shared(shared)) != block.pieces - 1) return false;
    memory_fence();
    return true;
}

__device__ inline float sum_of_pieces(const Pieces& of, const Block& block, int outputs,
                                      int output) {
    float sum = 0;
#pragma unroll 1
    for (int piece = 0; piece < block.pieces; piece += together) {
        float part[together];
#pragma unroll
        for (int i = 0; i < together; ++i)
            part[i] = piece + i < block.pieces
                          ? load_written(of.sums + (piece + i) * outputs + output)
                          : 0.0f;
#pragma unroll
        for (int i = 0; i < together; ++i) sum += part[i];
    }
    return sum;
}
