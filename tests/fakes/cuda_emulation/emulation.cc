#include "tests/fakes/cuda_emulation/emulation.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace cuda_emulation {
namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr int64_t kYieldsBeforeStop = 2'000'000;
std::atomic<int64_t> launches{0};

// Saves the callee-saved registers and the stack pointer of this fiber and goes on with another (System V x86-64).
extern "C" void cuda_emulation_switch(void** save, void* next);
asm(R"(
.text
.globl cuda_emulation_switch
.type cuda_emulation_switch,@function
cuda_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_emulation_switch,.-cuda_emulation_switch
)");

enum class State : uint8_t { kReady, kAtBlock, kAtWarp, kDone };
struct Fiber {
  void* stack_pointer = nullptr;
  std::unique_ptr<unsigned char[]> stack;
  State state = State::kReady;
  ThreadView view;
  int warp = 0;
};
struct Warp {
  void* data[32] = {};
  int arrived = 0;
  int lanes = 0;
};
struct Engine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
  const std::function<void()>* body = nullptr;
  void* scheduler = nullptr;
  Fiber* running = nullptr;
  int threads = 0, done = 0, at_block = 0;
  int64_t idle_yields = 0;
};
thread_local Engine* engine = nullptr;

void ToScheduler() { cuda_emulation_switch(&engine->running->stack_pointer, engine->scheduler); }

void FiberMain() {
  (*engine->body)();
  engine->running->state = State::kDone;
  ++engine->done;
  ToScheduler();
  std::abort();
}

void Prepare(Fiber& fiber) {
  if (fiber.stack == nullptr) fiber.stack = std::make_unique<unsigned char[]>(kStackBytes);
  auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + kStackBytes) & ~uintptr_t{63};
  auto* at = reinterpret_cast<void**>(top - 64);
  std::memset(at - 8, 0, 64);
  at[-2] = reinterpret_cast<void*>(&FiberMain);  // popped by ret; the stack is then 8 below a multiple of 16, as after a call
  fiber.stack_pointer = at - 8;                  // six registers, then that address
  fiber.state = State::kReady;
}

void RunBlock() {
  Engine& e = *engine;
  while (e.done < e.threads) {
    bool progress = false;
    for (int i = 0; i < e.threads; ++i) {
      Fiber& fiber = *e.fibers[static_cast<size_t>(i)];
      if (fiber.state != State::kReady) continue;
      progress = true;
      e.running = &fiber;
      cuda_emulation_switch(&e.scheduler, fiber.stack_pointer);
    }
    if (!progress) Stop("threads wait at barriers that the others will not reach");
  }
}

}  // namespace

void Stop(const char* what) {
  std::fprintf(stderr, "cuda emulation: %s", what);
  if (engine != nullptr && engine->running != nullptr) {
    const ThreadView& view = engine->running->view;
    std::fprintf(stderr, " (block %u,%u,%u thread %u)", view.block.x, view.block.y, view.block.z, view.thread.x);
  }
  std::fprintf(stderr, "\n");
  std::abort();
}

ThreadView& Current() { return engine->running->view; }

void SyncBlock() {
  Engine& e = *engine;
  e.idle_yields = 0;
  if (e.done > 0) Stop("a thread has ended while another is at a block barrier");
  if (++e.at_block == e.threads) {
    e.at_block = 0;
    for (int i = 0; i < e.threads; ++i) e.fibers[static_cast<size_t>(i)]->state = State::kReady;
    return;
  }
  e.running->state = State::kAtBlock;
  ToScheduler();
}

void MeetWarp(void* mine, void (*meet)(void* const*, const void*), const void* argument) {
  Engine& e = *engine;
  e.idle_yields = 0;
  Fiber& self = *e.running;
  Warp& warp = e.warps[static_cast<size_t>(self.warp)];
  warp.data[self.view.lane] = mine;
  if (++warp.arrived == warp.lanes) {
    warp.arrived = 0;
    if (meet != nullptr) meet(warp.data, argument);
    const int first = self.warp * 32;
    for (int i = first; i < first + warp.lanes; ++i) {
      Fiber& other = *e.fibers[static_cast<size_t>(i)];
      if (other.state == State::kAtBlock) Stop("lanes of one warp are at different barriers");
      other.state = State::kReady;
    }
    return;
  }
  self.state = State::kAtWarp;
  ToScheduler();
}

void SyncWarp() { MeetWarp(nullptr, nullptr, nullptr); }

void Yield() {
  if (++engine->idle_yields > kYieldsBeforeStop) Stop("a thread waits for something that does not come");
  ToScheduler();
}

void RunGrid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  ++launches;
  static thread_local Engine own;
  Engine* const before = engine;
  engine = &own;
  own.threads = static_cast<int>(block.x * block.y * block.z);
  if (own.threads < 1 || own.threads > 1024 || grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535 ||
      shared_bytes > (227u << 10)) {
    Stop("a launch that a device would refuse");
  }
  while (static_cast<int>(own.fibers.size()) < own.threads) own.fibers.push_back(std::make_unique<Fiber>());
  own.warps.assign(static_cast<size_t>(own.threads + 31) / 32, {});
  for (size_t w = 0; w < own.warps.size(); ++w) own.warps[w].lanes = std::min(32, own.threads - static_cast<int>(w) * 32);
  own.body = &body;
  own.shared.resize(shared_bytes + 1024);
  auto* shared = own.shared.data() + (1024 - reinterpret_cast<uintptr_t>(own.shared.data()) % 1024) % 1024;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        std::memset(shared, 0xff, shared_bytes);  // NaN in every float format
        own.done = own.at_block = 0;
        for (int i = 0; i < own.threads; ++i) {
          Fiber& fiber = *own.fibers[static_cast<size_t>(i)];
          Prepare(fiber);
          const unsigned u = static_cast<unsigned>(i);
          fiber.warp = i / 32;
          fiber.view = {.thread = {u % block.x, u / block.x % block.y, u / block.x / block.y},
                        .block = {x, y, z},
                        .block_dim = block,
                        .grid_dim = grid,
                        .shared = shared,
                        .lane = i % 32};
        }
        RunBlock();
      }
    }
  }
  engine = before;
}

int64_t LaunchCount() { return launches.load(); }

}  // namespace cuda_emulation
