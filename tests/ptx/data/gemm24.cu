// A small product of a 2:4 matrix and a dense one: what the interpreter's own tests run.
//
//   C (m, n) = A (m, k) X (k, n),  A as values (m, k / 2) and metadata, X and C row-major, float16
//
// A block makes 64 x 64 of C with four warps of 32 x 32. A stage holds 64 dense columns of A, which
// are 32 stored halves a row, and 64 rows of X. gemm24.ptx is made from it by
//
//   nvcc -arch=sm_80 -ptx gemm24.cu
//
// without the lines that are comments only. Mutants are made by replacing text in gemm24.ptx.
using Word = unsigned;
using Half = unsigned short;

constexpr int block_m = 64, block_n = 64, step_k = 64, stages = 3, threads = 128;
constexpr int a_bytes = block_m * step_k;  // two bytes for every second column
constexpr int x_bytes = step_k * block_n * 2;
constexpr int stage_bytes = a_bytes + x_bytes;

// Where 16-byte chunk c of a row stands. A row of A is 4 chunks, so two rows share all banks; a row
// of X is 8. Without the XOR the eight rows of an ldmatrix phase would share a few banks.
__device__ Word a_place(int row, int c) { return row * 64 + ((c ^ (row >> 1 & 3)) << 4); }
__device__ Word x_place(int row, int c) { return row * 128 + ((c ^ (row & 7)) << 4); }

__device__ void copy(Word to, const Half* from, bool real) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(real ? 16 : 0) : "memory");
}
__device__ void load(Word (&r)[4], Word from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
__device__ void load_transposed(Word (&r)[4], Word from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
template <int selector>
__device__ void multiply(float (&d)[4], const Word (&a)[4], const Word (&b)[4], Word e) {
    asm volatile(
        "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]),
          "r"(e), "n"(selector));
}
__device__ void store(Half* to, float low, float high) {
    Word pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    *reinterpret_cast<Word*>(to) = pair;
}

extern "C" __global__ void __launch_bounds__(threads)
    gemm24(const Half* __restrict__ a, const Word* __restrict__ meta, const Half* __restrict__ x,
           Half* __restrict__ c, int m, int n, int k) {
    extern __shared__ __align__(128) char shared[];
    const Word base = static_cast<Word>(__cvta_generic_to_shared(shared));
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const int m0 = blockIdx.y * block_m, n0 = blockIdx.x * block_n;
    const int wm = (warp >> 1) * 32, wn = (warp & 1) * 32;
    const int steps = k / step_k;

    const auto fill = [&](int stage, int step) {
        const Word to = base + stage * stage_bytes;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = (thread + i * threads) >> 2, chunk = thread & 3;
            copy(to + a_place(row, chunk), a + (m0 + row) * (k / 2) + step * 32 + chunk * 8,
                 m0 + row < m);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = (thread + i * threads) >> 3, chunk = thread & 7;
            copy(to + a_bytes + x_place(row, chunk), x + (step * 64 + row) * n + n0 + chunk * 8, true);
        }
    };

    float sum[2][4][4] = {};
#pragma unroll
    for (int s = 0; s < stages - 1; s++) {
        if (s < steps) fill(s, s);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(stages - 2) : "memory");
        __syncthreads();
        if (step + stages - 1 < steps) fill((step + stages - 1) % stages, step + stages - 1);
        asm volatile("cp.async.commit_group;" ::: "memory");
        const Word from = base + step % stages * stage_bytes;
        Word e[2];
#pragma unroll
        for (int i = 0; i < 2; i++) e[i] = meta[(((m0 + wm) / 16 + i) * steps + step) * 32 + lane];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            Word left[2][4], right[4][4];
#pragma unroll
            for (int i = 0; i < 2; i++)
                load(left[i], from + a_place(wm + i * 16 + (lane & 15), half * 2 + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < 4; j++)
                load_transposed(right[j], from + a_bytes + x_place(half * 32 + lane, wn / 8 + j));
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    if (half == 0)
                        multiply<0>(sum[i][j], left[i], right[j], e[i]);
                    else
                        multiply<1>(sum[i][j], left[i], right[j], e[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int row = m0 + wm + i * 16 + (lane >> 2), col = n0 + wn + j * 8 + (lane & 3) * 2;
            if (row < m) store(c + row * n + col, sum[i][j][0], sum[i][j][1]);
            if (row + 8 < m) store(c + (row + 8) * n + col, sum[i][j][2], sum[i][j][3]);
        }
}
