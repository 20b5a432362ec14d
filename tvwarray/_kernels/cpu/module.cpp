// The Python module: arrays in by the buffer protocol, so that any strides and read-only arrays pass.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "engine.hpp"
#include "entries.hpp"
#include "layouts.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace tvw {
namespace {

// An array held for as long as this lives.
class Array {
  public:
    Array(nb::handle object, int dimensions, int item_bytes, bool writable = false) {
        const int flags = PyBUF_STRIDES | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object.ptr(), &view_, flags)) throw nb::python_error();
        if (view_.ndim != dimensions || view_.itemsize != item_bytes) {
            PyBuffer_Release(&view_);
            throw std::invalid_argument("an array has the wrong dimensions or item size");
        }
    }
    Array(Array&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
    Array& operator=(Array&&) = delete;
    ~Array() {
        if (view_.obj) PyBuffer_Release(&view_);
    }

    int64_t size(int axis) const { return view_.shape[axis]; }
    int64_t stride(int axis) const { return view_.strides[axis]; }
    char* data() const { return static_cast<char*>(view_.buf); }

    // The elements of a one-dimensional array.
    const void* flat() const {
        if (size(0) > 1 && stride(0) != view_.itemsize)
            throw std::invalid_argument("a one-dimensional array is not contiguous");
        return data();
    }

  private:
    Py_buffer view_{};
};

constexpr const char* kTypeNames[] = {"float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32"};

Type type_of(const std::string& name) {
    for (int i = 0; i < int(sizeof kTypeNames / sizeof *kTypeNames); i++)
        if (name == kTypeNames[i]) return Type(i);
    throw std::invalid_argument("no such type: " + name);
}

constexpr const char* kActivationNames[] = {"", "relu", "gelu", "gelu_tanh", "silu"};

Activation activation_of(const std::string& name, Type sum) {
    for (int i = 0; i < int(sizeof kActivationNames / sizeof *kActivationNames); i++)
        if (name == kActivationNames[i] && (sum != Type::i32 || i <= int(Activation::relu))) return Activation(i);
    throw std::invalid_argument("no such activation of these types: " + name);
}

const Isa& isa_of(const std::string& name) {
    int count;
    const Isa* const* isas = available(&count);
    for (int i = 0; i < count; i++)
        if (name.empty() || name == isas[i]->name) return *isas[i];
    throw std::invalid_argument("this processor has no " + name);
}

class PyMatrix {
  public:
    PyMatrix(int32_t rows, int32_t columns, const std::string& type, nb::handle row_indptr,
             nb::handle row_indices, nb::handle col_indptr, nb::handle col_indices, nb::handle data,
             nb::handle meta, nb::handle rest_indptr, nb::handle rest_indices, nb::handle rest_values,
             const std::string& isa) {
        const Type t = type_of(type);
        if (t == Type::i32) throw std::invalid_argument("values are not stored as int32");
        arrays_.reserve(9);
        for (nb::handle h : {row_indptr, row_indices, col_indptr, col_indices}) arrays_.emplace_back(h, 1, 4);
        arrays_.emplace_back(data, 1, size_of(t));
        if (!meta.is_none()) arrays_.emplace_back(meta, 1, 2);
        const auto index = [&](size_t i) { return static_cast<const int32_t*>(arrays_[i].flat()); };
        if (arrays_[0].size(0) < 1 || arrays_[0].size(0) != arrays_[2].size(0))
            throw std::invalid_argument("row_indptr and col_indptr describe different tiles");
        const bool has_meta = !meta.is_none();
        Rest rest{nullptr, nullptr, nullptr};
        int64_t num_rest = 0;
        if (!rest_indptr.is_none()) {
            const size_t at = arrays_.size();
            arrays_.emplace_back(rest_indptr, 1, 4);
            arrays_.emplace_back(rest_indices, 1, 4);
            arrays_.emplace_back(rest_values, 1, t == Type::f64 ? 8 : 4);
            num_rest = arrays_[at + 1].size(0);
            if (arrays_[at].size(0) != int64_t(rows) + 1 || arrays_[at + 2].size(0) != num_rest)
                throw std::invalid_argument("the arrays of the remainder have not the lengths they need");
            rest = {index(at), index(at + 1), arrays_[at + 2].flat()};
        }
        matrix_ = std::make_unique<Matrix>(
            Stored{rows, columns, int32_t(arrays_[0].size(0) - 1), index(0), index(1), index(2), index(3),
                   arrays_[1].size(0), arrays_[3].size(0), arrays_[4].size(0),
                   has_meta ? arrays_[5].size(0) : 0, static_cast<const char*>(arrays_[4].flat()),
                   has_meta ? static_cast<const uint16_t*>(arrays_[5].flat()) : nullptr, t, rest, num_rest},
            isa_of(isa));
    }

