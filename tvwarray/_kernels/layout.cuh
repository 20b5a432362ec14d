// Where everything lies: the packed matrix, a stage in shared memory, and who computes what.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "swizzle.cuh"
#include "strips.cuh"

// ---- The packed matrix -------------------------------------------------------------------------
//
// pack.py cuts each tile into bricks of 16 rows x 64 slots (128 of 8-bit values), filled up with
// zeros at the edges:
//
//            step 0     step 1     step 2          64 or 128 slots a step
//          +----------+----------+----------+
//   16 rows| brick 0  | brick 2  | brick 4  |      bricks of one step lie together, so what a block
//          +----------+----------+----------+      loads for a stage is one contiguous piece
//   16 rows| brick 1  | brick 3  | brick 5  |
//          +----------+----------+----------+
//
// Values of a brick: fragments one after another, each 32 lanes x 16 bytes in lane order, so that a
// lane loads its whole FragmentA by one 16-byte access and a warp reads 512 bytes in a row. A
// fragment covers all slots of a FragmentB with 2:4 and half of them without. Metadata of a brick:
// 32 lanes x 1 word, or twice that. The parts of a value (float32 as several bfloat16) are as many
// arrays of values, which share the metadata.
constexpr int parts = config::parts;
constexpr int brick_rows = 16;
constexpr int step_slots = element_bytes == 1 ? 128 : 64;
constexpr int k_slots = 64 / element_bytes;  // of a FragmentB
constexpr int k_steps = step_slots / k_slots;
constexpr int k_fragments = config::sparse ? 1 : 2;  // of A, for a FragmentB
constexpr int brick_fragments = k_steps * k_fragments;
constexpr int fragment_bytes = 32 * sizeof(FragmentA);
constexpr int brick_value_bytes = brick_fragments * fragment_bytes;
constexpr int meta_words = element_bytes == 2 ? 1 : 2;  // of a lane, for a brick
constexpr int selectors = k_steps / meta_words;         // products that share a word
constexpr int brick_meta_bytes = config::sparse ? meta_words * 32 * sizeof(Word) : 0;

// ---- One stage in shared memory ----------------------------------------------------------------
//
//   X       for each part: step_slots rows of block_n elements, swizzled
//   values  for each part: block_rows / 16 bricks
//   meta    block_rows / 16 bricks
constexpr int chunk_bytes = sizeof(Chunk);
constexpr int chunk_elements = chunk_bytes / element_bytes;
constexpr int x_chunks = config::block_n / chunk_elements;  // of a row
constexpr int x_row_bytes = x_chunks * chunk_bytes;
constexpr int x_bytes = step_slots * x_row_bytes;  // of a part
constexpr int block_bricks = config::block_rows / brick_rows;
constexpr int value_bytes = block_bricks * brick_value_bytes;
constexpr int meta_bytes = block_bricks * brick_meta_bytes;
constexpr int values_at = config::parts * x_bytes;
constexpr int meta_at = values_at + config::parts * value_bytes;
constexpr int stage_bytes = meta_at + meta_bytes;

// Where a chunk of X stands: by swizzle.cuh, but that elements of 4 and 8 bytes are not loaded by
// ldmatrix but one by one. A lane 4 g + t reads column g of row t, so that four rows meet, each at a
// run of 32 bytes, two chunks. Counting rows in pairs of chunks sends them to the four quarters of
// a line.
__device__ constexpr int swizzle_x(int row, int chunk) {
    return element_bytes <= 2 ? swizzle(row, chunk, x_chunks) : chunk ^ row % 4 * 2;
}

// The same for a brick of sums on their way to Y. Lanes 4 g + t write 8 or 16 bytes each of rows g,
// which must not meet within four rows (8 bytes) and within two (16 bytes): row 1 goes to the other
// half of a line, row 2 to the other quarter. Rows of 4 chunks alternate between halves as they are.
__device__ constexpr int swizzle_sums(int row, int chunk, int chunks) {
    return chunk ^ ((chunks >= 8 ? row % 2 * 4 : 0) | (row & 2));
}

// ---- Who computes what -------------------------------------------------------------------------
//
// A block: up to block_rows rows of one tile x block_n columns of X. A taller tile is several
// blocks that share its column list. Inside, warps_m x warps_n warps of warp_rows x warp_n:
//
//                block_n
//          +--------+--------+
//          | warp 0 | warp 1 |  warp_rows = 16 * bricks        one warp: bricks x columns
//  block_  +--------+--------+                                 FragmentC, all in registers
//  rows    | warp 2 | warp 3 |
//          +--------+--------+
//                     warp_n = 8 * columns
constexpr int warps_n = config::block_n / config::warp_n;
constexpr int warps = config::block_rows / config::warp_rows * warps_n;
constexpr int threads = 32 * warps;
constexpr int warp_bricks = config::warp_rows / brick_rows;
constexpr int warp_columns = config::warp_n / 8;

// What a block computes: an entry of the work list, made by pack.py. The steps of a long tile are
// shared out to several blocks, the pieces.
struct Block {
    int brick;        // its first brick of the packed matrix
    int stride;       // bricks from one step to the next: the height of the tile
    int bricks;       // how many it holds, at most block_bricks
    int steps;        // 0 for rows that are zero: they are written like all others
    int slots;        // where its column list begins
    int rows;         // where the block's row list begins
    int piece;        // which piece of the tile's steps this is,
    int pieces;       // and of how many
    int first_piece;  // where the pieces' sums lie in the workspace
};

__device__ inline Block load_block(const int* list, int index) {
    const int4 head = load_int4(list + 8 * index);
    const int4 tail = load_int4(list + 8 * index + 4);
    return {head.x, head.y,         head.z,        head.w, tail.x,
            tail.y, tail.z & 65535, tail.z >> 16, tail.w};
}

struct Item {
    Block block;
    int column;  // as in Work
    int batch;   // which X
    int n0;      // its first column
};

// The launch as a whole, of which a block takes one item, or, if blocks persist, one after another.
struct Items {
    const int* list;       // the work list, `entries` Blocks of 8 words
    const int* following;  // of each item, which its block takes next; null: in turn
    int entries;
    int n_blocks;  // n / block_n, rounded up
    int columns;   // n_blocks of all X
    int strip;     // of them, how many are worked on together

    __device__ inline int first() const { return block_index(); }
    __device__ inline int end() const { return entries * columns; }
    __device__ inline int after(int index) const {
        if (!config::persistent) return end();
        return following ? load_int(following + index) : index + static_cast<int>(gridDim.x);
    }
    // The item at hand once more. Of blocks that do not persist it is found without an index.
    __device__ inline Item again(int index) const {
        return at(config::persistent ? index : block_index());
    }
    __device__ inline Item at(int index) const {
        const Work work = work_of(index, entries, columns, strip);
        const int batch = work.column / n_blocks;
        return {load_block(list, work.entry), work.column, batch,
                (work.column - batch * n_blocks) * config::block_n};
    }
};
