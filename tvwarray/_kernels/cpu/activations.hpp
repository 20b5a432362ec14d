// Activations of a vector of sums, by one exponential each.
//
//     silu(x)      = x sigmoid(x)                          sigmoid(u) = 1 / (1 + exp(-u))
//     gelu_tanh(x) = x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)),  for 1 + tanh(u) = 2 sigmoid(2u)
//     gelu(x)      = x Phi(x),                             Phi(x) = erfc(-x / sqrt 2) / 2
//
//     erfc(z) exp(z^2) / t, t = 2 / (2 + z), has no singularity for z >= 0, and a short polynomial in
//     s = 2t - 1 (Chebyshev interpolation) describes it to the roundoff of the type.
//
// Errors are a few roundoffs of |x|. NaN stays NaN, and -infinity times zero makes one, as elsewhere.
#pragma once

#include <type_traits>

#include "simd.hpp"

namespace tvw {
namespace {

template <class T> struct Smooth;

template <> struct Smooth<float> {
    using Bits = int32_t;
    static constexpr int kFraction = 23, kBias = 127, kTerms = 8;
    static constexpr float kLowest = -87.5f, kHighest = 88.8f;  // of exp, whose ends are 0 and infinity
    static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
    static constexpr float kErfc[] = {
    0.5107913528f, 0.343580333f, 0.1397360327f, 0.01822138425f, -0.01075511615f, -0.003241854895f,
    0.001544047683f, 0.0004270201508f, -0.000328100148f, -3.295153927e-5f, 6.76878069e-5f,
    -1.327395518e-6f, -8.5088699e-6f};
};

template <> struct Smooth<double> {
    using Bits = int64_t;
    static constexpr int kFraction = 52, kBias = 1023, kTerms = 14;
    static constexpr double kLowest = -708.5, kHighest = 709.9;
    static constexpr double kLn2High = 0.693145751953125, kLn2Low = 1.42860682030941723212e-6;
    static constexpr double kErfc[] = {
    0.510791352621011525, 0.343580342206906715, 0.139736046278014751, 0.0182211157532949193,
    -0.0107553309440365314, -0.00323959252952715324, 0.00154530601410132869,
    0.000418647971066050773, -0.000331536576690146124, -0.0000171852541704068983,
    0.000072234188295048068, -0.0000170766381450795704, -0.0000108429853299644102,
    8.06710621122022891e-6, -5.77642361151142675e-7, -1.83507854089815303e-6,
    1.03056992152911054e-6, 1.57205400667941585e-8, -3.26246093529667201e-7, 1.49714352602231209e-7,
    3.60008452920799344e-8, -5.14562943435773542e-8, 6.52043461440153958e-9, 6.59736730290027449e-9,
    -1.91117372860789394e-9};
};

// exp(v): 2^n exp(r), |r| <= ln(2) / 2, by the power series.
template <class T> TVW_INLINE Vec<T> exponential(Vec<T> v) {
    using C = Smooth<T>;
    using Whole = Vec<typename C::Bits>;
    const Vec<T> low = broadcast(C::kLowest), high = broadcast(C::kHighest);
    const Vec<T> x = v < low ? low : v > high ? high : v == v ? v : Vec<T>{};
    const Vec<T> scaled = x * T(1.44269504088896340736);
    const Whole n = __builtin_convertvector(scaled + (scaled < T(0) ? broadcast(T(-0.5)) : broadcast(T(0.5))), Whole);
    const Vec<T> whole = __builtin_convertvector(n, Vec<T>);
    const Vec<T> r = (x - whole * C::kLn2High) - whole * C::kLn2Low;
    Vec<T> sum = broadcast(T(1));
#pragma GCC unroll 16
    for (int k = C::kTerms; k > 0; k--) sum = sum * (r * (T(1) / T(k))) + T(1);
    // 2^n in two factors: n may be one more than an exponent holds.
    const Whole half = n >> 1;
    const auto power = [](Whole e) __attribute__((always_inline)) {
        return bits_of<Vec<T>>((e + C::kBias) << C::kFraction);
    };
    const Vec<T> result = sum * power(half) * power(n - half);
    return v > low ? (v < high ? result : broadcast(T(__builtin_huge_val()))) : Vec<T>{};
}

template <class T> TVW_INLINE Vec<T> sigmoid(Vec<T> u) { return T(1) / (T(1) + exponential<T>(-u)); }

// The normal distribution function, to the relative precision of exp(-x^2 / 2) for negative x.
template <class T> TVW_INLINE Vec<T> normal_cdf(Vec<T> x) {
    using C = Smooth<T>;
    const Vec<T> z = (x < T(0) ? -x : x) * T(0.70710678118654752440);
    const Vec<T> t = T(2) / (T(2) + z), s = t + t - T(1);
    constexpr int terms = int(sizeof C::kErfc / sizeof *C::kErfc);
    Vec<T> sum = broadcast(C::kErfc[terms - 1]);
#pragma GCC unroll 32
    for (int k = terms - 2; k >= 0; k--) sum = sum * s + C::kErfc[k];
    const Vec<T> tail = T(0.5) * t * sum * exponential<T>(-(z * z));
    return x < T(0) ? tail : T(1) - tail;
}

// Not inlined: stores use it in many places, and it is long beside a call.
template <class T> __attribute__((noinline)) Vec<T> activate_smooth(Vec<T> x, Activation a) {
    if (a == Activation::gelu) return x * normal_cdf<T>(x);
    if (a == Activation::silu) return x * sigmoid<T>(x);
    return x * sigmoid<T>(x * (T(1.59576912160573071176) + T(0.07135481627260025) * (x * x)));
}

template <class T> TVW_INLINE Vec<T> activate(Vec<T> v, Activation a) {
    if (a == Activation::none) return v;
    if constexpr (std::is_floating_point_v<T>)
        if (a != Activation::relu) return activate_smooth<T>(v, a);
    return v < T(0) ? Vec<T>{} : v;  // written so that NaN stays NaN
}

}  // namespace
}  // namespace tvw
