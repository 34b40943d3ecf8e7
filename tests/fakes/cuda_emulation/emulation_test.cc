// The emulation held to account: what it computes, and that it stops at what a device would refuse or hang on. Then a lost device, which
// only an emulated one can be on demand: the backend names the kernel and stays lost.
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.h"
#include "tests/fakes/cuda_emulation/cuda_runtime.h"
#include "tests/fakes/cuda_emulation/kernels/cuda/intrinsics.cuh"

namespace pagoda::kernels::cuda {
namespace {

void RunThreads(int threads, const std::function<void()>& body, size_t shared = 1024) {
  cuda_emulation::RunGrid(dim3(1), dim3(static_cast<unsigned>(threads)), shared, body);
}

int8_t WeightOf(int row, int k) { return static_cast<int8_t>((row * 37 + k * 11) % 251 - 125); }
int8_t InputOf(int column, int k) { return static_cast<int8_t>((column * 53 + k * 29) % 255 - 127); }

TEST(Emulation, MatrixInstructionIsAProduct) {
  int32_t product[16][8] = {};
  RunThreads(32, [&] {
    const int lane = cuda_emulation::Current().lane, g = lane / 4, t = lane % 4;
    uint32_t a[4] = {}, b[2] = {};
    for (int j = 0; j < 4; ++j) {  // the PTX manual's tables for m16n8k32
      for (int r = 0; r < 4; ++r) a[r] |= static_cast<uint32_t>(static_cast<uint8_t>(WeightOf(g + (r == 1 || r == 3 ? 8 : 0), (r >= 2 ? 16 : 0) + 4 * t + j))) << (8 * j);
      for (int r = 0; r < 2; ++r) b[r] |= static_cast<uint32_t>(static_cast<uint8_t>(InputOf(g, 16 * r + 4 * t + j))) << (8 * j);
    }
    int32_t d[4] = {1, 1, 1, 1};
    MmaS8(d, a, b);
    product[g][2 * t] = d[0], product[g][2 * t + 1] = d[1], product[g + 8][2 * t] = d[2], product[g + 8][2 * t + 1] = d[3];
  });
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int32_t expected = 1;
      for (int k = 0; k < 32; ++k) expected += WeightOf(row, k) * InputOf(column, k);
      ASSERT_EQ(product[row][column], expected) << row << " " << column;
    }
  }
}

TEST(Emulation, ShufflesVotesAndBarriers) {
  int order = 0, seen[64] = {}, sums[64] = {};
  RunThreads(64, [&] {
    const int thread = static_cast<int>(threadIdx.x);
    int sum = thread;
    for (int apart = 16; apart > 0; apart /= 2) sum += ShuffleXor(sum, apart);
    sums[thread] = sum + Shuffle(thread, 3) + static_cast<int>(Ballot(thread % 32 < 2));
    ++order;
    BlockSync();
    seen[thread] = order;  // all have counted
  });
  for (int i = 0; i < 64; ++i) {
    EXPECT_EQ(seen[i], 64);
    EXPECT_EQ(sums[i], i < 32 ? 496 + 3 + 3 : 1520 + 35 + 3);
  }
}

TEST(Emulation, Fp8RoundsToNearestEven) {
  for (int code = 0; code < 0x7f; ++code) EXPECT_EQ(FloatToFp8(Fp8ToFloat(static_cast<uint8_t>(code))), code);
  EXPECT_EQ(Fp8ToFloat(0x7e), 448.0f);
  EXPECT_EQ(FloatToFp8(1e9f), 0x7e);
  EXPECT_EQ(FloatToFp8(-17.0f), 0x80 | FloatToFp8(16.0f));  // between 16 and 18: to the even one
}

using EmulationDeathTest = ::testing::Test;

TEST(EmulationDeathTest, StopsAtWhatADeviceWouldHangOnOrRefuse) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(RunThreads(64, [] { if (threadIdx.x < 32) BlockSync(); }), "cuda emulation");
  EXPECT_DEATH(RunThreads(32, [] { if (threadIdx.x == 0) WarpSync(); }), "barriers that the others will not reach");
  EXPECT_DEATH(RunThreads(2048, [] {}), "a device would refuse");
  alignas(16) static unsigned char memory[64];
  EXPECT_DEATH(RunThreads(1, [] {
                 auto* barrier = reinterpret_cast<uint64_t*>(DynamicShared());
                 BarrierInit(barrier);
                 BarrierExpect(barrier, 16);
                 BulkCopy(DynamicShared() + 64, memory + 4, 16, barrier);
               }), "multiples of 16");
  EXPECT_DEATH(RunThreads(1, [] {
                 auto* barrier = reinterpret_cast<uint64_t*>(DynamicShared());
                 BarrierInit(barrier);
                 BarrierWait(barrier, 0);
               }), "waits for something");
}

TEST(Emulation, CopiesOutsideAllocationsAndWaitsWhileRecordingFail) {
  void* device = nullptr;
  ASSERT_EQ(cudaMalloc(&device, 256), cudaSuccess);
  unsigned char host[512] = {};
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, 0), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(device, host, 256, cudaMemcpyHostToDevice, stream), cudaSuccess);
  EXPECT_NE(cudaMemcpyAsync(device, host, 257, cudaMemcpyHostToDevice, stream), cudaSuccess);
  EXPECT_NE(cudaMemcpyAsync(host, host + 256, 16, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_NE(cudaStreamSynchronize(stream), cudaSuccess);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  cudaFree(device);
  cuda_emulation::Mend();
}

TEST(LostDevice, IsToldByTheKernelsNameAndStaysLost) {
  const int64_t before = cuda_emulation::LiveAllocations();
  {
    auto backend = *MakeCudaBackend({});
    auto values = *backend->NewBuffer(1024), other = *backend->NewBuffer(1024);
    const Backend::CopyRowsParams copy{.from = static_cast<float*>(values->data()), .from_stride = 8,
                                       .to = static_cast<float*>(other->data()), .to_stride = 8, .rows = 2, .columns = 8};
    ASSERT_TRUE(backend->CopyRows(copy).ok());
    EXPECT_TRUE(backend->Health().ok());
    cuda_emulation::Break(cudaErrorLaunchFailure);
    const absl::Status status = backend->CopyRows(copy);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_NE(std::string(status.message()).find("CopyRows"), std::string::npos) << status;
    cuda_emulation::Mend();
    EXPECT_FALSE(backend->CopyRows(copy).ok());  // the context stays broken
    EXPECT_EQ(backend->Health(), status);
  }
  EXPECT_EQ(cuda_emulation::LiveAllocations(), before) << "device memory was not given back";
}

}  // namespace
}  // namespace pagoda::kernels::cuda
