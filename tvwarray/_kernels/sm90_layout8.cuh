// Where everything lies for 8-bit values on sm_90a: slabs of A, a stage, and the way of X into it.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "sm90_ptx.cuh"
#include "sm90_work.cuh"

// ---- The packed matrix -------------------------------------------------------------------------
//
// Slabs of 64 rows x 128 slots, in the order of sm90_layout.cuh. In bytes a slab is what it is of
// 16-bit values: 64 rows of 64 bytes of stored values, in the 64-byte swizzle. The metadata are two
// words for each thread of a warpgroup, one for each product of 64 slots, warp after warp.
constexpr int chunk_bytes = sizeof(Chunk);
constexpr int step_slots = 128;
constexpr int slab_rows = 64;
constexpr int slab_row_bytes = step_slots / 2;
constexpr int slab_value_bytes = slab_rows * slab_row_bytes;
constexpr int product_meta_bytes = 32 * sizeof(Word);
constexpr int warp_meta_bytes = 2 * product_meta_bytes;
constexpr int slab_bytes = slab_value_bytes + 4 * warp_meta_bytes;
constexpr int block_slabs = config::block_rows / slab_rows;

// ---- One stage in shared memory ----------------------------------------------------------------
//
//   X       block_n rows of 128 bytes: the 128 slots of one column of X
//   A       block_rows / 64 slabs
//
// wgmma takes 8-bit operands with k contiguous only, and memory has rows of X, n contiguous: X is
// turned on the way. Chunk w of column n, slots 16 w to 16 w + 15, is kept at w ^ (n % 8), the
// 128-byte swizzle.
constexpr int x_row_bytes = step_slots;
constexpr int x_bytes = config::block_n * x_row_bytes;
constexpr int swizzle_bytes = 1024;  // what the 128-byte swizzle repeats after
constexpr int stage_bytes =
    (x_bytes + block_slabs * slab_bytes + swizzle_bytes - 1) / swizzle_bytes * swizzle_bytes;

// ---- Landings ----------------------------------------------------------------------------------
//
// Each copying warp has some chunks of 16 slots of a step, for every column, and `landings` places of
// its own where these rows of X land as they lie:
//
//              128 columns
//          +---------------+     row r of 16 rows, chunk c at c ^ (r % 8); a block of more columns
//   16 rows|               |     has as many of these as 128 columns fit into it
//          +---------------+
//
// The column list names the 16 rows in the order 0 1 4 5 8 9 12 13, 2 3 6 7 10 11 14 15 (BYTE_ROWS of
// bricks.py): ldmatrix, which transposes pairs of bytes, gives lane 4 g + t of two rows and columns
// 2 g, 2 g + 1 a word; two of these words are the slots 4 t to 4 t + 3 of both columns, and PRMT sorts
// them out. That is what stmatrix stores as rows of 16 bytes: 16 slots of a column.
constexpr int part_slots = 16;
constexpr int warp_slots = step_slots / config::gather_warps;
constexpr int warp_parts = warp_slots / part_slots;
constexpr int lane_columns = (warp_slots + 31) / 32;  // that a lane of the warp knows
constexpr int strip_columns = 128;
constexpr int strips = config::block_n / strip_columns;
constexpr int landing_row_bytes = strip_columns;
constexpr int landing_strip_bytes = part_slots * landing_row_bytes;
constexpr int landing_part_bytes = strips * landing_strip_bytes;
constexpr int landing_bytes = warp_parts * landing_part_bytes;
constexpr int lane_rows = 4;  // neighbouring rows of which a lane copies a chunk

// Behind the ring: the landings, a buffer of 8 rows x 32 sums for each multiplying warp, and the
// barriers.
constexpr int y_rows = 8;
constexpr int y_part = 32;
constexpr int y_row_bytes = y_part * 4;
constexpr int y_bytes = y_rows * y_row_bytes;

// ---- Descriptors -------------------------------------------------------------------------------
//
// Both operands are K-major: the stride is that of 8 rows, and the leading offset is not used.
__device__ inline Descriptor describe_a(Word start) {
    return describe(start, 16, 8 * slab_row_bytes, swizzle_64);
}
__device__ inline Descriptor describe_x(Word start) {
    return describe(start, 16, 8 * x_row_bytes, swizzle_128);
}
// A product takes 64 slots: from one to the next, within a row of A and within a row of X.
constexpr Descriptor next_a = 32 / 16;
constexpr Descriptor next_x = 64 / 16;

// ---- Who does what -----------------------------------------------------------------------------
//
// As of 16-bit values: the first warpgroups multiply, the warps behind them copy, in groups that take
// turns at the steps.
constexpr int wgs_n = config::block_n / config::wg_n;
constexpr int multiply_warps = 4 * (config::block_rows / config::wg_rows) * wgs_n;
constexpr int copy_warps = config::gather_groups * config::gather_warps;
constexpr int threads = 32 * (multiply_warps + copy_warps);
constexpr int pieces = config::wg_rows / slab_rows;

static_assert(config::block_n % strip_columns == 0, "a warp copies whole lines");
static_assert(slab_bytes % 512 == 0, "the 64-byte swizzle repeats after 512 bytes");
