// Where rows and columns go: the searches behind a layout, each the exact twin of NumPy code.
//
// Twins compare integers, or doubles that are sums of integers below 2^53 and so do not depend on the
// order of the additions; what decides between equals is the same too. Who changes one changes both:
//
//   layouts_hidden.cpp     tvwarray/_layouts/hidden.py
//   layouts_pack.cpp       tvwarray/_layouts/first_fit.py
//   layouts_tiles.cpp      tvwarray/_layouts/slots.py, tvwarray/_layouts/tiles.py, tvwarray/_convert/build.py
//   layouts_rows.cpp       tvwarray/_layouts/group_rows.py
//   layouts_permute.cpp    tvwarray/_layouts/permute.py
//   layouts_exchange.cpp   tvwarray/_layouts/exchange.py
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

// The best of the three, tried in turn until one is near max(columns, 2 * longest) slots.
Packed pack_columns(const Columns& columns, int32_t longest);

// The columns of a full 2:4 tile in groups of four, which a permutation may hide; empty if it is none.
std::vector<int32_t> hidden_groups(const Columns& columns);

// ---- Patterns. The columns of a row ascend.
struct Csr {
    int64_t held(int64_t r) const { return indptr[r + 1] - indptr[r]; }

    const int64_t* indptr;
    const int32_t* indices;
    int64_t rows, columns;
};

// Tiles: rows order[indptr[t]] .. order[indptr[t + 1] - 1] make tile t, 1024 of them at most.
struct Tiles {
    int64_t rows(int64_t t) const { return indptr[t + 1] - indptr[t]; }

    const int64_t *order, *indptr;
    int64_t count;
};

// How many distinct columns each tile has.
std::vector<int64_t> distinct_columns(const Csr& a, const Tiles& tiles);

enum class Form : uint8_t { crowded, absolute, compact, hidden, packed };

struct Laid {
    std::vector<int32_t> indptr;   // of the slots of each tile
    std::vector<int32_t> columns;  // of each slot, or -1
    std::vector<int32_t> places;   // for each entry, in the order of the pattern, the slot of its tile
    std::vector<Form> forms;       // of each tile
};

// Finds the slots of every tile: as the columns stand if that is near the bound, otherwise packed. A tile
// that only packing can represent is left out, as crowded, unless `spread`. Without `grouped`, which is
// without 2:4, slots are the columns.
Laid lay_out(const Csr& a, const Tiles& tiles, bool grouped, bool spread);

// Writes the entries that are in slots, `item` bytes each, into zeroed values and metadata that says
// 0, 1 everywhere (null without 2:4); an entry of place -1 is left out. `slots` is where each tile's
// begin. Returns false where a group meets a third entry.
bool store(const Csr& a, const Tiles& tiles, const int32_t* slots, const int32_t* places, const char* values,
           int item, char* data, uint16_t* meta);

// ---- Grouping.
struct Grouping {
    const int64_t* start;  // the rows, in the order in which they begin tiles
    const uint32_t* tie;   // for each row: the lowest goes first among equals
    int64_t most_candidates;
    int64_t hub;  // columns with more rows than this say nothing about likeness
};

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

// ---- Exchange. `worth` is (rows, tiles), what each row keeps in each tile; a tile for each row in and out.
std::vector<int64_t> exchange_rows(const Scores& worth, std::vector<int64_t> tile_of, int64_t sweeps,
                                   int64_t part);

}  // namespace tvw
