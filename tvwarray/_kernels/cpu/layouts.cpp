// The layout searches as Python functions: checks what memory safety rests on, and lets go of the
// interpreter while it searches.
#include "layouts.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <algorithm>
#include <optional>

#include "arrays.hpp"

namespace tvw {
namespace {

Columns columns_of(const In<Word, 2>& planes) {
    require(planes.shape(0) <= size_t(INT32_MAX) / 16, "a tile has too many columns.");
    require(planes.shape(1) <= 1024, "a tile has too many rows.");
    const Columns columns{planes.data(), int32_t(planes.shape(0)), int32_t(planes.shape(1))};
    for (int32_t c = 0; c < columns.count; c++)
        require(std::any_of(columns[c], columns[c] + columns.words, [](Word w) { return w != 0; }),
                "a column has no rows.");
    return columns;
}

using Slots = std::pair<Out<int32_t>, Out<Word>>;

Slots slots_to_python(Packed&& made, int32_t words) {
    const size_t n = made.slots.size();
    return {to_python(std::move(made.slots), {n}), to_python(std::move(made.served), {n, size_t(words)})};
}

Out<int32_t> py_first_fit(const In<Word, 2>& planes) {
    const Columns columns = columns_of(planes);
    Packed made = released([&] { return first_fit(columns); });
    const size_t n = made.slots.size();
    return to_python(std::move(made.slots), {n});
}

Slots py_fit_open(const In<Word, 2>& planes, int32_t opened) {
    const Columns columns = columns_of(planes);
    require(opened >= 0 && opened <= columns.count + 4096, "there are too many open groups.");
    return slots_to_python(released([&] { return fit_open(columns, opened); }), columns.words);
}

Slots py_fill_groups(const In<Word, 2>& planes) {
    const Columns columns = columns_of(planes);
    return slots_to_python(released([&] { return fill_groups(columns); }), columns.words);
}

Slots py_pack_columns(const In<Word, 2>& planes, int32_t longest) {
    const Columns columns = columns_of(planes);
    require(longest >= 0 && longest <= columns.count, "a row has more entries than there are columns.");
    return slots_to_python(released([&] { return pack_columns(columns, longest); }), columns.words);
}

Out<int32_t> py_hidden_groups(const In<Word, 2>& planes) {
    const Columns columns = columns_of(planes);
    require(columns.count > 0 && columns.count <= 4096, "a tile has no columns or too many.");
    std::vector<int32_t> made = released([&] { return hidden_groups(columns); });
    const size_t n = made.size();
    return to_python(std::move(made), {n});
}

Csr csr_of(const In<int64_t, 1>& indptr, const In<int32_t, 1>& indices, int64_t columns) {
    require(indptr.shape(0) > 0, "indptr is empty.");
    require(indptr.shape(0) <= INT32_MAX, "there are too many rows.");
    const Csr a{indptr.data(), indices.data(), int64_t(indptr.shape(0)) - 1, columns};
    const int64_t entries = int64_t(indices.shape(0));
    require(columns >= 0 && columns <= INT32_MAX, "there are too many columns.");
    require(a.indptr[0] == 0 && a.indptr[a.rows] == entries, "indptr does not span the indices.");
    for (int64_t r = 0; r < a.rows; r++) require(a.held(r) >= 0 && a.held(r) <= INT32_MAX, "indptr falls.");
    for (int64_t p = 0; p < entries; p++)
        require(a.indices[p] >= 0 && a.indices[p] < columns, "a column is outside the matrix.");
    return a;
}

void check_order(const In<int64_t, 1>& order, int64_t rows) {
    std::vector<bool> seen(size_t(rows), false);
    for (size_t i = 0; i < order.shape(0); i++) {
        const int64_t r = order.data()[i];
        require(r >= 0 && r < rows && !seen[size_t(r)], "the order is no permutation of rows.");
        seen[size_t(r)] = true;
    }
}

Tiles tiles_of(const Csr& a, const In<int64_t, 1>& order, const In<int64_t, 1>& indptr) {
    check_order(order, a.rows);
    require(indptr.shape(0) > 0, "indptr of the tiles is empty.");
    const Tiles tiles{order.data(), indptr.data(), int64_t(indptr.shape(0)) - 1};
    require(tiles.indptr[0] == 0 && tiles.indptr[tiles.count] == int64_t(order.shape(0)),
            "indptr of the tiles does not span the order.");
    for (int64_t t = 0; t < tiles.count; t++)
        require(tiles.rows(t) >= 0 && tiles.rows(t) <= 1024, "a tile has less than 0 or more than 1024 rows.");
    return tiles;
}

Out<int64_t> py_distinct_columns(const In<int64_t, 1>& indptr, const In<int32_t, 1>& indices, int64_t columns,
                                 const In<int64_t, 1>& order, const In<int64_t, 1>& tile_indptr) {
    const Csr a = csr_of(indptr, indices, columns);
    const Tiles tiles = tiles_of(a, order, tile_indptr);
    return to_python(released([&] { return distinct_columns(a, tiles); }), {size_t(tiles.count)});
}

nb::tuple py_lay_out(const In<int64_t, 1>& indptr, const In<int32_t, 1>& indices, int64_t columns,
                     const In<int64_t, 1>& order, const In<int64_t, 1>& tile_indptr, bool grouped, bool spread) {
    const Csr a = csr_of(indptr, indices, columns);
    const Tiles tiles = tiles_of(a, order, tile_indptr);
    Laid laid = released([&] { return lay_out(a, tiles, grouped, spread); });
    std::vector<uint8_t> forms;
    for (Form form : laid.forms) forms.push_back(uint8_t(form));
    const size_t n = laid.indptr.size(), slots = laid.columns.size(), entries = laid.places.size();
    return nb::make_tuple(to_python(std::move(laid.indptr), {n}), to_python(std::move(laid.columns), {slots}),
                          to_python(std::move(laid.places), {entries}), to_python(std::move(forms), {n - 1}));
}

void py_store(const In<int64_t, 1>& indptr, const In<int32_t, 1>& indices, int64_t columns,
              const In<int64_t, 1>& order, const In<int64_t, 1>& tile_indptr, const In<int32_t, 1>& slots,
              const In<int32_t, 1>& places, const In<uint8_t, 1>& values, int item,
              nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> data,
              std::optional<nb::ndarray<uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>> meta) {
    const Csr a = csr_of(indptr, indices, columns);
    const Tiles tiles = tiles_of(a, order, tile_indptr);
    require(item == 1 || item == 2 || item == 4 || item == 8 || item == 16, "a value has no such size.");
    require(places.shape(0) == indices.shape(0) && values.shape(0) == indices.shape(0) * size_t(item),
            "places or values lack entries.");
    require(int64_t(slots.shape(0)) == tiles.count + 1 && slots.data()[0] == 0, "slots do not fit the tiles.");
    int64_t stored = 0, words = 0;
    for (int64_t t = 0; t < tiles.count; t++) {
        const int64_t width = int64_t(slots.data()[t + 1]) - slots.data()[t];
        require(width >= 0 && width % 16 == 0, "a tile's slots are no multiple of 16.");
        stored += tiles.rows(t) * (meta ? width / 2 : width);
        words += tiles.rows(t) * (width / 16);
        for (int64_t i = tile_indptr.data()[t]; i < tile_indptr.data()[t + 1]; i++)
            for (int64_t p = a.indptr[tiles.order[i]]; p < a.indptr[tiles.order[i] + 1]; p++)
                require(places.data()[p] >= -1 && places.data()[p] < width, "an entry is in no slot of its tile.");
    }
    require(int64_t(data.shape(0)) == stored * item, "data has not the length its tiles need.");
    require(!meta || int64_t(meta->shape(0)) == words, "meta has not the length its tiles need.");
    auto* from = reinterpret_cast<const char*>(values.data());
    auto* to = reinterpret_cast<char*>(data.data());
    const bool legal = released(
        [&] { return store(a, tiles, slots.data(), places.data(), from, item, to, meta ? meta->data() : nullptr); });
    require(legal, "a group of four slots holds three entries of a row.");
}

Out<int64_t> py_group_rows(const In<int64_t, 1>& indptr, const In<int32_t, 1>& indices, int64_t columns,
                           int64_t tile_rows, const In<int64_t, 1>& start, const In<uint32_t, 1>& tie,
                           int64_t most_candidates, int64_t hub) {
    const Csr a = csr_of(indptr, indices, columns);
    check_order(start, a.rows);
    require(int64_t(start.shape(0)) == a.rows && int64_t(tie.shape(0)) == a.rows, "start or tie lack rows.");
    require(tile_rows > 0 && most_candidates > 0, "a tile has no rows or no candidates.");
    const Grouping by{start.data(), tie.data(), most_candidates, hub};
    std::vector<int64_t> order = released([&] { return group_rows(a, tile_rows, by); });
    const size_t n = order.size();
    return to_python(std::move(order), {n});
}

Scores scores_of(const In<double, 2>& scores) {
    return {scores.data(), int64_t(scores.shape(0)), int64_t(scores.shape(1))};
}

std::vector<int64_t> groups_of(const In<int64_t, 1>& order, int64_t columns) {
    require(order.shape(0) % 4 == 0, "the slots are no multiple of four.");
    std::vector<int64_t> made(order.data(), order.data() + order.shape(0));
    for (int64_t c : made) require(c >= 0 && c < columns, "a slot holds no column.");
    return made;
}

Out<double> py_replacement_gains(const In<double, 2>& scores, const In<int64_t, 1>& order) {
    const Scores s = scores_of(scores);
    const std::vector<int64_t> groups = groups_of(order, s.columns);
    std::vector<double> gains = released([&] { return replacement_gains(s, groups); });
    return to_python(std::move(gains), {groups.size(), size_t(s.columns)});
}

Out<int64_t> py_permute_slots(const In<double, 2>& scores, const In<int64_t, 1>& start, int64_t sweeps,
                              double threshold) {
    const Scores s = scores_of(scores);
    std::vector<int64_t> order = groups_of(start, s.columns);
    const size_t n = order.size();
    order = released([&] { return permute_slots(s, std::move(order), sweeps, threshold); });
    return to_python(std::move(order), {n});
}

Out<int64_t> py_exchange_rows(const In<double, 2>& worth, const In<int64_t, 1>& tile_of, int64_t sweeps,
                              int64_t part) {
    const Scores w = scores_of(worth);
    require(int64_t(tile_of.shape(0)) == w.rows && part > 0, "a row has no tile.");
    std::vector<int64_t> tiles(tile_of.data(), tile_of.data() + tile_of.shape(0));
    for (int64_t t : tiles) require(t >= 0 && t < w.columns, "a tile has no worths.");
    const size_t n = tiles.size();
    tiles = released([&] { return exchange_rows(w, std::move(tiles), sweeps, part); });
    return to_python(std::move(tiles), {n});
}

}  // namespace

void bind_layouts(nb::module_& m) {
    m.def("first_fit", &py_first_fit, nb::arg("planes"));
    m.def("fit_open", &py_fit_open, nb::arg("planes"), nb::arg("opened"));
    m.def("fill_groups", &py_fill_groups, nb::arg("planes"));
    m.def("hidden_groups", &py_hidden_groups, nb::arg("planes"));
    m.def("pack_columns", &py_pack_columns, nb::arg("planes"), nb::arg("longest"));
    m.def("distinct_columns", &py_distinct_columns, nb::arg("indptr"), nb::arg("indices"), nb::arg("columns"),
          nb::arg("order"), nb::arg("tile_indptr"));
    m.def("lay_out", &py_lay_out, nb::arg("indptr"), nb::arg("indices"), nb::arg("columns"), nb::arg("order"),
          nb::arg("tile_indptr"), nb::arg("grouped"), nb::arg("spread"));
    m.def("store", &py_store, nb::arg("indptr"), nb::arg("indices"), nb::arg("columns"), nb::arg("order"),
          nb::arg("tile_indptr"), nb::arg("slots"), nb::arg("places"), nb::arg("values"), nb::arg("item"),
          nb::arg("data"), nb::arg("meta").none());
    m.def("group_rows", &py_group_rows, nb::arg("indptr"), nb::arg("indices"), nb::arg("columns"),
          nb::arg("tile_rows"), nb::arg("start"), nb::arg("tie"), nb::arg("most_candidates"), nb::arg("hub"));
    m.def("replacement_gains", &py_replacement_gains, nb::arg("scores"), nb::arg("order"));
    m.def("permute_slots", &py_permute_slots, nb::arg("scores"), nb::arg("start"), nb::arg("sweeps"),
          nb::arg("threshold"));
    m.def("exchange_rows", &py_exchange_rows, nb::arg("worth"), nb::arg("tile_of"), nb::arg("sweeps"),
          nb::arg("part"));
}

}  // namespace tvw
