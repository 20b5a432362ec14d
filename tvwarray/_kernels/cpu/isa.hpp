// One table of kernels for each instruction set the extension was compiled for.
//
//     isa.cpp  --(-march=x86-64-v4)-->  table of v4     the same source, compiled several times;
//              --(-march=x86-64-v3)-->  table of v3     `best()` asks the processor which one runs
//              --(as it is)--------->   table of base
#pragma once

#include "layout.hpp"

namespace tvw {

constexpr int kMaxTileRows = 256;
constexpr int kMaxPanelColumns = 255;
constexpr int kBlockVectors = 8;  // a full block of right-hand sides
constexpr int kMaxLanes = 16;     // rows a transposed square may reach past the last
constexpr int kStoredRows = 512;  // of sums in row order that are stored at once

// The kernels for values stored as S, where X is held as T: float64 for float64, float32 for the rest.
struct Kernels {
    // X (columns k0 .. k1, the block's right-hand sides) -> packed rows of block.vectors vectors.
    void (*pack_block)(const Strided& x, int k0, int k1, const Block& block, char* packed);
    // Consecutive tiles against one block. `work` is this thread's scratch, panel_work_bytes() long.
    // Where `all_sums` is not null, results stay there, each row's in its place among all rows.
    void (*run_block)(const PanelView& a, const Tile* tiles, int count, const Block& block,
                      const Strided& out, const Epilogue& epilogue, char* work, char* all_sums);
    // Those of rows first .. first + count, at most kStoredRows, -> out, whose rows are contiguous.
    void (*store_rows)(const char* all_sums, int first, int count, const Block& block, const Strided& out,
                       const Epilogue& epilogue);
    // X (all columns, one pass's right-hand sides) -> [column][width]; false if not all finite.
    bool (*pack_pass)(const Strided& x, int columns, const Pass& pass, char* packed);
    // The tile's slots of a packed pass -> [group][width][4], zeros for padding.
    void (*gather)(const LaneView& a, const Tile& tile, const Pass& pass, const char* packed, char* groups);
    // Strips `first` .. `last` of one tile against one pass, as packed and as gathered.
    void (*run_pass)(const LaneView& a, const Tile& tile, int first, int last, const Pass& pass,
                     const char* packed, const char* groups, const Strided& out, const Epilogue& epilogue);
    // The transposed product, one right-hand side at a time: the sums of a tile's slots, and the
    // product of all tiles' of them.
    void (*run_back)(const LaneView& a, const Tile& tile, const char* packed, char* work, char* slot_sums);
    void (*finish_back)(const LaneView& a, const Tile* tiles, int count, int rows, int columns,
                        const char* packed, const char* slot_sums, char* work, int rhs, const Strided& out,
                        const Epilogue& epilogue);
};

struct Isa {
    const char* name;
    int vector_bytes;
    int max_pass;            // widest pass of the lane kernel; 0 where it cannot select fast
    const Kernels* kernels;  // by stored type, in the order of Type
};

// Scratch for tiles of together `rows` rows: an X panel and its row of zeros, the sums, a spare row.
inline size_t panel_work_bytes(const Isa& isa, int rows) {
    return size_t(isa.vector_bytes) * kBlockVectors * size_t(kMaxPanelColumns + 1 + rows + kMaxLanes + 1);
}

// The instruction sets compiled in that this processor has, best first.
const Isa* const* available(int* count);

}  // namespace tvw
