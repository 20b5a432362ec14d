// From the stored format to the two orders of layout.hpp.
#pragma once

#include <vector>

#include "isa.hpp"
#include "memory.hpp"

namespace tvw {

// The arrays of a TVWStorage, borrowed, its remainder's values in the type they are multiplied in. `meta` is null where every slot is stored.
struct Stored {
    int32_t rows, columns;
    int32_t tiles;
    const int32_t *row_indptr, *row_indices, *col_indptr, *col_indices;
    int64_t num_rows, num_slots, num_values, num_meta;  // lengths
    const char* data;
    const uint16_t* meta;
    Type type;
    Rest rest;
    int64_t num_rest;

    bool grouped() const { return meta != nullptr; }

    // Throws std::invalid_argument if an index points outside an array. The rules of the format that
    // no kernel relies on are TVWStorage.check's to verify.
    void check() const;
};

// What both orders start from: tiles with their rows ascending, and the rows in no tile as tiles
// without columns, so that every row of a product is written.
struct Outline {
    std::vector<Tile> tiles;
    std::vector<int32_t> rows;    // ascending in a tile
    std::vector<int32_t> places;  // of each of `rows` in its stored tile
    std::vector<int64_t> data, meta;  // where each stored tile begins

    explicit Outline(const Stored& s);

    // Whether most rows are not followed by the next: tiles hold rows of a like, not neighbours.
    bool scattered() const;
};

// The slots of one tile after the other, -1 up to a multiple of `unit`; a list equal to the last is kept once.
class SlotLists {
  public:
    SlotLists(const Stored& s, int unit, std::vector<int32_t>& slots) : s_(s), unit_(unit), slots_(slots) {}

    // Fills in what `tile`, the t-th, has of slots; those without columns come last and have none.
    void place(int32_t t, Tile& tile);

  private:
    const Stored& s_;
    const int unit_;
    std::vector<int32_t>& slots_;
    int32_t lists_ = 0, last_first_ = 0;
};

// The panels of A, or of its transpose: these are cut into tiles of 128 columns of A, and a panel is
// some rows of one stored tile.
//
//     stored tile 0   | a   b   |   c |           tile 0 of the transpose   tile 1
//                     |   d   e | f   |     ->    panel 0   a d b e         panel 0   f c
//     stored tile 1   |     g   |     |           panel 1   g
//                       128 columns
struct PanelPack {
    int32_t inputs = 0, outputs = 0;  // rows of X and of the product
    std::vector<Tile> tiles;
    std::vector<int32_t> rows, columns;
    std::vector<Panel> panels;
    std::vector<Pair> pairs;
    Memory values, slots;
    int64_t products = 0;  // multiply-adds for one right-hand side
    bool scattered = false;  // rows are in no order that results could be stored in
    Rest rest{};
    std::vector<int32_t> rest_indptr, rest_columns;  // of the transpose's remainder
    Memory rest_values;

    PanelPack(const Stored& s, const Isa& isa, int panel_columns, bool transposed);
    size_t bytes() const;
    PanelView view() const;
};

struct LanePack {
    std::vector<Tile> tiles;
    std::vector<int32_t> rows, slots;
    Memory stream;
    int32_t longest = 0;  // slots of a tile at most
    bool grouped;
    Rest rest;

    LanePack(const Stored& s, const Isa& isa);
    LaneView view() const;
};

// For dot products; see the picture in dots.hpp.
struct DotPack {
    std::vector<Tile> tiles;
    std::vector<int32_t> rows, slots, starts;
    Memory stream;
    int size = 1;          // bytes of a value
    int64_t products = 0;  // multiply-adds for one right-hand side, zeros and all
    bool grouped, scattered;
    Rest rest;

    explicit DotPack(const Stored& s);
    static int64_t strips(const Tile& tile) { return (tile.rows + kDotRows - 1) / kDotRows; }
    // Of a tile with its zeros written out.
    int64_t dense_bytes(const Tile& tile) const { return strips(tile) * kDotRows * tile.slots * size; }
    size_t bytes() const;
    DotView view() const;
};

}  // namespace tvw
