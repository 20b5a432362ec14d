// Writes panels: what pack_panels.cpp and pack_transposed.cpp have in common.
#pragma once

#include <cstring>
#include <vector>

#include "pack.hpp"
#include "pairs.hpp"

namespace tvw {

// Stored values as the bits they are, and which of them are zeros of either sign.
template <class Bits, Bits sign> struct Values {
    using type = Bits;
    static bool zero(Bits b) { return !(b & Bits(~sign)); }
};
using Bits8 = Values<uint8_t, 0>;
using Bits16 = Values<uint16_t, 0x8000>;
using Bits32 = Values<uint32_t, 0x80000000u>;
using Bits64 = Values<uint64_t, 0x8000000000000000ull>;

// Calls f with the Values of the stored type.
template <class F> void with_bits(Type type, F f) {
    switch (size_of(type)) {
        case 8: return f(Bits64{});
        case 4: return f(Bits32{});
        case 2: return f(Bits16{});
        default: return f(Bits8{});
    }
}

// The rows of a tile in one panel: which slots each has, and its values by slot.
template <class Bits> struct Spread {
    int32_t rows, width;  // width: slots of a row of values
    std::vector<SlotSet> sets;
    std::vector<Bits> values;

    Spread(int32_t r, int32_t w) : rows(r), width(w), sets(size_t(r)), values(size_t(r) * size_t(w)) {}

    void put(int32_t row, int32_t slot, Bits value) {
        sets[size_t(row)].insert(slot);
        values[size_t(row) * size_t(width) + size_t(slot)] = value;
    }
    const Bits* row(int32_t r) const { return &values[size_t(r) * size_t(width)]; }
};

template <class Bits> class PanelWriter {
  public:
    PanelWriter(PanelPack& pack, int vector_bytes) : pack_(pack), unit_(vector_bytes) {}

    // Appends a panel of the last tile. Its first panel has a pair for every row, which sets their
    // sums; the others have none for rows without values.
    void write(const Spread<Bits>& spread, int32_t first_column, int32_t columns, bool first) {
        pack_.panels.push_back(Panel{first_column, columns, 0, int64_t(pack_.pairs.size()),
                                     int64_t(slots_.size()), int64_t(values_.size())});
        std::vector<int> present, absent;
        std::vector<SlotSet> sets;
        for (int r = 0; r < spread.rows; r++) {
            const SlotSet& set = spread.sets[size_t(r)];
            (set.empty() ? absent : present).push_back(r);
            if (!set.empty()) sets.push_back(set);
        }
        for (const RowPair& pair : pair_rows(sets)) {
            const bool alone = pair.b == int(present.size());
            write_pair(spread, present[size_t(pair.a)], alone ? spread.rows : present[size_t(pair.b)],
                       pair.shared / 2 * 2, columns);
        }
        for (size_t i = 0; first && i < absent.size(); i += 2)
            write_pair(spread, absent[i], i + 1 < absent.size() ? absent[i + 1] : spread.rows, 0, columns);
        Panel& panel = pack_.panels.back();
        panel.pairs = int32_t(int64_t(pack_.pairs.size()) - panel.first_pair);
    }

    // Hands over what was written.
    void finish() {
        keep(values_, pack_.values);
        keep(slots_, pack_.slots);
        pack_.products = int64_t(values_.size());
    }

  private:
    void write_pair(const Spread<Bits>& spread, int row_a, int row_b, int shared, int32_t columns) {
        const SlotSet none;
        const bool alone = row_b == spread.rows;
        const SlotSet &a = spread.sets[size_t(row_a)], &b = alone ? none : spread.sets[size_t(row_b)];
        const Bits *of_a = spread.row(row_a), *of_b = alone ? of_a : spread.row(row_b);
        const auto zeros = uint16_t(columns * unit_);
        std::vector<int> only_a, only_b;
        int taken = 0;
        for (int c = 0; c < columns; c++) {
            if (a.has(c) && b.has(c) && taken < shared) {
                taken++;
                slots_.push_back(uint16_t(c * unit_));
                values_.insert(values_.end(), {of_a[c], of_b[c]});
                continue;
            }
            if (a.has(c)) only_a.push_back(c);
            if (b.has(c)) only_b.push_back(c);
        }
        const size_t longer = only_a.size() > only_b.size() ? only_a.size() : only_b.size();
        const size_t single = (longer + 1) / 2 * 2;
        for (size_t i = 0; i < single; i++) {
            const bool has_a = i < only_a.size(), has_b = i < only_b.size();
            slots_.push_back(has_a ? uint16_t(only_a[i] * unit_) : zeros);
            slots_.push_back(has_b ? uint16_t(only_b[i] * unit_) : zeros);
            values_.push_back(has_a ? of_a[only_a[i]] : Bits(0));
            values_.push_back(has_b ? of_b[only_b[i]] : Bits(0));
        }
        pack_.pairs.push_back(
            Pair{uint16_t(row_a), uint16_t(row_b), uint8_t(shared / 2), uint8_t(single / 2)});
    }

    // Into memory of its own, with room for a vector read past the end.
    template <class T> static void keep(const std::vector<T>& from, Memory& to) {
        const size_t bytes = from.size() * sizeof(T);
        to = Memory(bytes + 64);
        if (bytes) std::memcpy(to.data(), from.data(), bytes);
        std::memset(to.data() + bytes, 0, 64);
    }

    PanelPack& pack_;
    const int unit_;
    std::vector<Bits> values_;
    std::vector<uint16_t> slots_;
};

// Packs the transpose of `s` (pack_transposed.cpp).
void pack_transposed(PanelPack& pack, const Stored& s, int vector_bytes, int width);

}  // namespace tvw
