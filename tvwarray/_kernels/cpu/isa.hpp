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
    // Sums of these rows, one behind the other, -> out.
    void (*store_sums)(const char* sums, const int32_t* rows, int count, const Block& block, const Strided& out,
                       const Epilogue& epilogue);
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

// The kernels that sum products of neighbouring slots in one instruction (dots.hpp), for one stored type,
// which X has too.
constexpr int kStepBytes = 64;  // of a row's slots
constexpr int kDotRows = 16;    // of a strip
constexpr int kDotVectors = 4;  // of right-hand sides in a full block
struct DotKernels {
    // X -> packed rows, block.stride bytes each; false if not all finite.
    bool (*pack_block)(const Strided& x, int k0, int k1, const Block& block, char* packed);
    // So many steps of the stream of a 2:4 matrix, with the zeros written out.
    void (*expand)(const char* stream, int64_t steps, char* dense);
    // Consecutive tiles, written out, against one block: sums (rows, vectors * 16), one behind the other.
    // `work` is this thread's scratch, kDotWorkBytes long.
    void (*run)(const DotView& a, const Tile* tiles, int count, const Block& x, const char* dense, char* work,
                char* sums);
    int rate;     // multiply-adds in the time of one of the other kernels, roughly
    int32_t few;  // right-hand sides from which on it is faster than the lane kernel; measured
};

constexpr size_t kDotWorkBytes = size_t(8 + 1) * kDotVectors * kDotRows * kStepBytes;

struct Isa {
    const char* name;
    int vector_bytes;
    int max_pass;            // widest pass of the lane kernel; 0 where it cannot select fast
    const Kernels* kernels;  // by stored type, in the order of Type
    const DotKernels* dots;  // likewise, empty for types that have none; or null
};

// Scratch for tiles of together `rows` rows: an X panel and its row of zeros, the sums, a spare row.
inline size_t panel_work_bytes(const Isa& isa, int rows) {
    return size_t(isa.vector_bytes) * kBlockVectors * size_t(kMaxPanelColumns + 1 + rows + kMaxLanes + 1);
}

// The instruction sets compiled in that this processor has, best first.
const Isa* const* available(int* count);

}  // namespace tvw
