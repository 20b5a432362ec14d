// The entries of a storage, row by row.
//
//     slots of a tile    9  12  13   5 ...            by column    5   9  12  13 ...
//     a row              .   a   b   c                             c   .   a   b
//                        └ read in the order of slots ┘ └ put in order by a bit for each column ┘
#include "entries.hpp"

#include <algorithm>
#include <complex>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace tvw {
namespace {

constexpr int64_t kWordValues = 8;  // of a word of metadata; without 2:4 as many are read at once

// What no computation touches is zero by its bits, everything else by its value.
template <class Word, int parts> struct NonzeroBits {
    bool operator()(const Raw<Word, parts>& v) const {
        Word any = 0;
        for (Word part : v.part) any |= part & mask;
        return any != 0;
    }
    Word mask;
};

template <class Value> struct NonzeroValue {
    bool operator()(const Value& v) const { return v != Value(0); }
};

// Calls f(tile, i, values, metadata) for every row, i among the rows of all tiles.
template <class Value, class F> void each_row(const Tiled& a, const Value* values, F&& f) {
    const uint16_t* meta = a.meta;
    int64_t i = 0;
    for (int64_t t = 0; t < a.tiles; t++)
        for (const int64_t end = i + a.tile_rows(t); i < end; i++) {
            f(t, i, values, meta);
            values += a.values(t);
            if (meta) meta += a.slots(t) / 16;
        }
}

// The nonzero values of a row, and their slots.
template <class Value> class Reader {
  public:
    template <class Nonzero>
    int64_t read(const Value* v, const uint16_t* meta, int64_t count, const Nonzero& nonzero) {
        if (int64_t(slots.size()) < count) {
            slots.resize(size_t(count));
            values.resize(size_t(count));
        }
        int64_t n = 0;
        for (int64_t first = 0; first < count; first += kWordValues, v += kWordValues) {
            bool any = false;
            for (int64_t k = 0; k < kWordValues; k++) any |= nonzero(v[k]);
            if (!any) continue;
            const unsigned word = meta ? meta[first / kWordValues] : 0;
            for (int64_t k = 0; k < kWordValues; k++) {  // without a branch: every other value may be zero
                slots[size_t(n)] = int32_t(meta ? 2 * first + k / 2 * 4 + (word >> 2 * k & 3) : first + k);
                values[size_t(n)] = v[k];
                n += nonzero(v[k]);
            }
        }
        return n;
    }

    std::vector<int32_t> slots;
    std::vector<Value> values;
};

void require_column(int32_t column) {
    if (column < 0) throw std::invalid_argument("a padding slot holds a value.");
}

// Calls f(row, column, value) for every entry, in the order of the storage.
template <class Value, class F> void each_entry(const Tiled& a, const Value* values, F&& f) {
    Reader<Value> reader;
    each_row(a, values, [&](int64_t t, int64_t i, const Value* v, const uint16_t* meta) {
        const int64_t n = reader.read(v, meta, a.values(t), NonzeroValue<Value>());
        const int32_t* columns = a.columns + a.col_indptr[t];
        for (int64_t k = 0; k < n; k++) {
            const int32_t column = columns[reader.slots[size_t(k)]];
            require_column(column);
            f(a.rows[i], column, reader.values[size_t(k)]);
        }
    });
}

// The slots of one tile by column.
class Ranks {
  public:
    void load(const int32_t* columns, int64_t slots) {
        ascending = true;
        int32_t last = -1;
        for (int64_t s = 0; s < slots; s++)
            if (columns[s] >= 0) {  // what is padding holds no values
                ascending = ascending && columns[s] > last;
                last = columns[s];
            }
        if (ascending) return;
        slot_of.resize(size_t(slots));
        std::iota(slot_of.begin(), slot_of.end(), 0);
        std::stable_sort(slot_of.begin(), slot_of.end(),
                         [&](int32_t a, int32_t b) { return columns[a] < columns[b]; });
        rank_of.resize(size_t(slots));
        for (int64_t r = 0; r < slots; r++) rank_of[size_t(slot_of[size_t(r)])] = int32_t(r);
        held.assign(size_t(slots + 63) / 64, 0);
    }

