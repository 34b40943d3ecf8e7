// The CUDA backend beside its CPU twin. The same tests run over the emulation of CUDA's execution model (everywhere) and on a device
// (where there is one; else they skip with a word): which one is a matter of what the binary is linked with.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/reference.h"

namespace pagoda::kernels::testing {

inline std::unique_ptr<Backend> MakeCuda(bool graphs = true) {
  auto backend = MakeCudaBackend({.device = 0, .graphs = graphs});
  return backend.ok() ? *std::move(backend) : nullptr;
}

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (CudaDevices() == 0) GTEST_SKIP() << "no CUDA device";
    cuda_ = MakeCuda();
    cpu_ = MakeBackend(Isa::kScalar);
    ASSERT_NE(cuda_, nullptr);
  }
  std::unique_ptr<Backend> cuda_;
  std::unique_ptr<Backend> cpu_;
};

// Values in a backend's memory, wherever that is.
class Held {
 public:
  Held(Backend& backend, int64_t rows, int64_t columns, std::span<const float> from = {}) : backend_(backend), rows_(rows), columns_(columns) {
    const size_t bytes = std::max<size_t>(1, static_cast<size_t>(rows * columns)) * sizeof(float);
    auto buffer = backend.NewBuffer(bytes);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    buffer_ = *std::move(buffer);
    EXPECT_TRUE(backend.Upload(from.data(), buffer_->data(), from.size_bytes()).ok());
  }
  float* data() const { return static_cast<float*>(buffer_->data()); }
  F32View view() const { return {data(), rows_, columns_, columns_}; }
  std::vector<float> copy() const {
    std::vector<float> values(static_cast<size_t>(rows_ * columns_));
    const absl::Status status = backend_.Download(data(), values.data(), values.size() * sizeof(float));
    EXPECT_TRUE(status.ok()) << status;
    return values;
  }

 private:
  Backend& backend_;
  std::unique_ptr<Buffer> buffer_;
  int64_t rows_, columns_;
};

// |actual - expected| / |expected|; infinity where anything is not finite.
inline double RelativeError(std::span<const float> actual, std::span<const float> expected) {
  double error = 0, size = 1e-30;
  if (actual.size() != expected.size()) return INFINITY;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    if (!std::isfinite(difference)) return INFINITY;
    error += difference * difference;
    size += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::sqrt(error / size);
}

}  // namespace pagoda::kernels::testing
