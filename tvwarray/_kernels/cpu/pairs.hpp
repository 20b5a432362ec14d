// Which rows of a tile go together in a panel: see layout.hpp.
#pragma once

#include <cstdint>
#include <vector>

namespace tvw {

// The slots of a panel that hold nonzeros of a row, as bits.
struct SlotSet {
    uint64_t words[4] = {0, 0, 0, 0};

    void insert(int slot) { words[slot / 64] |= uint64_t(1) << slot % 64; }
    bool empty() const { return !(words[0] | words[1] | words[2] | words[3]); }
    bool has(int slot) const { return words[slot / 64] >> slot % 64 & 1; }
};

struct RowPair {
    int a, b;    // b is the number of rows where a stays alone
    int shared;  // how many slots both have
};

// Pairs up rows so that the pairs share many slots; those that share most come first.
std::vector<RowPair> pair_rows(const std::vector<SlotSet>& rows);

}  // namespace tvw
