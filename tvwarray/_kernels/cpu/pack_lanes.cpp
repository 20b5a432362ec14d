// The lane order: one sequential stream a strip, groups in blocks behind their metadata.
#include <cstring>

#include "pack.hpp"

namespace tvw {
namespace {

// Sizes of a strip's parts in bytes; see the picture in layout.hpp.
struct Strip {
    int lanes, value, lane;  // rows in a vector, bytes of a stored value, bytes of a lane
    bool grouped;

    int block_groups() const { return grouped ? 2 * lane : 4; }  // a lane describes four bits a group
    int vector() const { return lanes * value; }
    int where() const { return grouped ? 2 * lanes * lane : 0; }
    int group() const { return (grouped ? 4 : 8) * vector(); }
    int64_t block() const { return where() + int64_t(block_groups()) * group(); }
};

// Writes one row of a tile into its lane of its strip.
class RowWriter {
  public:
    RowWriter(const Strip& strip, char* stream, int row)
        : strip_(strip), lane_(row % strip.lanes), half_(row / strip.lanes % 2), to_(stream) {}

    void grouped(const char* data, const uint16_t* meta, int32_t slots) {
        const int n = strip_.block_groups();
        for (int32_t g = 0; g < slots / 4; g++) {
            char* block = to_ + g / n * strip_.block();
            describe(block, uint64_t(meta[g / 4] >> (g % 4 * 4) & 15) << (g % n * 4));
            for (int v = 0; v < 2; v++, data += strip_.value)
                put(block + strip_.where() + g % n * strip_.group(), 2 * half_ + v, data);
        }
    }

    void all(const char* data, int32_t slots) {
        for (int32_t i = 0; i < slots; i++, data += strip_.value)
            put(to_ + int64_t(i) * 2 * strip_.vector(), half_, data);
    }

  private:
    // The stream is zero to begin with, and each nibble is written once.
    void describe(char* block, uint64_t bits) const {
        char* at = block + (half_ * strip_.lanes + lane_) * strip_.lane;
        if (strip_.lane == 8) merge<uint64_t>(at, bits);
        else merge<uint32_t>(at, uint32_t(bits));
    }

    template <class W> static void merge(char* at, W bits) {
        W w;
        std::memcpy(&w, at, sizeof w);
        w |= bits;
        std::memcpy(at, &w, sizeof w);
    }

    void put(char* vectors, int index, const char* value) const {
        std::memcpy(vectors + index * strip_.vector() + lane_ * strip_.value, value, size_t(strip_.value));
    }

    const Strip& strip_;
    const int lane_, half_;
    char* to_;
};

}  // namespace

LanePack::LanePack(const Stored& s, const Isa& isa) : grouped(s.grouped()), rest(s.rest) {
    Outline outline(s);
    tiles = outline.tiles;
    rows = outline.rows;
    const int lane = size_of(s.type) == 8 ? 8 : 4;  // sums are float64 or float32
    const Strip strip{isa.vector_bytes / lane, size_of(s.type), lane, grouped};

    int64_t bytes = 0;
    SlotLists lists(s, 4 * strip.block_groups(), slots);
    for (int32_t t = 0; t < int32_t(tiles.size()); t++) {
        Tile& tile = tiles[size_t(t)];
        lists.place(t, tile);
        tile.stream = bytes;
        longest = tile.slots > longest ? tile.slots : longest;
        tile.strip_bytes = tile.slots / 4 / strip.block_groups() * strip.block();
        bytes += (tile.rows + 2 * strip.lanes - 1) / (2 * strip.lanes) * tile.strip_bytes;
    }
    stream = Memory(size_t(bytes));
    std::memset(stream.data(), 0, stream.size());
    for (int32_t t = 0; t < s.tiles; t++) {
        const Tile& tile = tiles[size_t(t)];
        const int32_t n = s.col_indptr[t + 1] - s.col_indptr[t];
        for (int32_t r = 0; r < tile.rows; r++) {
            const int64_t place = outline.places[size_t(tile.first_row + r)];
            RowWriter to(strip, stream.data() + tile.stream + r / (2 * strip.lanes) * tile.strip_bytes, r);
            const char* data =
                s.data + (outline.data[size_t(t)] + place * (grouped ? n / 2 : n)) * strip.value;
            if (grouped) to.grouped(data, s.meta + outline.meta[size_t(t)] + place * (n / 16), n);
            else to.all(data, n);
        }
    }
}

LaneView LanePack::view() const { return {slots.data(), rows.data(), stream.data(), grouped, rest}; }

}  // namespace tvw
