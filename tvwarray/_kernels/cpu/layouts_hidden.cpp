// Groups that a permutation of the columns hides; the picture is in tvwarray/_layouts/hidden.py.
#include <algorithm>
#include <array>

#include "layouts.hpp"

namespace tvw {
namespace {

struct ColumnPair {
    Word key;  // what the two differ by, folded to one word
    int32_t first, second;

    bool operator<(const ColumnPair& o) const {
        if (key != o.key) return key < o.key;
        return first != o.first ? first < o.first : second < o.second;
    }
};

// A word for a column; what cancels out in the planes does so here.
Word folded(const Word* rows, int32_t words) {
    Word key = 0;
    for (int32_t w = 0; w < words; w++) key = (key << 1 | key >> 63) ^ rows[w];
    return key;
}

// Whether every row meets four columns twice or not at all.
bool is_full(const Columns& c, const std::array<int32_t, 4>& g) {
    for (int32_t w = 0; w < c.words; w++) {
        const Word a = c[g[0]][w], b = c[g[1]][w], e = c[g[2]][w], f = c[g[3]][w];
        if ((a ^ b ^ e ^ f) | (a & b & e)) return false;
    }
    return true;
}

}  // namespace

std::vector<int32_t> hidden_groups(const Columns& columns) {
    for (int32_t w = 0; w < columns.words; w++) {
        Word all = 0;
        for (int32_t c = 0; c < columns.count; c++) all ^= columns[c][w];
        if (all) return {};
    }
    std::vector<Word> keys;
    for (int32_t c = 0; c < columns.count; c++) keys.push_back(folded(columns[c], columns.words));
    std::vector<ColumnPair> pairs;
    pairs.reserve(keys.size() * (keys.size() - 1) / 2);
    for (int32_t a = 0; a < columns.count; a++)
        for (int32_t b = a + 1; b < columns.count; b++) pairs.push_back({keys[size_t(a)] ^ keys[size_t(b)], a, b});
    std::sort(pairs.begin(), pairs.end());

    std::vector<bool> used(keys.size(), false);
    const auto is_used = [&](const ColumnPair& p) { return used[size_t(p.first)] || used[size_t(p.second)]; };
    std::vector<std::array<int32_t, 4>> groups;
    for (size_t x = 0; x < pairs.size(); x++)
        for (size_t y = x + 1; y < pairs.size() && pairs[y].key == pairs[x].key && !is_used(pairs[x]); y++) {
            std::array<int32_t, 4> group{pairs[x].first, pairs[x].second, pairs[y].first, pairs[y].second};
            std::sort(group.begin(), group.end());
            if (is_used(pairs[y]) || std::adjacent_find(group.begin(), group.end()) != group.end() ||
                !is_full(columns, group))
                continue;
            for (int32_t c : group) used[size_t(c)] = true;
            groups.push_back(group);
        }
    if (std::find(used.begin(), used.end(), false) != used.end()) return {};
    std::sort(groups.begin(), groups.end());
    std::vector<int32_t> slots;
    for (const auto& group : groups) slots.insert(slots.end(), group.begin(), group.end());
    return slots;
}

}  // namespace tvw