    void multiply(nb::handle x, const std::string& x_type, nb::handle out, const std::string& out_type,
                  nb::handle bias, const std::string& activation, bool transposed) {
        const Stored& s = matrix_->stored();
        const Type xt = type_of(x_type), ot = type_of(out_type), sum = accumulator(s.type);
        check_types(s.type, xt, ot);
        const Array from(x, 2, size_of(xt)), to(out, 2, size_of(ot), true);
        const int32_t inputs = transposed ? s.rows : s.columns, outputs = transposed ? s.columns : s.rows;
        if (from.size(0) != inputs || to.size(0) != outputs || from.size(1) != to.size(1))
            throw std::invalid_argument("the shapes of A, X and out do not fit");
        if (from.size(1) > INT32_MAX) throw std::invalid_argument("too many right-hand sides");
        Strided results{to.data(), to.stride(0), to.stride(1), ot};
        // The stride along an axis of one element means nothing.
        if (to.size(0) == 1 && results.column != size_of(ot)) results.row = size_of(ot);
        if (to.size(1) == 1 && results.row != size_of(ot)) results.column = size_of(ot);
        if (results.row != size_of(ot) && results.column != size_of(ot))
            throw std::invalid_argument("neither axis of out is contiguous");
        std::vector<Array> held;
        Epilogue epilogue{nullptr, activation_of(activation, sum)};
        if (!bias.is_none()) {
            held.emplace_back(bias, 1, size_of(sum));
            if (held[0].size(0) != outputs) throw std::invalid_argument("bias has not one value a row of the product");
            epilogue.bias = held[0].flat();
        }
        nb::gil_scoped_release release;
        matrix_->multiply(Strided{from.data(), from.stride(0), from.stride(1), xt}, int32_t(from.size(1)),
                          results, epilogue, transposed);
    }

    size_t packed_bytes() const { return matrix_->packed_bytes(); }
    const char* isa() const { return matrix_->isa().name; }

  private:
    // float32, float16 and bfloat16 mix; other types do not.
    static void check_types(Type a, Type x, Type out) {
        const Type sum = accumulator(a);
        const bool fits = sum == Type::f32   ? accumulator(x) == Type::f32 && accumulator(out) == Type::f32
                          : sum == Type::f64 ? x == a && out == a
                                             : x == a && out == Type::i32;
        if (!fits) throw std::invalid_argument("the types of A, X and out do not go together");
    }

    std::vector<Array> arrays_;
    std::unique_ptr<Matrix> matrix_;
};

std::vector<std::string> isa_names() {
    int count;
    const Isa* const* isas = available(&count);
    std::vector<std::string> names;
    for (int i = 0; i < count; i++) names.emplace_back(isas[i]->name);
    return names;
}

}  // namespace
}  // namespace tvw

NB_MODULE(_cpu, m) {
    using tvw::PyMatrix;
    m.doc() = "The compiled half of tvwarray: the engine of the CPU backend, and the layout searches.";
    tvw::bind_layouts(m);
    tvw::bind_entries(m);
    m.def("isa_names", &tvw::isa_names);
    m.def("num_threads", &tvw::num_threads);
    m.def("set_num_threads", &tvw::set_num_threads, nb::arg("n"));
    nb::class_<PyMatrix>(m, "Matrix")
        .def(nb::init<int32_t, int32_t, const std::string&, nb::handle, nb::handle, nb::handle, nb::handle,
                      nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, const std::string&>(),
             nb::arg("rows"), nb::arg("columns"), nb::arg("type"), nb::arg("row_indptr"),
             nb::arg("row_indices"), nb::arg("col_indptr"), nb::arg("col_indices"), nb::arg("data"),
             nb::arg("meta").none(), nb::arg("rest_indptr").none() = nb::none(),
             nb::arg("rest_indices").none() = nb::none(), nb::arg("rest_values").none() = nb::none(),
             nb::arg("isa") = "")
        .def("multiply", &PyMatrix::multiply, nb::arg("x"), nb::arg("x_type"), nb::arg("out"),
             nb::arg("out_type"), nb::arg("bias").none() = nb::none(), nb::arg("activation") = "",
             nb::arg("transposed") = false)
        .def_prop_ro("packed_bytes", &PyMatrix::packed_bytes)
        .def_prop_ro("isa", &PyMatrix::isa);
}
