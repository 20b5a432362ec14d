// float32 to bfloat16 parts whose sum it is, x = x0 + x1 + x2, at the speed of memory.
//
// Each part is what is left, rounded to the nearest. Three parts hold all 24 bits:
//
//   x    s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm
//   x0   s eeeeeeee mmmmmmm                     what is left of x has at most 16 bits, x1 takes 8
//   x1                      mmmmmmmm            of them, and x2 the rest: subtracting is exact
//   x2                              mmmmmmmm
//
// A value that would round to infinity is truncated; one that is not finite is the first part alone,
// and a NaN stays one whatever its lower bits were. elements.py has the same in array operations.
//
// A thread has 8 neighbours of a row: 32 bytes in, 16 bytes out for each part. Behind the last column
// parts are zero up to `width`: products read their rows in whole chunks.
#include "config.cuh"

using Word = unsigned int;

constexpr int chunk_elements = 8;  // of a part: 16 bytes

struct alignas(16) Four {
    float value[4];
};
struct alignas(16) Chunk {
    Word pair[chunk_elements / 2];  // bfloat16, the lower column in the lower half
};

// Take the next part off `rest`, as bits in the lower half of a word.
__device__ inline Word take_part(float& rest) {
    const Word bits = __float_as_uint(rest);
    const bool finite = (bits & 0x7f800000) != 0x7f800000;
    const Word nearest = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    const bool overflows = (nearest & 0x7f800000) == 0x7f800000;
    const Word quiet = (bits & 0x7fffffff) > 0x7f800000 ? 0x400000 : 0;
    const Word part = finite && !overflows ? nearest : (bits & 0xffff0000) | quiet;
    rest = finite ? rest - __uint_as_float(part) : 0.0f;
    return part >> 16;
}

extern "C" __global__ void __launch_bounds__(config::threads) split(
    const float* __restrict__ x,  // (batch, rows, n), any strides, in elements
    long long x_row,              //
    long long x_column,           //
    long long x_batch,            //
    Chunk* y,                     // (parts, batch, rows, row_chunks)
    int rows,                     // of an X
    int n,                        // its columns
    int row_chunks,               // of a row of a part
    long long chunks) {           // of a part
    const long long at = static_cast<long long>(blockIdx.x) * config::threads + threadIdx.x;
    if (at >= chunks) return;
    const long long of_row = at / row_chunks;
    const int column = static_cast<int>(at - of_row * row_chunks) * chunk_elements;
    const float* const first =
        x + of_row / rows * x_batch + of_row % rows * x_row + column * x_column;

    float rest[chunk_elements];
    if (x_column == 1 && column + chunk_elements <= n &&
        reinterpret_cast<unsigned long long>(first) % sizeof(Four) == 0) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Four four = reinterpret_cast<const Four*>(first)[half];
#pragma unroll
            for (int e = 0; e < 4; ++e) rest[4 * half + e] = four.value[e];
        }
    } else {
#pragma unroll
        for (int e = 0; e < chunk_elements; ++e)
            rest[e] = column + e < n ? first[e * x_column] : 0.0f;
    }
#pragma unroll
    for (int part = 0; part < config::parts; ++part) {
        Chunk chunk;
#pragma unroll
        for (int e = 0; e < chunk_elements; e += 2) {
            const Word low = take_part(rest[e]), high = take_part(rest[e + 1]);
            chunk.pair[e / 2] = low | high << 16;
        }
        y[part * chunks + at] = chunk;
    }
}
