// Aligned memory for packed operands: uninitialised, never null, and on huge pages where it is large.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tvw {

class Memory {
  public:
    Memory() = default;

    explicit Memory(size_t bytes) {
        // X rows are picked all over a buffer of tens of megabytes: with pages of 4 KB every second
        // row would miss the TLB.
        const bool large = bytes >= kHugePage / 2;
        const size_t unit = large ? kHugePage : 64;
        size_ = (bytes / unit + 1) * unit;
        data_ = static_cast<char*>(std::aligned_alloc(unit, size_));
        if (!data_) throw std::bad_alloc();
#if defined(__linux__)
        if (large) madvise(data_, size_, MADV_HUGEPAGE);
#endif
    }

    Memory(Memory&& other) noexcept { swap(other); }
    Memory& operator=(Memory&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Memory() { std::free(data_); }

    char* data() const { return data_; }
    size_t size() const { return size_; }

    // At least `bytes`; what was there is lost if it has to grow.
    char* at_least(size_t bytes) {
        if (bytes > size_) {
            *this = Memory();
            *this = Memory(bytes);
        }
        return data_;
    }

  private:
    static constexpr size_t kHugePage = size_t(1) << 21;

    void swap(Memory& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
    }

    char* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace tvw
