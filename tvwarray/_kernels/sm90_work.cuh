// What the kernels of sm_90a share beside their instructions: a block's work, its place in the ring,
// and descriptors of matrices in shared memory.
#pragma once
#include "types.cuh"
#include "config.cuh"
#include "ptx.cuh"
#include "strips.cuh"
#include "sm90_ptx.cuh"

// ---- Work --------------------------------------------------------------------------------------

// An item's rows: an entry of the work list, made by hopper/pack.py.
struct Block {
    int slab;    // its first slab of the packed matrix
    int stride;  // slabs from one step to the next: the height of the tile
    int slabs;   // how many it holds, at most block_slabs
    int steps;   // 0 for rows that are zero: they are written like all others
    int slots;   // where the tile's column list begins
    int rows;    // where the block's row list begins
    int height;  // how many rows that list has for the block
    Word share;  // of a tile that is cut along its slots: the first piece, how many, which one this is
};

__device__ inline Block load_block(const int* list, int index) {
    const int4 head = load_int4(list + 8 * index);
    const int4 tail = load_int4(list + 8 * index + 4);
    return {head.x, head.y, head.z, head.w, tail.x, tail.y, tail.z,
            static_cast<Word>(tail.w)};
}

// Which item a block takes after item `index`, if `blocks` share the work: as schedule.py has found
// beforehand, where tiles are of unequal length; or they take turns.
__device__ inline int item_after(const int* following, int index, int blocks) {
    return following ? load_int(following + index) : index + blocks;
}

// A place in the ring: the stage, and how often the ring has been gone round.
struct Place {
    int stage;
    Word round;
    __device__ void advance(int by) {
        stage += by;
        if (stage >= config::stages) {
            stage -= config::stages;
            round ^= 1;
        }
    }
};

// ---- Descriptors -------------------------------------------------------------------------------

// Lower half: start address and leading offset; upper half: stride offset and the kind of swizzle;
// all addresses in 16 bytes.
__device__ inline Descriptor describe(Word start, int leading, int stride, int swizzle) {
    const Word low = (start & 0x3ffff) >> 4 | leading / 16 << 16;
    const Word high = stride / 16 | swizzle << 30;
    return static_cast<Descriptor>(high) << 32 | low;
}
constexpr int swizzle_128 = 1;
constexpr int swizzle_64 = 2;
