// Vectors of one instruction set's width, by GCC's and Clang's vector extension.
// The loops in the kernels are written once; here is all that differs between instruction sets:
// the width, the conversions of 16-bit floats and the selection by metadata.
#pragma once

#include <cstring>

#include "layout.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tvw {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 64;
#elif defined(__AVX2__)
constexpr int kWidth = 32;
#else
constexpr int kWidth = 16;
#endif

#define TVW_INLINE inline __attribute__((always_inline))

template <class T> struct VectorOf { typedef T type __attribute__((vector_size(kWidth))); };
template <class T> using Vec = typename VectorOf<T>::type;
template <class T> constexpr int kLanes = kWidth / int(sizeof(T));

// As many 16- or 8-bit elements as a vector has 32-bit lanes.
typedef uint16_t Words __attribute__((vector_size(kWidth / 2)));
typedef int8_t Bytes __attribute__((vector_size(kWidth / 4)));
typedef uint8_t UBytes __attribute__((vector_size(kWidth / 4)));

template <class To, class From> TVW_INLINE To bits_of(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

template <class V> TVW_INLINE V load(const void* p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}

template <class V> TVW_INLINE void store(void* p, V v) { memcpy(p, &v, sizeof v); }

// s - 0 is s for every s; s + 0 would lose the sign of -0.
template <class T> TVW_INLINE Vec<T> broadcast(T s) { return s - Vec<T>{}; }

// ---- conversions while loading and storing

TVW_INLINE Vec<float> widen(half, const void* p) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(load<__m256i>(p));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(load<__m128i>(p));
#else
    // Exponent and fraction moved into place and rescaled by 2^112: right for subnormals too.
    auto h = __builtin_convertvector(load<Words>(p), Vec<uint32_t>);
    auto scaled = bits_of<Vec<float>>((h & 0x7fff) << 13) * 0x1p112f;
    auto bits = bits_of<Vec<uint32_t>>(scaled) | ((h & 0x8000) << 16);
    auto special = bits_of<Vec<uint32_t>>((h & 0x7c00) == 0x7c00);
    return bits_of<Vec<float>>(bits | (special & 0x7f800000));
#endif
}

TVW_INLINE Vec<float> widen(bfloat, const void* p) {
    return bits_of<Vec<float>>(__builtin_convertvector(load<Words>(p), Vec<uint32_t>) << 16);
}

// GCC 12 converts bytes one by one unless told the instruction.
TVW_INLINE Vec<float> widen(int8_t, const void* p) {
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(p)));
#elif defined(__AVX2__)
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
#else
    return __builtin_convertvector(__builtin_convertvector(load<Bytes>(p), Vec<int32_t>), Vec<float>);
#endif
}

TVW_INLINE Vec<float> widen(uint8_t, const void* p) {
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load<__m128i>(p)));
#elif defined(__AVX2__)
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
#else
    return __builtin_convertvector(__builtin_convertvector(load<UBytes>(p), Vec<int32_t>), Vec<float>);
#endif
}

// A vector of T from as many elements of S.
template <class T, class S> TVW_INLINE Vec<T> load_as(const S* p) {
    if constexpr (sizeof(T) == sizeof(S)) return load<Vec<T>>(p);
    else return widen(S{}, p);
}

TVW_INLINE void narrow(bfloat* p, Vec<float> v) {
    auto b = bits_of<Vec<uint32_t>>(v);
    auto rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;  // to nearest, ties to even
    auto nan = bits_of<Vec<uint32_t>>(v != v);
    auto kept = (rounded & ~nan) | (((b >> 16) | 0x40) & nan);
    store(p, __builtin_convertvector(kept, Words));
}

