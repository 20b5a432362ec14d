// Reading a storage: its entries row by row, and what becomes of them. Twins of NumPy code, equal bit for
// bit: tvwarray/_entries.py and tvwarray/_reduce.py.
#pragma once

#include <cstdint>
#include <vector>

namespace nanobind {
class module_;
}

namespace tvw {

// Adds the functions below to the Python module.
void bind_entries(nanobind::module_& m);

// A storage whose offsets, rows and columns are in bounds. Values of all tiles lie one after another.
struct Tiled {
    int64_t tile_rows(int64_t t) const { return row_indptr[t + 1] - row_indptr[t]; }
    int64_t slots(int64_t t) const { return col_indptr[t + 1] - col_indptr[t]; }
    int64_t values(int64_t t) const { return meta ? slots(t) / 2 : slots(t); }  // of a row
    int64_t kept() const { return row_indptr[tiles]; }                          // rows in tiles

    const int32_t *row_indptr, *rows, *col_indptr, *columns;
    const uint16_t* meta;  // null without 2:4
    int64_t tiles, height, width;
};

// A value nobody computes with: `parts` words, zero if all bits under the mask are.
template <class Word, int parts> struct Raw {
    Word part[parts];
};

// The rows that are in tiles, ascending, with their entries by column. `shared` says that two entries of
// a row have one column.
template <class Value> struct SortedRows {
    std::vector<int64_t> rows, indptr;
    std::vector<int32_t> indices;
    std::vector<Value> values;
    bool shared = false;
};

template <class Word, int parts>
SortedRows<Raw<Word, parts>> read_rows(const Tiled& a, const Raw<Word, parts>* values, Word mask);

// The sum of each column (axis 0) or row (axis 1), in the order of the storage.
template <class Value, class Sum> std::vector<Sum> line_sums(const Tiled& a, const Value* values, int axis);

// The extreme of the entries of each column or row, and how many there are; no two may share a place.
enum class Extreme : int { max, min, nanmax, nanmin };

template <class Value> struct Extremes {
    std::vector<Value> values;  // zero where there are none
    std::vector<int64_t> counts;
};

template <class Value> Extremes<Value> line_extremes(const Tiled& a, const Value* values, int axis, Extreme which);

// Where the elements (row, row + k) are stored: the rows, and the places among the values.
struct Places {
    std::vector<int64_t> rows, places;
};

Places diagonal(const Tiled& a, int64_t k);

// Whether a column stands in two slots of a tile.
bool repeats_columns(const int32_t* indptr, const int32_t* columns, int64_t tiles, int64_t width);

}  // namespace tvw
