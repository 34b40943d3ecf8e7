#include "tests/kernels/reference.h"

#include <bit>
#include <cstring>
#include <sstream>

#include "kernels/cpu/backend_of_table.h"

namespace pagoda::kernels::testing {
namespace {

// Bytes of a file block, and where its f16 scales are (-1: none).
struct FileBlock {
  int columns;
  int bytes;
  int half_at[2];
};
FileBlock BlockOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return {1, 4, {-1, -1}};
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      return {1, 2, {-1, -1}};
    case WeightFormat::kQ4_0:
      return {32, 18, {0, -1}};
    case WeightFormat::kQ4_1:
      return {32, 20, {0, 2}};
    case WeightFormat::kQ5_0:
      return {32, 22, {0, -1}};
    case WeightFormat::kQ5_1:
      return {32, 24, {0, 2}};
    case WeightFormat::kQ8_0:
      return {32, 34, {0, -1}};
    case WeightFormat::kQ2_K:
      return {256, 84, {80, 82}};
    case WeightFormat::kQ3_K:
      return {256, 110, {108, -1}};
    case WeightFormat::kQ4_K:
      return {256, 144, {0, 2}};
    case WeightFormat::kQ5_K:
      return {256, 176, {0, 2}};
    case WeightFormat::kQ6_K:
      return {256, 210, {208, -1}};
  }
  return {1, 4, {-1, -1}};
}

}  // namespace

std::string NameOfFormat(WeightFormat format) {
  static constexpr const char* kNames[] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                           "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"};
  return kNames[static_cast<int>(format)];
}

bool IsFloat(WeightFormat format) { return BlockOf(format).columns == 1; }
int BlockColumns(WeightFormat format) { return BlockOf(format).columns; }

TestMatrix RandomMatrix(WeightFormat format, int64_t rows, int64_t columns, uint64_t seed) {
  const FileBlock block = BlockOf(format);
  TestMatrix matrix{format, rows, columns, {}};
  matrix.data.resize(rows * columns / block.columns * block.bytes);
  std::mt19937_64 random(seed);
  for (std::byte& b : matrix.data) b = static_cast<std::byte>(random());
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (size_t at = 0; at < matrix.data.size(); at += block.bytes) {
    if (format == WeightFormat::kF32) {
      const float value = uniform(random);
      std::memcpy(&matrix.data[at], &value, 4);
    } else if (format == WeightFormat::kBF16) {
      const uint16_t bits = std::bit_cast<uint32_t>(uniform(random)) >> 16;
      std::memcpy(&matrix.data[at], &bits, 2);
    } else {
      // An f16 between 2^-11 and 2^-4 of either sign; as a weight itself, below 2.
      for (int half : block.half_at) {
        const uint16_t exponent = IsFloat(format) ? 8 + random() % 8 : 4 + random() % 7;
        const uint16_t bits = static_cast<uint16_t>((random() & 1) << 15 | exponent << 10 | (random() & 1023));
        if (half >= 0) std::memcpy(&matrix.data[at + half], &bits, 2);
        if (IsFloat(format)) std::memcpy(&matrix.data[at], &bits, 2);
      }
    }
  }
  return matrix;
}

std::vector<float> RandomFloats(int64_t count, uint64_t seed, float scale) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

std::unique_ptr<Backend> MakeBackend(Isa isa, int threads) {
  if (isa == Isa::kAmx && !IsaSupported(Isa::kAmx)) {
    return MakeCpuBackendOf({.threads = threads}, Isa::kAmx, EmulatedAmxKernels());
  }
  auto backend = MakeCpuBackend({.threads = threads, .isa = isa});
  return backend.ok() ? *std::move(backend) : nullptr;
}

std::vector<Isa> VectorIsas() {
  std::vector<Isa> isas;
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    const bool emulated = isa == Isa::kAmx && IsaSupported(Isa::kAvx512);
    if (emulated || IsaSupported(isa)) isas.push_back(isa);
  }
  return isas;
}

Values::Values(Backend& backend, int64_t rows, int64_t columns, std::span<const float> from)
    : rows_(rows), columns_(columns) {
  buffer_ = *backend.NewBuffer(rows * columns * sizeof(float));
  data_ = static_cast<float*>(buffer_->data());
  if (!from.empty()) std::memcpy(data_, from.data(), rows * columns * sizeof(float));
}

std::vector<uint32_t> Bits(std::span<const float> values) {
  std::vector<uint32_t> bits;
  for (float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

std::string Difference(std::span<const float> actual, std::span<const float> expected) {
  std::ostringstream out;
  if (actual.size() != expected.size()) {
    out << actual.size() << " values where " << expected.size() << " are meant";
    return out.str();
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::bit_cast<uint32_t>(actual[i]) == std::bit_cast<uint32_t>(expected[i])) continue;
    out.precision(9);
    out << "value " << i << " is " << actual[i] << ", not " << expected[i];
    return out.str();
  }
  return "";
}

}  // namespace pagoda::kernels::testing
