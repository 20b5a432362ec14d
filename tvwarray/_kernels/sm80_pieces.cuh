// Pieces of a tile: sums that several blocks have parts of, through memory.
//
// Each piece leaves its sums in the workspace, lane by lane. The one that comes last adds all of them
// up, from the first piece to the last whoever it is, so that the result is always the same.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "layout.cuh"

struct Workspace {
    Sum* partials;  // (pieces, columns, threads, Sums of a lane)
    Word* arrived;  // (pieces, columns), zeros before and after
    int columns;    // n_blocks of all X
};

// Add a piece's `sums` to the others'; say whether this block is the last one, which has them all.
// `shared` is a word of shared memory that nobody reads or writes any more.
__device__ inline bool add_pieces(FragmentC (&sums)[warp_bricks][warp_columns], const Item& item,
                                  const Workspace& to, Word shared) {
    const int thread = threadIdx.x;
    constexpr int lane_chunks = warp_bricks * warp_columns * sizeof(FragmentC) / chunk_bytes;
    constexpr int fragment_chunks = sizeof(FragmentC) / chunk_bytes;
    enum Act { leave, take, add };
    const auto each_sum = [&](int piece, Act act) {
        const long long of_piece =
            static_cast<long long>(item.block.first_piece + piece) * to.columns + item.column;
        char* const first = reinterpret_cast<char*>(to.partials) +
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
    each_sum(item.block.piece, leave);
    memory_fence();
    block_barrier();
    if (thread == 0) {
        const long long counter =
            static_cast<long long>(item.block.first_piece) * to.columns + item.column;
        store_shared(shared, count_and_wrap(to.arrived + counter, item.block.pieces - 1));
    }
    block_barrier();
    if (static_cast<int>(load_shared(shared)) != item.block.pieces - 1) return false;
    memory_fence();
    block_barrier();
    each_sum(0, take);
#pragma unroll 1
    for (int piece = 1; piece < item.block.pieces; ++piece) each_sum(piece, add);
    return true;
}
