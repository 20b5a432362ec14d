// Items that are cut along their slots: sums that several blocks have parts of, through memory.
//
//   tile    |------- piece 0 -------|------- piece 1 -------|     slots
//               any block               any block
//                   sums -> memory          sums -> memory
//                                     the later of the two adds up, finishes and stores
//
// Nobody waits for anybody, so blocks may run in any order. Each warp goes by itself: the same warp of
// every piece has the same sums, lane by lane. They are added up from the first piece to the last,
// whoever does it, so that the result is always the same.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "sm90_ptx.cuh"
#include "sm90_layout.cuh"
#include "sm90_result.cuh"

struct Workspace {
    float* partials;  // (pieces, columns, warps, chunks of a lane, lanes, 4)
    Word* arrived;    // (pieces, columns, warps), zeros before and after
    int columns;      // blocks' widths of X
};

// Add the sums of the other pieces; say whether this warp is the last one, which has them all.
__device__ inline bool add_pieces(Sums& c, const Item& item, const Workspace& to) {
    const int piece = item.block.share & 0xff;
    const int count = item.block.share >> 8 & 0xff;
    if (count == 0) return true;
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    constexpr int chunks = pieces * config::wg_n / 2 / 4;
    const auto place_of = [&](int of) {
        const long long first = item.block.share >> 16;
        return ((first + of) * to.columns + item.n / config::block_n) * multiply_warps + warp;
    };
    enum Act { leave, take, add };
    const auto each_sum = [&](int of, Act act) {
        float* const from = to.partials + (place_of(of) * chunks * 32 + lane) * 4;
#pragma unroll
        for (int i = 0; i < chunks; ++i) {
            float* const sum = c[i * 4 / (config::wg_n / 2)] + i * 4 % (config::wg_n / 2);
            if (act == leave) {
                store_global_chunk(from + i * 32 * 4, {bits_of(sum[0]), bits_of(sum[1]),
                                                       bits_of(sum[2]), bits_of(sum[3])});
            } else {
                const Chunk got = load_global_chunk(from + i * 32 * 4);
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    sum[e] = __uint_as_float(got.word[e]) + (act == add ? sum[e] : -0.0f);
            }
        }
    };
    each_sum(piece, leave);
    memory_fence();
    warp_barrier();
    int before = 0;
    if (lane == 0) before = count_and_wrap(to.arrived + place_of(0), count - 1);
    before = from_lane(before, 0);
    if (before != count - 1) return false;
    warp_barrier();
    memory_fence();
    // The first two are added in either order: one of them may be here.
    if (piece > 1) each_sum(0, take);
    each_sum(piece == 1 ? 0 : 1, add);
#pragma unroll 1
    for (int of = 2; of < count; ++of) each_sum(of, add);
    return true;
}
