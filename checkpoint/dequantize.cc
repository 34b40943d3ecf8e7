#include "checkpoint/dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "common/status.h"

namespace pagoda::checkpoint {
namespace {

constexpr int kBlock = 32;        // weights of a Qx_0, Qx_1 block
constexpr int kSuperBlock = 256;  // weights of a Qx_K block

uint8_t Byte(const std::byte* data, int index) { return static_cast<uint8_t>(data[index]); }
int8_t SignedByte(const std::byte* data, int index) { return static_cast<int8_t>(data[index]); }

uint16_t Load16(const std::byte* data) {
  uint16_t value;
  std::memcpy(&value, data, sizeof(value));
  return value;
}

uint32_t Load32(const std::byte* data) {
  uint32_t value;
  std::memcpy(&value, data, sizeof(value));
  return value;
}

float LoadHalf(const std::byte* data) { return HalfToFloat(Load16(data)); }

void F32(const std::byte* block, float* out) { std::memcpy(out, block, sizeof(float)); }
void F16(const std::byte* block, float* out) { *out = LoadHalf(block); }
void Bf16(const std::byte* block, float* out) { *out = Bfloat16ToFloat(Load16(block)); }

// {half d, 16 bytes: weight i low, weight i+16 high}
void Q4_0(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  for (int i = 0; i < kBlock / 2; ++i) {
    const uint8_t pair = Byte(block + 2, i);
    out[i] = static_cast<float>((pair & 0x0f) - 8) * scale;
    out[i + kBlock / 2] = static_cast<float>((pair >> 4) - 8) * scale;
  }
}

// {half d, half m, 16 bytes}
void Q4_1(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  const float minimum = LoadHalf(block + 2);
  for (int i = 0; i < kBlock / 2; ++i) {
    const uint8_t pair = Byte(block + 4, i);
    out[i] = static_cast<float>(pair & 0x0f) * scale + minimum;
    out[i + kBlock / 2] = static_cast<float>(pair >> 4) * scale + minimum;
  }
}

// The fifth bits: bit i of 32 belongs to weight i.
int FifthBit(uint32_t high, int weight) { return static_cast<int>((high >> weight) & 1u) << 4; }

// {half d, 32 fifth bits, 16 bytes}
void Q5_0(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  const uint32_t high = Load32(block + 2);
  for (int i = 0; i < kBlock / 2; ++i) {
    const uint8_t pair = Byte(block + 6, i);
    const int second = i + kBlock / 2;
    out[i] = static_cast<float>(((pair & 0x0f) | FifthBit(high, i)) - 16) * scale;
    out[second] = static_cast<float>(((pair >> 4) | FifthBit(high, second)) - 16) * scale;
  }
}

// {half d, half m, 32 fifth bits, 16 bytes}
void Q5_1(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  const float minimum = LoadHalf(block + 2);
  const uint32_t high = Load32(block + 4);
  for (int i = 0; i < kBlock / 2; ++i) {
    const uint8_t pair = Byte(block + 8, i);
    const int second = i + kBlock / 2;
    out[i] = static_cast<float>((pair & 0x0f) | FifthBit(high, i)) * scale + minimum;
    out[second] = static_cast<float>((pair >> 4) | FifthBit(high, second)) * scale + minimum;
  }
}

// {half d, 32 signed bytes}
void Q8_0(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  for (int i = 0; i < kBlock; ++i) out[i] = static_cast<float>(SignedByte(block + 2, i)) * scale;
}

// {16 bytes: scale low, minimum high, per 16 weights; 64 bytes of 2 bits; half d, half dmin}
void Q2_K(const std::byte* block, float* out) {
  const std::byte* scales = block;
  const std::byte* quants = block + 16;
  const float scale = LoadHalf(block + 80);
  const float minimum = LoadHalf(block + 82);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128;        // 32 bytes each
    const int shift = i % 128 / 32;  // which 2 bits of the byte
    const uint8_t group = Byte(scales, i / 16);
    const int quant = (Byte(quants, half * 32 + i % 32) >> (2 * shift)) & 3;
    out[i] = scale * static_cast<float>(group & 0x0f) * static_cast<float>(quant) -
             minimum * static_cast<float>(group >> 4);
  }
}

// {32 bytes: high bits; 64 bytes of 2 bits; 12 bytes: 16 scales of 6 bits; half d}
void Q3_K(const std::byte* block, float* out) {
  const std::byte* high_bits = block;
  const std::byte* quants = block + 32;
  const std::byte* scales = block + 96;
  const float scale = LoadHalf(block + 108);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128;
    const int shift = i % 128 / 32;
    const int group = i / 16;
    const int low = (Byte(scales, group % 8) >> (group < 8 ? 0 : 4)) & 0x0f;
    const int high = (Byte(scales, 8 + group % 4) >> (2 * (group / 4))) & 3;
    const int group_scale = (low | (high << 4)) - 32;
    const bool set = (Byte(high_bits, i % 32) >> (half * 4 + shift)) & 1;
    const int quant = ((Byte(quants, half * 32 + i % 32) >> (2 * shift)) & 3) - (set ? 0 : 4);
    out[i] = scale * static_cast<float>(group_scale) * static_cast<float>(quant);
  }
}

