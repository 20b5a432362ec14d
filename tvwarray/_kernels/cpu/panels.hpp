// The kernel for many right-hand sides: a row of A times an X panel in the L1 cache.
//
//     block of right-hand sides: vectors x lanes (8 vectors at most)
//
//     X packed    [column][vectors * lanes]     packed by pack_block, or X itself where it lies so
//       | the tile's kept columns, panel by panel
//     X panel     [slot][vectors * lanes]       at most 2/3 of the L1 cache, a row of zeros behind
//       | for every pair of rows of the tile, for each of their values (value, slot):
//     sums        [row of tile][vectors * lanes]    += broadcast(value) * panel[slot]
//       | after the last panel
//     out         transposed in registers or straight, see stores.hpp
//
// The limit is one load from L1 for a multiply-add. Two rows that share a slot share its loads, and
// blocks are as wide as the registers allow, so that broadcasts and indices cost little beside them.
//
// Several tiles go together, first all their first panels, then all their second ones:
//
//     panel          0        1        2          The first panels of neighbouring tiles want much the
//     tile 0        [1]      [4]      [7]         same rows of X: fetched from L3 for one, they are
//     tile 1        [2]      [5]      [8]         still in L2 for the others. And results are stored
//     tile 2        [3]      [6]      [9]  store  in long runs, which the processor sees coming.
#pragma once

#include <type_traits>

#include "isa.hpp"
#include "simd.hpp"
#include "stores.hpp"

namespace tvw {
namespace {

// Keeps an address in a register of its own: an indexed operand costs a multiply-add one more
// micro-operation, and there are `vectors` of them for each address.
TVW_INLINE const char* in_register(const char* p) {
    asm("" : "+r"(p));
    return p;
}

// Keeps a vector in a register: compilers would rather load it twice, once for each of its two uses.
template <class V> TVW_INLINE V in_register(V v) {
#if defined(__x86_64__)
    asm("" : "+v"(v));
#elif defined(__aarch64__)
    asm("" : "+w"(v));
#endif
    return v;
}

// Packed values as T: where they lie, or widened into `room`.
template <class T, class S> TVW_INLINE const T* widened(const S* values, int count, T* room) {
    if constexpr (sizeof(T) == sizeof(S)) return reinterpret_cast<const T*>(values);
    else {
        for (int i = 0; i < count; i += kLanes<T>) store(room + i, load_as<T>(values + i));
        return room;
    }
}

// How many vectors of sums of each of two rows the registers hold.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kPairVectors = 8;
#else
constexpr int kPairVectors = 4;
#endif

// The sums of a pair of rows over V vectors of right-hand sides, in registers. Narrow blocks keep even
// and odd values apart: the next multiply-add into the same sum waits four cycles for the last.
template <class T, int V> struct PairSums {
    static constexpr int L = kLanes<T>, apart = V >= 4 ? 1 : 2;
    Vec<T> a[apart][V] = {}, b[apart][V] = {};

    TVW_INLINE void load_from(const int32_t*, const int32_t*) {}  // see store_to

    TVW_INLINE void load_from(const T* row_a, const T* row_b) {
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            a[0][v] = load<Vec<T>>(row_a + v * L);
            b[0][v] = load<Vec<T>>(row_b + v * L);
        }
    }

    TVW_INLINE void shared(const char* x, const T* values, int e) {
        const Vec<T> va = broadcast(values[0]), vb = broadcast(values[1]);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            const Vec<T> one = in_register(load<Vec<T>>(x + v * kWidth));
            a[e % apart][v] += va * one;
            b[e % apart][v] += vb * one;
        }
    }

