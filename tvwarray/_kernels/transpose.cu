// Y = X^T for matrices of elements of 1, 2, 4 or 8 bytes, at the speed of memory.
//
// A tile is 128 bytes of a row of X by as many elements downwards: 64 x 64 of 16 bits. A block turns
// 128 columns of X, which is as many tiles as an element has bytes, 16 KiB. They are read 16 bytes at
// a time along the rows of X, and written 16 bytes at a time along the rows of Y; in between, shared
// memory holds them by rows of X:
//
//          a tile: 8 chunks of 16 bytes a row, e elements each
//        +----+----+--     --+
//        | c0 | c1 |   ...   |  row i        a lane that writes elements i .. i + e - 1 of row j of Y
//        +----+----+--     --+               reads element j of rows i .. i + e - 1 of the tile
//        |    |    |         |
//
// 8 lanes write one row of Y's tile; the rows they read are multiples of e apart and all of 128
// bytes, so stored plainly their elements meet in one bank. Chunk c of row i is kept at
// c ^ (i / e % 8): the 8 lanes read 8 different chunks, and a row that is written is still a line.
//
// Where chunks of X are not aligned or not contiguous, elements are read one by one. Between the last
// row of X and `width`, Y is zero: products read its rows in whole chunks.
#include "config.cuh"

template <int bytes>
struct ElementOf;
template <>
struct ElementOf<1> {
    using Type = unsigned char;
};
template <>
struct ElementOf<2> {
    using Type = unsigned short;
};
template <>
struct ElementOf<4> {
    using Type = unsigned int;
};
template <>
struct ElementOf<8> {
    using Type = unsigned long long;
};
using Element = ElementOf<config::element_bytes>::Type;

constexpr int chunk_elements = 16 / config::element_bytes;
constexpr int tile_chunks = 8;
constexpr int tile = tile_chunks * chunk_elements;  // its rows, and its columns
constexpr int tiles = config::element_bytes;
constexpr int columns = tile * tiles;  // of X, that a block turns: 128
constexpr int copies = tile * tiles * tile_chunks / config::threads;

struct alignas(16) Chunk {
    Element element[chunk_elements];
};

// Where chunk `chunk` of row `row` of tile `t` stands.
__device__ inline int place(int t, int row, int chunk) {
    return (t * tile + row) * tile_chunks + (chunk ^ row / chunk_elements % tile_chunks);
}

__device__ inline bool is_aligned(const void* address) {
    return reinterpret_cast<unsigned long long>(address) % sizeof(Chunk) == 0;
}

extern "C" __global__ void __launch_bounds__(config::threads) transpose(
    const Element* __restrict__ x,  // (batch, rows, cols), any strides, in elements
    long long x_row,                //
    long long x_column,             //
    long long x_batch,              //
    Element* y,                     // (batch, cols, width), rows contiguous
    long long y_row,                //
    long long y_batch,              //
    int rows,                       // of X
    int cols,                       //
    int width,                      // of Y: rows, and zeros behind them
    int row_blocks,                 // blocks above each other
    int column_blocks) {            // and side by side
    extern __shared__ Chunk chunks[];
    const int thread = threadIdx.x;
    const int column_block = blockIdx.x % column_blocks;
    const int row_block = blockIdx.x / column_blocks % row_blocks;
    const long long batch = blockIdx.x / column_blocks / row_blocks;
    const int first_row = row_block * tile, first_column = column_block * columns;
    const Element* const from = x + batch * x_batch;
    Element* const to = y + batch * y_batch;

    Chunk got[copies];
#pragma unroll
    for (int i = 0; i < copies; ++i) {
        const int at = i * config::threads + thread;
        const int row = first_row + at / (tiles * tile_chunks);
        const int column = first_column + at % (tiles * tile_chunks) * chunk_elements;
        const Element* const first = from + row * x_row + column * x_column;
        if (x_column == 1 && row < rows && column + chunk_elements <= cols && is_aligned(first)) {
            got[i] = *reinterpret_cast<const Chunk*>(first);
        } else {
#pragma unroll
            for (int e = 0; e < chunk_elements; ++e)
                got[i].element[e] = row < rows && column + e < cols ? first[e * x_column] : 0;
        }
    }
#pragma unroll
    for (int i = 0; i < copies; ++i) {
        const int at = i * config::threads + thread;
        const int chunk = at % (tiles * tile_chunks);
        chunks[place(chunk / tile_chunks, at / (tiles * tile_chunks), chunk % tile_chunks)] = got[i];
    }
    __syncthreads();

#pragma unroll
    for (int i = 0; i < copies; ++i) {
        const int at = i * config::threads + thread;
        const int column = at / tile_chunks;                   // a row of Y
        const int row = at % tile_chunks * chunk_elements;     // where in it
        const int in_tile = column % tile;
        if (first_column + column >= cols || first_row + row >= width) continue;
        Chunk turned;
#pragma unroll
        for (int e = 0; e < chunk_elements; ++e)
            turned.element[e] = chunks[place(column / tile, row + e, in_tile / chunk_elements)]
                                    .element[in_tile % chunk_elements];
        Element* const first = to + (first_column + column) * y_row + first_row + row;
        if (first_row + row + chunk_elements <= width && is_aligned(first)) {
            *reinterpret_cast<Chunk*>(first) = turned;
        } else {
#pragma unroll
            for (int e = 0; e < chunk_elements; ++e)
                if (first_row + row + e < width) first[e] = turned.element[e];
        }
    }
}
