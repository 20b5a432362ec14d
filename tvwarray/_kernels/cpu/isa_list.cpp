// Which of the compiled instruction sets this processor has.
#include "isa.hpp"

namespace tvw {

#if defined(__x86_64__)
extern const Isa isa_v4, isa_v3;
#endif
extern const Isa isa_base;

namespace {

struct Available {
    const Isa* isas[3];
    int count = 0;

    Available() {
#if defined(__x86_64__)
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_half()) {
            if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl"))
                isas[count++] = &isa_v4;
            isas[count++] = &isa_v3;
        }
#endif
        isas[count++] = &isa_base;
    }

#if defined(__x86_64__)
    // F16C has no name in every compiler's list; bit 29 of ECX of leaf 1 is it. BMI2 and the rest of
    // x86-64-v3 came with AVX2.
    static bool has_half() {
        unsigned a = 1, b, c = 0, d;
        asm("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        return c >> 29 & 1;
    }
#endif
};

}  // namespace

const Isa* const* available(int* count) {
    static const Available list;
    *count = list.count;
    return list.isas;
}

}  // namespace tvw
