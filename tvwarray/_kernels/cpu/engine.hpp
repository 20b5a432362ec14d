// A packed matrix and its product: which kernel, in what pieces, on how many threads.
#pragma once

#include <memory>

#include "pack.hpp"

namespace tvw {

// The type products of values of `t` are summed in.
constexpr Type accumulator(Type t) {
    return t == Type::f64 ? Type::f64 : (t == Type::i8 || t == Type::u8) ? Type::i32 : Type::f32;
}

class Matrix {
  public:
    // Borrows the arrays of `stored` for its whole life: each order is packed when first needed.
    Matrix(const Stored& stored, const Isa& isa);

    // out = epilogue(A @ X), X (columns, n) and out (rows, n), or epilogue(A.T @ X) and the other way
    // round. Either the rows or the columns of `out` are contiguous; X has any strides.
    void multiply(const Strided& x, int32_t n, const Strided& out, const Epilogue& epilogue, bool transposed);

    size_t packed_bytes() const;
    const Stored& stored() const { return stored_; }
    const Isa& isa() const { return isa_; }

  private:
    const PanelPack& panels(bool transposed);
    const LanePack& lanes();
    const DotPack& dots();
    bool few(int32_t n) const;
    // Threads for so many multiply-adds and so much of A to be read.
    int threads_for(int64_t products, int64_t bytes) const;

    // Whether dot products sum `n` right-hand sides of this type sooner.
    bool by_dots(int32_t n, Type x) const;

    // False where X is not finite: stored zeros would make NaN of its infinities.
    bool multiply_lanes(const Strided& x, int32_t n, const Strided& out, const Epilogue& epilogue);
    bool multiply_back(const Strided& x, int32_t n, const Strided& out, const Epilogue& epilogue);
    bool multiply_dots(const Strided& x, int32_t n, const Strided& out, const Epilogue& epilogue);
    void multiply_panels(const PanelPack& pack, const Strided& x, int32_t n, const Strided& out,
                         const Epilogue& epilogue);

    Stored stored_;
    const Isa& isa_;
    const Kernels& kernels_;
    const int sum_bytes_;  // size of the accumulation type
    std::unique_ptr<PanelPack> panels_[2];  // of A and of its transpose
    std::unique_ptr<LanePack> lanes_;
    std::unique_ptr<DotPack> dots_;
};

}  // namespace tvw
