// Packing: the columns of a tile over groups of four slots, no row more than twice in a group.
#include <algorithm>
#include <numeric>

#include "layouts.hpp"

namespace tvw {
namespace {

constexpr size_t kSlotMultiple = 16;

// When `pack_columns` goes on; _layouts/first_fit.py says why.
constexpr size_t kNear = 8, kClose = 100;
constexpr double kMostWork = double(1 << 28);

// Compilers make this one instruction where the function it ends up in may use it.
int bits_of(Word x) {
    x -= (x >> 1) & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return int((x * 0x0101010101010101u) >> 56);
}

int bits_of(const Word* rows, int32_t words) {
    int bits = 0;
    for (int32_t w = 0; w < words; w++) bits += bits_of(rows[w]);
    return bits;
}

// By descending number of rows, ties in column order: what is hard to place goes first.
std::vector<int32_t> by_count(const Columns& columns) {
    std::vector<int32_t> held(static_cast<size_t>(columns.count), 0), order(held.size());
    for (int32_t c = 0; c < columns.count; c++) held[size_t(c)] = bits_of(columns[c], columns.words);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return held[size_t(a)] > held[size_t(b)]; });
    return order;
}

// Slots as they are filled: columns of a group ascend, padding comes last and serves no row.
class Filled {
  public:
    explicit Filled(int32_t words) : words_(size_t(words)) {}

    int32_t groups() const { return int32_t(made_.slots.size() / 4); }

    void add_group() {
        made_.slots.resize(made_.slots.size() + 4, -1);
        made_.served.resize(made_.served.size() + 4 * words_, 0);
    }

    void insert(int32_t group, int filled, int32_t column, const Word* rows) {
        size_t slot = 4 * size_t(group) + size_t(filled);
        for (; slot > 4 * size_t(group) && made_.slots[slot - 1] > column; slot--) {
            made_.slots[slot] = made_.slots[slot - 1];
            std::copy_n(served(slot - 1), words_, served(slot));
        }
        made_.slots[slot] = column;
        std::copy_n(rows, words_, served(slot));
    }

    Packed take() { return std::move(made_); }

  private:
    Word* served(size_t slot) { return made_.served.data() + slot * words_; }

    Packed made_;
    size_t words_;
};

// Groups with two bit planes each: rows met at least once, and rows met twice. The open ones stand in
// the order they were opened; a closed one stays among them for a while, its rows all met twice.
class Groups {
  public:
    Groups(const Columns& columns, int32_t opened)
        : words_(size_t(columns.words)), all_(words_, 0), first_with_row_(words_ * 64, 0), filled_(columns.words) {
        for (int32_t c = 0; c < columns.count; c++)
            for (size_t w = 0; w < words_; w++) all_[w] |= columns[c][w];
        for (int32_t g = 0; g < opened; g++) add();
    }

    size_t open() const { return open_.size(); }

    void add() {
        open_.push_back(filled_.groups());
        count_.push_back(0);
        one_.resize(one_.size() + words_, 0);
        two_.resize(one_.size(), 0);
        filled_.add_group();
    }

    bool has_room(size_t z, const Word* rows) const {
        const Word* two = &two_[plane(open_[z])];
        for (size_t w = 0; w < words_; w++)
            if (two[w] & rows[w]) return false;
        return true;
    }

    // Where a search may begin: all open groups before have met some row of this column twice. Without
    // this a tile with one long row would pass, for each of its columns, all groups that the row fills.
    size_t first_likely(const Word* rows) {
        constexpr int few = 8;
        int32_t first = 0;
        int bits = 0;
        for (size_t w = 0; w < words_; w++)
            for (Word left = rows[w]; left; left &= left - 1) {
                if (++bits > few) return 0;
                first = std::max(first, first_with(w, left & -left));
            }
        return size_t(std::lower_bound(open_.begin(), open_.end(), first) - open_.begin());
    }

    // How many rows a column would meet for the second time.
    int new_twos(size_t z, const Word* rows) const {
        const Word* one = &one_[plane(open_[z])];
        int met = 0;
        for (size_t w = 0; w < words_; w++) met += bits_of(one[w] & rows[w]);
        return met;
    }

