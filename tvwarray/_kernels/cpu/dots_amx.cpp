// Dot products in the tiles of AMX: 16 rows of A by 16 right-hand sides by 64 bytes of slots at once.
//
// Eight tile registers: four squares of sums, two strips of A and two vectors of right-hand sides. Each
// of those is loaded once for two products, which take twice as long as a load from the L1 cache.
//
//             X0   X1
//     A0      C0   C1
//     A1      C2   C3
//
// bfloat16 is summed as float32, to nearest, with subnormal operands and results taken as zero.
#include "dots.hpp"

namespace tvw {
namespace {

constexpr int kAhead = 2 * kStripBytes;

// Registers are numbers in the instruction itself: they are given as template arguments.
template <int c> TVW_INLINE void clear() { asm volatile("tilezero %%tmm%c0" ::"i"(c)); }

template <int c> TVW_INLINE void load_tile(const char* p, int64_t pitch) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(c), "r"(p), "r"(pitch) : "memory");
}

template <int c> TVW_INLINE void store_tile(char* p, int64_t pitch) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(c), "r"(p), "r"(pitch) : "memory");
}

template <class S, int c, int a, int x> TVW_INLINE void dot() {
    if constexpr (std::is_same_v<S, bfloat>)
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(x));
    else if constexpr (std::is_same_v<S, int8_t>)
        asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(x));
    else asm volatile("tdpbuud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(x));
}

template <class S> class Tiles {
  public:
    // All registers hold 16 rows of 64 bytes. Released in the end: a thread's state is then as small as before.
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        asm volatile("ldtilecfg %0" ::"m"(shape));
    }
    ~Tiles() { asm volatile("tilerelease"); }
    Tiles(const Tiles&) = delete;

    void run(const Strips& a, const char* x, int steps, int vectors, int64_t pitch, bool add) const {
        for (int v = 0; v < vectors; v += 2) {
            const char* from = x + v * kStripBytes;
            const int64_t step = int64_t(vectors) * kStripBytes;
            if (a.count == 2 && vectors - v > 1) square<2, 2>(a, from, step, steps, v, pitch, add);
            else if (a.count == 2) square<2, 1>(a, from, step, steps, v, pitch, add);
            else if (vectors - v > 1) square<1, 2>(a, from, step, steps, v, pitch, add);
            else square<1, 1>(a, from, step, steps, v, pitch, add);
        }
    }

  private:
    template <int strips, int wide>
    static TVW_INLINE void square(const Strips& a, const char* x, int64_t x_step, int steps, int v, int64_t pitch,
                                  bool add) {
        char *c0 = a.sums[0] + v * 64, *c1 = strips == 2 ? a.sums[1] + v * 64 : nullptr;
        if (add) {
            load_tile<0>(c0, pitch);
            if constexpr (wide == 2) load_tile<1>(c0 + 64, pitch);
            if constexpr (strips == 2) load_tile<2>(c1, pitch);
            if constexpr (strips == 2 && wide == 2) load_tile<3>(c1 + 64, pitch);
        } else {
            clear<0>();
            clear<1>();
            clear<2>();
            clear<3>();
        }
        const char *a0 = a.a[0], *a1 = a.a[1];
        for (int s = 0; s < steps; s++, x += x_step, a0 += kStripBytes, a1 += kStripBytes) {
            // The first vectors meet strips that are in the L2 cache only.
            if (v == 0)
#pragma GCC unroll 16
                for (int line = 0; line < kStripBytes; line += 64) {
                    __builtin_prefetch(a0 + kAhead + line);
                    if constexpr (strips == 2) __builtin_prefetch(a1 + kAhead + line);
                }
            load_tile<4>(a0, 64);
            load_tile<6>(x, 64);
            dot<S, 0, 4, 6>();
            if constexpr (wide == 2) {
                load_tile<7>(x + kStripBytes, 64);
                dot<S, 1, 4, 7>();
            }
            if constexpr (strips == 2) {
                load_tile<5>(a1, 64);
                dot<S, 2, 5, 6>();
                if constexpr (wide == 2) dot<S, 3, 5, 7>();
            }
        }
        store_tile<0>(c0, pitch);
        if constexpr (wide == 2) store_tile<1>(c0 + 64, pitch);
        if constexpr (strips == 2) store_tile<2>(c1, pitch);
        if constexpr (strips == 2 && wide == 2) store_tile<3>(c1 + 64, pitch);
    }
};

}  // namespace

extern const DotKernels dots_amx[];
const DotKernels dots_amx[] = {
    {},                                // f32
    {},                                // f64
    {},                                // f16
    dots_of<bfloat, Tiles<bfloat>, 8, 8>(),  // bf16
    dots_of<int8_t, Tiles<int8_t>, 16, 8>(),
    dots_of<uint8_t, Tiles<uint8_t>, 16, 8>(),
};

}  // namespace tvw
