// The transposed product for few right-hand sides, one at a time, from the stream of lanes.hpp.
//
//     a strip of two vectors of rows, for every group of four slots:
//
//       p = v0 * y                                 lanes are rows of A, and so are those of y
//       sums[slot] += where == slot ? p : 0        one vector of sums a slot, its lanes added up
//                                                  after the tile's last strip
//
// A is read once, as one sequential stream, and nothing has to be packed anew. Each tile leaves the sums
// of its slots; columns add them up in the order of tiles, whichever threads made them.
#pragma once

#include <type_traits>

#include "isa.hpp"
#include "lanes.hpp"
#include "simd.hpp"
#include "stores.hpp"

namespace tvw {
namespace {

template <class T> TVW_INLINE void add_where(T* sums, Where<T> where, Vec<T> p, int first) {
    // Of two ascending positions the first is never 3 and the second never 0.
#pragma GCC unroll 3
    for (int s = first; s < first + 3; s++) {
        T* to = sums + s * kLanes<T>;
        store(to, load<Vec<T>>(to) + ((where & 3) == typename WhereOf<T>::type(s) ? p : Vec<T>{}));
    }
}

// One strip of a 2:4 tile.
template <class T, class S>
TVW_INLINE const char* strip_back_24(const char* stream, int groups, Vec<T> y0, Vec<T> y1, T* sums) {
    constexpr int vector = kLanes<T> * int(sizeof(S));
    for (; groups > 0; groups -= kBlockGroups<T>) {
        auto where0 = load<Where<T>>(stream), where1 = load<Where<T>>(stream + kWidth);
        stream += 2 * kWidth;
        for (int g = 0; g < kBlockGroups<T>; g++, stream += 4 * vector, sums += 4 * kLanes<T>) {
            __builtin_prefetch(stream + kStreamAhead, 0, 3);
            __builtin_prefetch(stream + kStreamAhead + 2 * vector, 0, 3);
            auto v = reinterpret_cast<const S*>(stream);
            add_where<T>(sums, where0, load_as<T>(v) * y0, 0);
            add_where<T>(sums, where0 >> 2, load_as<T>(v + kLanes<T>) * y0, 1);
            add_where<T>(sums, where1, load_as<T>(v + 2 * kLanes<T>) * y1, 0);
            add_where<T>(sums, where1 >> 2, load_as<T>(v + 3 * kLanes<T>) * y1, 1);
            where0 >>= 4;
            where1 >>= 4;
        }
    }
    return stream;
}

// One strip of a tile that stores every slot.
template <class T, class S>
TVW_INLINE const char* strip_back_all(const char* stream, int groups, Vec<T> y0, Vec<T> y1, T* sums) {
    constexpr int vector = kLanes<T> * int(sizeof(S));
    for (int slot = 0; slot < 4 * groups; slot++, stream += 2 * vector, sums += kLanes<T>) {
        auto v = reinterpret_cast<const S*>(stream);
        store(sums, load<Vec<T>>(sums) + load_as<T>(v) * y0 + load_as<T>(v + kLanes<T>) * y1);
    }
    return stream;
}

// The sums of one tile's slots. `work` has room for a vector a slot. A lane adds up no more products
// than a tile has rows, which float32 holds exactly where they are those of 8-bit integers.
template <class T, class S>
void run_back(const LaneView& a, const Tile& tile, const char* packed, char* work, char* slot_sums) {
    using Sum = tvw::Sum<T, S>;
    constexpr int L = kLanes<T>;
    static_assert(kMaxTileRows <= kExactProducts);
    auto y = reinterpret_cast<const T*>(packed);
    T* sums = reinterpret_cast<T*>(work);
    memset(sums, 0, size_t(tile.slots) * kWidth);
    const char* stream = a.stream + tile.stream;
    for (int row = 0; row < tile.rows; row += 2 * L) {
        T some[2 * L] = {};
        for (int i = 0; i < 2 * L && row + i < tile.rows; i++) some[i] = y[a.rows[tile.first_row + row + i]];
        const auto y0 = load<Vec<T>>(some), y1 = load<Vec<T>>(some + L);
        stream = a.grouped ? strip_back_24<T, S>(stream, tile.slots / 4, y0, y1, sums)
                           : strip_back_all<T, S>(stream, tile.slots / 4, y0, y1, sums);
    }
    Sum* to = reinterpret_cast<Sum*>(slot_sums);
    for (int s = 0; s < tile.slots; s += L, sums += L * L, to += L) {
        Vec<T> square[L];
#pragma GCC unroll 16
        for (int j = 0; j < L; j++) square[j] = load<Vec<T>>(sums + j * L);
        transpose<T>(square);
        Vec<Sum> total = __builtin_convertvector(square[0], Vec<Sum>);
#pragma GCC unroll 16
        for (int j = 1; j < L; j++) {
            if constexpr (std::is_same_v<T, Sum>) total += square[j];
            else total = add_wrapping(total, __builtin_convertvector(square[j], Vec<Sum>));
        }
        store(to, total);
    }
}

// Slot sums of all tiles, one after the other, and the entries beside them -> column rhs of `out`.
// `work` has room for a sum a column and two vectors.
template <class T, class S>
void finish_back(const LaneView& a, const Tile* tiles, int count, int rows, int columns, const char* packed,
                 const char* slot_sums, char* work, int rhs, const Strided& out, const Epilogue& e) {
    using Sum = tvw::Sum<T, S>;
    constexpr int L = kLanes<T>;
    Sum* total = reinterpret_cast<Sum*>(work);
    memset(total, 0, (size_t(columns) + 2 * L) * sizeof(Sum));
    const auto add = [](Sum& to, Sum s) __attribute__((always_inline)) {
        if constexpr (std::is_same_v<T, Sum>) to += s;
        else to = int32_t(uint32_t(to) + uint32_t(s));
    };
    auto from = reinterpret_cast<const Sum*>(slot_sums);
    for (const Tile* tile = tiles; tile < tiles + count; from += tile++->slots)
        for (int s = 0; s < tile->slots; s++) {
            const int32_t c = a.slots[tile->first_slot + s];
            if (c >= 0) add(total[c], from[s]);
        }
    if (a.rest.indptr) {
        auto y = reinterpret_cast<const T*>(packed), values = static_cast<const T*>(a.rest.values);
        for (int r = 0; r < rows; r++)
            for (int32_t i = a.rest.indptr[r]; i < a.rest.indptr[r + 1]; i++)
                add(total[a.rest.columns[i]], Sum(values[i] * y[r]));
    }
    for (int c = 0; c < columns; c += 2 * L) {
        int32_t index[2 * L];
        for (int i = 0; i < 2 * L; i++) index[i] = c + i;
        store_strip<Sum>(total + c, Pass{rhs, 1, 1}, index, columns - c, out, e);
    }
}

}  // namespace
}  // namespace tvw