    TVW_INLINE void single(const char* xa, const char* xb, const T* values, int e) {
        const Vec<T> va = broadcast(values[0]), vb = broadcast(values[1]);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) a[e % apart][v] += va * load<Vec<T>>(xa + v * kWidth);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) b[e % apart][v] += vb * load<Vec<T>>(xb + v * kWidth);
    }

    TVW_INLINE void store_to(T* row_a, T* row_b, bool) {
        join();
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            store(row_a + v * L, a[0][v]);
            store(row_b + v * L, b[0][v]);
        }
    }

    // Exact sums of a panel, which have no more products than float32 holds: added up as integers.
    TVW_INLINE void store_to(int32_t* row_a, int32_t* row_b, bool add) {
        join();
        const auto put = [add](int32_t* to, Vec<T> sum) __attribute__((always_inline)) {
            const auto whole = __builtin_convertvector(sum, Vec<int32_t>);
            store(to, add ? add_wrapping(whole, load<Vec<int32_t>>(to)) : whole);
        };
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            put(row_a + v * L, a[0][v]);
            put(row_b + v * L, b[0][v]);
        }
    }

  private:
    TVW_INLINE void join() {
        if constexpr (apart == 2)
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                a[0][v] += a[1][v];
                b[0][v] += b[1][v];
            }
    }
};

// Sums of two rows (+)= their values times the panel, whose rows are V vectors.
template <class T, int V, class Sum>
TVW_INLINE void pair_times_panel(const Pair& pair, const T* values, const uint16_t* slots,
                                 const char* panel, Sum* row_a, Sum* row_b, bool add) {
    constexpr int P = V < kPairVectors ? V : kPairVectors;
#pragma GCC unroll 1
    for (int v = 0; v < V; v += P) {
        const char* x = panel + v * kWidth;
        const T* value = values;
        const uint16_t* slot = slots;
        PairSums<T, P> sums;
        if (add) sums.load_from(row_a + v * sums.L, row_b + v * sums.L);
        for (int n = pair.shared; n > 0; n--, value += 4, slot += 2)
#pragma GCC unroll 2
            for (int e = 0; e < 2; e++)
                sums.shared(in_register(x + size_t(slot[e]) * V), value + 2 * e, e);
        for (int n = pair.single; n > 0; n--, value += 4, slot += 4)
#pragma GCC unroll 2
            for (int e = 0; e < 2; e++)
                sums.single(in_register(x + size_t(slot[2 * e]) * V),
                            in_register(x + size_t(slot[2 * e + 1]) * V), value + 2 * e, e);
        sums.store_to(row_a + v * sums.L, row_b + v * sums.L, add);
    }
}

// X rows of the panel's columns -> consecutive rows, and one of zeros.
template <int V>
TVW_INLINE void gather_panel(const Panel& p, const int32_t* columns, const Block& b, char* to) {
    using Raw = Vec<uint32_t>;
    for (int c = 0; c < p.columns; c++, to += V * kWidth) {
        const char* from = b.x + int64_t(columns[c]) * b.stride;
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) store(to + v * kWidth, load<Raw>(from + v * kWidth));
    }
    memset(to, 0, V * kWidth);
}

// The sums of some rows of A: one behind the other, or each at its row's place among all rows.
template <class Sum, int V> struct SumRows {
    Sum* data;
    const int32_t* places;  // or null

    TVW_INLINE Sum* operator[](int i) const {
        return data + int64_t(places ? places[i] : i) * (V * kLanes<Sum>);
    }
    TVW_INLINE SumRows from(int i) const {
        return places ? SumRows{data, places + i} : SumRows{(*this)[i], nullptr};
    }
};

template <class T, class S, int V>
TVW_INLINE void tile_times_panel(const PanelView& a, const Panel& p, int rows, const char* panel,
                                 SumRows<Sum<T, S>, V> sums, Sum<T, S>* spare, bool add) {
    T room[2 * (kMaxPanelColumns + 3) + kLanes<T>];
    auto values = static_cast<const S*>(a.values) + p.first_value;
    const uint16_t* slots = a.slots + p.first_slot;
    const Pair* pairs = a.pairs + p.first_pair;
    for (int i = 0; i < p.pairs; i++) {
        const Pair pair = pairs[i];
        const int n = 4 * (pair.shared + pair.single);
        pair_times_panel<T, V>(pair, widened<T>(values, n, room), slots, panel, sums[pair.a],
                               pair.b < rows ? sums[pair.b] : spare, add);
        values += n;
        slots += 2 * pair.shared + 4 * pair.single;
    }
}

