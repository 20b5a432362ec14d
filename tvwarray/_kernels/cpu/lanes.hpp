// The kernel for few right-hand sides: lanes are rows of A, x is selected by the metadata.
//
//     x groups   [group][rhs][4]          the tile's slots of X, gathered once a tile
//
//     a strip of two vectors of rows, for every group of four slots, for every right-hand side:
//
//       four    = x0 x1 x2 x3 x0 x1 x2 x3 ...                one 128-bit load, repeated
//       where   = the first position of every row, 2 bits    (shifted down group by group)
//       sums   += select(four, where)  * v0                  lane i: x[where[i]] * v0[i]
//       sums   += select(four, where') * v1
//
// A is read once, as one sequential stream (see layout.hpp), which is all that matters at one
// right-hand side. Without 2:4 there is nothing to select: x is broadcast slot by slot.
#pragma once

#include <type_traits>

#include "isa.hpp"
#include "simd.hpp"
#include "stores.hpp"

namespace tvw {
namespace {

// Groups in a block of the stream: as many as one lane of `where` describes.
template <class T> constexpr int kBlockGroups = int(sizeof(T)) * 2;

// How far ahead of its use the stream is asked for, beyond what the processor does by itself.
constexpr int kStreamAhead = 2048;

template <class T, int R> using StripSums = Vec<T>[R][2][R <= 2 ? 2 : 1];

// One strip of a 2:4 tile: returns the end of its stream.
template <class T, class S, int R>
TVW_INLINE const char* strip_24(const T* x, const char* stream, int groups, StripSums<T, R>& sums) {
    constexpr int vector = kLanes<T> * int(sizeof(S)), H = R <= 2 ? 1 : 0;
    for (; groups > 0; groups -= kBlockGroups<T>) {
        auto where0 = load<Where<T>>(stream), where1 = load<Where<T>>(stream + kWidth);
        stream += 2 * kWidth;
        for (int g = 0; g < kBlockGroups<T>; g++, stream += 4 * vector, x += 4 * R) {
#pragma GCC unroll 4
            for (int line = 0; line < 4 * vector; line += 64)
                __builtin_prefetch(stream + kStreamAhead + line, 0, 3);
            auto v = reinterpret_cast<const S*>(stream);
            const Vec<T> v00 = load_as<T>(v), v01 = load_as<T>(v + kLanes<T>),
                         v10 = load_as<T>(v + 2 * kLanes<T>), v11 = load_as<T>(v + 3 * kLanes<T>);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const Vec<T> four = broadcast_four(x + 4 * r);
                sums[r][0][0] += select_four<T>(four, x + 4 * r, where0) * v00;
                sums[r][1][0] += select_four<T>(four, x + 4 * r, where1) * v10;
                sums[r][0][H] += select_four<T>(four, x + 4 * r, where0 >> 2) * v01;
                sums[r][1][H] += select_four<T>(four, x + 4 * r, where1 >> 2) * v11;
            }
            where0 >>= 4;
            where1 >>= 4;
        }
    }
    return stream;
}

// One strip of a tile that stores every slot.
template <class T, class S, int R>
TVW_INLINE const char* strip_all(const T* x, const char* stream, int groups, StripSums<T, R>& sums) {
    constexpr int vector = kLanes<T> * int(sizeof(S)), H = R <= 2 ? 1 : 0;
    for (; groups > 0; groups--, x += 4 * R)
#pragma GCC unroll 4
        for (int slot = 0; slot < 4; slot++, stream += 2 * vector) {
            __builtin_prefetch(stream + kStreamAhead, 0, 3);
            __builtin_prefetch(stream + kStreamAhead + vector, 0, 3);
            auto v = reinterpret_cast<const S*>(stream);
            const Vec<T> v0 = load_as<T>(v), v1 = load_as<T>(v + kLanes<T>);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const Vec<T> one = broadcast(x[4 * r + slot]);
                sums[r][0][slot & H] += one * v0;
                sums[r][1][slot & H] += one * v1;
            }
        }
    return stream;
}

