// The panel order of the transpose: see the picture in pack.hpp.
//
// Every tile of the transpose reads the rows of A in the same order, so the kernel gathers a panel of
// Y once for many of them.
#include <algorithm>

#include "panel_writer.hpp"

namespace tvw {
namespace {

constexpr int32_t kTall = 128;  // columns of A in a tile of the transpose

// A stored slot that is no padding.
struct Slot {
    int32_t tile, slot, column;
};

// The slots of every tile of the transpose, by stored tile: those of block b are at begins[b] and on.
struct Blocks {
    std::vector<int64_t> begins;
    std::vector<Slot> slots;

    explicit Blocks(const Stored& s) : begins(size_t((s.columns + kTall - 1) / kTall) + 1, 0) {
        for (int64_t i = 0; i < s.num_slots; i++)
            if (s.col_indices[i] >= 0) begins[size_t(s.col_indices[i] / kTall) + 1]++;
        for (size_t b = 1; b < begins.size(); b++) begins[b] += begins[b - 1];
        slots.resize(size_t(begins.back()));
        std::vector<int64_t> next(begins.begin(), begins.end() - 1);
        for (int32_t t = 0; t < s.tiles; t++)
            for (int32_t i = s.col_indptr[t]; i < s.col_indptr[t + 1]; i++) {
                const int32_t c = s.col_indices[i];
                if (c >= 0) slots[size_t(next[size_t(c / kTall)]++)] = {t, i - s.col_indptr[t], c};
            }
    }
};

template <class V> class TransposedBuilder {
    using Bits = typename V::type;

  public:
    TransposedBuilder(PanelPack& pack, const Stored& s, int vector_bytes, int width)
        : pack_(pack), s_(s), outline_(s), writer_(pack, vector_bytes), width_(width) {
        pack_.columns.assign(outline_.rows.begin(), outline_.rows.begin() + s.num_rows);
        for (int32_t c = 0; c < s.columns; c++) pack_.rows.push_back(c);
    }

    void build() {
        const Blocks blocks(s_);
        for (size_t b = 0; b + 1 < blocks.begins.size(); b++) {
            first_ = int32_t(b) * kTall;
            const int32_t tall = std::min(kTall, s_.columns - first_);
            pack_.tiles.push_back(Tile{first_, tall, int32_t(pack_.panels.size()), 0, 0, 0, 0, 0, 0});
            const Slot *at = blocks.slots.data() + blocks.begins[b], *end = blocks.slots.data() + blocks.begins[b + 1];
            while (at != end) {
                const Slot* last = at;
                while (last != end && last->tile == at->tile) last++;
                write_tile(at, last);
                at = last;
            }
        }
        writer_.finish();
    }

  private:
    // The slots of one stored tile. Those that repeat a column go to panels of their own.
    void write_tile(const Slot* at, const Slot* end) {
        std::vector<int> seen(size_t(kTall), 0);
        std::vector<std::vector<Slot>> layers;
        for (; at != end; at++) {
            const auto layer = size_t(seen[size_t(at->column - first_)]++);
            if (layer == layers.size()) layers.emplace_back();
            layers[layer].push_back(*at);
        }
        for (const auto& layer : layers) write_layer(layer);
    }

    void write_layer(const std::vector<Slot>& layer) {
        Tile& tile = pack_.tiles.back();
        const int32_t t = layer[0].tile, rows = outline_.tiles[size_t(t)].rows;
        const int32_t parts = (rows + width_ - 1) / width_, wide = parts ? (rows + parts - 1) / parts : 0;
        for (int32_t r = 0; r < rows; r += wide) {
            const int32_t count = std::min(wide, rows - r);
            Spread<Bits> spread(tile.rows, count);
            bool any = false;
            for (int32_t i = 0; i < count; i++)
                each_value(t, r + i, layer, [&](const Slot& slot, Bits value) {
                    spread.put(slot.column - first_, i, value);
                    any = true;
                });
            if (any) writer_.write(spread, outline_.tiles[size_t(t)].first_row + r, count, tile.panels++ == 0);
        }
    }

    // Calls f(slot, value) for the nonzeros that row r of a stored tile has in some slots.
    template <class F> void each_value(int32_t t, int32_t r, const std::vector<Slot>& layer, F f) const {
        const int32_t slots = s_.col_indptr[t + 1] - s_.col_indptr[t];
        const int64_t place = outline_.places[size_t(outline_.tiles[size_t(t)].first_row + r)];
        auto data = reinterpret_cast<const Bits*>(s_.data) + outline_.data[size_t(t)] +
                    place * (s_.grouped() ? slots / 2 : slots);
        auto meta = s_.grouped() ? s_.meta + outline_.meta[size_t(t)] + place * (slots / 16) : nullptr;
        for (const Slot& slot : layer) {
            const int32_t g = slot.slot / 4, position = slot.slot % 4;
            const Bits* value = data + slot.slot;
            if (meta) {
                const int nibble = meta[g / 4] >> (g % 4 * 4) & 15;
                if ((nibble & 3) == position) value = data + 2 * g;
                else if (nibble >> 2 == position) value = data + 2 * g + 1;
                else continue;
            }
            if (!V::zero(*value)) f(slot, *value);
        }
    }

    PanelPack& pack_;
    const Stored& s_;
    const Outline outline_;
    PanelWriter<Bits> writer_;
    const int width_;
    int32_t first_ = 0;  // column of A of this tile
};

// The remainder by columns, the rows of each ascending.
void transpose_rest(PanelPack& pack, const Stored& s) {
    const size_t item = s.type == Type::f64 ? 8 : 4;
    pack.rest_indptr.assign(size_t(s.columns) + 1, 0);
    pack.rest_columns.resize(size_t(s.num_rest));
    pack.rest_values = Memory(size_t(s.num_rest) * item);
    for (int64_t i = 0; i < s.num_rest; i++) pack.rest_indptr[size_t(s.rest.columns[i]) + 1]++;
    for (int32_t c = 0; c < s.columns; c++) pack.rest_indptr[size_t(c) + 1] += pack.rest_indptr[size_t(c)];
    std::vector<int32_t> next(pack.rest_indptr.begin(), pack.rest_indptr.end() - 1);
    for (int32_t r = 0; r < s.rows; r++)
        for (int32_t i = s.rest.indptr[r]; i < s.rest.indptr[r + 1]; i++) {
            const auto to = size_t(next[size_t(s.rest.columns[i])]++);
            pack.rest_columns[to] = r;
            std::memcpy(pack.rest_values.data() + to * item, static_cast<const char*>(s.rest.values) + size_t(i) * item,
                        item);
        }
    pack.rest = {pack.rest_indptr.data(), pack.rest_columns.data(), pack.rest_values.data()};
}

}  // namespace

void pack_transposed(PanelPack& pack, const Stored& s, int vector_bytes, int width) {
    with_bits(s.type, [&](auto bits) { TransposedBuilder<decltype(bits)>(pack, s, vector_bytes, width).build(); });
    if (s.rest.indptr) transpose_rest(pack, s);
}

}  // namespace tvw