#if !defined(__F16C__) && !defined(__AVX512F__)
TVW_INLINE uint16_t round_to_half(float x) {
    uint32_t b = bits_of<uint32_t>(x), sign = (b >> 16) & 0x8000, size = b & 0x7fffffff;
    if (size > 0x7f800000) return uint16_t(sign | 0x7e00 | ((size >> 13) & 0x1ff));
    if (size >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds to infinity
    if (size < 0x38800000)  // subnormal: adding 0.5 leaves the fraction, rounded, in the lowest bits
        return uint16_t(sign | (bits_of<uint32_t>(bits_of<float>(size) + 0.5f) - 0x3f000000));
    return uint16_t(sign | ((size + 0xfff + ((size >> 13) & 1) - 0x38000000) >> 13));
}
#endif

TVW_INLINE void narrow(half* p, Vec<float> v) {
#if defined(__AVX512F__)
    store(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
    store(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    for (int i = 0; i < kLanes<float>; i++) p[i].bits = round_to_half(v[i]);
#endif
}

// As many elements of S from a vector of T.
template <class T, class S> TVW_INLINE void store_as(S* p, Vec<T> v) {
    if constexpr (sizeof(T) == sizeof(S)) store(p, v);
    else narrow(p, v);
}

// ---- integers by way of floats

// What products of values stored as S are summed in, where they are multiplied as T. 8-bit integers
// run through float32, which holds every sum of 256 of their products (below 2^24) exactly; such sums
// are then added up as int32.
template <class T, class S> struct SumOf { using type = T; };
template <class T> struct SumOf<T, int8_t> { using type = int32_t; };
template <class T> struct SumOf<T, uint8_t> { using type = int32_t; };
template <class T, class S> using Sum = typename SumOf<T, S>::type;
constexpr int kExactProducts = 256;

TVW_INLINE Vec<int32_t> add_wrapping(Vec<int32_t> a, Vec<int32_t> b) {
    return bits_of<Vec<int32_t>>(bits_of<Vec<uint32_t>>(a) + bits_of<Vec<uint32_t>>(b));
}

// ---- selection by metadata

// Whether `select_four` is one or two instructions.
#if defined(__AVX2__)
constexpr bool kFastSelect = true;
#else
constexpr bool kFastSelect = false;
#endif

// The integer vector that steers a selection among values of T.
template <class T> struct WhereOf;
template <> struct WhereOf<float> { using type = uint32_t; };
template <> struct WhereOf<double> { using type = uint64_t; };
template <class T> using Where = Vec<typename WhereOf<T>::type>;

// Four values repeated over a whole vector.
template <class T> TVW_INLINE Vec<T> broadcast_four(const T* p) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
    else return _mm512_broadcast_f64x4(_mm256_loadu_pd(p));
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
    else return _mm256_loadu_pd(p);
#else
    Vec<T> v;
    for (int i = 0; i < kLanes<T>; i++) v[i] = p[i % 4];
    return v;
#endif
}

// Lane i of the result is four[where[i] & 3], p being what broadcast_four was given: `four` may be
// of any use only where one instruction reads just the two lowest bits of `where`.
template <class T> TVW_INLINE Vec<T> select_four(Vec<T> four, const T* p, Where<T> where) {
#if defined(__AVX512F__)
    (void)p;
    if constexpr (sizeof(T) == 4) return _mm512_permutevar_ps(four, bits_of<__m512i>(where));
    else return _mm512_permutexvar_pd(bits_of<__m512i>(where), four);  // reads 3 bits; four repeats
#elif defined(__AVX2__)
    (void)p;
    if constexpr (sizeof(T) == 4) return _mm256_permutevar_ps(four, bits_of<__m256i>(where));
    else {  // doubles move as pairs of floats: 2w and 2w + 1
        auto w = (where & 3) << 1;
        auto pairs = w | ((w | 1) << 32);
        return _mm256_castps_pd(
            _mm256_permutevar8x32_ps(_mm256_castpd_ps(four), bits_of<__m256i>(pairs)));
    }
#else
    (void)four;
    Vec<T> v;
    for (int i = 0; i < kLanes<T>; i++) v[i] = p[where[i] & 3];
    return v;
#endif
}

// ---- transposition

template <int... I> struct Indices {};
template <int N, int... I> struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I> struct MakeIndices<0, I...> { using type = Indices<I...>; };

// Shuffles of two vectors of n elements that every instruction set has as one instruction: element i
// of the result is `(i)` of a and b laid end to end.

// Runs of w from a and b in turn, from the lower or upper halves of their 128-bit lanes of e elements.
template <int n, int e, int w, bool upper> struct Interleave {
    static constexpr int from(int i) {
        const int lane = i / e * e, run = i % e / w;
        return lane + run / 2 * w + i % w + (upper ? e / 2 : 0) + (run % 2 ? n : 0);
    }
};

// Every second 128-bit lane of e elements: of a, then of b.
template <int n, int e, bool odd> struct EverySecond {
    static constexpr int from(int i) { return (2 * (i / e) + odd) * e + i % e; }
};

template <class How, class V, int... I> TVW_INLINE V shuffle(V a, V b, Indices<I...>) {
    return __builtin_shufflevector(a, b, How::from(I)...);
}

template <class Low, class High, class V> TVW_INLINE void shuffle_pair(V& a, V& b) {
    using All = typename MakeIndices<int(sizeof(V) / sizeof(a[0]))>::type;
    const V low = shuffle<Low>(a, b, All{}), high = shuffle<High>(a, b, All{});
    a = low;
    b = high;
}

template <int w, class V> TVW_INLINE void interleave(V& a, V& b) {
    constexpr int n = int(sizeof(V) / sizeof(a[0])), e = 16 / int(sizeof(a[0]));
    shuffle_pair<Interleave<n, e, w, false>, Interleave<n, e, w, true>>(a, b);
}

template <class V> TVW_INLINE void separate(V& a, V& b) {
    constexpr int n = int(sizeof(V) / sizeof(a[0])), e = 16 / int(sizeof(a[0]));
    shuffle_pair<EverySecond<n, e, false>, EverySecond<n, e, true>>(a, b);
}

// Squares of e x e elements, e in a 128-bit lane: lane l of r[j] becomes column j of the square that
// r[0 .. e) hold in their lanes l.
template <int e, class V> TVW_INLINE void transpose_lanes(V* r) {
    interleave<1>(r[0], r[1]);
    if constexpr (e == 4) {
        interleave<1>(r[2], r[3]);
        interleave<2>(r[0], r[2]);
        interleave<2>(r[1], r[3]);
        const V swap = r[1];
        r[1] = r[2];
        r[2] = swap;
    }
}

// A square of one vector a row, in registers: squares within lanes first, then the lanes themselves.
template <class T> TVW_INLINE void transpose(Vec<T> (&r)[kLanes<T>]) {
    constexpr int e = 16 / int(sizeof(T)), lanes = kWidth / 16;
#pragma GCC unroll 4
    for (int i = 0; i < lanes; i++) transpose_lanes<e>(r + e * i);
#pragma GCC unroll 4
    for (int j = 0; j < e; j++) {
        if constexpr (lanes == 2) separate(r[j], r[e + j]);
        if constexpr (lanes == 4) {
            separate(r[j], r[e + j]);
            separate(r[2 * e + j], r[3 * e + j]);
            separate(r[j], r[2 * e + j]);
            separate(r[e + j], r[3 * e + j]);
        }
    }
}

}  // namespace
}  // namespace tvw
