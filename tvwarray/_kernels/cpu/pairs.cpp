// Greedy pairing: see pairs.hpp.
#include "pairs.hpp"

#include <algorithm>
#include <cstdlib>

namespace tvw {
namespace {

int count_bits(uint64_t w) { return __builtin_popcountll(w); }

int size(const SlotSet& s) {
    int n = 0;
    for (uint64_t w : s.words) n += count_bits(w);
    return n;
}

int common(const SlotSet& a, const SlotSet& b) {
    int n = 0;
    for (int i = 0; i < 4; i++) n += count_bits(a.words[i] & b.words[i]);
    return n;
}

// Below this many nonzeros a row there is too little to share for a search to pay.
constexpr int kWorthSearching = 6;

// Rows of about equal length side by side: a pair costs as much as its longer row.
std::vector<RowPair> pair_by_length(const std::vector<SlotSet>& rows, const std::vector<int>& sizes) {
    const int n = int(rows.size());
    std::vector<int> order(rows.size());
    for (int i = 0; i < n; i++) order[size_t(i)] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return sizes[size_t(a)] > sizes[size_t(b)]; });
    std::vector<RowPair> pairs;
    for (int i = 0; i < n; i += 2) {
        const int a = order[size_t(i)], b = i + 1 < n ? order[size_t(i + 1)] : n;
        pairs.push_back({a, b, b < n ? common(rows[size_t(a)], rows[size_t(b)]) : 0});
    }
    return pairs;
}

// Takes the best remaining pair again and again, by counting sort: two rows save a load for every
// slot they share and lose two for every value one has more than the other.
std::vector<RowPair> pair_by_search(const std::vector<SlotSet>& rows, const std::vector<int>& sizes) {
    struct Candidate {
        uint8_t a, b;
        int16_t gain, shared;
    };
    const int n = int(rows.size());
    std::vector<Candidate> all;
    all.reserve(size_t(n) * size_t(n) / 2);
    int lowest = 0, highest = 0;
    for (int a = 0; a < n; a++)
        for (int b = a + 1; b < n; b++) {
            const int shared = common(rows[size_t(a)], rows[size_t(b)]);
            const int gain = shared - std::abs(sizes[size_t(a)] - sizes[size_t(b)]);
            lowest = std::min(lowest, gain);
            highest = std::max(highest, gain);
            all.push_back({uint8_t(a), uint8_t(b), int16_t(gain), int16_t(shared)});
        }
    std::vector<int> begins(size_t(highest - lowest) + 2, 0);
    for (const Candidate& c : all) begins[size_t(highest - c.gain) + 1]++;
    for (size_t i = 1; i < begins.size(); i++) begins[i] += begins[i - 1];
    std::vector<int> order(all.size());
    for (size_t i = 0; i < all.size(); i++) order[size_t(begins[size_t(highest - all[i].gain)]++)] = int(i);

    std::vector<bool> taken(rows.size(), false);
    std::vector<RowPair> pairs;
    for (int i : order) {
        const Candidate& c = all[size_t(i)];
        if (taken[c.a] || taken[c.b]) continue;
        taken[c.a] = taken[c.b] = true;
        pairs.push_back({c.a, c.b, c.shared});
    }
    for (int a = 0; a < n; a++)
        if (!taken[size_t(a)]) pairs.push_back({a, n, 0});
    return pairs;
}

}  // namespace

std::vector<RowPair> pair_rows(const std::vector<SlotSet>& rows) {
    std::vector<int> sizes;
    long total = 0;
    for (const SlotSet& r : rows) {
        sizes.push_back(size(r));
        total += sizes.back();
    }
    const bool search = total >= long(rows.size()) * kWorthSearching;
    std::vector<RowPair> pairs = search ? pair_by_search(rows, sizes) : pair_by_length(rows, sizes);
    // Equal loop counts follow one another, which the processor predicts.
    std::stable_sort(pairs.begin(), pairs.end(),
                     [](const RowPair& x, const RowPair& y) { return x.shared > y.shared; });
    return pairs;
}

}  // namespace tvw
