// The names that config.cuh uses.
#pragma once

enum class Element {
    float16,
    bfloat16,
    int8,
    float8_e4m3,
    float8_e5m2,
    tf32,     // float32 of which tensor cores read 19 bits
    float64,  //
    float32,  // results only
    int32,    // results only
};

enum class Activation { none, relu, gelu, gelu_tanh, silu };

__device__ constexpr int bytes_of(Element e) {
    if (e == Element::float64) return 8;
    if (e == Element::tf32 || e == Element::float32 || e == Element::int32) return 4;
    return e == Element::float16 || e == Element::bfloat16 ? 2 : 1;
}

__device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
