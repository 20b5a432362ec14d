// Which of the compiled instruction sets this processor has.
#include "isa.hpp"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tvw {

#if defined(__x86_64__)
extern const Isa isa_v4, isa_v3;
#endif
#if defined(TVW_DOTS)
extern const DotKernels dots_amx[], dots_vnni[];
#endif
extern const Isa isa_base;

namespace {

struct Available {
    const Isa* isas[5];
    int count = 0;

    Available() {
#if defined(__x86_64__)
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_half()) {
            if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl")) {
                add_dots();
                isas[count++] = &isa_v4;
            }
            isas[count++] = &isa_v3;
        }
#endif
        isas[count++] = &isa_base;
    }

#if defined(__x86_64__)
#if defined(TVW_DOTS)
    // x86-64-v4 and dot products.
    void add_dots() {
        static Isa amx = isa_v4, vnni = isa_v4;
        amx.name = "amx", amx.dots = dots_amx;
        vnni.name = "vnni", vnni.dots = dots_vnni;
        if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vbmi") ||
            !__builtin_cpu_supports("avx512vbmi2"))
            return;
        if (has_tiles()) isas[count++] = &amx;
        isas[count++] = &vnni;
    }

    // AMX with both element types, and the system's leave to use it: Linux grants the larger state on request.
    static bool has_tiles() {
#if defined(__linux__)
        constexpr int request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
        constexpr unsigned needed = 1u << 22 | 1u << 24 | 1u << 25;
        unsigned a = 7, b, c = 0, d;
        asm("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        return (d & needed) == needed && !syscall(SYS_arch_prctl, request, tile_data);
#else
        return false;
#endif
    }
#else
    void add_dots() {}
#endif

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
