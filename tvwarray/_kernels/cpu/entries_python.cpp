// The entries of a storage as Python functions: checks what memory safety rests on.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <complex>
#include <optional>
#include <string>

#include "arrays.hpp"
#include "entries.hpp"

namespace tvw {
namespace {

using Bytes = In<uint8_t, 1>;
using Meta = std::optional<In<uint16_t, 1>>;

void check_offsets(const In<int32_t, 1>& indptr, size_t count) {
    require(indptr.shape(0) > 0, "indptr is empty.");
    require(indptr.data()[0] == 0 && size_t(indptr.data()[indptr.shape(0) - 1]) == count,
            "indptr does not span what it divides.");
    for (size_t t = 1; t < indptr.shape(0); t++) require(indptr.data()[t] >= indptr.data()[t - 1], "indptr falls.");
}

// `values` of -1 says that there are none to check.
Tiled tiled_of(int64_t height, int64_t width, const In<int32_t, 1>& row_indptr, const In<int32_t, 1>& rows,
                 const In<int32_t, 1>& col_indptr, const In<int32_t, 1>& columns, const Meta& meta, int64_t values) {
    require(height >= 0 && height <= INT32_MAX && width >= 0 && width <= INT32_MAX, "the shape is out of range.");
    check_offsets(row_indptr, rows.shape(0));
    check_offsets(col_indptr, columns.shape(0));
    require(row_indptr.shape(0) == col_indptr.shape(0), "rows and columns are of different tiles.");
    for (size_t i = 0; i < rows.shape(0); i++)
        require(rows.data()[i] >= 0 && rows.data()[i] < height, "a row is outside the matrix.");
    for (size_t s = 0; s < columns.shape(0); s++)
        require(columns.data()[s] >= -1 && columns.data()[s] < width, "a column is outside the matrix.");
    const Tiled a{row_indptr.data(), rows.data(), col_indptr.data(), columns.data(), meta ? meta->data() : nullptr,
                   int64_t(row_indptr.shape(0)) - 1, height, width};
    int64_t stored = 0, words = 0;
    for (int64_t t = 0; t < a.tiles; t++) {
        require(a.slots(t) % 16 == 0, "a tile's slots are no multiple of 16.");
        stored += a.tile_rows(t) * a.values(t);
        words += a.tile_rows(t) * (a.slots(t) / 16);
    }
    require(values == -1 || values == stored, "data has not the length its tiles need.");
    require(!meta || int64_t(meta->shape(0)) == words, "meta has not the length its tiles need.");
    return a;
}

template <class Value> const Value* values_of(const Bytes& data) {
    require(reinterpret_cast<uintptr_t>(data.data()) % alignof(Value) == 0, "data is not aligned.");
    return reinterpret_cast<const Value*>(data.data());
}

template <class Word, int parts> nb::tuple rows_of(const Tiled& a, const Bytes& data, uint64_t mask) {
    using Value = Raw<Word, parts>;
    const Value* values = values_of<Value>(data);
    SortedRows<Value> made = released([&] { return read_rows(a, values, Word(mask)); });
    const size_t kept = made.rows.size(), entries = made.indices.size();
    auto* held = new std::vector<Value>(std::move(made.values));
    nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::vector<Value>*>(p); });
    return nb::make_tuple(to_python(std::move(made.rows), {kept}), to_python(std::move(made.indptr), {kept + 1}),
                          to_python(std::move(made.indices), {entries}),
                          Out<uint8_t>(held->data(), {entries * sizeof(Value)}, owner), made.shared);
}

nb::tuple py_read_rows(int64_t height, int64_t width, const In<int32_t, 1>& row_indptr, const In<int32_t, 1>& rows,
                       const In<int32_t, 1>& col_indptr, const In<int32_t, 1>& columns, const Meta& meta,
                       const Bytes& data, int item, uint64_t mask) {
    require(item == 1 || item == 2 || item == 4 || item == 8 || item == 16, "a value has no such size.");
    require(data.shape(0) % size_t(item) == 0, "data ends within a value.");
    const int64_t values = int64_t(data.shape(0)) / item;
    const Tiled a = tiled_of(height, width, row_indptr, rows, col_indptr, columns, meta, values);
    switch (item) {
        case 1: return rows_of<uint8_t, 1>(a, data, mask);
        case 2: return rows_of<uint16_t, 1>(a, data, mask);
        case 4: return rows_of<uint32_t, 1>(a, data, mask);
        case 8: return rows_of<uint64_t, 1>(a, data, mask);
        default: return rows_of<uint64_t, 2>(a, data, mask);
    }
}

template <class T> Out<T> vector_of(std::vector<T>&& made) {
    const size_t n = made.size();
    return to_python(std::move(made), {n});
}

