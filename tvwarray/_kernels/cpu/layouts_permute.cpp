// Permutation: which slots share a group, so that the two best scores of a row in each group add up most.
//
// Scores lie in panels of four columns:
//
//   panel 0    row 0: columns 0 1 2 3 | row 1: columns 0 1 2 3 | ...
//   panel 1    row 0: columns 4 5 6 7 | ...
//
// A panel is read from end to end for every group, whatever the number of columns; whole rows would lie
// a multiple of large powers of two apart, and their panels in a few cache sets.
#include <algorithm>

#include "layouts.hpp"

namespace tvw {
namespace {

// Four doubles: columns of a panel. The compiler splits it where registers are narrower.
using Lanes = double __attribute__((vector_size(32)));

class Panels {
  public:
    explicit Panels(const Scores& s)
        : rows(s.rows), columns(s.columns), panels_(size_t((columns + 3) / 4 * rows)) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++)
                panels_[size_t(c / 4 * rows + r)][c % 4] = s.first[r * columns + c];
    }

    const Lanes* panel(int64_t p) const { return panels_.data() + p * rows; }
    double at(int64_t r, int64_t c) const { return panel(c / 4)[r][c % 4]; }

    int64_t rows, columns;

  private:
    std::vector<Lanes> panels_;
};

double median(double a, double b, double c) {
    return std::max(std::min(a, b), std::min(std::max(a, b), c));
}

// What each slot of a group gains by holding another column: `gains` is (4, columns).
//
// A slot i with three partners keeps in row r the two largest of four scores. With t_ri the partners'
// second largest, its column adds relu(S_ri - t_ri) to what the partners keep without it, so column j in
// its place is worth the sum of max(S_rj, t_ri) - max(S_ri, t_ri) over the rows.
void group_gains(const Panels& s, const int64_t* group, double* gains) {
    std::vector<double> second(size_t(4 * s.rows));
    for (int64_t r = 0; r < s.rows; r++) {
        double x[4];
        for (int i = 0; i < 4; i++) x[i] = s.at(r, group[i]);
        double* t = &second[size_t(4 * r)];
        t[0] = median(x[1], x[2], x[3]);
        t[1] = median(x[0], x[2], x[3]);
        t[2] = median(x[0], x[1], x[3]);
        t[3] = median(x[0], x[1], x[2]);
    }
    for (int64_t p = 0; 4 * p < s.columns; p++) {
        const Lanes* panel = s.panel(p);
        Lanes sum[4] = {};
        for (int64_t r = 0; r < s.rows; r++) {
            const Lanes x = panel[r];
            for (int i = 0; i < 4; i++) {
                const double t = second[size_t(4 * r + i)];
                const Lanes limit = {t, t, t, t};
                sum[i] += x > limit ? x : limit;
            }
        }
        for (int i = 0; i < 4; i++)
            for (int64_t c = 4 * p; c < std::min(s.columns, 4 * p + 4); c++)
                gains[i * s.columns + c] = sum[i][c - 4 * p];
    }
    for (int i = 0; i < 4; i++) {
        double* row = gains + i * s.columns;
        const double now = row[group[i]];
        for (int64_t c = 0; c < s.columns; c++) row[c] -= now;
    }
}

// Two slots of different groups that change places.
struct Swap {
    double gain;
    int64_t pair, i, j;
};

// Swaps slots until no swap pays, or for so many sweeps. A sweep takes the swaps that pay in descending
// order, each group once, so that their gains add up exactly, and recomputes the groups it touched.
class SlotSearch {
  public:
    SlotSearch(const Panels& s, std::vector<int64_t> order)
        : s_(s), order_(std::move(order)), groups_(int64_t(order_.size()) / 4),
          gains_(order_.size() * size_t(s.columns)), touched_(size_t(groups_), true) {}

    std::vector<int64_t> run(int64_t sweeps, double threshold) {
        while (sweeps-- > 0 && sweep(threshold)) {}
        return std::move(order_);
    }

  private:
    bool sweep(double threshold) {
        for (int64_t g = 0; g < groups_; g++)
            if (touched_[size_t(g)])
                group_gains(s_, &order_[size_t(4 * g)], &gains_[size_t(4 * g * s_.columns)]);
        touched_.assign(size_t(groups_), false);
        std::vector<Swap> swaps;
        for (int64_t a = 0; a < groups_; a++)
            for (int64_t b = a + 1; b < groups_; b++)
                if (const Swap best = best_swap(a, b); best.gain > threshold) swaps.push_back(best);
        std::sort(swaps.begin(), swaps.end(), [](const Swap& x, const Swap& y) {
            return x.gain != y.gain ? x.gain > y.gain : x.pair < y.pair;
        });
        for (const Swap& swap : swaps) {
            const size_t a = size_t(swap.i / 4), b = size_t(swap.j / 4);
            if (touched_[a] || touched_[b]) continue;
            touched_[a] = touched_[b] = true;
            std::swap(order_[size_t(swap.i)], order_[size_t(swap.j)]);
        }
        return !swaps.empty();
    }

    // Only the best swap between two groups can be taken, and it decides for all the others.
    Swap best_swap(int64_t a, int64_t b) const {
        Swap best{0, a * groups_ + b, 0, 0};
        for (int64_t i = 4 * a; i < 4 * a + 4; i++)
            for (int64_t j = 4 * b; j < 4 * b + 4; j++) {
                const double gain = at(i, order_[size_t(j)]) + at(j, order_[size_t(i)]);
                if (gain > best.gain) best.gain = gain, best.i = i, best.j = j;
            }
        return best;
    }

    double at(int64_t slot, int64_t column) const { return gains_[size_t(slot * s_.columns + column)]; }

    const Panels& s_;
    std::vector<int64_t> order_;  // the column of each slot
    int64_t groups_;
    std::vector<double> gains_;  // (slots, columns)
    std::vector<bool> touched_;
};

}  // namespace

std::vector<double> replacement_gains(const Scores& scores, const std::vector<int64_t>& order) {
    const Panels panels(scores);
    std::vector<double> gains(order.size() * size_t(scores.columns));
    for (size_t i = 0; i < order.size(); i += 4)
        group_gains(panels, &order[i], &gains[i * size_t(scores.columns)]);
    return gains;
}

std::vector<int64_t> permute_slots(const Scores& scores, std::vector<int64_t> start, int64_t sweeps,
                                   double threshold) {
    const Panels panels(scores);
    return SlotSearch(panels, std::move(start)).run(sweeps, threshold);
}

}  // namespace tvw
