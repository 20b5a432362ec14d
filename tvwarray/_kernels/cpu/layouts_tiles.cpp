// Tiles: their columns, the slots of those, and the place of every entry.
//
//     pattern (CSR) ──rows of a tile──> columns, ascending     5    9   12   13  ...
//                                       rows of each, in bits  1.1. .1.. 11.. ...1
//                                          │ as they stand, in fours, or packed (layouts_pack.cpp)
//                                          ▼
//     slots of the tile                 9  12  13  -1 | 5 ...
//     entry (row 0, column 12)          slot 1
#include <algorithm>
#include <cstring>

#include "layouts.hpp"

namespace tvw {
namespace {

constexpr size_t kMostHidden = 4096;  // columns; _layouts/hidden.py says why

size_t rounded(size_t slots) { return (slots + 15) / 16 * 16; }

// The columns of one tile after another.
class TileColumns {
  public:
    explicit TileColumns(const Csr& a) : a_(a), met_in_(size_t(a.columns), -1), local_(size_t(a.columns), 0) {}

    void load(const int64_t* rows, int64_t count) {
        tile_++;
        longest = 0;
        columns.clear();
        for (int64_t i = 0; i < count; i++) {
            longest = std::max(longest, int32_t(a_.held(rows[i])));
            for (int64_t p = a_.indptr[rows[i]]; p < a_.indptr[rows[i] + 1]; p++)
                if (int64_t& met = met_in_[size_t(a_.indices[p])]; met != tile_) {
                    met = tile_;
                    columns.push_back(a_.indices[p]);
                }
        }
        sort();
        for (size_t c = 0; c < columns.size(); c++) local_[size_t(columns[c])] = int32_t(c);
        words = int32_t((count + 63) / 64);
        planes.assign(columns.size() * size_t(words), 0);
        for (int64_t i = 0; i < count; i++)
            for (int64_t p = a_.indptr[rows[i]]; p < a_.indptr[rows[i] + 1]; p++)
                planes[size_t(local(a_.indices[p]) * words + i / 64)] |= Word(1) << (i % 64);
    }

    int64_t local(int32_t column) const { return local_[size_t(column)]; }
    Columns view() const { return {planes.data(), int32_t(columns.size()), words}; }
    size_t bound() const { return rounded(std::max(columns.size(), 2 * size_t(longest))); }

    std::vector<int32_t> columns;
    std::vector<Word> planes;
    int32_t longest = 0, words = 1;

  private:
    void sort() {
        if (int64_t(columns.size()) < a_.columns / 32) return std::sort(columns.begin(), columns.end());
        columns.clear();  // many: passing all marks is faster
        for (int64_t c = 0; c < a_.columns; c++)
            if (met_in_[size_t(c)] == tile_) columns.push_back(int32_t(c));
    }

    const Csr& a_;
    std::vector<int64_t> met_in_;
    std::vector<int32_t> local_;
    int64_t tile_ = -1;
};

// Whether some row has entries in three of the columns first .. last - 1.
bool crowded(const TileColumns& tile, size_t first, size_t last) {
    for (int32_t w = 0; w < tile.words; w++) {
        Word one = 0, two = 0;
        for (size_t c = first; c < last; c++) {
            const Word rows = tile.planes[c * size_t(tile.words) + size_t(w)];
            if (two & rows) return true;
            two |= one & rows;
            one |= rows;
        }
    }
    return false;
}

// The columns as they stand, in fours; false if that is no 2:4 pattern.
bool compact(const TileColumns& tile, std::vector<int32_t>& slots) {
    for (size_t c = 0; c < tile.columns.size(); c += 4)
        if (crowded(tile, c, std::min(c + 4, tile.columns.size()))) return false;
    slots = tile.columns;
    return true;
}

// The same in groups column / 4, which keep their empty columns.
bool absolute(const TileColumns& tile, int64_t width, std::vector<int32_t>& slots) {
    slots.clear();
    for (size_t c = 0; c < tile.columns.size();) {
        const int32_t group = tile.columns[c] / 4;
        size_t end = c;
        while (end < tile.columns.size() && tile.columns[end] / 4 == group) end++;
        if (crowded(tile, c, end)) return false;
        for (int64_t k = 4 * int64_t(group); k < 4 * int64_t(group) + 4; k++)
            slots.push_back(k < width ? int32_t(k) : -1);
        c = end;
    }
    return true;
}

// Lays out tile after tile.
class Layouts {
  public:
    Layouts(const Csr& a, const Tiles& tiles, bool grouped, bool spread)
        : a_(a), tiles_(tiles), grouped_(grouped), spread_(spread), tile_(a) {
        laid_.indptr.push_back(0);
        laid_.places.assign(size_t(a.indptr[a.rows]), -1);
    }

