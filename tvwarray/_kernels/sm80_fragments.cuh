// Shared memory to registers to tensor cores: what a warp holds of a step, and multiplies.
//
// A step is worked through in micro-steps: 32 slots x `group_columns` eights of the warp's columns
// each (of float32 in parts, one part of X). Fragments that are being loaded and those that are
// multiplied are two sets of registers: loading into what a product has just read makes the load
// wait for the tensor core, and costs a fifth.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "products.cuh"
#include "layout.cuh"

constexpr int group_columns = warp_columns < 4 ? warp_columns : 4;  // of a micro-step
constexpr int groups = warp_columns / group_columns;
constexpr int k_micro_steps = parts * groups;
constexpr int micro_steps = k_steps * k_micro_steps;
constexpr bool split_sums = parts > 1;
constexpr int warp_chunks = config::warp_n / chunk_elements;
constexpr int group_chunks = warp_chunks / groups;

static_assert(k_steps % 2 == 0, "fragments of A alternate between two sets");
static_assert((warp_columns & (warp_columns - 1)) == 0, "columns of a warp differ by an XOR");
static_assert(element_bytes <= 2 || x_chunks >= 8, "rows of X are whole lines");

struct Fragments {
    const int lane;
    const int warp_m;  // the warp's place in the block
    const Word b_at;   // where this lane's first chunk of X is, in a stage

    FragmentC sums[warp_bricks][warp_columns] = {};
    // Of float32 in parts, all but the product of the first parts.
    FragmentC small[split_sums ? warp_bricks : 1][split_sums ? warp_columns : 1] = {};
    FragmentA a[2][parts][warp_bricks][k_fragments];
    FragmentB b[2][group_columns];
    Word metadata[warp_bricks][meta_words] = {}, next_metadata[warp_bricks][meta_words] = {};

    // Where ldmatrix is used a lane gives the address of row `lane`, else it reads row lane % 4.
    __device__ inline Fragments(int lane, int warp_m, int warp_n)
        : lane(lane), warp_m(warp_m), b_at(first_of_x(element_bytes <= 2 ? lane : lane % 4, warp_n)) {}

    __device__ static inline Word first_of_x(int row, int warp_n) {
        return row * x_row_bytes + swizzle_x(row, warp_n * warp_chunks) * chunk_bytes;
    }

    // Load what micro-step i of a step needs that those before it did not.
    __device__ inline void load(Word stage, int i) {
        if (i % k_micro_steps == 0) load_a(stage, i / k_micro_steps);
        if (config::sparse && i == 0) load_metadata(stage);
        load_b(stage, i);
    }

    // The next step's metadata are this one's.
    __device__ inline void advance() {
#pragma unroll
        for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
            for (int w = 0; w < meta_words; ++w) metadata[m][w] = next_metadata[m][w];
    }

    // Multiply micro-step i.
    __device__ inline void multiply(int i) {
        const int k = i / k_micro_steps;
        const int x_of = i / groups % parts;  // the part of X
#pragma unroll
        for (int part = 0; part < parts - x_of; ++part)
#pragma unroll
            for (int j = 0; j < group_columns; ++j)
#pragma unroll
                for (int m = 0; m < warp_bricks; ++m) {
                    const int column = i % groups * group_columns + j;
                    if (part + x_of == 0)
                        multiply_one(sums[m][column], k, part, m, i, j);
                    else
                        multiply_one(small[split_sums ? m : 0][split_sums ? column : 0], k, part,
                                     m, i, j);
                }
    }

    // Add the small products to the large ones. What is infinite there stays so: 0 * Inf of a small
    // part would make it NaN.
    __device__ inline void add_small() {
        if constexpr (split_sums) {
#pragma unroll
            for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
                for (int j = 0; j < warp_columns; ++j)
#pragma unroll
                    for (int w = 0; w < 4; ++w) {
                        const float large = sums[m][j].word[w];
                        const bool finite = fabsf(large) <= 3.4028234e38f;
                        sums[m][j].word[w] = finite ? large + small[m][j].word[w] : large;
                    }
        }
    }

