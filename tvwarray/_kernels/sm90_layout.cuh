// Where everything lies on sm_90a: slabs of A, a stage in shared memory, and who does what.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "sm90_ptx.cuh"
#include "sm90_work.cuh"

// ---- The packed matrix -------------------------------------------------------------------------
//
// hopper/pack.py cuts each tile into slabs of 64 rows x 64 slots, filled up at the edges:
//
//            step 0    step 1    step 2         64 slots a step
//          +---------+---------+---------+
//   64 rows| slab 0  | slab 2  | slab 4  |      slabs of one step lie together: all that a block
//          +---------+---------+---------+      needs of A for a stage is one piece, one bulk copy
//   64 rows| slab 1  | slab 3  | slab 5  |
//          +---------+---------+---------+
//
// A slab is what wgmma reads, as it stands: 64 rows of 32 stored values, 64 bytes each, and then the
// metadata, one word for each of the 128 threads of a warpgroup. Chunk c (16 bytes) of row r is kept
// at c ^ (r / 2 % 4): the 64-byte swizzle, by which eight rows at one chunk are in all 32 banks.
constexpr int slab_rows = 64;
constexpr int step_slots = 64;
constexpr int slab_row_bytes = step_slots / 2 * sizeof(Half);
constexpr int slab_value_bytes = slab_rows * slab_row_bytes;
constexpr int slab_meta_bytes = 128 * sizeof(Word);
constexpr int slab_bytes = slab_value_bytes + slab_meta_bytes;

// ---- One stage in shared memory ----------------------------------------------------------------
//
//   X       block_n / 64 atoms, each 64 slots x 64 columns: 64 rows of 128 bytes
//   A       block_rows / 64 slabs
//
// Chunk c of row k of an atom is kept at c ^ (k % 8), the 128-byte swizzle. A row of X is gathered
// as it lies: wgmma takes its right operand with n contiguous.
constexpr int chunk_bytes = sizeof(Chunk);
constexpr int chunk_halfs = chunk_bytes / sizeof(Half);
constexpr int atom_chunks = 8;
constexpr int atom_columns = atom_chunks * chunk_halfs;
constexpr int atom_row_bytes = atom_chunks * chunk_bytes;
constexpr int atom_bytes = step_slots * atom_row_bytes;
constexpr int x_atoms = config::block_n / atom_columns;
constexpr int x_bytes = x_atoms * atom_bytes;
constexpr int block_slabs = config::block_rows / slab_rows;
constexpr int swizzle_bytes = 1024;  // what the 128-byte swizzle repeats after
constexpr int stage_bytes =
    (x_bytes + block_slabs * slab_bytes + swizzle_bytes - 1) / swizzle_bytes * swizzle_bytes;

// Behind the ring: a buffer for each multiplying warp, 16 rows x 64 columns of Y, and the barriers.
constexpr int y_rows = 16;
constexpr int y_bytes = y_rows * atom_row_bytes;

// ---- Descriptors -------------------------------------------------------------------------------
//
// Of A (K-major) the stride is that of 8 rows, and the leading offset is not used. Of X (n
// contiguous) the leading offset is from atom to atom, the stride that of 8 slots.
__device__ inline Descriptor describe_a(Word start) {
    return describe(start, 16, 8 * slab_row_bytes, swizzle_64);
}
__device__ inline Descriptor describe_x(Word start) {
    return describe(start, atom_bytes, 8 * atom_row_bytes, swizzle_128);
}
// A product takes 32 slots: from one to the next, within a slab's row, and down an atom.
constexpr Descriptor next_a = 16 * sizeof(Half) / 16;
constexpr Descriptor next_x = 32 * atom_row_bytes / 16;

// ---- Who does what -----------------------------------------------------------------------------
//
// A block works through items: up to block_rows rows of one tile x block_n columns of X. Its first
// warpgroups multiply, each wg_rows x wg_n of the item, in pieces of 64 rows. The warps behind them
// copy, in groups that take turns at the steps:
//
//                 block_n                   warps
//          +---------+---------+            0-3    multiply, warpgroup 0
//          | group 0 | group 1 | wg_rows    4-7    multiply, warpgroup 1
//          +---------+---------+            8-9    copy steps 0, 4, 8 ...     gather_warps a group
//             wg_n                          10-11  copy steps 1, 5, 9 ...     gather_groups of them
//                                           ...
constexpr int wgs_n = config::block_n / config::wg_n;
constexpr int multiply_warps = 4 * (config::block_rows / config::wg_rows) * wgs_n;
constexpr int copy_warps = (config::gather_groups * config::gather_warps + 3) / 4 * 4;
constexpr int threads = 32 * (multiply_warps + copy_warps);
constexpr int pieces = config::wg_rows / slab_rows;

// Of a stage of A: its bytes, and where it is.
__device__ inline int a_bytes(const Block& block) { return block.slabs * slab_bytes; }
__device__ inline const char* a_stage(const Block& block, const char* slabs, int step) {
    return slabs + static_cast<long long>(block.slab + step * block.stride) * slab_bytes;
}

struct Item {
    Block block;
    int n;  // its first column of X
};

// The blocks of a cluster take as many items at once: one above another, which share X, where X
// comes in boxes, and else side by side, which share A.
constexpr int tall = config::boxes ? config::cluster : 1;
constexpr int wide = config::boxes ? 1 : config::cluster;
constexpr Half everyone = (1 << config::cluster) - 1;  // a bit for each block

__device__ inline int rank_in_cluster() { return config::cluster > 1 ? cluster_rank() : 0; }

// The items of a launch, in the order of strips.cuh.
struct Items {
    const int* list;
    const int* following;  // of each item, which its block takes next; null: in turn
    int entries, n_blocks, strip;  // multiples of `tall` and `wide`; strip in units of `wide`

    __device__ int first() const { return block_index() / config::cluster; }
    __device__ int after(int index) const {
        return item_after(following, index, gridDim.x / config::cluster);
    }
    __device__ int end() const { return entries / tall * (n_blocks / wide); }
    __device__ Item at(int index) const {
        const Work work = work_of(index, entries / tall, n_blocks / wide, strip);
        return {load_block(list, work.entry * tall + rank_in_cluster() % tall),
                (work.column * wide + rank_in_cluster() % wide) * config::block_n};
    }
};

// ---- The ring ----------------------------------------------------------------------------------

// Where it is: stages, and two barriers for each.
struct Ring {
    Word stages, full, empty;
};
