// Where rows and columns go: the searches behind a layout, each the exact twin of NumPy code.
//
// Twins compare integers, or doubles that are sums of integers below 2^53 and so do not depend on the
// order of the additions; what decides between equals is the same too. Who changes one changes both:
//
//   layouts_pack.cpp       tvwarray/_first_fit.py
//   layouts_rows.cpp       tvwarray/_group_rows.py
//   layouts_permute.cpp    tvwarray/_permute.py
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace nanobind {
class module_;
}

namespace tvw {

// Adds the searches to the Python module.
void bind_layouts(nanobind::module_& m);

// ---- Packing. The rows of a tile stand in bits, row r at bit r % 64 of word r / 64:
//
//   column 0   | rows 0-63 | rows 64-127 | ...
//   column 1   | ...
using Word = uint64_t;

struct Columns {
    const Word* operator[](int32_t c) const { return first + int64_t(c) * words; }

    const Word* first;
    int32_t count, words;
};

// For every slot its column, or -1, and the rows it serves as `words` words.
struct Packed {
    std::vector<int32_t> slots;
    std::vector<Word> served;
};

// Every column into the first group with room.
Packed first_fit(const Columns& columns);

// Every column into the group with room where it meets the fewest rows for the second time; `opened`
// groups are open from the start.
Packed fit_open(const Columns& columns, int32_t opened);

// Group after group, each with the columns, or parts of columns, that fill it best. Every column has rows.
Packed fill_groups(const Columns& columns);

// ---- Grouping.
struct Csr {
    int64_t held(int64_t r) const { return indptr[r + 1] - indptr[r]; }

    const int64_t* indptr;
    const int32_t* indices;
    int64_t rows, columns;
};

struct Grouping {
    const int64_t* start;  // the rows, in the order in which they begin tiles
    const uint32_t* tie;   // for each row: the lowest goes first among equals
    int64_t most_candidates;
    int64_t hub;  // columns with more rows than this say nothing about likeness
};

// The slots that tiles of consecutive rows of an order need at least.
int64_t order_bound(const Csr& a, const int64_t* order, int64_t count, int64_t tile_rows, bool grouped);

// An order of the rows that keeps like rows in one tile.
std::vector<int64_t> group_rows(const Csr& a, int64_t tile_rows, const Grouping& by);

// ---- Permutation. Scores are (rows, columns), C-ordered; an order has four columns for each group.
struct Scores {
    const double* first;
    int64_t rows, columns;
};

// (slots, columns): what each slot's group gains if the slot holds another column.
std::vector<double> replacement_gains(const Scores& scores, const std::vector<int64_t>& order);

// The order after swaps that gain more than `threshold` each.
std::vector<int64_t> permute_slots(const Scores& scores, std::vector<int64_t> start, int64_t sweeps,
                                   double threshold);

}  // namespace tvw
