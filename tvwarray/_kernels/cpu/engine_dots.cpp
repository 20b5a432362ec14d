// Products by dot products of neighbouring slots: see dots.hpp.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "engine.hpp"
#include "pieces.hpp"
#include "threads.hpp"

namespace tvw {
namespace {

// This thread's memory, kept from product to product.
thread_local Memory packed_x, dense_a, block_work, unordered_sums;

constexpr int kLanes = 16;  // right-hand sides of a vector

// Tiles that would take more, written out, are left to the other kernels.
constexpr int64_t kMostDenseBytes = int64_t(64) << 20;

// Bytes of a packed row of X: whole vectors of loads.
int64_t row_bytes(const Block& block, int size) {
    return int64_t(block.vectors * kLanes * size + kStepBytes - 1) / kStepBytes * kStepBytes;
}

}  // namespace

bool Matrix::by_dots(int32_t n, Type x) const {
    if (!isa_.dots || x != stored_.type) return false;
    const DotKernels& kernel = isa_.dots[int(stored_.type)];
    return kernel.run && n >= kernel.few;
}

bool Matrix::multiply_dots(const Strided& x, int32_t n, const Strided& out, const Epilogue& epilogue) {
    const DotPack& pack = dots();
    const DotView view = pack.view();
    const DotKernels& kernel = isa_.dots[int(stored_.type)];
    const int threads = threads_for((pack.products + pack.rows.size()) * n / kernel.rate, int64_t(pack.stream.size()));

    std::vector<Block> all = blocks_of(n, kLanes, kDotVectors);
    const int64_t pitch = kDotVectors * kLanes * int64_t(sizeof(int32_t));
    const int64_t block_bytes = stored_.columns * row_bytes(all[0], pack.size);
    // Tiles whose groups are written out together, with their sums, take a third of the L2 cache, and there
    // are enough such runs for all threads.
    const auto weight = [&](const Tile& t) { return pack.dense_bytes(t) + t.rows * pitch; };
    int64_t total = 0;
    for (const Tile& t : pack.tiles) {
        if (pack.dense_bytes(t) > kMostDenseBytes) return false;
        total += weight(t);
    }
    const int64_t most = std::min(l2_bytes() / 3, threads == 1 ? total : total / (4 * threads));
    const std::vector<int32_t> runs = runs_of(pack.tiles, most, weight);
    const auto runs_count = int64_t(runs.size()) - 1;
    // Half of it holds the blocks of X that a run meets in turn.
    const int64_t sums_bytes = (int64_t(stored_.rows) + kMaxLanes) * pitch;
    const bool unordered = pack.scattered && out.row == size_of(out.type) && sums_bytes <= kUnorderedBytes;
    int64_t blocks_held = l2_bytes() / 2 / std::max(int64_t(1), block_bytes);
    if (unordered) blocks_held = std::min(blocks_held, kUnorderedBytes / sums_bytes);
    const auto turn = size_t(std::max(int64_t(1), blocks_held));

    for (size_t begin = 0; begin < all.size(); begin += turn) {
        const size_t count = std::min(turn, all.size() - begin);
        Block* blocks = all.data() + begin;
        char* packed = packed_x.at_least(count * size_t(block_bytes) + kStepBytes);
        for (size_t b = 0; b < count; b++) {
            blocks[b].x = packed + b * size_t(block_bytes);
            blocks[b].stride = row_bytes(blocks[b], pack.size);
        }
        constexpr int chunk = 512;
        const int64_t chunks = (stored_.columns + chunk - 1) / chunk;
        std::atomic<bool> finite{true};
        for_each_task(threads, int64_t(count) * chunks, [&](int64_t task) {
            const auto b = size_t(task / chunks);
            const int k = int(task % chunks) * chunk;
            const int end = std::min(k + chunk, int(stored_.columns));
            if (!kernel.pack_block(x, k, end, blocks[b], packed + b * size_t(block_bytes))) finite = false;
        });
        if (!finite) return false;

        char* held = unordered ? unordered_sums.at_least(count * size_t(sums_bytes)) : nullptr;
        // Few runs are shared out by blocks, each writing out anew.
        const int64_t parts = runs_count >= 2 * threads || threads == 1 ? 1 : std::min(int64_t(count), int64_t(4));
        for_each_task(threads, runs_count * parts, [&](int64_t task) {
            const auto run = size_t(task / parts), part = size_t(task % parts);
            const Tile* tiles = &pack.tiles[size_t(runs[run])];
            const int num_tiles = runs[run + 1] - runs[run];
            int64_t steps = 0;
            int32_t rows = 0;
            for (int t = 0; t < num_tiles; t++) {
                steps += pack.dense_bytes(tiles[t]) / (kDotRows * kStepBytes);
                rows += tiles[t].rows;
            }
            const char* dense = view.stream + tiles[0].stream;
            if (view.grouped) {
                char* to = dense_a.at_least(size_t(steps) * kDotRows * kStepBytes);
                kernel.expand(dense, steps, to);
                dense = to;
            }
            char* work = block_work.at_least(kDotWorkBytes + size_t((rows + kMaxLanes) * pitch));
            char* sums = work + kDotWorkBytes;
            const int32_t* index = view.rows + tiles[0].first_row;
            for (size_t b = count * part / size_t(parts); b < count * (part + 1) / size_t(parts); b++) {
                kernel.run(view, tiles, num_tiles, blocks[b], dense, work, sums);
                const auto row_sums = size_t(blocks[b].vectors * kStepBytes);
                if (!held) {
                    kernels_.store_sums(sums, index, rows, blocks[b], out, epilogue);
                    continue;
                }
                char* to = held + b * size_t(sums_bytes);
                for (int32_t i = 0; i < rows; i++)
                    std::memcpy(to + size_t(index[i]) * row_sums, sums + size_t(i) * row_sums, row_sums);
            }
        });
        if (!held) continue;
        const int64_t pieces = (stored_.rows + kStoredRows - 1) / kStoredRows;
        for_each_task(threads, pieces * int64_t(count), [&](int64_t task) {
            const auto first = int(task % pieces) * kStoredRows;
            const auto b = size_t(task / pieces);
            kernels_.store_rows(held + b * size_t(sums_bytes), first, std::min(kStoredRows, stored_.rows - first),
                                blocks[b], out, epilogue);
        });
    }
    return true;
}

}  // namespace tvw