    void put(size_t z, int32_t column, const Word* rows) {
        const int32_t group = open_[z];
        Word *one = &one_[plane(group)], *two = &two_[plane(group)];
        bool full = true;
        for (size_t w = 0; w < words_; w++) {
            two[w] |= one[w] & rows[w];
            one[w] |= rows[w];
            full = full && two[w] == all_[w];
        }
        int8_t& count = count_[size_t(group)];
        filled_.insert(group, count++, column, rows);
        if (full || count == 4) close(group);
    }

    Packed take() { return filled_.take(); }

  private:
    size_t plane(int32_t group) const { return size_t(group) * words_; }

    // The first group, open or not yet there, that has not met a row twice; it only ever moves on.
    int32_t first_with(size_t word, Word bit) {
        int32_t& group = first_with_row_[word * 64 + size_t(bits_of(bit - 1))];
        while (group < filled_.groups() && two_[plane(group) + word] & bit) group++;
        return group;
    }

    void close(int32_t group) {
        std::fill_n(two_.begin() + int64_t(plane(group)), words_, ~Word(0));
        if (++closed_ * 4 < open_.size()) return;
        const auto is_closed = [&](int32_t g) {
            return count_[size_t(g)] == 4 || std::equal(all_.begin(), all_.end(), two_.begin() + int64_t(plane(g)),
                                                       [](Word a, Word two) { return (a & ~two) == 0; });
        };
        open_.erase(std::remove_if(open_.begin(), open_.end(), is_closed), open_.end());
        closed_ = 0;
    }

    std::vector<int32_t> open_;
    std::vector<int8_t> count_;
    std::vector<Word> one_, two_;  // of every group
    size_t words_, closed_ = 0;
    std::vector<Word> all_;  // rows met at all: a group whose `two` holds them is closed
    std::vector<int32_t> first_with_row_;
    Filled filled_;
};

// Each column into the open group that `choose` names; past the open ones stands a new group.
template <class Choose> Packed fit(const Columns& columns, int32_t opened, Choose&& choose) {
    Groups groups(columns, opened);
    for (int32_t c : by_count(columns)) {
        const size_t z = choose(groups, columns[c]);
        if (z == groups.open()) groups.add();
        groups.put(z, c, columns[c]);
    }
    return groups.take();
}

size_t first_with_room(Groups& groups, const Word* rows) {
    size_t z = groups.first_likely(rows);
    while (z < groups.open() && !groups.has_room(z, rows)) z++;
    return z;
}

size_t fewest_twos(const Groups& groups, const Word* rows) {
    size_t best = groups.open();
    int least = INT32_MAX;
    for (size_t z = 0; z < groups.open() && least; z++) {
        if (!groups.has_room(z, rows)) continue;
        const int twos = groups.new_twos(z, rows);
        if (twos < least) least = twos, best = z;
    }
    return best;
}

// What a row met for the second time costs a slot: it leaves less room to the slots after it.
constexpr int64_t kSecond[4] = {0, 13, 8, 0};
constexpr int64_t kNothing = INT64_MIN;

// The columns that have rows left to be served, in any order.
class Pool {
  public:
    explicit Pool(const Columns& columns)
        : words_(columns.words), rows_(columns.first, columns[columns.count]), columns_(size_t(columns.count)) {
        std::iota(columns_.begin(), columns_.end(), 0);
    }

    size_t size() const { return columns_.size(); }
    int32_t column(size_t i) const { return columns_[i]; }

    // The column whose part that a group can serve is worth most, the lowest among equals; or past the end.
    size_t best(const Word* one, const Word* two, int slot) const {
        size_t best = columns_.size();
        int64_t most = kNothing;
        for (size_t i = 0; i < columns_.size(); i++) {
            const int64_t worth = worth_of(&rows_[i * size_t(words_)], one, two, kSecond[slot]);
            if (worth > most || (worth == most && worth > kNothing && columns_[i] < columns_[best]))
                most = worth, best = i;
        }
        return best;
    }

