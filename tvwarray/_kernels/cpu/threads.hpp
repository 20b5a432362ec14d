// A small pool of parked threads that share out numbered tasks.
//
// No OpenMP: its threads keep spinning after a region, and NumPy's BLAS does the same, so that a
// program alternating between the two has each stall the other. Here a thread spins for some tens of
// microseconds, the time between the two regions of one product, and then sleeps.
//
// Tasks are claimed one at a time, so a thread that comes late costs nothing: the caller goes on
// claiming until none is left and waits only for those who have one in hand. Which thread runs a task
// has no influence on its result.
#pragma once

#include <cstdint>
#include <mutex>

namespace tvw {

// The most threads a product uses, the caller's included.
int num_threads();
void set_num_threads(int n);

// Calls task(context, i) for every i < count, on up to `threads` threads. A second caller at the same
// time, and a task itself, run their tasks alone. Tasks must not throw.
void run_tasks(int threads, int64_t count, void (*task)(void* context, int64_t i), void* context);

template <class F> void for_each_task(int threads, int64_t count, F&& f) {
    run_tasks(threads, count, [](void* context, int64_t i) { (*static_cast<F*>(context))(i); }, &f);
}

// Held while a matrix is packed, and while the process forks: a child never finds a half-packed one.
std::mutex& packing();

}  // namespace tvw
