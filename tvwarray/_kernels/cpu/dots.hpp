// The kernel that multiplies neighbouring slots together: `multiply-add` instructions that sum products
// of two 16-bit or four 8-bit values, in AVX-512 (VNNI) or in the tiles of AMX.
//
// Such an instruction wants the same slots of every row, while each row of A chose its own two of four.
// So the groups are written out, zeros and all: twice the products, at 4 to 32 times the rate.
//
//     A stream     | masks | values | masks | values | ...   a step of 64 bytes of slots, 16 rows
//       | expanded by the masks, once for all right-hand sides
//     A dense      [strip of 16 rows][step][row][64 bytes]            in the L2 cache
//
//     X packed     [column][right-hand sides]                         in the order `interleave` wants
//       | the tile's slots, a panel of 8 steps at a time
//     X panel      [step][vector][unit][right-hand side][q slots]     32 KB, in the L1 cache
//       |                            a unit: q = 2 or 4 slots, 32 bits
//     sums         [row][vectors * 16]           += 16 rows x 64 bytes of A times a vector's 16 units
//
// A product with an X that is not finite runs elsewhere: zeros written out would make NaN of it.
#pragma once

#include <immintrin.h>

#include <type_traits>

#include "isa.hpp"
#include "simd.hpp"

namespace tvw {
namespace {

constexpr int kPanelSteps = 8;
constexpr int kStripBytes = kDotRows * kStepBytes;  // of one step, written out

// ---- A

// Bytes of a row of one step -> twice as many, by a bit a slot.
template <int size> TVW_INLINE __m512i expand_row(const char* values, const char* masks, int row) {
    const __m512i half = _mm512_castsi256_si512(load<__m256i>(values + row * kStepBytes / 2));
    if constexpr (size == 2) return _mm512_maskz_expand_epi16(load<__mmask32>(masks + 4 * row), half);
    else return _mm512_maskz_expand_epi8(load<__mmask64>(masks + 8 * row), half);
}

template <int size> void expand(const char* stream, int64_t steps, char* dense) {
    constexpr int masks = kDotRows * kStepBytes / size / 8;
    for (; steps > 0; steps--, stream += masks + kStripBytes / 2)
#pragma GCC unroll 4
        for (int row = 0; row < kDotRows; row++, dense += kStepBytes)
            store(dense, expand_row<size>(stream + masks, stream, row));
}

// ---- X

// Where the right-hand sides of 64 bytes stand, such that unpacking within 128-bit lanes leaves each
// vector of results in order: position (4 / size) 4 lane + 4 vector + i holds 16 vector + 4 lane + i.
template <int size> constexpr int rhs_at(int position) {
    constexpr int q = 4 / size;
    const int lane = position / (4 * q), vector = position / 4 % q, i = position % 4;
    return 16 * vector + 4 * lane + i;
}

// One row of X for each slot of a unit -> its q vectors.
template <int size> TVW_INLINE void interleave(const char* const* rows, __m512i* to) {
    if constexpr (size == 2) {
        const auto a = load<__m512i>(rows[0]), b = load<__m512i>(rows[1]);
        to[0] = _mm512_unpacklo_epi16(a, b);
        to[1] = _mm512_unpackhi_epi16(a, b);
    } else {
        const auto a = load<__m512i>(rows[0]), b = load<__m512i>(rows[1]), c = load<__m512i>(rows[2]),
                   d = load<__m512i>(rows[3]);
        const __m512i low = _mm512_unpacklo_epi8(a, b), low2 = _mm512_unpacklo_epi8(c, d),
                      high = _mm512_unpackhi_epi8(a, b), high2 = _mm512_unpackhi_epi8(c, d);
        to[0] = _mm512_unpacklo_epi16(low, low2);
        to[1] = _mm512_unpackhi_epi16(low, low2);
        to[2] = _mm512_unpacklo_epi16(high, high2);
        to[3] = _mm512_unpackhi_epi16(high, high2);
    }
}

alignas(64) constexpr char kNoRow[2 * kStepBytes] = {};

template <int size>
void gather_steps(const int32_t* slots, int steps, const Block& x, char* panel) {
    constexpr int q = 4 / size, together = q;  // vectors that one load of a row serves
    for (int s = 0; s < steps; s++, panel += int64_t(x.vectors) * kStripBytes)
        for (int unit = 0; unit < 16; unit++, slots += q) {
            const char* rows[q];
#pragma GCC unroll 4
            for (int i = 0; i < q; i++) rows[i] = slots[i] < 0 ? kNoRow : x.x + int64_t(slots[i]) * x.stride;
            for (int v = 0; v < x.vectors; v += together) {
                __m512i made[q];
                interleave<size>(rows, made);
#pragma GCC unroll 4
                for (int j = 0; j < together; j++)
                    if (v + j < x.vectors) store(panel + (v + j) * kStripBytes + unit * kStepBytes, made[j]);
#pragma GCC unroll 4
                for (int i = 0; i < q; i++) rows[i] += kStepBytes;
            }
        }
}

// Keeps what tells whether all elements were finite, and makes unsigned ones where those are wanted.
template <class S, int flip> struct Taken {
    __m512i largest = _mm512_setzero_si512();

    TVW_INLINE __m512i operator()(__m512i v) {
        if constexpr (std::is_same_v<S, bfloat>)
            largest = _mm512_max_epu16(largest, _mm512_and_si512(v, _mm512_set1_epi16(0x7fff)));
        return flip ? _mm512_xor_si512(v, _mm512_set1_epi8(char(flip))) : v;
    }
    bool finite() const {
        return !std::is_same_v<S, bfloat> || !_mm512_cmpge_epu16_mask(largest, _mm512_set1_epi16(0x7f80));
    }
};

template <int size> TVW_INLINE __m512i in_positions(__m512i row) {
    constexpr int n = kStepBytes / size;
    typename std::conditional_t<size == 2, uint16_t, uint8_t> from[n];
    for (int p = 0; p < n; p++) from[p] = decltype(from[0] + 0)(rhs_at<size>(p));
    const auto index = load<__m512i>(from);
    return size == 2 ? _mm512_permutexvar_epi16(index, row) : _mm512_permutexvar_epi8(index, row);
}

// Rows of X in any memory order, a vector of right-hand sides at a time.
template <class S, int flip>
bool pack_rows(const Strided& x, int k0, int k1, const Block& b, char* to) {
    constexpr int size = int(sizeof(S)), n = kStepBytes / size;
    Taken<S, flip> taken;
    for (int k = k0; k < k1; k++)
        for (int64_t at = 0; at < b.stride; at += kStepBytes, to += kStepBytes) {
            const int first = int(at) / size, wanted = b.count - first < n ? b.count - first : n;
            S row[n] = {};
            if (x.column == size && wanted > 0) memcpy(row, x.at(k, b.first + first), size_t(wanted * size));
            else
                for (int i = 0; i < wanted; i++) memcpy(row + i, x.at(k, b.first + first + i), size);
            store(to, taken(in_positions<size>(load<__m512i>(row))));
        }
    return taken.finite();
}

// The j-th element of each of q vectors' 32 bits, side by side.
TVW_INLINE __m512i element_of(__m512i a, __m512i b, int j) {
    return j ? _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(a, 16), b)
             : _mm512_mask_blend_epi16(0xaaaaaaaau, a, _mm512_slli_epi32(b, 16));
}

TVW_INLINE __m512i element_of(__m512i a, __m512i b, __m512i c, __m512i d, int j) {
    const auto byte = _mm512_set1_epi32(255);
    const auto take = [&](__m512i v) __attribute__((always_inline)) {
        return _mm512_and_si512(_mm512_srli_epi32(v, unsigned(8 * j)), byte);
    };
    return _mm512_or_si512(_mm512_or_si512(take(a), _mm512_slli_epi32(take(b), 8)),
                           _mm512_or_si512(_mm512_slli_epi32(take(c), 16), _mm512_slli_epi32(take(d), 24)));
}

// Rows of X whose columns are contiguous, as activations are: squares of 16 right-hand sides and 16
// times q columns are transposed as 32-bit words, then their elements sorted out.
template <class S, int flip>
bool pack_activations(const Strided& x, int k0, int k1, const Block& b, char* to) {
    constexpr int size = int(sizeof(S)), q = 4 / size, deep = 16 * q;
    Taken<S, flip> taken;
    for (int k = k0; k < k1; k += deep) {
        const int columns = k1 - k < deep ? k1 - k : deep;
        const __mmask64 bytes = ~uint64_t(0) >> (64 - columns * size);
        for (int64_t at = 0; at < b.stride; at += kStepBytes) {
            Vec<uint32_t> words[q][16];
            for (int g = 0; g < q; g++) {
                Vec<uint32_t> square[16];
#pragma GCC unroll 16
                for (int j = 0; j < 16; j++) {
                    const int rhs = int(at) / size + rhs_at<size>(q * j + g);
                    const char* row = x.at(k, b.first + (rhs < b.count ? rhs : 0));
                    square[j] = bits_of<Vec<uint32_t>>(_mm512_maskz_loadu_epi8(rhs < b.count ? bytes : 0, row));
                }
                transpose<uint32_t>(square);
#pragma GCC unroll 16
                for (int j = 0; j < 16; j++) words[g][j] = square[j];
            }
            char* row = to + int64_t(k - k0) * b.stride + at;
            for (int c = 0; c < columns; c++, row += b.stride) {
                const auto word = [&](int g) { return bits_of<__m512i>(words[g][c / q]); };
                if constexpr (q == 2) store(row, taken(element_of(word(0), word(1), c % 2)));
                else store(row, taken(element_of(word(0), word(1), word(2), word(3), c % 4)));
            }
        }
    }
    return taken.finite();
}

template <class S, int flip>
bool pack_dot_block(const Strided& x, int k0, int k1, const Block& b, char* packed) {
    char* to = packed + k0 * b.stride;
    return x.row == int64_t(sizeof(S)) && x.column != int64_t(sizeof(S))
               ? pack_activations<S, flip>(x, k0, k1, b, to)
               : pack_rows<S, flip>(x, k0, k1, b, to);
}

// ---- products

// Where the sums of two strips go, one of which may be missing or end early.
struct Strips {
    const char *a[2];    // a step's 16 rows each, step after step
    char* sums[2];       // rows `pitch` bytes apart
    const int32_t* start[2];
    int count;
};

// Sums += the entries beside the tiles, one row of X each.
template <class S, int flip>
void add_dot_rest(const Rest& rest, const int32_t* rows, int count, const Block& b, char* sums) {
    constexpr int size = int(sizeof(S)), q = 4 / size;
    auto values = static_cast<const float*>(rest.values);
    for (int i = 0; i < count; i++, sums += b.vectors * 64)
        for (int32_t e = rest.indptr[rows[i]]; e < rest.indptr[rows[i] + 1]; e++) {
            const char* from[q] = {b.x + int64_t(rest.columns[e]) * b.stride};
            for (int j = 1; j < q; j++) from[j] = kNoRow;
            for (int v = 0; v < b.vectors; v += q, from[0] += kStepBytes) {
                __m512i made[q];
                interleave<size>(from, made);
                for (int j = 0; j < q && v + j < b.vectors; j++) {
                    char* to = sums + (v + j) * 64;
                    if constexpr (std::is_same_v<S, bfloat>) {
                        const auto x = bits_of<Vec<float>>(_mm512_slli_epi32(made[j], 16));
                        store(to, load<Vec<float>>(to) + values[e] * x);
                    } else {
                        auto x = bits_of<Vec<int32_t>>(_mm512_and_si512(made[j], _mm512_set1_epi32(255)));
                        x ^= flip;
                        if (std::is_same_v<S, int8_t>) x = bits_of<Vec<int32_t>>(bits_of<Vec<uint32_t>>(x) << 24) >> 24;
                        store(to, add_wrapping(load<Vec<int32_t>>(to), x * int32_t(values[e])));
                    }
                }
            }
        }
}

template <class S, class Multiplier, int flip>
void run_dots(const DotView& a, const Tile* tiles, int count, const Block& x, const char* dense, char* work,
              char* sums) {
    constexpr int slots = kStepBytes / int(sizeof(S));
    const int64_t pitch = int64_t(x.vectors) * 64;
    char* panel = work;
    char* ragged = work + int64_t(kPanelSteps) * x.vectors * kStripBytes;  // a strip's sums
    const int first = tiles[0].first_row, rows = tiles[count - 1].first_row + tiles[count - 1].rows - first;
    int last = 0;
    for (int t = 0; t < count; t++) {
        const Tile& tile = tiles[t];
        if (!tile.slots) memset(sums + (tile.first_row - first) * pitch, 0, size_t(tile.rows * pitch));
        last = tile.slots / slots > last ? tile.slots / slots : last;
    }
    const Multiplier multiplier;
    int32_t gathered = -1;
    for (int s0 = 0; s0 < last; s0 += kPanelSteps) {
        const char* a_tile = dense;
        for (int t = 0; t < count; t++) {
            const Tile& tile = tiles[t];
            const int all = tile.slots / slots, steps = all - s0 < kPanelSteps ? all - s0 : kPanelSteps;
            const int strips = (tile.rows + kDotRows - 1) / kDotRows;
            const char* a_strip = a_tile + s0 * kStripBytes;
            a_tile += int64_t(strips) * all * kStripBytes;
            if (steps <= 0) continue;
            if (tile.slot_list * (last + 1) + s0 != gathered)
                gather_steps<int(sizeof(S))>(a.slots + tile.first_slot + s0 * slots, steps, x, panel);
            gathered = tile.slot_list * (last + 1) + s0;
            for (int i = 0; i < strips; i += 2) {
                Strips two{};
                two.count = strips - i < 2 ? 1 : 2;
                for (int h = 0; h < two.count; h++) {
                    const int row = tile.first_row + (i + h) * kDotRows;
                    two.a[h] = a_strip + int64_t(i + h) * all * kStripBytes;
                    two.sums[h] = sums + (row - first) * pitch;
                    two.start[h] = a.starts + row;
                }
                const int left = tile.rows - (i + two.count - 1) * kDotRows;
                char*& end = two.sums[two.count - 1];
                char* const place = end;
                if (left < kDotRows) {
                    if (s0) memcpy(ragged, end, size_t(left * pitch));
                    end = ragged;
                }
                multiplier.run(two, panel, steps, x.vectors, pitch, s0 > 0);
                if (left < kDotRows) memcpy(place, ragged, size_t(left * pitch));
            }
        }
    }
    if (a.rest.indptr) add_dot_rest<S, flip>(a.rest, a.rows + first, rows, x, sums);
}

template <class S, class Multiplier, int rate, int few, int flip = 0> constexpr DotKernels dots_of() {
    return {pack_dot_block<S, flip>, expand<int(sizeof(S))>, run_dots<S, Multiplier, flip>, rate, few};
}

}  // namespace
}  // namespace tvw