template <class Value, class Sum>
Out<Sum> py_line_sums(int64_t height, int64_t width, const In<int32_t, 1>& row_indptr, const In<int32_t, 1>& rows,
                      const In<int32_t, 1>& col_indptr, const In<int32_t, 1>& columns, const Meta& meta,
                      const In<Value, 1>& data, int axis) {
    require(axis == 0 || axis == 1, "a matrix has the axes 0 and 1.");
    const int64_t count = int64_t(data.shape(0));
    const Tiled a = tiled_of(height, width, row_indptr, rows, col_indptr, columns, meta, count);
    return vector_of(released([&] { return line_sums<Value, Sum>(a, data.data(), axis); }));
}

Extreme extreme_of(const std::string& name) {
    constexpr const char* names[] = {"max", "min", "nanmax", "nanmin"};
    for (int i = 0; i < 4; i++)
        if (name == names[i]) return Extreme(i);
    throw std::invalid_argument("no such extreme: " + name);
}

template <class Value>
nb::tuple py_line_extremes(int64_t height, int64_t width, const In<int32_t, 1>& row_indptr,
                           const In<int32_t, 1>& rows, const In<int32_t, 1>& col_indptr,
                           const In<int32_t, 1>& columns, const Meta& meta, const In<Value, 1>& data, int axis,
                           const std::string& name) {
    require(axis == 0 || axis == 1, "a matrix has the axes 0 and 1.");
    const Extreme which = extreme_of(name);
    const int64_t count = int64_t(data.shape(0));
    const Tiled a = tiled_of(height, width, row_indptr, rows, col_indptr, columns, meta, count);
    Extremes<Value> made = released([&] { return line_extremes(a, data.data(), axis, which); });
    return nb::make_tuple(vector_of(std::move(made.values)), vector_of(std::move(made.counts)));
}

nb::tuple py_diagonal(int64_t height, int64_t width, const In<int32_t, 1>& row_indptr, const In<int32_t, 1>& rows,
                      const In<int32_t, 1>& col_indptr, const In<int32_t, 1>& columns, const Meta& meta, int64_t k) {
    const Tiled a = tiled_of(height, width, row_indptr, rows, col_indptr, columns, meta, -1);
    require(k >= -int64_t(INT32_MAX) && k <= INT32_MAX, "k is out of range.");
    Places made = released([&] { return diagonal(a, k); });
    return nb::make_tuple(vector_of(std::move(made.rows)), vector_of(std::move(made.places)));
}

bool py_repeats_columns(int64_t width, const In<int32_t, 1>& indptr, const In<int32_t, 1>& columns) {
    require(width >= 0 && width <= INT32_MAX, "the shape is out of range.");
    check_offsets(indptr, columns.shape(0));
    for (size_t s = 0; s < columns.shape(0); s++)
        require(columns.data()[s] >= -1 && columns.data()[s] < width, "a column is outside the matrix.");
    return released([&] { return repeats_columns(indptr.data(), columns.data(), int64_t(indptr.shape(0)) - 1, width); });
}

template <class Value, class Sum> void bind_sums(nb::module_& m) {
    m.def("line_sums", &py_line_sums<Value, Sum>, nb::arg("height"), nb::arg("width"), nb::arg("row_indptr"),
          nb::arg("row_indices"), nb::arg("col_indptr"), nb::arg("col_indices"), nb::arg("meta").none(),
          nb::arg("data"), nb::arg("axis"));
}

template <class Value> void bind_extremes(nb::module_& m) {
    m.def("line_extremes", &py_line_extremes<Value>, nb::arg("height"), nb::arg("width"), nb::arg("row_indptr"),
          nb::arg("row_indices"), nb::arg("col_indptr"), nb::arg("col_indices"), nb::arg("meta").none(),
          nb::arg("data"), nb::arg("axis"), nb::arg("which"));
}

}  // namespace

void bind_entries(nb::module_& m) {
    m.def("read_rows", &py_read_rows, nb::arg("height"), nb::arg("width"), nb::arg("row_indptr"),
          nb::arg("row_indices"), nb::arg("col_indptr"), nb::arg("col_indices"), nb::arg("meta").none(),
          nb::arg("data"), nb::arg("item"), nb::arg("mask"));
    m.def("diagonal", &py_diagonal, nb::arg("height"), nb::arg("width"), nb::arg("row_indptr"),
          nb::arg("row_indices"), nb::arg("col_indptr"), nb::arg("col_indices"), nb::arg("meta").none(),
          nb::arg("k"));
    m.def("repeats_columns", &py_repeats_columns, nb::arg("width"), nb::arg("col_indptr"), nb::arg("col_indices"));
    bind_sums<float, double>(m);
    bind_sums<double, double>(m);
    bind_sums<uint64_t, uint64_t>(m);
    bind_sums<std::complex<float>, std::complex<double>>(m);
    bind_sums<std::complex<double>, std::complex<double>>(m);
    bind_extremes<float>(m);
    bind_extremes<double>(m);
    bind_extremes<int64_t>(m);
    bind_extremes<uint64_t>(m);
}

}  // namespace tvw