    bool ascending = true;             // nothing to do
    std::vector<int32_t> slot_of, rank_of;
    std::vector<uint64_t> held;        // a bit for each rank, all clear between rows
};

// Which of the rows in tiles comes first, second, ...
std::vector<int64_t> ascending_rows(const Tiled& a) {
    const int64_t kept = a.kept();
    std::vector<int64_t> order;
    order.reserve(size_t(kept));
    if (a.height <= 8 * kept) {
        std::vector<int32_t> place(size_t(a.height), -1);
        for (int64_t i = 0; i < kept; i++) place[size_t(a.rows[i])] = int32_t(i);
        for (int32_t i : place)
            if (i >= 0) order.push_back(i);
    } else {
        order.resize(size_t(kept));
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return a.rows[i] < a.rows[j]; });
        const auto same = [&](int64_t i, int64_t j) { return a.rows[i] == a.rows[j]; };
        order.erase(std::unique(order.begin(), order.end(), same), order.end());
    }
    if (int64_t(order.size()) < kept) throw std::invalid_argument("a row is in two tiles.");
    return order;
}

}  // namespace

template <class Word, int parts>
SortedRows<Raw<Word, parts>> read_rows(const Tiled& a, const Raw<Word, parts>* values, Word mask) {
    using Value = Raw<Word, parts>;
    const NonzeroBits<Word, parts> nonzero{mask};
    const std::vector<int64_t> order = ascending_rows(a);
    std::vector<int64_t> begin(order.size());  // where the entries of each row of the tiles go
    each_row(a, values, [&](int64_t t, int64_t i, const Value* v, const uint16_t*) {
        begin[size_t(i)] = std::count_if(v, v + a.values(t), nonzero);
    });
    SortedRows<Value> made;
    made.indptr.push_back(0);
    for (int64_t i : order) {
        made.rows.push_back(a.rows[i]);
        made.indptr.push_back(made.indptr.back() + begin[size_t(i)]);
        begin[size_t(i)] = made.indptr[made.indptr.size() - 2];
    }
    made.indices.resize(size_t(made.indptr.back()));
    made.values.resize(size_t(made.indptr.back()));

    Reader<Value> reader;
    Ranks ranks;
    std::vector<Value> by_rank;
    int64_t loaded = -1;
    each_row(a, values, [&](int64_t t, int64_t i, const Value* v, const uint16_t* meta) {
        const int32_t* columns = a.columns + a.col_indptr[t];
        if (loaded != t) {
            ranks.load(columns, a.slots(t));
            if (!ranks.ascending) by_rank.resize(size_t(a.slots(t)));
            loaded = t;
        }
        const int64_t n = reader.read(v, meta, a.values(t), nonzero);
        int32_t* index = made.indices.data() + begin[size_t(i)];
        Value* value = made.values.data() + begin[size_t(i)];
        if (ranks.ascending) {
            for (int64_t k = 0; k < n; k++) require_column(index[k] = columns[reader.slots[size_t(k)]]);
            std::copy_n(reader.values.data(), n, value);
            return;
        }
        for (int64_t k = 0; k < n; k++) {
            const auto r = size_t(ranks.rank_of[size_t(reader.slots[size_t(k)])]);
            ranks.held[r / 64] |= uint64_t(1) << r % 64;
            by_rank[r] = reader.values[size_t(k)];
        }
        int32_t last = -1;
        for (size_t w = 0; w < ranks.held.size(); w++)
            for (uint64_t& bits = ranks.held[w]; bits; bits &= bits - 1) {
                const size_t r = 64 * w + size_t(__builtin_ctzll(bits));
                const int32_t column = columns[ranks.slot_of[r]];
                require_column(column);
                made.shared = made.shared || column == last;
                *index++ = last = column;
                *value++ = by_rank[r];
            }
    });
    return made;
}

template <class Value, class Sum> std::vector<Sum> line_sums(const Tiled& a, const Value* values, int axis) {
    std::vector<Sum> sums(size_t(axis == 0 ? a.width : a.height));
    each_entry(a, values, [&](int32_t row, int32_t column, const Value& v) {
        sums[size_t(axis == 0 ? column : row)] += Sum(v);
    });
    return sums;
}

