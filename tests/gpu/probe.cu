// One tensor-core instruction and nothing else, for one warp: every lane brings its own registers
// and gives its own back, so that hardware and interpreter can be compared lane by lane.
#include "types.cuh"
#include "config.cuh"
#include "products.cuh"

template <int selector>
__device__ void sparse(const Word* a, const Word* b, const Word* meta, const float* c, float* d) {
    const int lane = threadIdx.x;
    FragmentA fa;
    FragmentB fb;
    FragmentC fc;
    for (int i = 0; i < 4; ++i) fa.word[i] = a[4 * lane + i];
    for (int i = 0; i < 4; ++i) fb.word[i] = b[4 * lane + i];
    for (int i = 0; i < 4; ++i) fc.word[i] = c[4 * lane + i];
    multiply_sparse<selector>(fc, fa, fb, meta[lane]);
    for (int i = 0; i < 4; ++i) d[4 * lane + i] = fc.word[i];
}

template <int half>
__device__ void dense(const Word* a, const Word* b, const float* c, float* d) {
    const int lane = threadIdx.x;
    FragmentA fa;
    FragmentB fb;
    FragmentC fc;
    for (int i = 0; i < 4; ++i) fa.word[i] = a[4 * lane + i];
    for (int i = 0; i < 4; ++i) fb.word[i] = b[4 * lane + i];
    for (int i = 0; i < 4; ++i) fc.word[i] = c[4 * lane + i];
    multiply_dense<half>(fc, fa, fb);
    for (int i = 0; i < 4; ++i) d[4 * lane + i] = fc.word[i];
}

extern "C" __global__ void sparse_0(const Word* a, const Word* b, const Word* meta, const float* c, float* d) {
    sparse<0>(a, b, meta, c, d);
}

extern "C" __global__ void sparse_1(const Word* a, const Word* b, const Word* meta, const float* c, float* d) {
    sparse<1>(a, b, meta, c, d);
}

extern "C" __global__ void dense_0(const Word* a, const Word* b, const Word* meta, const float* c, float* d) {
    dense<0>(a, b, c, d);
}

extern "C" __global__ void dense_1(const Word* a, const Word* b, const Word* meta, const float* c, float* d) {
    dense<1>(a, b, c, d);
}

// ldmatrix: lane l names row l of 32 rows of 16 bytes; words come back as in FragmentB.
extern "C" __global__ void transpose(const Word* a, const Word* b, const Word* meta, const float* c, float* d) {
    __shared__ __align__(16) Word rows[4 * 32];
    const int lane = threadIdx.x;
    for (int i = 0; i < 4; ++i) rows[4 * lane + i] = b[4 * lane + i];
    warp_barrier();
    const Chunk fb = load_matrices_transposed(shared_address(rows + 4 * lane));
    for (int i = 0; i < 4; ++i) reinterpret_cast<Word*>(d)[4 * lane + i] = fb.word[i];
}

// Two sums to a pair of 16-bit values: rounding, overflow, NaN.
extern "C" __global__ void round_sums(const Word* a, const Word* b, const Word* meta, const float* c, float* d) {
    const int lane = threadIdx.x;
    for (int i = 0; i < 4; ++i) {
        const float low = c[4 * lane + i];
        const float high = c[4 * (31 - lane) + i];
        reinterpret_cast<Word*>(d)[4 * lane + i] = round_pair(low, high);
    }
}
