// The product: see engine.hpp.
#include "engine.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

#include "pieces.hpp"
#include "threads.hpp"

namespace tvw {
namespace {

// Up to this many right-hand sides the lane kernel is faster; measured, see docs/cpu.md.
constexpr int kFew = 16;

// And the transposed one, which reads A anew for each.
constexpr int kFewBack = 3;

// What one core does in a nanosecond, roughly, and the work that is worth a thread.
constexpr int64_t kProductsPerNs = 50;
constexpr int64_t kBytesPerNs = 25;
constexpr int64_t kWorthAThreadNs = 150'000;

constexpr int64_t kSharedTurnBytes = int64_t(8) << 20;

// This thread's memory, kept from product to product: fresh pages cost more than the packing.
thread_local Memory packed_x, block_work, slot_sums, unordered_sums;

// A panel takes two thirds of the L1 cache.
int panel_columns(const Isa& isa) {
    const int64_t columns = l1_bytes() * 2 / 3 / (kBlockVectors * isa.vector_bytes);
    return int(std::clamp(columns / 8 * 8, int64_t(16), int64_t(kMaxPanelColumns)));
}

// The sums of tiles that go together take a quarter of the L2 cache.
int rows_together(const Isa& isa) {
    return int(std::clamp(l2_bytes() / 4 / (kBlockVectors * isa.vector_bytes), int64_t(kMaxTileRows), int64_t(4096)));
}

// The gathered groups of every pass of one product, for the slot list last seen by this thread.
struct Gathered {
    uint64_t product = 0;
    int32_t slot_list = 0;
    Memory groups;
};
thread_local Gathered gathered;
std::atomic<uint64_t> products{0};

}  // namespace

Matrix::Matrix(const Stored& stored, const Isa& isa)
    : stored_(stored),
      isa_(isa),
      kernels_(isa.kernels[int(stored.type)]),
      sum_bytes_(size_of(accumulator(stored.type))) {
    stored_.check();
}

const PanelPack& Matrix::panels(bool transposed) {
    std::lock_guard<std::mutex> lock(packing());
    std::unique_ptr<PanelPack>& pack = panels_[transposed];
    if (!pack) pack = std::make_unique<PanelPack>(stored_, isa_, panel_columns(isa_), transposed);
    return *pack;
}

const LanePack& Matrix::lanes() {
    std::lock_guard<std::mutex> lock(packing());
    if (!lanes_) lanes_ = std::make_unique<LanePack>(stored_, isa_);
    return *lanes_;
}

const DotPack& Matrix::dots() {
    std::lock_guard<std::mutex> lock(packing());
    if (!dots_) dots_ = std::make_unique<DotPack>(stored_);
    return *dots_;
}

size_t Matrix::packed_bytes() const {
    std::lock_guard<std::mutex> lock(packing());
    size_t bytes = lanes_ ? lanes_->stream.size() + lanes_->slots.size() * sizeof(int32_t) : 0;
    if (dots_) bytes += dots_->bytes();
    for (const auto& pack : panels_) bytes += pack ? pack->bytes() : 0;
    return bytes;
}

bool Matrix::few(int32_t n) const { return isa_.max_pass && n <= kFew; }

int Matrix::threads_for(int64_t products, int64_t bytes) const {
    const int64_t ns = std::max(products / kProductsPerNs, bytes / kBytesPerNs);
    return int(std::clamp(ns / kWorthAThreadNs, int64_t(1), int64_t(num_threads())));
}

void Matrix::multiply(const Strided& x, int32_t n, const Strided& out, const Epilogue& epilogue, bool transposed) {
    if (n == 0 || (transposed ? stored_.columns : stored_.rows) == 0) return;
    if (!transposed && by_dots(n, x.type) && multiply_dots(x, n, out, epilogue)) return;
    if (!transposed && few(n) && multiply_lanes(x, n, out, epilogue)) return;
    if (transposed && few(n) && n <= kFewBack && multiply_back(x, n, out, epilogue)) return;
    multiply_panels(panels(transposed), x, n, out, epilogue);
}

bool Matrix::multiply_lanes(const Strided& x, int32_t n, const Strided& out, const Epilogue& epilogue) {
    const LanePack& pack = lanes();
    const LaneView view = pack.view();
    const std::vector<Pass> passes = passes_of(n, isa_.max_pass);
    const size_t pass_bytes = size_t(stored_.columns) * size_t(isa_.max_pass * sum_bytes_);
    char* packed = packed_x.at_least(passes.size() * pass_bytes + 64);
    for (size_t p = 0; p < passes.size(); p++)
        if (!kernels_.pack_pass(x, stored_.columns, passes[p], packed + p * pass_bytes)) return false;

    const size_t groups_bytes = size_t(pack.longest) * size_t(isa_.max_pass * sum_bytes_);
    const int32_t strip_rows = 2 * isa_.vector_bytes / sum_bytes_;
    const int threads = threads_for(stored_.num_values * n, int64_t(pack.stream.size()));
    const uint64_t product = ++products;
    const auto tiles = int64_t(pack.tiles.size());
    // Few tiles are shared out by strips, each gathering anew.
    const int parts = tiles >= 4 * threads ? 1 : 4;
    for_each_task(threads, tiles * parts, [&](int64_t task) {
        const Tile& tile = pack.tiles[size_t(task / parts)];
        const int strips = (tile.rows + strip_rows - 1) / strip_rows, part = int(task % parts);
        const int first = strips * part / parts, last = strips * (part + 1) / parts;
        char* groups = gathered.groups.at_least(passes.size() * groups_bytes + 64);
        const bool known = gathered.product == product && gathered.slot_list == tile.slot_list;
        for (size_t p = 0; p < passes.size() && first < last; p++) {
            char* x_groups = groups + p * groups_bytes;
            if (!known) kernels_.gather(view, tile, passes[p], packed + p * pass_bytes, x_groups);
            kernels_.run_pass(view, tile, first, last, passes[p], packed + p * pass_bytes, x_groups, out, epilogue);
        }
        if (first < last) gathered.product = product, gathered.slot_list = tile.slot_list;
    });
    return true;
}

bool Matrix::multiply_back(const Strided& x, int32_t n, const Strided& out, const Epilogue& epilogue) {
    const LanePack& pack = lanes();
    const LaneView view = pack.view();
    std::vector<size_t> begins{0};  // of each tile's slot sums
    for (const Tile& tile : pack.tiles) begins.push_back(begins.back() + size_t(tile.slots) * size_t(sum_bytes_));
    const size_t y_bytes = size_t(stored_.rows) * size_t(sum_bytes_) + 64;
    char* packed = packed_x.at_least(size_t(n) * y_bytes);
    for (int32_t r = 0; r < n; r++)
        if (!kernels_.pack_pass(x, stored_.rows, Pass{r, 1, 1}, packed + size_t(r) * y_bytes)) return false;
    const int threads = threads_for(2 * stored_.num_values, int64_t(pack.stream.size()));
    const auto tiles = int64_t(pack.tiles.size());
    char* sums = slot_sums.at_least(begins.back() + 64);
    for (int32_t r = 0; r < n; r++) {
        const char* y = packed + size_t(r) * y_bytes;
        for_each_task(threads, tiles, [&](int64_t t) {
            char* work = block_work.at_least(size_t(pack.longest) * size_t(isa_.vector_bytes) + 64);
            kernels_.run_back(view, pack.tiles[size_t(t)], y, work, sums + begins[size_t(t)]);
        });
        char* work = block_work.at_least(size_t(stored_.columns) * size_t(sum_bytes_) + 2 * size_t(isa_.vector_bytes));
        kernels_.finish_back(view, pack.tiles.data(), int(tiles), stored_.rows, stored_.columns, y, sums, work, r,
                             out, epilogue);
    }
    return true;
}

void Matrix::multiply_panels(const PanelPack& pack, const Strided& x, int32_t n, const Strided& out,
                             const Epilogue& epilogue) {
    const PanelView view = pack.view();
    const int lanes = isa_.vector_bytes / sum_bytes_;
    const int threads = threads_for(pack.products * n + int64_t(pack.inputs) * n, int64_t(pack.values.size()));
    const int64_t block_bytes = int64_t(pack.inputs) * kBlockVectors * isa_.vector_bytes;
    const bool readable = x.column == sum_bytes_ && x.type == accumulator(stored_.type);

    std::vector<Block> all = blocks_of(n, lanes, kBlockVectors);
    // A long tile or two, which go together, are shared out by right-hand sides.
    const int64_t pieces = (pack.outputs + kMaxTileRows - 1) / kMaxTileRows * int64_t(all.size());
    if (pieces < threads) all = halved(all, lanes);
    // Long runs of tiles, but enough of them for all threads.
    const int64_t fair = threads == 1 ? pack.outputs : int64_t(pack.outputs) * int64_t(all.size()) / (4 * threads);
    const int together = int(std::clamp(fair, int64_t(kMaxTileRows), int64_t(rows_together(isa_))));
    const std::vector<int32_t> runs = runs_of(pack.tiles, together, [](const Tile& t) { return t.rows; });
    // X is packed and used in turns: alone, of what stays in the L2 cache in between; with others, of
    // more, since every turn ends with waiting for the slowest.
    const int64_t turn_bytes = threads == 1 ? l2_bytes() / 2 : kSharedTurnBytes;
    // Where a result's lines hold rows of A from all over the tiles, sums wait for their neighbours.
    const int64_t sums_bytes = (int64_t(pack.outputs) + kMaxLanes) * kBlockVectors * isa_.vector_bytes;
    const bool unordered = pack.scattered && out.row == size_of(out.type) && sums_bytes <= kUnorderedBytes;
    int64_t blocks_held = turn_bytes / std::max(int64_t(1), block_bytes);
    if (unordered) blocks_held = std::min({blocks_held, int64_t(threads), kUnorderedBytes / sums_bytes});
    const auto turn = size_t(std::max(int64_t(1), blocks_held));
    for (size_t begin = 0; begin < all.size(); begin += turn) {
        const size_t count = std::min(turn, all.size() - begin);
        Block* blocks = all.data() + begin;

        // X into blocks, but for those that can be read where they lie.
        constexpr int chunk = 512;
        const int64_t chunks = (pack.inputs + chunk - 1) / chunk;
        char* packed = nullptr;
        for (size_t b = 0; b < count; b++) {
            Block& block = blocks[b];
            if (readable && block.count == block.vectors * lanes) {
                block.x = x.at(0, block.first);
                block.stride = x.row;
            } else {
                if (!packed) packed = packed_x.at_least(count * size_t(block_bytes) + 64);
                block.x = packed + b * size_t(block_bytes);
                block.stride = block.vectors * isa_.vector_bytes;
            }
        }
        if (packed)
            for_each_task(threads, int64_t(count) * chunks, [&](int64_t task) {
                const Block& block = blocks[task / chunks];
                const int k = int(task % chunks) * chunk;
                char* to = packed + size_t(task / chunks) * size_t(block_bytes);
                if (block.x == to)
                    kernels_.pack_block(x, k, std::min(k + chunk, int(pack.inputs)), block, to);
            });

        // Block by block: a block of X stays in the L2 cache or near it from run to run.
        const auto runs_count = int64_t(runs.size()) - 1;
        char* held = unordered ? unordered_sums.at_least(count * size_t(sums_bytes)) : nullptr;
        for_each_task(threads, runs_count * int64_t(count), [&](int64_t task) {
            const auto run = size_t(task % runs_count), b = size_t(task / runs_count);
            kernels_.run_block(view, &pack.tiles[size_t(runs[run])], runs[run + 1] - runs[run], blocks[b], out,
                               epilogue, block_work.at_least(panel_work_bytes(isa_, together)),
                               held ? held + b * size_t(sums_bytes) : nullptr);
        });
        if (!held) continue;
        const int64_t parts = (pack.outputs + kStoredRows - 1) / kStoredRows;
        for_each_task(threads, parts * int64_t(count), [&](int64_t task) {
            const auto first = int(task % parts) * kStoredRows;
            const auto b = size_t(task / parts);
            kernels_.store_rows(held + b * size_t(sums_bytes), first, std::min(kStoredRows, pack.outputs - first),
                                blocks[b], out, epilogue);
        });
    }
}

}  // namespace tvw
