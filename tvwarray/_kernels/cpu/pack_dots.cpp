// The order for dot products: strips of 16 rows, steps of 64 bytes of slots.
//
//     strip     | a bit a slot, row by row | values, row by row | next step ...
//
// Without 2:4 there are no bits, and every slot's value is there.
#include <algorithm>
#include <cstring>

#include "pack.hpp"

namespace tvw {
namespace {

// Sizes of a step's parts in bytes.
struct Step {
    int value;
    bool grouped;

    int slots() const { return kStepBytes / value; }
    int mask() const { return grouped ? slots() / 8 : 0; }
    int row() const { return grouped ? kStepBytes / 2 : kStepBytes; }
    int64_t bytes() const { return int64_t(kDotRows) * (mask() + row()); }

    // Copies the values of a row of a strip.
    void put(char* strip, int row_in_strip, const char* data, int64_t count) const {
        char* to = strip + kDotRows * mask() + row_in_strip * row();
        for (int64_t left = count * value; left > 0; left -= row(), data += row(), to += bytes())
            std::memcpy(to, data, size_t(std::min(left, int64_t(row()))));
    }

    // Sets the bits of its slots.
    void mark(char* strip, int row_in_strip, const uint16_t* meta, int32_t count) const {
        for (int32_t slot = 0; slot < count; slot += 4) {
            const int nibble = meta[slot / 16] >> (slot % 16) & 15, bit = slot % slots();
            char& byte = strip[slot / slots() * bytes() + row_in_strip * mask() + bit / 8];
            byte = char(uint8_t(byte) | (1 << (nibble & 3) | 1 << (nibble >> 2)) << (bit % 8));
        }
    }
};

// -128 times the sum of some bytes.
int32_t start_of(const char* data, int64_t count) {
    uint32_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += uint32_t(int32_t(static_cast<signed char>(data[i])));
    return int32_t(-128u * sum);
}

}  // namespace

DotPack::DotPack(const Stored& s) : size(size_of(s.type)), grouped(s.grouped()), rest(s.rest) {
    const Outline outline(s);
    tiles = outline.tiles;
    rows = outline.rows;
    scattered = outline.scattered();
    const Step step{size, grouped};

    int64_t bytes = 0;
    SlotLists lists(s, step.slots(), slots);
    for (int32_t t = 0; t < int32_t(tiles.size()); t++) {
        Tile& tile = tiles[size_t(t)];
        lists.place(t, tile);
        tile.stream = bytes;
        tile.strip_bytes = tile.slots / step.slots() * step.bytes();
        bytes += strips(tile) * tile.strip_bytes;
        products += int64_t(tile.rows) * tile.slots;
    }
    stream = Memory(size_t(bytes));
    std::memset(stream.data(), 0, stream.size());
    starts.resize(rows.size() + kDotRows);  // a strip may reach past the last row
    for (int32_t t = 0; t < s.tiles; t++) {
        const Tile& tile = tiles[size_t(t)];
        const int32_t n = s.col_indptr[t + 1] - s.col_indptr[t], stored = grouped ? n / 2 : n;
        for (int32_t r = 0; r < tile.rows; r++) {
            const int64_t place = outline.places[size_t(tile.first_row + r)];
            char* strip = stream.data() + tile.stream + r / kDotRows * tile.strip_bytes;
            const char* data = s.data + (outline.data[size_t(t)] + place * stored) * size;
            step.put(strip, r % kDotRows, data, stored);
            if (grouped) step.mark(strip, r % kDotRows, s.meta + outline.meta[size_t(t)] + place * (n / 16), n);
            if (s.type == Type::i8) starts[size_t(tile.first_row + r)] = start_of(data, stored);
        }
    }
}

size_t DotPack::bytes() const {
    return stream.size() + (slots.size() + rows.size() + starts.size()) * sizeof(int32_t);
}

DotView DotPack::view() const { return {slots.data(), rows.data(), stream.data(), starts.data(), grouped, rest}; }

}  // namespace tvw
