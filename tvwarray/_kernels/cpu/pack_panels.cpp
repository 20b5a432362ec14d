// The panel order: nonzeros only, so that a stored zero never meets an infinity of X.
#include "panel_writer.hpp"

namespace tvw {
namespace {

// Where a stored slot goes: -1 for padding, or its panel and its slot there.
struct Target {
    int32_t panel, slot;
};

// Calls f(slot, value) for the nonzeros of a row.
template <class V, class F>
void each_nonzero(const typename V::type* data, const uint16_t* meta, int32_t slots, F f) {
    if (!meta) {
        for (int32_t i = 0; i < slots; i++)
            if (!V::zero(data[i])) f(i, data[i]);
        return;
    }
    for (int32_t g = 0; g < slots; g += 4, data += 2) {
        const int nibble = meta[g / 16] >> (g % 16) & 15;
        if (!V::zero(data[0])) f(g + (nibble & 3), data[0]);
        if (!V::zero(data[1])) f(g + (nibble >> 2), data[1]);
    }
}

class Builder {
  public:
    Builder(PanelPack& pack, const Stored& s, int width) : pack_(pack), s_(s), outline_(s), width_(width) {
        pack_.tiles = outline_.tiles;
        pack_.rows = outline_.rows;
    }

    bool scattered() const { return outline_.scattered(); }

    template <class V> void build(int vector_bytes) {
        PanelWriter<typename V::type> writer(pack_, vector_bytes);
        for (int32_t t = 0; t < s_.tiles; t++) {
            place_columns(t);
            const auto spreads = spread_tile<V>(t);
            for (int32_t p = 0, k = 0; p < int32_t(spreads.size()); p++, k += wide_)
                writer.write(spreads[size_t(p)], first_column_ + k, count_ - k < wide_ ? count_ - k : wide_, p == 0);
        }
        writer.finish();
    }

  private:
    // Splits the tile's columns, padding left out, into panels of about equal width.
    void place_columns(int32_t t) {
        Tile& tile = pack_.tiles[size_t(t)];
        const int32_t first = s_.col_indptr[t], slots = s_.col_indptr[t + 1] - first;
        std::vector<int32_t> kept;
        targets_.clear();
        for (int32_t i = 0; i < slots; i++) {
            const int32_t c = s_.col_indices[first + i];
            targets_.push_back(c < 0 ? Target{-1, 0} : Target{0, int32_t(kept.size())});
            if (c >= 0) kept.push_back(c);
        }
        const auto n = int32_t(kept.size());
        // The same list as the last tile's is kept once.
        const bool again = kept == last_kept_;
        const int32_t first_column = int32_t(pack_.columns.size()) - (again ? n : 0);
        if (!again) pack_.columns.insert(pack_.columns.end(), kept.begin(), kept.end());
        last_kept_.swap(kept);

        tile.first_panel = int32_t(pack_.panels.size());
        tile.panels = (n + width_ - 1) / width_;
        wide_ = tile.panels ? ((n + tile.panels - 1) / tile.panels + 3) / 4 * 4 : 4;
        tile.panels = (n + wide_ - 1) / wide_;
        first_column_ = first_column;
        count_ = n;
        for (Target& to : targets_)
            if (to.panel >= 0) to = Target{to.slot / wide_, to.slot % wide_};
    }

    template <class V> std::vector<Spread<typename V::type>> spread_tile(int32_t t) const {
        const Tile& tile = pack_.tiles[size_t(t)];
        const int32_t slots = s_.col_indptr[t + 1] - s_.col_indptr[t];
        std::vector<Spread<typename V::type>> spreads(size_t(tile.panels), {tile.rows, wide_});
        for (int32_t r = 0; r < tile.rows; r++) {
            const int64_t place = outline_.places[size_t(tile.first_row + r)];
            auto data = reinterpret_cast<const typename V::type*>(s_.data) + outline_.data[size_t(t)] +
                        place * (s_.grouped() ? slots / 2 : slots);
            auto meta = s_.grouped() ? s_.meta + outline_.meta[size_t(t)] + place * (slots / 16) : nullptr;
            each_nonzero<V>(data, meta, slots, [&](int32_t slot, typename V::type value) {
                const Target to = targets_[size_t(slot)];
                if (to.panel >= 0) spreads[size_t(to.panel)].put(r, to.slot, value);
            });
        }
        return spreads;
    }

    PanelPack& pack_;
    const Stored& s_;
    const Outline outline_;
    const int width_;
    int32_t first_column_ = 0, count_ = 0;  // this tile's in the packed column list
    int32_t wide_ = 4;                      // slots of its panels
    std::vector<Target> targets_;           // of its slots
    std::vector<int32_t> last_kept_;
};

}  // namespace

PanelPack::PanelPack(const Stored& s, const Isa& isa, int panel_columns, bool transposed)
    : inputs(transposed ? s.rows : s.columns), outputs(transposed ? s.columns : s.rows) {
    if (transposed) {
        pack_transposed(*this, s, isa.vector_bytes, panel_columns);
        return;
    }
    rest = s.rest;
    Builder builder(*this, s, panel_columns);
    with_bits(s.type, [&](auto bits) { builder.build<decltype(bits)>(isa.vector_bytes); });
    scattered = builder.scattered();
}

size_t PanelPack::bytes() const {
    return values.size() + slots.size() + pairs.size() * sizeof(Pair) + rest_values.size() +
           (columns.size() + rows.size() + rest_indptr.size() + rest_columns.size()) * sizeof(int32_t);
}

PanelView PanelPack::view() const {
    return {panels.data(), columns.data(), rows.data(), pairs.data(), values.data(),
            reinterpret_cast<const uint16_t*>(slots.data()), rest};
}

}  // namespace tvw