   private:
    __device__ inline void load_a(Word stage, int k) {
#pragma unroll
        for (int part = 0; part < parts; ++part)
#pragma unroll
            for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
                for (int f = 0; f < k_fragments; ++f) {
                    const int brick = warp_m * warp_bricks + m;
                    const int fragment = brick * brick_fragments + k * k_fragments + f;
                    const Word from =
                        stage + values_at + part * value_bytes + fragment * fragment_bytes;
                    const Chunk chunk = load_shared_chunk(from + lane * chunk_bytes);
                    a[k % 2][part][m][f] = {chunk.word[0], chunk.word[1], chunk.word[2],
                                            chunk.word[3]};
                }
    }

    __device__ inline void load_metadata(Word stage) {
#pragma unroll
        for (int m = 0; m < warp_bricks; ++m)
#pragma unroll
            for (int w = 0; w < meta_words; ++w) {
                const int brick = warp_m * warp_bricks + m;
                const Word from = stage + meta_at + brick * brick_meta_bytes;
                next_metadata[m][w] = load_shared(from + (w * 32 + lane) * sizeof(Word));
            }
    }

    // The warp's columns begin at a power of two: in any row, chunk j is an XOR away from chunk 0.
    __device__ inline void load_b(Word stage, int i) {
        const int k = i / k_micro_steps;
        const int part = i / groups % parts;
        FragmentB(&to)[group_columns] = b[i % 2];
        const Word first = stage + part * x_bytes + k * k_slots * x_row_bytes + b_at;
        if constexpr (element_bytes == 2) {
#pragma unroll
            for (int j = 0; j < group_columns; ++j) {
                const int chunk = i % groups * group_chunks + j;
                const Chunk got = load_matrices_transposed(first ^ chunk * chunk_bytes);
                to[j] = {got.word[0], got.word[1], got.word[2], got.word[3]};
            }
        } else if constexpr (element_bytes == 1) {
            // Pairs of bytes are transposed, so a register holds two columns of two slots. Two
            // registers make one of the even and one of the odd columns: a FragmentB of columns
            // 0, 2, 4 .. 14 of a chunk, and one of 1, 3, 5 .. 15. Which slot is where: pack.py.
#pragma unroll
            for (int j = 0; j < group_columns / 2; ++j) {
                const int chunk = i % groups * group_chunks + j;
                const Word from = first ^ chunk * chunk_bytes;
                const Chunk upper = load_matrices_transposed(from);
                const Chunk lower = load_matrices_transposed(from + 32 * x_row_bytes);
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    to[2 * j].word[r] =
                        permute_bytes(upper.word[2 * r], upper.word[2 * r + 1], 0x6420);
                    to[2 * j + 1].word[r] =
                        permute_bytes(upper.word[2 * r], upper.word[2 * r + 1], 0x7531);
                    to[2 * j].word[2 + r] =
                        permute_bytes(lower.word[2 * r], lower.word[2 * r + 1], 0x6420);
                    to[2 * j + 1].word[2 + r] =
                        permute_bytes(lower.word[2 * r], lower.word[2 * r + 1], 0x7531);
                }
            }
        } else {
#pragma unroll
            for (int j = 0; j < group_columns; ++j) {
                const int column = lane / 4 * element_bytes;  // of the fragment, in bytes
                const int chunk = i % groups * group_chunks + j * (element_bytes / 2);
                const Word from = (first ^ chunk * chunk_bytes ^ column / chunk_bytes * chunk_bytes) +
                                  column % chunk_bytes;
#pragma unroll
                for (int r = 0; r < 16 / element_bytes; ++r)
                    if constexpr (element_bytes == 4) {
                        to[j].word[r] = load_shared(from + 4 * r * x_row_bytes);
                    } else {
                        const WordPair got = load_shared_pair(from + 4 * r * x_row_bytes);
                        to[j].word[2 * r] = got.low;
                        to[j].word[2 * r + 1] = got.high;
                    }
            }
        }
    }

    __device__ inline void multiply_one(FragmentC& to, int k, int part, int m, int i, int j) {
        const FragmentA(&of)[k_fragments] = a[k % 2][part][m];
        if constexpr (config::sparse) {
            const Word word = metadata[m][k / selectors];
            if (k % selectors == 0) multiply_sparse<0>(to, of[0], b[i % 2][j], word);
            if (k % selectors == 1) multiply_sparse<1>(to, of[0], b[i % 2][j], word);
        } else {
            multiply_dense<0>(to, of[0], b[i % 2][j]);
            multiply_dense<1>(to, of[k_fragments - 1], b[i % 2][j]);
        }
    }
};
