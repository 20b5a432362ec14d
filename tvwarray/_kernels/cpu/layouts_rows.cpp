// Grouping: which rows stand together in a tile, so that tiles hold few distinct columns.
#include <algorithm>
#include <numeric>

#include "layouts.hpp"

namespace tvw {
namespace {

// The rows of every column with at most `most` of them; others have none here.
struct RowsOfColumns {
    RowsOfColumns(const Csr& a, int64_t most) : indptr(size_t(a.columns) + 1, 0) {
        for (int64_t p = 0; p < a.indptr[a.rows]; p++) indptr[size_t(a.indices[p]) + 1]++;
        for (int64_t& count : indptr)
            if (count > most) count = 0;
        std::vector<bool> kept(size_t(a.columns), false);
        for (size_t c = 0; c < kept.size(); c++) kept[c] = indptr[c + 1] > 0;
        std::partial_sum(indptr.begin(), indptr.end(), indptr.begin());
        rows.resize(size_t(indptr.back()));
        std::vector<int64_t> next(indptr.begin(), indptr.end() - 1);
        for (int64_t r = 0; r < a.rows; r++)
            for (int64_t p = a.indptr[r]; p < a.indptr[r + 1]; p++)
                if (const size_t c = size_t(a.indices[p]); kept[c]) rows[size_t(next[c]++)] = int32_t(r);
    }

    std::vector<int64_t> indptr;
    std::vector<int32_t> rows;
};

// A row that shares columns with the tile that grows.
struct Candidate {
    int32_t row, shared, held;
    uint32_t tie;
};

// Grows tile after tile: the row with the best Jaccard index with the tile's columns comes next.
class RowGrouping {
  public:
    RowGrouping(const Csr& a, const Grouping& by)
        : a_(a), by_(by), by_column_(a, by.hub), done_(size_t(a.rows), false),
          place_(size_t(a.rows), -1), met_in_(size_t(a.columns), -1) {}

    std::vector<int64_t> run(int64_t tile_rows) {
        int64_t next = -1;
        while (int64_t(order_.size()) < a_.rows) {
            width_ = 0;
            tile_++;
            for (int64_t i = 0; i < tile_rows && int64_t(order_.size()) < a_.rows; i++) {
                add(next >= 0 ? next : unrelated());
                next = i + 1 < tile_rows ? closest() : -1;
            }
            next = most_shared();
            for (int32_t r : touched_) place_[size_t(r)] = -1;
            touched_.clear();
            candidates_.clear();
        }
        return std::move(order_);
    }

  private:
    // The first row of the start order that is in no tile yet.
    int64_t unrelated() {
        while (done_[size_t(by_.start[first_])]) first_++;
        return by_.start[first_];
    }

    void add(int64_t row) {
        order_.push_back(row);
        done_[size_t(row)] = true;
        for (int64_t p = a_.indptr[row]; p < a_.indptr[row + 1]; p++) {
            const size_t c = size_t(a_.indices[p]);
            if (met_in_[c] == tile_) continue;
            met_in_[c] = tile_;
            width_++;
            for (int64_t q = by_column_.indptr[c]; q < by_column_.indptr[c + 1]; q++)
                share(by_column_.rows[size_t(q)]);
        }
    }

    void share(int32_t row) {
        int32_t& place = place_[size_t(row)];
        if (done_[size_t(row)]) return;
        if (place < 0) {
            if (int64_t(touched_.size()) == by_.most_candidates) return;
            place = int32_t(candidates_.size());
            touched_.push_back(row);
            candidates_.push_back({row, 0, int32_t(a_.held(row)), by_.tie[row]});
        }
        candidates_[size_t(place)].shared++;
    }

    // Takes the candidates that are in a tile off the list.
    void drop(size_t z) {
        candidates_[z] = candidates_.back();
        candidates_.pop_back();
        if (z < candidates_.size()) place_[size_t(candidates_[z].row)] = int32_t(z);
    }

    // Highest shared / (columns of the tile or the row), compared as fractions; then the lowest tie.
    int64_t closest() {
        int64_t best = -1, shared = 0, either = 1;
        uint32_t tie = 0;
        for (size_t z = 0; z < candidates_.size();) {
            const Candidate c = candidates_[z];
            if (done_[size_t(c.row)]) {
                drop(z);
                continue;
            }
            const int64_t theirs = width_ + c.held - c.shared;
            const int64_t more = c.shared * either - shared * theirs;
            if (more > 0 || (more == 0 && c.tie < tie))
                best = c.row, shared = c.shared, either = theirs, tie = c.tie;
            z++;
        }
        return best;
    }

    // The candidate left over that the next tile begins with.
    int64_t most_shared() const {
        int64_t best = -1, shared = 0;
        uint32_t tie = 0;
        for (const Candidate& c : candidates_) {
            if (done_[size_t(c.row)]) continue;
            if (c.shared > shared || (c.shared == shared && c.tie < tie))
                best = c.row, shared = c.shared, tie = c.tie;
        }
        return best;
    }

    const Csr& a_;
    const Grouping by_;
    RowsOfColumns by_column_;
    std::vector<bool> done_;
    std::vector<int32_t> place_;  // of a row among the candidates, or -1
    std::vector<int64_t> met_in_, order_;
    std::vector<Candidate> candidates_;
    std::vector<int32_t> touched_;  // every candidate that this tile had
    int64_t tile_ = -1, first_ = 0, width_ = 0;
};

}  // namespace

std::vector<int64_t> group_rows(const Csr& a, int64_t tile_rows, const Grouping& by) {
    return RowGrouping(a, by).run(tile_rows);
}

}  // namespace tvw
