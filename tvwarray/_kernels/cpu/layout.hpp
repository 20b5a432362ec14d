// What the engine's parts hand each other: element types, packed matrices, operands.
// Plain data only: this header is seen by code compiled for different instruction sets.
//
// A matrix is packed once into one or both of two orders, after the two kernels.
//
// Panels, for many right-hand sides. A panel is a run of a tile's kept columns, few enough that their
// rows of X fit the L1 cache. Rows of the tile go in pairs, chosen so that many columns hold nonzeros
// of both: such a row of X is loaded once for two multiply-adds.
//
//     panel columns   7  2  9 12 ..         X panel in L1           pair (40, 3)
//     row 40          a  .  b  c            slot 0   X[ 7, block]   shared   a,d:0  c,f:3
//     row  3          d  e  .  f            slot 1   X[ 2, block]   single   b:2,e:1
//                                           ...
//                                           zeros                   what is missing: 0:zeros
//
// Lanes, for few right-hand sides. A strip is two vectors of rows; the groups of four slots follow one
// another in blocks, and everything a strip needs is one strictly sequential stream:
//
//     strip    | where, where' | v0 v1 v0' v1' | v0 v1 v0' v1' | ...          | where, where' | ...
//                2 bits a value  group 0         group 1          (8 groups)    next block
//                for 8 groups    lane = row
#pragma once

#include <cstddef>
#include <cstdint>

namespace tvw {

struct half { uint16_t bits; };
struct bfloat { uint16_t bits; };

enum class Type : int { f32, f64, f16, bf16, i8, u8, i32 };

constexpr int size_of(Type t) {
    return t == Type::f64 ? 8 : (t == Type::f32 || t == Type::i32) ? 4 : (t == Type::i8 || t == Type::u8) ? 1 : 2;
}

enum class Activation : int { none, relu, gelu, gelu_tanh, silu };

// ---- packed matrices

struct Tile {
    int32_t first_row, rows;      // in the packed row list
    int32_t first_panel, panels;  // panel order
    int32_t first_slot, slots;    // lane order: in the packed slot list, slots padded to whole blocks
    int32_t slot_list;            // lane order: tiles with equal slots share this number
    int64_t stream, strip_bytes;  // lane order: offset of the first strip, size of each
};

// Two rows of a tile in one panel. `b` is the tile's number of rows where `a` has no partner.
struct Pair {
    uint16_t a, b;
    uint8_t shared, single;  // values of each row with a common slot and with a slot each, in twos
};

struct Panel {
    int32_t first_column, columns;  // in the packed column list
    int32_t pairs;                  // a tile's first panel has all its rows, others those with values
    int64_t first_pair, first_slot, first_value;
};

// Entries beside the tiles, by rows as in CSR; `indptr` is null where there are none. Values are held
// in the type that they are multiplied in.
struct Rest {
    const int32_t *indptr, *columns;
    const void* values;
};

struct PanelView {
    const Panel* panels;
    const int32_t* columns;   // X row of each panel slot
    const int32_t* rows;      // row of A, ascending in a tile
    const Pair* pairs;
    const void* values;       // a's and b's in turn, shared ones first, in the stored type
    const uint16_t* slots;    // one for two shared values, then a's and b's; times the vector size
    Rest rest;
};

struct LaneView {
    const int32_t* slots;  // X row of each slot, -1 for padding
    const int32_t* rows;   // row of A, ascending in a tile
    const char* stream;
    bool grouped;          // 2:4; otherwise every slot is stored and there is no `where`
    Rest rest;
};

// Dots, for many right-hand sides of 8- and 16-bit types: strips of 16 rows, steps of 64 bytes of slots.
struct DotView {
    const int32_t* slots;   // X row of each slot, -1 for padding
    const int32_t* rows;    // row of A, ascending in a tile
    const char* stream;     // strip by strip, step by step: a bit a slot, then the values; or every slot
    const int32_t* starts;  // what a row's sum starts from where X is held as unsigned bytes, each 128 too large
    bool grouped;
    Rest rest;
};

// ---- operands of one call

// A matrix of right-hand sides or results: element (i, j) is at data + i * row + j * column, in bytes.
struct Strided {
    char* data;
    int64_t row, column;
    Type type;

    char* at(int64_t i, int64_t j) const { return data + i * row + j * column; }
};

struct Epilogue {
    const void* bias;  // one a row of A, in the accumulation type; or null
    Activation activation;
};

// Right-hand sides first .. first + count of X, as the panel kernel reads them: row k at x + k * stride.
struct Block {
    const char* x;
    int64_t stride;
    int32_t vectors;  // 1, 2, 4 or 8 vectors wide
    int32_t first, count;
};

// The same for the lane kernel, which takes 1, 2, 4 or 8 at a time; those beyond `count` are zeros.
struct Pass {
    int32_t first, count, width;
};

}  // namespace tvw