// The sums of a strip, [rhs][2 vectors], kept in memory between pieces of it.
template <class T, int R>
TVW_INLINE void keep_sums(const StripSums<T, R>& sums, T* kept, bool) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++, kept += kLanes<T>) {
            Vec<T> sum = sums[r][half][0];
            if constexpr (R <= 2) sum += sums[r][half][1];
            store(kept, sum);
        }
}

template <class T, int R>
TVW_INLINE void keep_sums(const StripSums<T, R>& sums, int32_t* kept, bool add) {
    T piece[R * 2 * kLanes<T>];
    keep_sums<T, R>(sums, piece, false);
    for (int i = 0; i < R * 2; i++, kept += kLanes<T>) {
        const auto whole = __builtin_convertvector(load<Vec<T>>(piece + i * kLanes<T>), Vec<int32_t>);
        store(kept, add ? add_wrapping(whole, load<Vec<int32_t>>(kept)) : whole);
    }
}

// Sums of a strip's rows += the entries beside the tiles.
template <class T, int R, class Sum>
void add_rest(const Rest& rest, const int32_t* rows, int count, const T* x, Sum* kept) {
    constexpr int lanes = 2 * kLanes<T>;
    auto values = static_cast<const T*>(rest.values);
    for (int i = 0; i < count && i < lanes; i++)
        for (int32_t e = rest.indptr[rows[i]]; e < rest.indptr[rows[i] + 1]; e++)
            for (int r = 0; r < R; r++) {
                const T product = values[e] * x[int64_t(rest.columns[e]) * R + r];
                Sum& sum = kept[r * lanes + i];
                if constexpr (std::is_same_v<T, Sum>) sum += product;
                else sum = int32_t(uint32_t(sum) + uint32_t(int32_t(product)));
            }
}

template <class T, class S, int R>
void run_pass_of(const LaneView& a, const Tile& tile, int first, int last, const Pass& pass,
                 const char* packed, const char* x, const Strided& out, const Epilogue& e) {
    using Sum = tvw::Sum<T, S>;
    constexpr int L = kLanes<T>;
    // Floats go through a strip at once, integers in pieces that are exact.
    const int groups = tile.slots / 4;
    const int most = std::is_same_v<Sum, T> ? groups : kExactProducts / 4;
    const char* stream = a.stream + tile.stream + first * tile.strip_bytes;
    for (int i = first; i < last; i++) {
        auto at = reinterpret_cast<const T*>(x);
        Sum kept[R * 2 * L] = {};
        for (int g = 0; g < groups; g += most, at += 4 * R * most) {
            const int piece = groups - g < most ? groups - g : most;
            StripSums<T, R> sums = {};
            stream = a.grouped ? strip_24<T, S, R>(at, stream, piece, sums)
                               : strip_all<T, S, R>(at, stream, piece, sums);
            keep_sums<T, R>(sums, kept, g > 0);
        }
        const int row = 2 * L * i;
        if (a.rest.indptr)
            add_rest<T, R>(a.rest, a.rows + tile.first_row + row, tile.rows - row,
                           reinterpret_cast<const T*>(packed), kept);
        store_strip<Sum>(kept, pass, a.rows + tile.first_row + row, tile.rows - row, out, e);
    }
}

template <class T, class S>
void run_pass(const LaneView& a, const Tile& tile, int first, int last, const Pass& pass,
              const char* packed, const char* groups, const Strided& out, const Epilogue& e) {
    switch (pass.width) {
        case 8: return run_pass_of<T, S, 8>(a, tile, first, last, pass, packed, groups, out, e);
        case 4: return run_pass_of<T, S, 4>(a, tile, first, last, pass, packed, groups, out, e);
        case 2: return run_pass_of<T, S, 2>(a, tile, first, last, pass, packed, groups, out, e);
        default: return run_pass_of<T, S, 1>(a, tile, first, last, pass, packed, groups, out, e);
    }
}

// ---- X for this kernel

