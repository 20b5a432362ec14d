// Exchange of rows between tiles, each to where it keeps most; see tvwarray/_layouts/exchange.py.
#include <algorithm>
#include <limits>

#include "layouts.hpp"

namespace tvw {
namespace {

class Exchange {
  public:
    Exchange(const Scores& worth, std::vector<int64_t> tile_of)
        : worth_(worth), tile_of_(std::move(tile_of)), gains_(size_t(worth.rows * worth.columns)),
          rows_of_(size_t(worth.columns)), best_(size_t(worth.columns * worth.columns)) {}

    std::vector<int64_t> run(int64_t sweeps, int64_t part) {
        while (sweeps-- > 0 && sweep(part)) {}
        return std::move(tile_of_);
    }

  private:
    bool sweep(int64_t part) {
        const int64_t tiles = worth_.columns;
        for (auto& rows : rows_of_) rows.clear();
        std::fill(best_.begin(), best_.end(), -std::numeric_limits<double>::infinity());
        for (int64_t r = 0; r < worth_.rows; r++) {
            const double *from = worth_.first + r * tiles, now = from[tile_of_[size_t(r)]];
            double *gains = &gains_[size_t(r * tiles)], *best = &best_[size_t(tile_of_[size_t(r)] * tiles)];
            for (int64_t t = 0; t < tiles; t++) {
                gains[t] = from[t] - now;
                best[t] = std::max(best[t], gains[t]);
            }
            rows_of_[size_t(tile_of_[size_t(r)])].push_back(r);
        }
        bool any = false;
        for (int64_t a = 0; a < tiles; a++)
            for (int64_t b = a + 1; b < tiles; b++)
                if (best_[size_t(a * tiles + b)] + best_[size_t(b * tiles + a)] > 0)
                    any |= exchange(a, b, part);
        return any;
    }

    // Lets the rows of two tiles that gain most change places; they leave the lists, so that they wait
    // for the next sweep.
    bool exchange(int64_t a, int64_t b, int64_t part) {
        std::vector<int64_t>&in_a = rows_of_[size_t(a)], &in_b = rows_of_[size_t(b)];
        const size_t pairs = std::min(in_a.size(), in_b.size());
        const size_t most = std::max<size_t>(1, pairs / size_t(part));
        const std::vector<int64_t> from_a = sorted(in_a, b), from_b = sorted(in_b, a);
        size_t pay = 0;
        while (pay < std::min(pairs, most) && gain(from_a[pay], b) + gain(from_b[pay], a) > 0) {
            tile_of_[size_t(from_a[pay])] = b;
            tile_of_[size_t(from_b[pay])] = a;
            pay++;
        }
        if (pay == 0) return false;
        const auto stays_in = [&](int64_t t) { return [this, t](int64_t r) { return tile_of_[size_t(r)] != t; }; };
        in_a.erase(std::remove_if(in_a.begin(), in_a.end(), stays_in(a)), in_a.end());
        in_b.erase(std::remove_if(in_b.begin(), in_b.end(), stays_in(b)), in_b.end());
        return true;
    }

    std::vector<int64_t> sorted(std::vector<int64_t> rows, int64_t to) const {
        std::sort(rows.begin(), rows.end(), [&](int64_t x, int64_t y) {
            return gain(x, to) != gain(y, to) ? gain(x, to) > gain(y, to) : x < y;
        });
        return rows;
    }

    double gain(int64_t row, int64_t to) const { return gains_[size_t(row * worth_.columns + to)]; }

    const Scores worth_;
    std::vector<int64_t> tile_of_;
    std::vector<double> gains_;                   // (rows, tiles): of each row in each tile
    std::vector<std::vector<int64_t>> rows_of_;   // of each tile, without those that moved in this sweep
    std::vector<double> best_;                    // (tiles, tiles): the most a row of one gains in another
};

}  // namespace

std::vector<int64_t> exchange_rows(const Scores& worth, std::vector<int64_t> tile_of, int64_t sweeps,
                                   int64_t part) {
    return Exchange(worth, std::move(tile_of)).run(sweeps, part);
}

}  // namespace tvw
