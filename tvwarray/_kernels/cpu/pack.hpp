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

}  // namespace tvw