// Whether all of `n` values are finite: their exponents are not all ones.
template <class T> bool all_finite(const T* x, int64_t n) {
    using Word = typename WhereOf<T>::type;
    constexpr Word exponent = sizeof(T) == 4 ? Word(0x7f800000) : Word(0x7ffull << 52);
    Word bad = 0;
    for (int64_t i = 0; i < n; i++) {
        Word w;
        memcpy(&w, x + i, sizeof w);
        bad |= Word((w & exponent) == exponent);
    }
    return !bad;
}

template <class T, class S>
bool pack_pass_as(const Strided& x, int columns, const Pass& p, T* to) {
    constexpr int chunk = 64;  // columns at a time: every line of X is read once
    for (int k0 = 0; k0 < columns; k0 += chunk) {
        const int n = columns - k0 < chunk ? columns - k0 : chunk;
        for (int r = 0; r < p.width; r++) {
            S some[chunk] = {};
            T wide[chunk];
            for (int i = 0; i < n && r < p.count; i++) memcpy(some + i, x.at(k0 + i, p.first + r), sizeof(S));
            for (int i = 0; i < chunk; i += kLanes<T>) store(wide + i, load_as<T>(some + i));
            for (int i = 0; i < n; i++) to[int64_t(k0 + i) * p.width + r] = wide[i];
        }
    }
    return all_finite(to, int64_t(columns) * p.width);
}

template <class T> bool pack_pass(const Strided& x, int columns, const Pass& p, char* packed) {
    T* to = reinterpret_cast<T*>(packed);
    if constexpr (std::is_same_v<T, float>) {
        if (x.type == Type::i8) return pack_pass_as<T, int8_t>(x, columns, p, to);
        if (x.type == Type::u8) return pack_pass_as<T, uint8_t>(x, columns, p, to);
        if (x.type == Type::f16) return pack_pass_as<T, half>(x, columns, p, to);
        if (x.type == Type::bf16) return pack_pass_as<T, bfloat>(x, columns, p, to);
    }
    return pack_pass_as<T, T>(x, columns, p, to);
}

template <class T> struct Four { typedef T type __attribute__((vector_size(4 * sizeof(T)))); };

template <class V> TVW_INLINE void transpose_four(V (&r)[4]) {
    if constexpr (sizeof(V) == 16) transpose_lanes<4>(r);
    else {  // doubles: two lanes a row
        transpose_lanes<2>(r);
        transpose_lanes<2>(r + 2);
        separate(r[0], r[2]);
        separate(r[1], r[3]);
    }
}

// x[slots[0..3]][R] -> to[R][4], by squares of four.
template <class T, int R> TVW_INLINE void gather_group(const T* x, const int32_t* slots, T* to) {
    using V = typename Four<T>::type;
    const bool whole = slots[0] >= 0 && slots[1] >= 0 && slots[2] >= 0 && slots[3] >= 0;
    if constexpr (R >= 4) {
        if (whole) {
#pragma GCC unroll 2
            for (int r = 0; r < R; r += 4) {
                V square[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) square[i] = load<V>(x + int64_t(slots[i]) * R + r);
                transpose_four(square);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) store(to + 4 * (r + i), square[i]);
            }
            return;
        }
    }
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) to[4 * r + i] = slots[i] < 0 ? T(0) : x[int64_t(slots[i]) * R + r];
}

template <class T, int R> void gather_of(const int32_t* slots, int count, const T* x, T* to) {
    for (int s = 0; s < count; s += 4, to += 4 * R) gather_group<T, R>(x, slots + s, to);
}

template <class T>
void gather(const LaneView& a, const Tile& tile, const Pass& pass, const char* packed, char* groups) {
    auto x = reinterpret_cast<const T*>(packed);
    T* to = reinterpret_cast<T*>(groups);
    const int32_t* slots = a.slots + tile.first_slot;
    switch (pass.width) {
        case 8: return gather_of<T, 8>(slots, tile.slots, x, to);
        case 4: return gather_of<T, 4>(slots, tile.slots, x, to);
        case 2: return gather_of<T, 2>(slots, tile.slots, x, to);
        default: return gather_of<T, 1>(slots, tile.slots, x, to);
    }
}

}  // namespace
}  // namespace tvw
