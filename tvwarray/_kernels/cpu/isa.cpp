// The kernels of one instruction set; compiled once for each with its flags and its name, TVW_ISA.
//
// All kernels have internal linkage, so that the linker cannot put one set's code in another's place.
#include "isa.hpp"

#include "lanes.hpp"
#include "lanes_transposed.hpp"
#include "panels.hpp"

namespace tvw {
namespace {

template <class T, class S> constexpr Kernels kernels_of() {
    return {pack_block<T>, run_block<T, S>, store_sums<Sum<T, S>>, store_rows<Sum<T, S>>, pack_pass<T>, gather<T>,
            run_pass<T, S>, run_back<T, S>, finish_back<T, S>};
}

constexpr Kernels kernels[] = {
    kernels_of<float, float>(),    // f32
    kernels_of<double, double>(),  // f64
    kernels_of<float, half>(),     // f16
    kernels_of<float, bfloat>(),   // bf16
    kernels_of<float, int8_t>(),   // i8
    kernels_of<float, uint8_t>(),  // u8
};

// Eight right-hand sides take 16 registers for sums: all that AVX2 has.
constexpr int kMaxRhs = !kFastSelect ? 0 : kWidth == 64 ? 8 : 4;

#define TVW_TEXT_OF(x) #x
#define TVW_TEXT(x) TVW_TEXT_OF(x)
#define TVW_JOIN_OF(a, b) a##b
#define TVW_JOIN(a, b) TVW_JOIN_OF(a, b)

}  // namespace

extern const Isa TVW_JOIN(isa_, TVW_ISA);
const Isa TVW_JOIN(isa_, TVW_ISA) = {TVW_TEXT(TVW_ISA), kWidth, kMaxRhs, kernels, nullptr};

}  // namespace tvw