    // Serves what a group has room for; `part` becomes the rows served.
    void serve(size_t i, Word* one, Word* two, Word* part) {
        Word left = 0;
        for (int32_t w = 0; w < words_; w++) {
            Word& rows = rows_[i * size_t(words_) + size_t(w)];
            part[w] = rows & ~two[w];
            two[w] |= one[w] & part[w];
            one[w] |= part[w];
            rows &= ~part[w];
            left |= rows;
        }
        if (!left) drop(i);
    }

  private:
    // First whether the group serves all that is left of the column; then ten for each row, less `second`
    // if the row is met for the second time.
    int64_t worth_of(const Word* rows, const Word* one, const Word* two, int64_t second) const {
        int64_t taken = 0, met = 0;
        Word left = 0;
        for (int32_t w = 0; w < words_; w++) {
            const Word part = rows[w] & ~two[w];
            left |= rows[w] & two[w];
            taken += bits_of(part);
            met += bits_of(part & one[w]);
        }
        return taken ? (int64_t(!left) << 30) + 10 * taken - second * met : kNothing;
    }

    void drop(size_t i) {
        const size_t end = columns_.size() - 1, words = size_t(words_);
        columns_[i] = columns_[end];
        std::copy_n(rows_.begin() + int64_t(end * words), words, rows_.begin() + int64_t(i * words));
        columns_.pop_back();
        rows_.resize(end * words);
    }

    int32_t words_;
    std::vector<Word> rows_;
    std::vector<int32_t> columns_;
};

Packed fill(const Columns& columns) {
    const size_t words = size_t(columns.words);
    Pool pool(columns);
    Filled filled(columns.words);
    std::vector<Word> one(words), two(words), part(words);
    while (pool.size()) {
        one.assign(words, 0);
        two.assign(words, 0);
        const int32_t group = filled.groups();
        filled.add_group();
        for (int slot = 0; slot < 4 && pool.size(); slot++) {
            const size_t i = pool.best(one.data(), two.data(), slot);
            if (i == pool.size()) break;
            const int32_t column = pool.column(i);
            pool.serve(i, one.data(), two.data(), part.data());
            filled.insert(group, slot, column, part.data());
        }
    }
    return filled.take();
}

#if defined(__x86_64__)
// Counting bits is most of the work, and the base set has no instruction for it.
__attribute__((target("popcnt"), flatten)) Packed open_with_popcnt(const Columns& columns, int32_t opened) {
    return fit(columns, opened, fewest_twos);
}
__attribute__((target("popcnt"), flatten)) Packed fill_with_popcnt(const Columns& columns) {
    return fill(columns);
}

bool has_popcnt() { return __builtin_cpu_supports("popcnt"); }
#else
Packed open_with_popcnt(const Columns& columns, int32_t opened) { return fit(columns, opened, fewest_twos); }
Packed fill_with_popcnt(const Columns& columns) { return fill(columns); }

bool has_popcnt() { return true; }
#endif

}  // namespace

Packed first_fit(const Columns& columns) { return fit(columns, 0, first_with_room); }

Packed fit_open(const Columns& columns, int32_t opened) {
    return has_popcnt() ? open_with_popcnt(columns, opened) : fit(columns, opened, fewest_twos);
}

Packed fill_groups(const Columns& columns) { return has_popcnt() ? fill_with_popcnt(columns) : fill(columns); }

Packed pack_columns(const Columns& columns, int32_t longest) {
    const auto units = [](const Packed& p) { return (p.slots.size() + kSlotMultiple - 1) / kSlotMultiple; };
    const auto keep_better = [&](Packed& best, Packed&& other) {
        if (units(other) < units(best)) best = std::move(other);
    };
    Packed best = first_fit(columns);
    const size_t needed = std::max(size_t(columns.count), 2 * size_t(longest));
    const size_t least = (needed + kSlotMultiple - 1) / kSlotMultiple;
    const double work = double(columns.count) * columns.count * columns.words;
    if (work > kMostWork) return best;
    if (least < units(best) && units(best) <= least + 1 + least / kNear)
        keep_better(best, fit_open(columns, int32_t(least * kSlotMultiple / 4)));
    if (units(best) - least > least / kClose) keep_better(best, fill_groups(columns));
    return best;
}

}  // namespace tvw
