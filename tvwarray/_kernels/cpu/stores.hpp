// From sums in registers to results in memory: bias, activation, rounding, strides.
//
// Sums come in two shapes. Across: lanes are rows of A, one right-hand side a vector. Along: lanes are
// right-hand sides, one row of A a vector; `store_transposed` turns squares of these into the first
// shape when the rows of A are contiguous in memory, as in `x @ A.T`.
#pragma once

#include <type_traits>

#include "activations.hpp"
#include "isa.hpp"
#include "simd.hpp"

namespace tvw {
namespace {

// Calls f with a null pointer of the result's element type: what sums of T may be rounded to.
template <class T, class F> TVW_INLINE void with_result_type(Type type, F f) {
    if constexpr (std::is_same_v<T, float>) {
        if (type == Type::f16) return f(static_cast<half*>(nullptr));
        if (type == Type::bf16) return f(static_cast<bfloat*>(nullptr));
    }
    f(static_cast<T*>(nullptr));
}

// A vector's worth of rows, or the last few. Rows ascend in a tile, but not from one tile to the next.
struct Rows {
    const int32_t* index;
    int count;
    bool contiguous;  // a whole vector of consecutive rows

    template <class T> static TVW_INLINE Rows of(const int32_t* index, int left) {
        constexpr int L = kLanes<T>;
        if (left < L) return {index, left, false};
        bool apart = false;
        for (int i = 1; i < L; i++) apart |= index[i] != index[0] + i;
        return {index, L, !apart};
    }
};

template <class T> TVW_INLINE Vec<T> load_bias(const Epilogue& e, const Rows& rows) {
    if (!e.bias) return Vec<T>{};
    auto bias = static_cast<const T*>(e.bias);
    if (rows.contiguous) return load<Vec<T>>(bias + rows.index[0]);
    T some[kLanes<T>] = {};
    for (int i = 0; i < rows.count; i++) some[i] = bias[rows.index[i]];
    return load<Vec<T>>(some);
}

// One right-hand side's sums for some rows of A.
template <class T, class O>
TVW_INLINE void store_across(Vec<T> sums, const Rows& rows, const Strided& out, int rhs) {
    if (rows.contiguous && out.row == int64_t(sizeof(O)))
        return store_as<T>(reinterpret_cast<O*>(out.at(rows.index[0], rhs)), sums);
    O some[kLanes<T>];
    store_as<T>(some, sums);
    for (int i = 0; i < rows.count; i++) memcpy(out.at(rows.index[i], rhs), some + i, sizeof(O));
}

// One row's sums for some right-hand sides, `count` of them wanted.
template <class T, class O> TVW_INLINE void store_along(Vec<T> sums, char* to, int count) {
    if (count >= kLanes<T>) return store_as<T>(reinterpret_cast<O*>(to), sums);
    O some[kLanes<T>];
    store_as<T>(some, sums);
    memcpy(to, some, sizeof(O) * size_t(count));
}

// A square of sums, all wanted, for results whose rows of A are contiguous: whole vectors where these
// rows follow one another, else single results.
template <class T, class O>
TVW_INLINE void store_square(const T* sums, int pitch, const Rows& rows, Vec<T> bias, Activation f,
                             const Strided& out, int rhs) {
    constexpr int L = kLanes<T>;
    Vec<T> square[L];
#pragma GCC unroll 16
    for (int j = 0; j < L; j++) square[j] = load<Vec<T>>(sums + j * pitch);
    transpose<T>(square);
    if (rows.contiguous) {
        char* to = out.at(rows.index[0], rhs);
#pragma GCC unroll 16
        for (int j = 0; j < L; j++, to += out.column)
            store_as<T>(reinterpret_cast<O*>(to), activate<T>(square[j] + bias, f));
        return;
    }
    O some[L][L];
#pragma GCC unroll 16
    for (int j = 0; j < L; j++) store_as<T>(some[j], activate<T>(square[j] + bias, f));
    for (int j = 0; j < L; j++) {
        char* to = out.at(0, rhs + j);
#pragma GCC unroll 16
        for (int i = 0; i < L; i++) memcpy(to + int64_t(rows.index[i]) * int64_t(sizeof(O)), &some[j][i], sizeof(O));
    }
}

// sums (rows, vectors * lanes) -> out, whose rows of A are contiguous.
template <class T>
void store_transposed(const T* sums, const int32_t* rows, int count, const Block& block,
                      const Strided& out, const Epilogue& e) {
    constexpr int L = kLanes<T>;
    const int pitch = block.vectors * L;
    with_result_type<T>(out.type, [&](auto* type) __attribute__((always_inline)) {
        using O = std::remove_pointer_t<decltype(type)>;
        // Right-hand sides outermost: the lines of one lie side by side, those of two pages apart.
        for (int m = 0; m < block.count; m += L) {
            const int wide = block.count - m < L ? block.count - m : L;
            for (int i = 0; i < count; i += L) {
                const Rows some = Rows::of<T>(rows + i, count - i);
                const Vec<T> bias = load_bias<T>(e, some);
                const T* square = sums + i * pitch + m;
                if (some.count == L && wide == L) {
                    store_square<T, O>(square, pitch, some, bias, e.activation, out, block.first + m);
                    continue;
                }
                for (int w = 0; w < wide; w++) {  // ragged: one right-hand side at a time
                    T column[L];
                    for (int j = 0; j < L; j++) column[j] = square[j * pitch + w];
                    store_across<T, O>(activate<T>(load<Vec<T>>(column) + bias, e.activation), some, out,
                                       block.first + m + w);
                }
            }
        }
    });
}

// The same for rows first .. first + count of all sums, which are in the order of rows.
template <class T>
void store_rows(const char* sums, int first, int count, const Block& block, const Strided& out,
                const Epilogue& e) {
    int32_t rows[kStoredRows];
    for (int i = 0; i < count; i++) rows[i] = first + i;
    // Asked for in order: squares would wait for every line of theirs.
    const char* from = sums + int64_t(first) * block.vectors * kWidth;
    for (int line = 0; line < count * block.vectors * kWidth; line += 64) __builtin_prefetch(from + line);
    store_transposed<T>(reinterpret_cast<const T*>(from), rows, count, block, out, e);
}

// sums (rows, vectors * lanes) -> out, whose right-hand sides are contiguous.
template <class T>
void store_straight(const T* sums, const int32_t* rows, int count, const Block& block,
                    const Strided& out, const Epilogue& e) {
    constexpr int L = kLanes<T>;
    with_result_type<T>(out.type, [&](auto* type) __attribute__((always_inline)) {
        using O = std::remove_pointer_t<decltype(type)>;
        for (int i = 0; i < count; i++, sums += block.vectors * L) {
            const Vec<T> bias = broadcast(e.bias ? static_cast<const T*>(e.bias)[rows[i]] : T(0));
            for (int m = 0; m < block.count; m += L)
                store_along<T, O>(activate<T>(load<Vec<T>>(sums + m) + bias, e.activation),
                                  out.at(rows[i], block.first + m), block.count - m);
        }
    });
}

// sums (rows, vectors * lanes) -> out, either axis of which is contiguous.
template <class T>
void store_sums(const char* sums, const int32_t* rows, int count, const Block& block, const Strided& out,
                const Epilogue& e) {
    auto from = reinterpret_cast<const T*>(sums);
    if (out.row == size_of(out.type)) store_transposed<T>(from, rows, count, block, out, e);
    else store_straight<T>(from, rows, count, block, out, e);
}

// sums (right-hand sides, 2 vectors of rows) of one strip -> out, in any order.
template <class T>
void store_strip(const T* sums, const Pass& pass, const int32_t* rows, int count, const Strided& out,
                 const Epilogue& e) {
    constexpr int L = kLanes<T>;
    with_result_type<T>(out.type, [&](auto* type) __attribute__((always_inline)) {
        using O = std::remove_pointer_t<decltype(type)>;
        for (int i = 0; i < 2 * L && i < count; i += L) {
            const Rows some = Rows::of<T>(rows + i, count - i);
            const Vec<T> bias = load_bias<T>(e, some);
            for (int r = 0; r < pass.count; r++)
                store_across<T, O>(activate<T>(load<Vec<T>>(sums + 2 * L * r + i) + bias, e.activation),
                                   some, out, pass.first + r);
        }
    });
}

}  // namespace
}  // namespace tvw
