// See pieces.hpp.
#include "pieces.hpp"

#include <algorithm>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace tvw {
namespace {

int64_t cache_bytes([[maybe_unused]] int level) {
    const long usual = level == 1 ? 32 << 10 : 512 << 10;
    long bytes = 0;
#if defined(_SC_LEVEL1_DCACHE_SIZE) && defined(_SC_LEVEL2_CACHE_SIZE)
    bytes = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : _SC_LEVEL2_CACHE_SIZE);
#endif
    return bytes >= usual / 2 && bytes <= usual * 32 ? bytes : usual;
}

}  // namespace

int64_t l1_bytes() {
    static const int64_t bytes = cache_bytes(1);
    return bytes;
}

int64_t l2_bytes() {
    static const int64_t bytes = cache_bytes(2);
    return bytes;
}

std::vector<Block> blocks_of(int32_t n, int lanes, int widest) {
    std::vector<Block> blocks;
    for (int32_t first = 0; first < n;) {
        const int vectors = (n - first + lanes - 1) / lanes;
        const int wide = std::min(widest, vectors >= 7 ? 8 : vectors >= 4 ? 4 : vectors >= 2 ? 2 : 1);
        const int32_t count = std::min(n - first, wide * lanes);
        blocks.push_back(Block{nullptr, 0, wide, first, count});
        first += count;
    }
    return blocks;
}

std::vector<Block> halved(const std::vector<Block>& blocks, int lanes) {
    std::vector<Block> halves;
    for (Block block : blocks) {
        const int32_t half = kBlockVectors / 2 * lanes;
        if (block.vectors == kBlockVectors && block.count > half) {
            halves.push_back(Block{nullptr, 0, kBlockVectors / 2, block.first, half});
            block = Block{nullptr, 0, kBlockVectors / 2, block.first + half, block.count - half};
        }
        halves.push_back(block);
    }
    return halves;
}

std::vector<Pass> passes_of(int32_t n, int widest) {
    std::vector<Pass> passes;
    for (int32_t first = 0; first < n; first += passes.back().count) {
        const int32_t count = std::min(n - first, widest);
        int32_t width = 1;
        while (width < count) width *= 2;
        passes.push_back(Pass{first, count, width});
    }
    return passes;
}

}  // namespace tvw
