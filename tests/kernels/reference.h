// Shared by the kernel tests: seeded inputs in every weight format, backends of every instruction set of this machine, and
// a double-precision reference that reads weights through the public Embed operation only.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/kernel_table.h"

namespace pagoda::kernels::testing {

inline constexpr WeightFormat kAllFormats[] = {
    WeightFormat::kF32,  WeightFormat::kF16,  WeightFormat::kBF16, WeightFormat::kQ4_0, WeightFormat::kQ4_1,
    WeightFormat::kQ5_0, WeightFormat::kQ5_1, WeightFormat::kQ8_0, WeightFormat::kQ2_K, WeightFormat::kQ3_K,
    WeightFormat::kQ4_K, WeightFormat::kQ5_K, WeightFormat::kQ6_K};
std::string NameOfFormat(WeightFormat format);
bool IsFloat(WeightFormat format);
int BlockColumns(WeightFormat format);

// A weight matrix with random quants and sane scales, as a file would hold it.
struct TestMatrix {
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<std::byte> data;
  MatrixRows view() const { return {format, rows, columns, data.data()}; }
};
TestMatrix RandomMatrix(WeightFormat format, int64_t rows, int64_t columns, uint64_t seed);

std::vector<float> RandomFloats(int64_t count, uint64_t seed, float scale = 1.0f);

// AMX is the emulation of its tile instructions (emulated_amx.cc) where the machine has AVX-512 and no AMX.
std::unique_ptr<Backend> MakeBackend(Isa isa, int threads = 1);
const cpu::KernelTable& EmulatedAmxKernels();
int64_t EmulatedTileProducts();  // so far: shows that the emulation is what ran
std::vector<Isa> VectorIsas();  // of this machine, without scalar

// Values in a backend buffer.
class Values {
 public:
  Values(Backend& backend, int64_t rows, int64_t columns, std::span<const float> from = {});
  F32View view() const { return {data_, rows_, columns_, columns_}; }
  float* data() const { return data_; }
  std::vector<float> copy() const { return {data_, data_ + rows_ * columns_}; }

 private:
  std::unique_ptr<Buffer> buffer_;
  float* data_ = nullptr;
  int64_t rows_, columns_;
};

// Bits, so that NaNs compare and -0 differs from 0.
std::vector<uint32_t> Bits(std::span<const float> values);
// Empty when equal to the bit, else where and how they first differ.
std::string Difference(std::span<const float> actual, std::span<const float> expected);

}  // namespace pagoda::kernels::testing
