// Which part of a launch's work a block takes.
#pragma once

// Which entry of the work list and which columns of X block `index` of the launch takes.
//
// X is cut into strips of `strip` blocks' width, small enough to stay in L2 together with what is
// being read of A. Blocks run through one strip after another, inside a strip along the work list
// (longest first, so the last ones to start are the short ones), and take all columns of a strip
// at one entry before the next, so that neighbours in time share the values of A:
//
//                 strip 0      strip 1
//   entry 0      0   1   2     9  10  11
//   entry 1      3   4   5    12  13  14
//   entry 2      6   7   8    15  16  17
//
// Several matrices X of one shape, a batch, are so many blocks' widths more.
struct Work {
    int entry;
    int column;  // which block's width of which X: counted through the batch
};

__device__ inline Work work_of(int index, int entries, int columns, int strip) {
    const int of_strip = index / (entries * strip);
    const int first = of_strip * strip;
    const int width = min(strip, columns - first);
    const int within = index - of_strip * entries * strip;
    const int entry = within / width;
    return {entry, first + within - entry * width};
}
