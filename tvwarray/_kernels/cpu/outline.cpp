// Checks and row order: what both packed orders start from.
#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "pack.hpp"

namespace tvw {
namespace {

void require(bool rule, const char* broken) {
    if (!rule) throw std::invalid_argument(std::string("the storage is not in order: ") + broken);
}

void check_indptr(const int32_t* p, int32_t tiles, int64_t total) {
    require(p[0] == 0 && p[tiles] == total, "an indptr does not span its indices.");
    for (int32_t t = 0; t < tiles; t++) require(p[t] <= p[t + 1], "an indptr falls.");
}

}  // namespace

void Stored::check() const {
    check_indptr(row_indptr, tiles, num_rows);
    check_indptr(col_indptr, tiles, num_slots);
    int64_t values = 0, words = 0;
    for (int32_t t = 0; t < tiles; t++) {
        const int64_t r = row_indptr[t + 1] - row_indptr[t], s = col_indptr[t + 1] - col_indptr[t];
        require(r <= kMaxTileRows, "a tile has more than 256 rows.");
        require(s % 16 == 0, "a tile's slots are no multiple of 16.");
        values += r * (grouped() ? s / 2 : s);
        words += r * (s / 16);
    }
    require(values == num_values, "data has not the length its tiles need.");
    require(!grouped() || words == num_meta, "meta has not the length its tiles need.");
    for (int64_t i = 0; i < num_slots; i++)
        require(col_indices[i] >= -1 && col_indices[i] < columns, "a column is outside the matrix.");
    if (rest.indptr) {
        check_indptr(rest.indptr, rows, num_rest);
        for (int64_t i = 0; i < num_rest; i++)
            require(rest.columns[i] >= 0 && rest.columns[i] < columns, "a remainder's column is outside the matrix.");
    }
    std::vector<bool> seen(size_t(rows), false);
    for (int64_t i = 0; i < num_rows; i++) {
        require(row_indices[i] >= 0 && row_indices[i] < rows, "a row is outside the matrix.");
        require(!seen[size_t(row_indices[i])], "a row is in two tiles.");
        seen[size_t(row_indices[i])] = true;
    }
}

Outline::Outline(const Stored& s) {
    std::vector<bool> kept(size_t(s.rows), false);
    int64_t d = 0, m = 0;
    for (int32_t t = 0; t < s.tiles; t++) {
        const int32_t first = s.row_indptr[t], n = s.row_indptr[t + 1] - first;
        const int64_t slots = s.col_indptr[t + 1] - s.col_indptr[t];
        const int32_t* index = s.row_indices + first;
        data.push_back(d);
        meta.push_back(m);
        d += n * (s.grouped() ? slots / 2 : slots);
        m += n * (slots / 16);
        tiles.push_back(Tile{int32_t(rows.size()), n, 0, 0, 0, 0, 0, 0, 0});
        std::vector<int32_t> order(size_t(n), 0);
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return index[a] < index[b]; });
        for (int32_t place : order) {
            places.push_back(place);
            rows.push_back(index[place]);
            kept[size_t(index[place])] = true;
        }
    }
    constexpr int32_t tall = 128;
    int32_t left = 0;  // room in the last tile without columns
    for (int32_t r = 0; r < s.rows; r++) {
        if (kept[size_t(r)]) continue;
        if (!left) {
            tiles.push_back(Tile{int32_t(rows.size()), 0, 0, 0, 0, 0, 0, 0, 0});
            left = tall;
        }
        tiles.back().rows++;
        left--;
        rows.push_back(r);
        places.push_back(0);
    }
}

bool Outline::scattered() const {
    size_t broken = 0;
    for (size_t i = 1; i < rows.size(); i++) broken += rows[i] != rows[i - 1] + 1;
    return 4 * broken > rows.size();
}

void SlotLists::place(int32_t t, Tile& tile) {
    tile.first_slot = int32_t(slots_.size());
    tile.slot_list = lists_;
    if (t >= s_.tiles) return;
    const int32_t* list = s_.col_indices + s_.col_indptr[t];
    const int32_t n = s_.col_indptr[t + 1] - s_.col_indptr[t];
    const bool again = t > 0 && n == s_.col_indptr[t] - s_.col_indptr[t - 1] && std::equal(list, list + n, list - n);
    tile.slots = (n + unit_ - 1) / unit_ * unit_;
    if (again) {
        tile.first_slot = last_first_;
        return;
    }
    last_first_ = tile.first_slot;
    tile.slot_list = ++lists_;
    slots_.insert(slots_.end(), list, list + n);
    slots_.resize(size_t(tile.first_slot + tile.slots), -1);
}

}  // namespace tvw
