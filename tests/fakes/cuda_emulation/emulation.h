// CUDA's execution model on the host, for tests: a launch runs block after block; the threads of a block are fibers of one OS
// thread that meet at barriers; a warp's shuffles, votes and matrix products are meetings of its 32 lanes; shared memory is one
// allocation per block filled with NaNs. The kernels' sources are compiled unchanged as C++ with this folder before the CUDA
// toolkit on the include path.
//
// What it shows: indexing, fragment layouts, barriers, masks, tails, launch shapes. What it cannot show: speed, hardware rounding
// inside a matrix instruction (exact sums, rounded once, here), memory ordering between warps (fibers run one at a time), and
// whether the PTX is accepted. It stops the process when threads part at a barrier or wait for nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};

namespace cuda_emulation {

struct ThreadView {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
  unsigned char* shared = nullptr;
  int lane = 0;
};
ThreadView& Current();  // of the running fiber

void SyncBlock();
void SyncWarp();
// A meeting of the warp: every lane brings `bytes`; the last to come runs `meet(all)` once, where all[lane] points at each
// lane's data, to be changed in place; then every lane goes on with its own.
void MeetWarp(void* mine, void (*meet)(void* const* all, const void* argument), const void* argument);
void Yield();  // inside a loop that waits for others
[[noreturn]] void Stop(const char* what);

// Runs a whole grid on the calling thread.
void RunGrid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);
int64_t LaunchCount();

}  // namespace cuda_emulation

namespace cuda_emulation {
// threadIdx.x and its like: read from the running fiber.
template <auto kView, unsigned std::remove_reference_t<decltype(std::declval<ThreadView>().*kView)>::* kMember>
struct Index {
  operator unsigned() const { return Current().*kView.*kMember; }
};
template <auto kView, typename V = std::remove_reference_t<decltype(std::declval<ThreadView>().*kView)>>
struct Indices {
  Index<kView, &V::x> x;
  Index<kView, &V::y> y;
  Index<kView, &V::z> z;
};
}  // namespace cuda_emulation
inline constexpr cuda_emulation::Indices<&cuda_emulation::ThreadView::thread> threadIdx{};
inline constexpr cuda_emulation::Indices<&cuda_emulation::ThreadView::block> blockIdx{};
inline constexpr cuda_emulation::Indices<&cuda_emulation::ThreadView::block_dim> blockDim{};
inline constexpr cuda_emulation::Indices<&cuda_emulation::ThreadView::grid_dim> gridDim{};
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __restrict__
