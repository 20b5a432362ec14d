// The pool: see threads.hpp.
#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sched.h>

#include <vector>
#endif

namespace tvw {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Spins until `ready` says so, for a while only; whether it did.
template <class F> bool spin(F ready) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    while (!ready()) {
        for (int i = 0; i < 32 && !ready(); i++) relax();
        if (std::chrono::steady_clock::now() > end) return ready();
    }
    return true;
}

// Keeps the pool's threads off the caller's processor. The system tends to wake a thread beside the one
// that woke it, and to leave it there while BLAS threads that spin after a product hold the others:
// sharing with those gains something, sharing with the caller nothing.
class Placement {
  public:
#if defined(__linux__)
    void add(pthread_t thread) {
        threads_.push_back(thread);
        avoided_ = -1;
    }

    void avoid_caller() {
        const int cpu = sched_getcpu();
        if (cpu == avoided_ || cpu < 0 || threads_.empty()) return;
        avoided_ = cpu;
        cpu_set_t allowed;
        if (sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) < 2) return;
        CPU_CLR(cpu, &allowed);
        for (pthread_t t : threads_) pthread_setaffinity_np(t, sizeof allowed, &allowed);
    }

  private:
    std::vector<pthread_t> threads_;
    int avoided_ = -1;  // -1: to be set anew
#else
    template <class T> void add(T) {}
    void avoid_caller() {}
#endif
};

struct Region {
    int64_t count;
    void (*task)(void*, int64_t);
    void* context;
    std::atomic<int64_t> next{0};

    void work() {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(context, i);
    }
};

class Pool {
  public:
    void run(int threads, Region& region) {
        std::unique_lock<std::mutex> alone(running_, std::try_to_lock);
        if (threads <= 1 || region.count <= 1 || !alone) return region.work();
        hire(threads - 1);
        placement_.avoid_caller();
        {
            std::lock_guard<std::mutex> lock(mutex_);
            region_ = &region;
            seats_ = std::min(threads - 1, workers_);
            opened_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        region.work();
        std::unique_lock<std::mutex> lock(mutex_);
        region_ = nullptr;  // closed: who has not come by now need not come
        if (inside_.load() == 0) return;
        lock.unlock();
        if (spin([&] { return inside_.load(std::memory_order_acquire) == 0; })) return;
        lock.lock();
        left_.wait(lock, [&] { return inside_.load() == 0; });
    }

  private:
    void hire(int wanted) {
        for (; workers_ < wanted; workers_++) try {
                std::thread worker([this] { serve(); });
                placement_.add(worker.native_handle());
                worker.detach();
            } catch (const std::system_error&) {
                return;  // no more threads to be had: fewer will do
            }
    }

    void serve() {
        uint64_t seen = 0;
        auto opened = [&] { return opened_.load(std::memory_order_acquire) != seen; };
        for (;;) {
            spin(opened);
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, opened);
            seen = opened_.load();
            Region* region = region_;
            if (!region || seats_ == 0) continue;
            seats_--;
            inside_.fetch_add(1);
            lock.unlock();
            region->work();
            lock.lock();
            if (inside_.fetch_sub(1) == 1) left_.notify_one();
        }
    }

    Placement placement_;  // under running_, as are the workers hired
    std::mutex running_;  // one region at a time
    std::mutex mutex_;    // the rest
    std::condition_variable wake_, left_;
    Region* region_ = nullptr;
    int seats_ = 0, workers_ = 0;
    std::atomic<int> inside_{0};
    std::atomic<uint64_t> opened_{0};
};

std::atomic<int> limit{1};

// Never destroyed: its threads may outlive static objects. After a fork the child has none of the
// threads and perhaps a locked mutex, and starts afresh.
Pool* pool = nullptr;

struct Setup {
    Setup() {
        pool = new Pool;
#if defined(__unix__) || defined(__APPLE__)
        pthread_atfork([] { packing().lock(); }, [] { packing().unlock(); },
                       [] {
                           packing().unlock();
                           pool = new Pool;
                       });
#endif
    }
};

Pool& the_pool() {
    static Setup setup;
    return *pool;
}

}  // namespace

std::mutex& packing() {
    static std::mutex& mutex = *new std::mutex;
    return mutex;
}

int num_threads() { return limit.load(); }

void set_num_threads(int n) { limit.store(std::max(1, n)); }

void run_tasks(int threads, int64_t count, void (*task)(void*, int64_t), void* context) {
    Region region{count, task, context};
    the_pool().run(threads, region);
}

}  // namespace tvw