    Laid run() {
        for (int64_t t = 0; t < tiles_.count; t++) {
            rows_ = tiles_.order + tiles_.indptr[t];
            tile_.load(rows_, tiles_.rows(t));
            laid_.forms.push_back(choose());
            const size_t begin = laid_.columns.size();
            laid_.columns.insert(laid_.columns.end(), slots_.begin(), slots_.end());
            laid_.columns.resize(begin + rounded(slots_.size()), -1);
            laid_.indptr.push_back(int32_t(std::min(laid_.columns.size(), size_t(INT32_MAX))));
            if (laid_.columns.size() > size_t(INT32_MAX)) break;  // the caller refuses it
        }
        return std::move(laid_);
    }

  private:
    Form choose() {
        if (!grouped_) {
            slots_ = tile_.columns;
            place_by_column();
            return Form::compact;
        }
        std::vector<int32_t> in_fours;
        const bool fits = compact(tile_, in_fours);
        Form form = absolute(tile_, a_.columns, slots_) ? Form::absolute : Form::crowded;
        if (fits && (form == Form::crowded || rounded(in_fours.size()) < rounded(slots_.size()))) {
            slots_.swap(in_fours);
            form = Form::compact;
        }
        if (form == Form::crowded) slots_.clear();
        // A natural form wastes slots where a tile holds single columns of many groups.
        if (spread_ && (form == Form::crowded || slots_.size() > tile_.bound())) {
            if (is_half_full() && find_hidden()) return Form::hidden;
            const Packed packed = pack_columns(tile_.view(), tile_.longest);
            if (form == Form::crowded || rounded(packed.slots.size()) < rounded(slots_.size())) {
                take(packed);
                return Form::packed;
            }
        }
        if (form != Form::crowded) place_by_column();
        return form;
    }

    // Whether a row has half of the columns, as all do where every group of four is full.
    bool is_half_full() const {
        const size_t k = tile_.columns.size();
        return k % 4 == 0 && k <= kMostHidden && 2 * size_t(tile_.longest) == k;
    }

    bool find_hidden() {
        const std::vector<int32_t> found = hidden_groups(tile_.view());
        if (found.empty()) return false;
        slots_.assign(found.size(), -1);
        slot_of_.assign(found.size(), -1);
        for (size_t s = 0; s < found.size(); s++) {
            slots_[s] = tile_.columns[size_t(found[s])];
            slot_of_[size_t(found[s])] = int32_t(s);
        }
        place();
        return true;
    }

    void place_by_column() {
        slot_of_.assign(tile_.columns.size(), 0);
        size_t c = 0;
        for (size_t s = 0; s < slots_.size() && c < tile_.columns.size(); s++)
            if (slots_[s] == tile_.columns[c]) slot_of_[c++] = int32_t(s);
        place();
    }

    void place() {
        each_entry([&](int64_t column, int64_t) { return slot_of_[size_t(column)]; });
    }

    // A column may stand in several slots; the planes say which of them serves a row.
    void take(const Packed& packed) {
        const auto words = size_t(tile_.words);
        slot_of_.assign(tile_.columns.size(), -1);
        next_.assign(packed.slots.size(), -1);
        slots_.assign(packed.slots.size(), -1);
        for (size_t s = packed.slots.size(); s-- > 0;) {
            const int32_t c = packed.slots[s];
            if (c < 0) continue;
            slots_[s] = tile_.columns[size_t(c)];
            next_[s] = slot_of_[size_t(c)];
            slot_of_[size_t(c)] = int32_t(s);
        }
        each_entry([&](int64_t column, int64_t row) {
            int32_t s = slot_of_[size_t(column)];
            while (next_[size_t(s)] >= 0 && !(packed.served[size_t(s) * words + size_t(row / 64)] >> (row % 64) & 1))
                s = next_[size_t(s)];
            return s;
        });
    }

