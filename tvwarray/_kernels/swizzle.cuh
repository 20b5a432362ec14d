// Where chunks of 16 bytes stand in shared memory, so that ldmatrix meets no bank twice.
#pragma once

// Where chunk `chunk` of row `row` stands in its row, for rows of `chunks` chunks of 16 bytes.
//
// ldmatrix reads 8 rows at one chunk in each of its four phases. Rows of 8 chunks or more are whole
// multiples of the 32 banks (128 bytes): stored plainly, the 8 accesses meet in the same four
// banks, an 8-way conflict. The XOR sends them to the 8 different chunks of a 128-byte line. It
// permutes chunks within the row, so a copy of a whole row still fills all banks evenly, and is
// its own inverse. Of shorter rows several share a line, and the row counts in lines:
//
//   8 chunks a row                       4 chunks a row, two rows a line
//   chunk   0 1 2 3 4 5 6 7              chunk   0 1 2 3
//   row 1   1 0 3 2 5 4 7 6              rows 0, 1   0 1 2 3
//   row 2   2 3 0 1 6 7 4 5              rows 2, 3   1 0 3 2
//   row 3   3 2 1 0 7 6 5 4              rows 4, 5   2 3 0 1
__device__ constexpr int swizzle(int row, int chunk, int chunks) {
    const int width = chunks < 8 ? chunks : 8;
    return chunk ^ (row / (8 / width) % width);
}