// Sums += the entries beside the tiles, one row of X each.
template <class T, int V, class Sum>
void add_rest(const Rest& rest, const int32_t* rows, int count, const Block& b, SumRows<Sum, V> sums) {
    constexpr int L = kLanes<T>;
    auto values = static_cast<const T*>(rest.values);
    for (int i = 0; i < count; i++)
        for (int32_t e = rest.indptr[rows[i]]; e < rest.indptr[rows[i] + 1]; e++) {
            const char* x = b.x + int64_t(rest.columns[e]) * b.stride;
            const Vec<T> value = broadcast(values[e]);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                const Vec<T> one = load<Vec<T>>(x + v * kWidth);
                Sum* to = sums[i] + v * L;
                if constexpr (std::is_same_v<T, Sum>) store(to, load<Vec<T>>(to) + value * one);
                else
                    store(to, add_wrapping(load<Vec<Sum>>(to), __builtin_convertvector(value * one, Vec<Sum>)));
            }
        }
}

// The panels of some tiles in the order of the picture above.
struct PanelOrder {
    const Tile* tiles;
    int count, tile = 0, panel = 0, last = 0;

    PanelOrder(const Tile* t, int n) : tiles(t), count(n) {
        for (int i = 0; i < n; i++) last = t[i].panels > last ? t[i].panels : last;
        settle();
    }
    bool done() const { return panel >= last; }
    void next() {
        tile++;
        settle();
    }

  private:
    void settle() {
        for (; panel < last; panel++, tile = 0)
            for (; tile < count; tile++)
                if (panel < tiles[tile].panels) return;
    }
};

template <class T, class S, int V>
void run_block_of(const PanelView& a, const Tile* tiles, int count, const Block& block,
                  const Strided& out, const Epilogue& epilogue, char* work, char* all_sums) {
    char* panel = work;
    using Sum = tvw::Sum<T, S>;
    Sum* run = reinterpret_cast<Sum*>(work + (kMaxPanelColumns + 1) * kBlockVectors * kWidth);
    const int first = tiles[0].first_row, rows = tiles[count - 1].first_row + tiles[count - 1].rows - first;
    const SumRows<Sum, V> sums = all_sums ? SumRows<Sum, V>{reinterpret_cast<Sum*>(all_sums), a.rows + first}
                                          : SumRows<Sum, V>{run, nullptr};
    Sum* spare = run + (rows + kMaxLanes) * V * kLanes<T>;
    const int32_t* gathered = nullptr;

    for (int t = 0; t < count; t++)
        for (int i = 0; tiles[t].panels == 0 && i < tiles[t].rows; i++)
            memset(sums[tiles[t].first_row - first + i], 0, V * kWidth);
    for (PanelOrder at(tiles, count); !at.done(); at.next()) {
        const Tile& tile = tiles[at.tile];
        const Panel& p = a.panels[tile.first_panel + at.panel];
        // Tiles with the same slots share the list, as all do that prune nothing but 2:4.
        const int32_t* columns = a.columns + p.first_column;
        if (columns != gathered) gather_panel<V>(p, columns, block, panel);
        gathered = columns;
        tile_times_panel<T, S, V>(a, p, tile.rows, panel, sums.from(tile.first_row - first), spare, at.panel > 0);
    }
    if (a.rest.indptr) add_rest<T, V>(a.rest, a.rows + first, rows, block, sums);
    if (all_sums) return;
    store_sums<Sum>(reinterpret_cast<const char*>(run), a.rows + first, rows, block, out, epilogue);
}

template <class T, class S>
void run_block(const PanelView& a, const Tile* tiles, int count, const Block& block, const Strided& out,
               const Epilogue& epilogue, char* work, char* all_sums) {
    switch (block.vectors) {
        case 8: return run_block_of<T, S, 8>(a, tiles, count, block, out, epilogue, work, all_sums);
        case 4: return run_block_of<T, S, 4>(a, tiles, count, block, out, epilogue, work, all_sums);
        case 2: return run_block_of<T, S, 2>(a, tiles, count, block, out, epilogue, work, all_sums);
        default: return run_block_of<T, S, 1>(a, tiles, count, block, out, epilogue, work, all_sums);
    }
}

