// What copying warps do: the stages of all items, one after another, from global to shared memory.
//
// There are two ways for X. A tile that names its columns is gathered: its rows of X are copied 16
// bytes at a time, by all threads. Where every tile keeps every column, a stage of X is a box of
// it, which the copy engine moves by itself, and to all blocks of a cluster at once.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "sm90_ptx.cuh"
#include "sm90_layout.cuh"

static_assert(slab_bytes % (16 * config::cluster) == 0, "shares of A are whole chunks");

// ---- Gather ------------------------------------------------------------------------------------
//
// The copying warps form groups that take turns at the steps. A group stays with its stage until all
// has landed, while the others copy theirs: so every free stage of the ring is on its way, and a
// thread tells of its copies itself, behind the fence that shows them to the tensor cores.
//
// A thread has one chunk of `thread_slots` neighbouring rows of each atom of a stage: what it
// knows of a row serves all atoms, whose addresses differ by constants.
constexpr int row_lanes = 32 * config::gather_warps / atom_chunks;
constexpr int thread_slots = step_slots / row_lanes;
constexpr int column_loads = thread_slots / 4;

static_assert(row_lanes * thread_slots == step_slots && thread_slots % 4 == 0, "columns come in fours");
static_assert((thread_slots & (thread_slots - 1)) == 0, "rows of a thread differ by an XOR");
static_assert(slab_bytes % 512 == 0, "the 64-byte swizzle repeats after 512 bytes");

__device__ inline void copy_items(const Half* x, int ldx, int n, const char* slabs, const int* cols,
                                  const Items& items, const Ring& ring) {
    const int thread = threadIdx.x;
    const int group = (thread / 32 - multiply_warps) / config::gather_warps;
    if (group >= config::gather_groups) return;  // fills up the warpgroup
    const int member = thread - 32 * (multiply_warps + group * config::gather_warps);
    const int chunk = member % atom_chunks;
    const int first_slot = member / atom_chunks * thread_slots;
    const Word x_at = first_slot * atom_row_bytes + (chunk ^ first_slot % 8) * chunk_bytes;
    const Word x_pitch = ldx * sizeof(Half);

    Place place = {group, 0};
    int done = 0;  // steps of earlier items, modulo gather_groups: whose turn it is
    for (int i = items.first(), next; i < items.end(); i = next) {
        const Item item = items.at(i);
        next = items.after(i);
        const Block& block = item.block;
        const int my_n = item.n + chunk * chunk_halfs;
        const char* const my_x = reinterpret_cast<const char*>(x + my_n);
        const int* const my_cols = cols + block.slots + first_slot;

        int4 columns[column_loads];
        const auto load_columns = [&](int step) {
#pragma unroll
            for (int i = 0; i < column_loads; ++i)
                columns[i] = load_int4(my_cols + step * step_slots + 4 * i);
        };
        // Of a padding slot, and beyond n, zeros.
        const auto gather = [&](Word to, int column) {
            const char* const from =
                my_x + static_cast<unsigned long long>(Word(column)) * x_pitch;
#pragma unroll
            for (int a = 0; a < x_atoms; ++a)
                copy_async(to + a * atom_bytes, from + a * atom_row_bytes,
                           column >= 0 && my_n + a * atom_columns < n);
        };

        int step = group - done;
        if (step < 0) step += config::gather_groups;
        if (step < block.steps) load_columns(step);
        for (; step < block.steps; step += config::gather_groups) {
            const Word stage = ring.stages + place.stage * stage_bytes;
            const Word my_full = ring.full + 8 * place.stage;
            wait(ring.empty + 8 * place.stage, place.round ^ 1);
            if (member == 0) {
                // The blocks of a cluster copy equal shares of A, each for all.
                const int share = a_bytes(block) / config::cluster;
                const int first = rank_in_cluster() * share;
                const Word to = stage + x_bytes + first;
                const char* const from = a_stage(block, slabs, step) + first;
                arrive_expecting(my_full, a_bytes(block));
                if constexpr (config::cluster > 1)
                    copy_bulk_to(to, from, share, my_full, everyone);
                else
                    copy_bulk(to, from, share, my_full);
            }
#pragma unroll
            for (int i = 0; i < column_loads; ++i) {
                const Word to = (stage + x_at ^ 4 * i % 8 * chunk_bytes) + 4 * i * atom_row_bytes;
                gather(to, columns[i].x);
                gather((to ^ 1 * chunk_bytes) + 1 * atom_row_bytes, columns[i].y);
                gather((to ^ 2 * chunk_bytes) + 2 * atom_row_bytes, columns[i].z);
                gather((to ^ 3 * chunk_bytes) + 3 * atom_row_bytes, columns[i].w);
            }
            if (step + config::gather_groups < block.steps)
                load_columns(step + config::gather_groups);
            wait_for_all_copies();
            fence_for_wgmma();
            warp_barrier();
            if (thread % 32 == 0) arrive(my_full);
            place.advance(config::gather_groups);
        }
        done = (done + block.steps) % config::gather_groups;
    }
}

// ---- Boxes -------------------------------------------------------------------------------------
//
// One thread starts all copies. Of the atoms of a stage, which the blocks of a cluster have in common,
// each block sends its share to all: so a stage is empty when all of them have multiplied it.
static_assert(x_atoms % tall == 0, "blocks of a cluster copy equal shares of X");

__device__ inline void copy_items(const TensorMap& x, int, int, const char* slabs, const int*,
                                  const Items& items, const Ring& ring) {
    if (threadIdx.x != 32 * multiply_warps) return;
    constexpr int share = x_atoms / tall;
    const int first_atom = rank_in_cluster() * share;
    Place place = {0, 0};
    for (int i = items.first(), next; i < items.end(); i = next) {
        const Item item = items.at(i);
        next = items.after(i);
        const Block& block = item.block;
        for (int step = 0; step < block.steps; ++step) {
            const Word stage = ring.stages + place.stage * stage_bytes;
            const Word my_full = ring.full + 8 * place.stage;
            const Word my_empty = ring.empty + 8 * place.stage;
            wait(my_empty, place.round ^ 1);
            arrive_expecting(my_full, x_bytes + a_bytes(block));
#pragma unroll
            for (int a = first_atom; a < first_atom + share; ++a)
                copy_box_to(stage + a * atom_bytes, x, item.n + a * atom_columns,
                            step * step_slots, my_full, everyone);
            copy_bulk(stage + x_bytes, a_stage(block, slabs, step), a_bytes(block), my_full);
            place.advance(1);
        }
    }
}