struct ScaleAndMinimum {
  int scale;
  int minimum;
};

// The 12 bytes of Q4_K and Q5_K: eight pairs of 6 bits.
ScaleAndMinimum UnpackPair(const std::byte* packed, int group) {
  if (group < 4) return {Byte(packed, group) & 63, Byte(packed, group + 4) & 63};
  return {(Byte(packed, group + 4) & 0x0f) | ((Byte(packed, group - 4) >> 6) << 4),
          (Byte(packed, group + 4) >> 4) | ((Byte(packed, group) >> 6) << 4)};
}

// {half d, half dmin, 12 bytes of pairs, 128 bytes of 4 bits}
void Q4_K(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  const float minimum = LoadHalf(block + 2);
  for (int group = 0; group < 8; ++group) {
    const ScaleAndMinimum pair = UnpackPair(block + 4, group);
    const float group_scale = scale * static_cast<float>(pair.scale);
    const float group_minimum = minimum * static_cast<float>(pair.minimum);
    const std::byte* quants = block + 16 + group / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int quant = group % 2 == 0 ? Byte(quants, i) & 0x0f : Byte(quants, i) >> 4;
      out[group * 32 + i] = group_scale * static_cast<float>(quant) - group_minimum;
    }
  }
}

// {half d, half dmin, 12 bytes of pairs, 32 bytes of fifth bits, 128 bytes of 4 bits}
void Q5_K(const std::byte* block, float* out) {
  const float scale = LoadHalf(block);
  const float minimum = LoadHalf(block + 2);
  for (int group = 0; group < 8; ++group) {
    const ScaleAndMinimum pair = UnpackPair(block + 4, group);
    const float group_scale = scale * static_cast<float>(pair.scale);
    const float group_minimum = minimum * static_cast<float>(pair.minimum);
    const std::byte* quants = block + 48 + group / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int low = group % 2 == 0 ? Byte(quants, i) & 0x0f : Byte(quants, i) >> 4;
      const int high = (Byte(block + 16, i) >> group) & 1;
      out[group * 32 + i] = group_scale * static_cast<float>(low | (high << 4)) - group_minimum;
    }
  }
}

// {128 bytes: low 4 bits; 64 bytes: high 2 bits; 16 signed scales; half d}
void Q6_K(const std::byte* block, float* out) {
  const float scale = LoadHalf(block + 208);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128;
    const int quarter = i % 128 / 32;
    const uint8_t low_byte = Byte(block, half * 64 + (quarter % 2) * 32 + i % 32);
    const int low = quarter < 2 ? low_byte & 0x0f : low_byte >> 4;
    const int high = (Byte(block + 128, half * 32 + i % 32) >> (2 * quarter)) & 3;
    const int group_scale = SignedByte(block + 192, i / 16);
    out[i] = scale * static_cast<float>(group_scale) * static_cast<float>((low | (high << 4)) - 32);
  }
}

using BlockFunction = void (*)(const std::byte* block, float* out);

// In the order of TensorType.
constexpr BlockFunction kFunctions[] = {F32,  F16,  Bf16, Q4_0, Q4_1, Q5_0, Q5_1,
                                        Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K};
static_assert(std::size(kFunctions) == static_cast<size_t>(TensorType::kQ6_K) + 1);

}  // namespace

float HalfToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t fraction = bits & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

float Bfloat16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

void Dequantize(TensorType type, std::span<const std::byte> stored, std::span<float> out) {
  const BlockLayout layout = LayoutOf(type);
  const size_t weights = static_cast<size_t>(layout.weights);
  const size_t blocks = out.size() / weights;
  PAGODA_CHECK(out.size() % weights == 0 &&
               stored.size() == blocks * static_cast<size_t>(layout.bytes));
  const BlockFunction function = kFunctions[static_cast<size_t>(type)];
  for (size_t i = 0; i < blocks; ++i) {
    function(stored.data() + i * static_cast<size_t>(layout.bytes), out.data() + i * weights);
  }
}

}  // namespace pagoda::checkpoint
