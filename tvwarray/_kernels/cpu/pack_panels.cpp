// The panel order: nonzeros only, so that a stored zero never meets an infinity of X.
#include <cstring>

#include "pack.hpp"
#include "pairs.hpp"

namespace tvw {
namespace {

// Stored values as the bits they are, and which of them are zeros of either sign.
template <class Bits, Bits sign> struct Values {
    using type = Bits;
    static bool zero(Bits b) { return !(b & Bits(~sign)); }
};
using Bits8 = Values<uint8_t, 0>;
using Bits16 = Values<uint16_t, 0x8000>;
using Bits32 = Values<uint32_t, 0x80000000u>;
using Bits64 = Values<uint64_t, 0x8000000000000000ull>;

// Where a stored slot goes: -1 for padding, or its panel and its slot there.
struct Target {
    int32_t panel, slot;
};

// One tile spread out: which panel slots a row has, and its values by panel slot.
template <class Bits> struct Spread {
    int32_t rows, width;  // rows of the tile, slots of a panel at most
    std::vector<SlotSet> sets;
    std::vector<Bits> values;

    Spread(int32_t panels, int32_t r, int32_t w)
        : rows(r), width(w), sets(size_t(panels) * size_t(r)), values(sets.size() * size_t(w)) {}

    size_t at(int32_t panel, int32_t row) const { return size_t(panel) * size_t(rows) + size_t(row); }
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
    Builder(PanelPack& pack, const Stored& s, int vector_bytes, int width)
        : pack_(pack), s_(s), outline_(s), unit_(vector_bytes), width_(width) {
        pack_.tiles = outline_.tiles;
        pack_.rows = outline_.rows;
    }

    template <class V> void build() {
        using Bits = typename V::type;
        std::vector<Bits> values;
        std::vector<uint16_t> slots;
        for (int32_t t = 0; t < s_.tiles; t++) {
            place_columns(t);
            const Spread<Bits> spread = spread_tile<V>(t);
            const Tile& tile = pack_.tiles[size_t(t)];
            for (int32_t p = 0; p < tile.panels; p++) {
                Panel& panel = pack_.panels[size_t(tile.first_panel + p)];
                panel.first_pair = int64_t(pack_.pairs.size());
                panel.first_slot = int64_t(slots.size());
                panel.first_value = int64_t(values.size());
                write_panel(spread, p, panel.columns, values, slots);
            }
        }
        keep(values, pack_.values);
        keep(slots, pack_.slots);
        pack_.products = int64_t(values.size());
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
        for (int32_t k = 0; k < n; k += wide_)
            pack_.panels.push_back(Panel{first_column + k, n - k < wide_ ? n - k : wide_, 0, 0, 0});
        for (Target& to : targets_)
            if (to.panel >= 0) to = Target{to.slot / wide_, to.slot % wide_};
    }

    template <class V> Spread<typename V::type> spread_tile(int32_t t) const {
        const Tile& tile = pack_.tiles[size_t(t)];
        const int32_t slots = s_.col_indptr[t + 1] - s_.col_indptr[t];
        Spread<typename V::type> spread(tile.panels, tile.rows, wide_);
        for (int32_t r = 0; r < tile.rows; r++) {
            const int64_t place = outline_.places[size_t(tile.first_row + r)];
            auto data = reinterpret_cast<const typename V::type*>(s_.data) + outline_.data[size_t(t)] +
                        place * (s_.grouped() ? slots / 2 : slots);
            auto meta = s_.grouped() ? s_.meta + outline_.meta[size_t(t)] + place * (slots / 16) : nullptr;
            each_nonzero<V>(data, meta, slots, [&](int32_t slot, typename V::type value) {
                const Target to = targets_[size_t(slot)];
                if (to.panel < 0) return;
                const size_t at = spread.at(to.panel, r);
                spread.sets[at].insert(to.slot);
                spread.values[at * size_t(wide_) + size_t(to.slot)] = value;
            });
        }
        return spread;
    }

    template <class Bits>
    void write_panel(const Spread<Bits>& spread, int32_t p, int32_t columns, std::vector<Bits>& values,
                     std::vector<uint16_t>& slots) {
        const auto begin = spread.sets.begin() + int64_t(spread.at(p, 0));
        const std::vector<SlotSet> sets(begin, begin + spread.rows);
        const SlotSet none;
        const auto zeros = uint16_t(columns * unit_);
        for (const RowPair& pair : pair_rows(sets)) {
            const bool alone = pair.b == spread.rows;
            const SlotSet &a = sets[size_t(pair.a)], &b = alone ? none : sets[size_t(pair.b)];
            const Bits* of_a = &spread.values[spread.at(p, pair.a) * size_t(spread.width)];
            const Bits* of_b = alone ? of_a : &spread.values[spread.at(p, pair.b) * size_t(spread.width)];
            const int shared = pair.shared / 2 * 2;
            std::vector<int> only_a, only_b;
            int taken = 0;
            for (int c = 0; c < columns; c++) {
                if (a.has(c) && b.has(c) && taken < shared) {
                    taken++;
                    slots.push_back(uint16_t(c * unit_));
                    values.insert(values.end(), {of_a[c], of_b[c]});
                    continue;
                }
                if (a.has(c)) only_a.push_back(c);
                if (b.has(c)) only_b.push_back(c);
            }
            const size_t longer = only_a.size() > only_b.size() ? only_a.size() : only_b.size();
            const size_t single = (longer + 1) / 2 * 2;
            for (size_t i = 0; i < single; i++) {
                const bool has_a = i < only_a.size(), has_b = i < only_b.size();
                slots.push_back(has_a ? uint16_t(only_a[i] * unit_) : zeros);
                slots.push_back(has_b ? uint16_t(only_b[i] * unit_) : zeros);
                values.push_back(has_a ? of_a[only_a[i]] : Bits(0));
                values.push_back(has_b ? of_b[only_b[i]] : Bits(0));
            }
            pack_.pairs.push_back(
                Pair{uint8_t(pair.a), uint8_t(pair.b), uint8_t(shared / 2), uint8_t(single / 2)});
        }
    }

    // Into memory of its own, with room for a vector read past the end.
    template <class T> static void keep(const std::vector<T>& from, Memory& to) {
        const size_t bytes = from.size() * sizeof(T);
        to = Memory(bytes + 64);
        if (bytes) std::memcpy(to.data(), from.data(), bytes);
        std::memset(to.data() + bytes, 0, 64);
    }

    PanelPack& pack_;
    const Stored& s_;
    const Outline outline_;
    const int unit_, width_;
    int32_t wide_ = 4;             // slots of this tile's panels
    std::vector<Target> targets_;  // of this tile's slots
    std::vector<int32_t> last_kept_;
};

}  // namespace

PanelPack::PanelPack(const Stored& s, const Isa& isa, int panel_columns) {
    Builder builder(*this, s, isa.vector_bytes, panel_columns);
    switch (size_of(s.type)) {
        case 8: builder.build<Bits64>(); break;
        case 4: builder.build<Bits32>(); break;
        case 2: builder.build<Bits16>(); break;
        default: builder.build<Bits8>(); break;
    }
}

PanelView PanelPack::view() const {
    return {panels.data(), columns.data(), rows.data(), pairs.data(), values.data(),
            reinterpret_cast<const uint16_t*>(slots.data())};
}

}  // namespace tvw