// ---- X into blocks

// Rows of X whose right-hand sides are contiguous.
template <class T, class S>
void pack_straight(const Strided& x, int k0, int k1, const Block& b, T* to) {
    constexpr int L = kLanes<T>;
    const int pitch = b.vectors * L;
    for (int k = k0; k < k1; k++, to += pitch) {
        auto from = reinterpret_cast<const S*>(x.at(k, b.first));
        int m = 0;
        for (; m + L <= b.count; m += L) store(to + m, load_as<T>(from + m));
        if (m < pitch) {
            S some[L] = {};
            memcpy(some, from + m, sizeof(S) * size_t(b.count - m));
            for (; m < pitch; m += L, memset(some, 0, sizeof some)) store(to + m, load_as<T>(some));
        }
    }
}

// Rows of X whose columns are contiguous, as activations are: squares transposed in registers.
template <class T, class S>
void pack_transposed(const Strided& x, int k0, int k1, const Block& b, T* to) {
    constexpr int L = kLanes<T>;
    const int pitch = b.vectors * L;
    for (int m = 0; m < pitch; m += L) {
        const int wide = b.count - m < L ? b.count - m : L;  // may be negative: all padding
        for (int k = k0; k < k1; k += L) {
            const int deep = k1 - k < L ? k1 - k : L;
            Vec<T> square[L];
            auto row = [&](int j) __attribute__((always_inline)) {
                return reinterpret_cast<const S*>(x.at(k, b.first + m + j));
            };
            if (wide == L && deep == L) {
#pragma GCC unroll 16
                for (int j = 0; j < L; j++) square[j] = load_as<T>(row(j));
            } else {
                for (int j = 0; j < L; j++) {
                    S some[L] = {};
                    if (j < wide) memcpy(some, row(j), sizeof(S) * size_t(deep));
                    square[j] = load_as<T>(some);
                }
            }
            transpose<T>(square);
            T* out = to + int64_t(k - k0) * pitch + m;
            if (deep == L) {
#pragma GCC unroll 16
                for (int j = 0; j < L; j++) store(out + j * pitch, square[j]);
            } else {
                for (int j = 0; j < deep; j++) store(out + j * pitch, square[j]);
            }
        }
    }
}

template <class T, class S>
void pack_strided(const Strided& x, int k0, int k1, const Block& b, T* to) {
    constexpr int L = kLanes<T>;
    for (int k = k0; k < k1; k++)
        for (int m = 0; m < b.vectors * L; m += L, to += L) {
            S some[L] = {};
            for (int j = 0; j < L && m + j < b.count; j++)
                memcpy(some + j, x.at(k, b.first + m + j), sizeof(S));
            store(to, load_as<T>(some));
        }
}

template <class T, class S>
void pack_block_as(const Strided& x, int k0, int k1, const Block& b, char* packed) {
    T* to = reinterpret_cast<T*>(packed) + int64_t(k0) * b.vectors * kLanes<T>;
    if (x.column == int64_t(sizeof(S))) pack_straight<T, S>(x, k0, k1, b, to);
    else if (x.row == int64_t(sizeof(S))) pack_transposed<T, S>(x, k0, k1, b, to);
    else pack_strided<T, S>(x, k0, k1, b, to);
}

template <class T> void pack_block(const Strided& x, int k0, int k1, const Block& b, char* packed) {
    if constexpr (std::is_same_v<T, float>) {
        if (x.type == Type::f16) return pack_block_as<T, half>(x, k0, k1, b, packed);
        if (x.type == Type::bf16) return pack_block_as<T, bfloat>(x, k0, k1, b, packed);
        if (x.type == Type::i8) return pack_block_as<T, int8_t>(x, k0, k1, b, packed);
        if (x.type == Type::u8) return pack_block_as<T, uint8_t>(x, k0, k1, b, packed);
    }
    pack_block_as<T, T>(x, k0, k1, b, packed);
}

}  // namespace
}  // namespace tvw
