// The layout searches as Python functions: checks what memory safety rests on, and lets go of the
// interpreter while it searches.
#include "layouts.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>

#include <algorithm>
#include <initializer_list>
#include <stdexcept>

namespace nb = nanobind;

namespace tvw {
namespace {

template <class T, int dimensions>
using In = nb::ndarray<const T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

template <class T> using Out = nb::ndarray<nb::numpy, T>;

// An array that owns its elements.
template <class T> Out<T> to_python(std::vector<T>&& made, std::initializer_list<size_t> shape) {
    auto* held = new std::vector<T>(std::move(made));
    nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Out<T>(held->data(), shape, owner);
}

void require(bool rule, const char* broken) {
    if (!rule) throw std::invalid_argument(broken);
}

template <class F> auto released(F&& search) {
    nb::gil_scoped_release release;
    return search();
}

Columns columns_of(const In<Word, 2>& planes) {
    require(planes.shape(0) <= size_t(INT32_MAX) / 16, "a tile has too many columns.");
    require(planes.shape(1) <= 1024, "a tile has too many rows.");
    return {planes.data(), int32_t(planes.shape(0)), int32_t(planes.shape(1))};
}

using Slots = std::pair<Out<int32_t>, Out<Word>>;

Slots to_python(Packed&& made, int32_t words) {
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
    return to_python(released([&] { return fit_open(columns, opened); }), columns.words);
}

Slots py_fill_groups(const In<Word, 2>& planes) {
    const Columns columns = columns_of(planes);
    for (int32_t c = 0; c < columns.count; c++)
        require(std::any_of(columns[c], columns[c] + columns.words, [](Word w) { return w != 0; }),
                "a column has no rows.");
    return to_python(released([&] { return fill_groups(columns); }), columns.words);
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

int64_t py_order_bound(const In<int64_t, 1>& indptr, const In<int32_t, 1>& indices, int64_t columns,
                       const In<int64_t, 1>& order, int64_t tile_rows, bool grouped) {
    const Csr a = csr_of(indptr, indices, columns);
    check_order(order, a.rows);
    require(tile_rows > 0, "a tile has no rows.");
    return released([&] { return order_bound(a, order.data(), int64_t(order.shape(0)), tile_rows, grouped); });
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

}  // namespace

void bind_layouts(nb::module_& m) {
    m.def("first_fit", &py_first_fit, nb::arg("planes"));
    m.def("fit_open", &py_fit_open, nb::arg("planes"), nb::arg("opened"));
    m.def("fill_groups", &py_fill_groups, nb::arg("planes"));
    m.def("order_bound", &py_order_bound, nb::arg("indptr"), nb::arg("indices"), nb::arg("columns"),
          nb::arg("order"), nb::arg("tile_rows"), nb::arg("grouped"));
    m.def("group_rows", &py_group_rows, nb::arg("indptr"), nb::arg("indices"), nb::arg("columns"),
          nb::arg("tile_rows"), nb::arg("start"), nb::arg("tie"), nb::arg("most_candidates"), nb::arg("hub"));
    m.def("replacement_gains", &py_replacement_gains, nb::arg("scores"), nb::arg("order"));
    m.def("permute_slots", &py_permute_slots, nb::arg("scores"), nb::arg("start"), nb::arg("sweeps"),
          nb::arg("threshold"));
}

}  // namespace tvw
