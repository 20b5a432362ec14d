// Dot products by VNNI: four 8-bit products summed in each 32-bit lane of a vector.
//
// The instruction multiplies unsigned by signed bytes. So X is held as x + 128, and the sum of a row of A
// starts from -128 times the sum of its values: what the wrapping 32 bits end with is exact.
#include "dots.hpp"

namespace tvw {
namespace {

struct Vectors {
    void run(const Strips& a, const char* x, int steps, int vectors, int64_t pitch, bool add) const {
        for (int h = 0; h < a.count; h++)
            for (int row = 0; row < kDotRows; row += 4) {
                const char* from = a.a[h] + row * kStepBytes;
                char* to = a.sums[h] + row * pitch;
                const int32_t* start = add ? nullptr : a.start[h] + row;
                switch (vectors) {
                    case 4: four_rows<4>(from, x, steps, to, start); break;
                    case 3: four_rows<3>(from, x, steps, to, start); break;
                    case 2: four_rows<2>(from, x, steps, to, start); break;
                    default: four_rows<1>(from, x, steps, to, start);
                }
            }
    }

  private:
    template <int V>
    static TVW_INLINE void four_rows(const char* a, const char* x, int steps, char* to, const int32_t* start) {
        __m512i sums[4][V];
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
                sums[r][v] = start ? _mm512_set1_epi32(start[r]) : load<__m512i>(to + (r * V + v) * 64);
        for (int s = 0; s < steps; s++, a += kStripBytes, x += V * kStripBytes)
            for (int unit = 0; unit < 16; unit++) {
                __m512i wide[V];
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) wide[v] = load<__m512i>(x + v * kStripBytes + unit * 64);
#pragma GCC unroll 4
                for (int r = 0; r < 4; r++) {
                    const auto four = _mm512_set1_epi32(load<int32_t>(a + r * kStepBytes + 4 * unit));
#pragma GCC unroll 4
                    for (int v = 0; v < V; v++) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], wide[v], four);
                }
            }
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) store(to + (r * V + v) * 64, sums[r][v]);
    }
};

}  // namespace

extern const DotKernels dots_vnni[];
const DotKernels dots_vnni[] = {
    {},  // f32
    {},  // f64
    {},  // f16
    {},  // bf16
    dots_of<int8_t, Vectors, 4, 12, 128>(),
    {},  // u8
};

}  // namespace tvw
