// How a product is cut into pieces: right-hand sides into blocks or passes, tiles into runs.
#pragma once

#include <cstdint>
#include <vector>

#include "isa.hpp"

namespace tvw {

// Sums that wait to be stored in another order take at most so much: results of larger matrices go out
// one by one.
constexpr int64_t kUnorderedBytes = int64_t(64) << 20;

// Bytes of the caches of one core, or what is usual where the system does not say.
int64_t l1_bytes();
int64_t l2_bytes();

// Widths of blocks that cover n right-hand sides: full ones, then halves of what is left.
std::vector<Block> blocks_of(int32_t n, int lanes, int widest);

// The same with two blocks of four vectors for each of eight, which sum in the same order.
std::vector<Block> halved(const std::vector<Block>& blocks, int lanes);

// Passes that cover n right-hand sides; the last is rounded up to a width there is a kernel for.
std::vector<Pass> passes_of(int32_t n, int widest);

// Runs of consecutive tiles that weigh at most `most` together, or of one tile: where each begins, and the end.
template <class F> std::vector<int32_t> runs_of(const std::vector<Tile>& tiles, int64_t most, F weight) {
    std::vector<int32_t> begins;
    int64_t held = most;
    for (int32_t t = 0; t < int32_t(tiles.size()); t++) {
        const int64_t more = weight(tiles[size_t(t)]);
        held += more;
        if (held <= most && t) continue;
        begins.push_back(t);
        held = more;
    }
    begins.push_back(int32_t(tiles.size()));
    return begins;
}

}  // namespace tvw