    template <class F> void each_entry(F&& slot) {
        const int64_t count = int64_t(tiles_.rows(int64_t(laid_.forms.size())));
        for (int64_t i = 0; i < count; i++)
            for (int64_t p = a_.indptr[rows_[i]]; p < a_.indptr[rows_[i] + 1]; p++)
                laid_.places[size_t(p)] = slot(tile_.local(a_.indices[p]), i);
    }

    const Csr& a_;
    const Tiles& tiles_;
    const bool grouped_, spread_;
    TileColumns tile_;
    const int64_t* rows_ = nullptr;
    std::vector<int32_t> slots_;
    std::vector<int32_t> slot_of_, next_;  // the first slot of a column; the next one with the same
    Laid laid_;
};

// The nibble for each set of kept slots, as in _two_four.py; 0xff where there are three.
constexpr uint8_t kNibble[16] = {0x4, 0x4, 0x4, 0x4, 0x8, 0x8, 0x9, 0xff, 0xc, 0xc, 0xd, 0xff, 0xe, 0xff, 0xff, 0xff};

template <int item, class Where>
void copy_row(const Csr& a, int64_t row, const int32_t* places, const char* values, char* data, Where&& where) {
    for (int64_t p = a.indptr[row]; p < a.indptr[row + 1]; p++)
        if (places[p] >= 0) std::memcpy(data + where(places[p]) * item, values + p * item, item);
}

template <class Where>
void copy_row(const Csr& a, int64_t row, const int32_t* places, const char* values, int item, char* data,
              Where&& where) {
    switch (item) {
        case 1: return copy_row<1>(a, row, places, values, data, where);
        case 2: return copy_row<2>(a, row, places, values, data, where);
        case 4: return copy_row<4>(a, row, places, values, data, where);
        case 8: return copy_row<8>(a, row, places, values, data, where);
        default: return copy_row<16>(a, row, places, values, data, where);
    }
}

}  // namespace

std::vector<int64_t> distinct_columns(const Csr& a, const Tiles& tiles) {
    std::vector<int64_t> met_in(size_t(a.columns), -1), distinct;
    for (int64_t t = 0; t < tiles.count; t++) {
        int64_t count = 0;
        for (int64_t i = tiles.indptr[t]; i < tiles.indptr[t + 1]; i++)
            for (int64_t p = a.indptr[tiles.order[i]]; p < a.indptr[tiles.order[i] + 1]; p++) {
                int64_t& met = met_in[size_t(a.indices[p])];
                count += met != t;
                met = t;
            }
        distinct.push_back(count);
    }
    return distinct;
}

Laid lay_out(const Csr& a, const Tiles& tiles, bool grouped, bool spread) {
    return Layouts(a, tiles, grouped, spread).run();
}

bool store(const Csr& a, const Tiles& tiles, const int32_t* slots, const int32_t* places, const char* values,
           int item, char* data, uint16_t* meta) {
    std::vector<uint8_t> kept;
    for (int64_t t = 0; t < tiles.count; t++) {
        const int64_t width = slots[t + 1] - slots[t], stored = meta ? width / 2 : width;
        kept.assign(size_t(width / 4), 0);
        for (int64_t i = tiles.indptr[t]; i < tiles.indptr[t + 1]; i++, data += stored * item) {
            const int64_t row = tiles.order[i];
            if (!meta) {
                copy_row(a, row, places, values, item, data, [](int32_t s) { return s; });
                continue;
            }
            for (int64_t p = a.indptr[row]; p < a.indptr[row + 1]; p++)
                if (const int32_t s = places[p]; s >= 0) kept[size_t(s / 4)] |= uint8_t(1 << s % 4);
            bool legal = true;
            copy_row(a, row, places, values, item, data, [&](int32_t s) {
                const int nibble = kNibble[kept[size_t(s / 4)]];
                legal = legal && nibble != 0xff;
                const int shift = s % 16 / 4 * 4;
                meta[s / 16] = uint16_t((meta[s / 16] & ~(15 << shift)) | nibble << shift);
                return s / 4 * 2 + (s % 4 != (nibble & 3));
            });
            if (!legal) return false;
            for (int64_t p = a.indptr[row]; p < a.indptr[row + 1]; p++)
                if (const int32_t s = places[p]; s >= 0) kept[size_t(s / 4)] = 0;
            meta += width / 16;
        }
    }
    return true;
}

}  // namespace tvw
