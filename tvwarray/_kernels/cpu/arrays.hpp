// What functions of the Python module share: arrays in and out, and the checks memory safety rests on.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <initializer_list>
#include <stdexcept>
#include <utility>
#include <vector>

namespace nb = nanobind;

namespace tvw {

template <class T, int dimensions>
using In = nb::ndarray<const T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

template <class T> using Out = nb::ndarray<nb::numpy, T>;

// An array that owns its elements.
template <class T> Out<T> to_python(std::vector<T>&& made, std::initializer_list<size_t> shape) {
    auto* held = new std::vector<T>(std::move(made));
    nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Out<T>(held->data(), shape, owner);
}

inline void require(bool rule, const char* broken) {
    if (!rule) throw std::invalid_argument(broken);
}

template <class F> auto released(F&& search) {
    nb::gil_scoped_release release;
    return search();
}

}  // namespace tvw