template <class Value> Extremes<Value> line_extremes(const Tiled& a, const Value* values, int axis, Extreme which) {
    const auto lines = size_t(axis == 0 ? a.width : a.height);
    Extremes<Value> made{std::vector<Value>(lines), std::vector<int64_t>(lines)};
    const bool largest = which == Extreme::max || which == Extreme::nanmax;
    const bool spreads = which == Extreme::max || which == Extreme::min;  // a NaN does
    each_entry(a, values, [&](int32_t row, int32_t column, const Value& v) {
        const auto line = size_t(axis == 0 ? column : row);
        Value& best = made.values[line];
        const bool better = largest ? v > best : v < best;
        const bool of_nan = spreads ? v != v && best == best : best != best;
        if (made.counts[line]++ == 0 || better || of_nan) best = v;
    });
    return made;
}

Places diagonal(const Tiled& a, int64_t k) {
    Places made;
    std::vector<std::pair<int64_t, int64_t>> by_row;  // of the tile: rows, and where they stand in it
    int64_t base = 0, words = 0;
    for (int64_t t = 0; t < a.tiles; t++) {
        const int64_t count = a.tile_rows(t), slots = a.slots(t), width = a.values(t);
        by_row.clear();
        for (int64_t i = 0; i < count; i++) by_row.emplace_back(a.rows[a.row_indptr[t] + i], i);
        std::sort(by_row.begin(), by_row.end());
        for (int64_t s = 0; s < slots; s++) {
            const int32_t column = a.columns[a.col_indptr[t] + s];
            if (column < 0) continue;
            const int64_t row = int64_t(column) - k;
            const auto found = std::lower_bound(by_row.begin(), by_row.end(), std::make_pair(row, int64_t(0)));
            if (found == by_row.end() || found->first != row) continue;
            const int64_t i = found->second;
            if (!a.meta) {
                made.rows.push_back(row);
                made.places.push_back(base + i * width + s);
                continue;
            }
            const unsigned nibble = unsigned(a.meta[words + i * (slots / 16) + s / 16]) >> s % 16 / 4 * 4;
            for (int64_t j = 0; j < 2; j++)
                if ((nibble >> 2 * j & 3) == unsigned(s % 4)) {
                    made.rows.push_back(row);
                    made.places.push_back(base + i * width + s / 4 * 2 + j);
                }
        }
        base += count * width;
        words += count * (slots / 16);
    }
    return made;
}

bool repeats_columns(const int32_t* indptr, const int32_t* columns, int64_t tiles, int64_t width) {
    if (width > 64 * int64_t(indptr[tiles]) + 4096) {  // a mark for each column would be too many
        std::vector<int32_t> sorted;
        for (int64_t t = 0; t < tiles; t++) {
            sorted.assign(columns + indptr[t], columns + indptr[t + 1]);
            std::sort(sorted.begin(), sorted.end());
            const auto valid = std::upper_bound(sorted.begin(), sorted.end(), -1);
            if (std::adjacent_find(valid, sorted.end()) != sorted.end()) return true;
        }
        return false;
    }
    std::vector<int64_t> met_in(size_t(width), -1);
    for (int64_t t = 0; t < tiles; t++)
        for (int32_t s = indptr[t]; s < indptr[t + 1]; s++) {
            if (columns[s] < 0) continue;
            int64_t& met = met_in[size_t(columns[s])];
            if (met == t) return true;
            met = t;
        }
    return false;
}

#define TVW_RAW(Word, parts) \
    template SortedRows<Raw<Word, parts>> read_rows(const Tiled&, const Raw<Word, parts>*, Word)
TVW_RAW(uint8_t, 1);
TVW_RAW(uint16_t, 1);
TVW_RAW(uint32_t, 1);
TVW_RAW(uint64_t, 1);
TVW_RAW(uint64_t, 2);
#undef TVW_RAW

#define TVW_SUMS(Value, Sum) template std::vector<Sum> line_sums(const Tiled&, const Value*, int)
TVW_SUMS(float, double);
TVW_SUMS(double, double);
TVW_SUMS(uint64_t, uint64_t);
TVW_SUMS(std::complex<float>, std::complex<double>);
TVW_SUMS(std::complex<double>, std::complex<double>);
#undef TVW_SUMS

#define TVW_EXTREMES(Value) template Extremes<Value> line_extremes(const Tiled&, const Value*, int, Extreme)
TVW_EXTREMES(float);
TVW_EXTREMES(double);
TVW_EXTREMES(int64_t);
TVW_EXTREMES(uint64_t);
#undef TVW_EXTREMES

}  // namespace tvw
