#include "kernels/cpu/weight_blocks.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace pagoda::kernels::cpu {
namespace {

constexpr FormatTraits kTraits[] = {
    {.block_columns = 1, .block_bytes = 4, .is_float = true, .quant_bytes = 2048},
    {.block_columns = 1, .block_bytes = 2, .is_float = true, .quant_bytes = 1024},
    {.block_columns = 1, .block_bytes = 2, .is_float = true, .quant_bytes = 1024},
    // Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
    {.block_columns = 32, .block_bytes = 18, .min_factor = -8, .quant_bytes = 256, .scale_bytes = 32},
    {.block_columns = 32, .block_bytes = 20, .stored_min = true, .quant_bytes = 256, .scale_bytes = 64},
    {.block_columns = 32, .block_bytes = 22, .min_factor = -16, .quant_bytes = 320, .scale_bytes = 32},
    {.block_columns = 32, .block_bytes = 24, .stored_min = true, .quant_bytes = 320, .scale_bytes = 64},
    {.block_columns = 32, .block_bytes = 34, .offset = 128, .quant_bytes = 512, .scale_bytes = 32},
    // Q2_K, Q3_K, Q4_K, Q5_K, Q6_K
    {.block_columns = 256, .block_bytes = 84, .sub_blocks = 2, .stored_min = true, .super = true,
     .quant_bytes = 256, .scale_bytes = 64, .super_bytes = 64},
    {.block_columns = 256, .block_bytes = 110, .sub_blocks = 2, .offset = 4, .super = true,
     .quant_bytes = 256, .scale_bytes = 32, .super_bytes = 32},
    {.block_columns = 256, .block_bytes = 144, .stored_min = true, .super = true, .quant_bytes = 256,
     .scale_bytes = 32, .super_bytes = 64},
    {.block_columns = 256, .block_bytes = 176, .stored_min = true, .super = true, .quant_bytes = 320,
     .scale_bytes = 32, .super_bytes = 64},
    {.block_columns = 256, .block_bytes = 210, .sub_blocks = 2, .offset = 32, .super = true,
     .quant_bytes = 384, .scale_bytes = 32, .super_bytes = 32},
};

uint16_t Load16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

void SplitNibbles(const uint8_t* quants, WeightBlock& out) {
  for (int j = 0; j < 16; ++j) {
    out.w[j] = quants[j] & 15;
    out.w[j + 16] = quants[j] >> 4;
  }
}

void AddFifthBits(const uint8_t* bits, WeightBlock& out) {
  for (int j = 0; j < 32; ++j) out.w[j] |= (bits[j / 8] >> (j % 8) & 1) << 4;
}

WeightBlock ReadSimple(WeightFormat format, const uint8_t* p) {
  WeightBlock out;
  out.d = Load16(p);
  switch (format) {
    case WeightFormat::kQ4_0:
      SplitNibbles(p + 2, out);
      break;
    case WeightFormat::kQ4_1:
      out.m = Load16(p + 2);
      SplitNibbles(p + 4, out);
      break;
    case WeightFormat::kQ5_0:
      SplitNibbles(p + 6, out);
      AddFifthBits(p + 2, out);
      break;
    case WeightFormat::kQ5_1:
      out.m = Load16(p + 2);
      SplitNibbles(p + 8, out);
      AddFifthBits(p + 4, out);
      break;
    default:  // Q8_0
      for (int j = 0; j < 32; ++j) out.w[j] = p[2 + j] ^ 0x80;
  }
  return out;
}

// The six-bit scales and minimums of Q4_K and Q5_K.
void ReadScaleMin(const uint8_t* packed, int sub, WeightBlock& out) {
  if (sub < 4) {
    out.scale[0] = packed[sub] & 63;
    out.minimum[0] = packed[sub + 4] & 63;
  } else {
    out.scale[0] = (packed[sub + 4] & 15) | (packed[sub - 4] >> 6) << 4;
    out.minimum[0] = packed[sub + 4] >> 4 | (packed[sub] >> 6) << 4;
  }
}

uint8_t ReadScale3(const uint8_t* packed, int index) {
  const int low = index < 8 ? packed[index] & 15 : packed[index - 8] >> 4;
  const int high = packed[8 + index % 4] >> (2 * (index / 4)) & 3;
  return static_cast<uint8_t>((low | high << 4) - 32);
}

// `part` is the block of 32 within the super-block of 256 at p.
WeightBlock ReadSuper(WeightFormat format, const uint8_t* p, int part) {
  WeightBlock out;
  const int half = part / 4, shift = 2 * (part % 4);
  const uint8_t* nibbles = nullptr;
  switch (format) {
    case WeightFormat::kQ2_K:
      out.d = Load16(p + 80);
      out.m = Load16(p + 82);
      for (int j = 0; j < 32; ++j) out.w[j] = p[16 + half * 32 + j] >> shift & 3;
      for (int s = 0; s < 2; ++s) {
        out.scale[s] = p[2 * part + s] & 15;
        out.minimum[s] = p[2 * part + s] >> 4;
      }
      return out;
    case WeightFormat::kQ3_K:
      out.d = Load16(p + 108);
      for (int j = 0; j < 32; ++j) {
        out.w[j] = (p[32 + half * 32 + j] >> shift & 3) | (p[j] >> part & 1) << 2;
      }
      for (int s = 0; s < 2; ++s) out.scale[s] = ReadScale3(p + 96, 2 * part + s);
      return out;
    case WeightFormat::kQ6_K:
      out.d = Load16(p + 208);
      for (int j = 0; j < 32; ++j) {
        const uint8_t low = p[half * 64 + (part % 2) * 32 + j];
        out.w[j] = (part % 4 < 2 ? low & 15 : low >> 4) | (p[128 + half * 32 + j] >> shift & 3) << 4;
      }
      for (int s = 0; s < 2; ++s) out.scale[s] = p[192 + 2 * part + s];
      return out;
    case WeightFormat::kQ4_K:
      nibbles = p + 16;
      break;
    default:  // Q5_K
      nibbles = p + 48;
  }
  out.d = Load16(p);
  out.m = Load16(p + 2);
  ReadScaleMin(p + 4, part, out);
  for (int j = 0; j < 32; ++j) {
    const uint8_t pair = nibbles[part / 2 * 32 + j];
    out.w[j] = part % 2 == 0 ? pair & 15 : pair >> 4;
    if (format == WeightFormat::kQ5_K) out.w[j] |= (p[16 + j] >> part & 1) << 4;
  }
  return out;
}

void DequantizeBlock(WeightFormat format, const WeightBlock& block, float* out) {
  const FormatTraits& traits = TraitsOf(format);
  const float d = HalfToFloat(block.d);
  for (int j = 0; j < 32; ++j) {
    const int s = traits.sub_blocks == 2 ? j / 16 : 0;
    const float w = static_cast<float>(block.w[j] - traits.offset);
    if (!traits.super) {
      const float m = traits.stored_min ? HalfToFloat(block.m) : traits.min_factor * d;
      out[j] = traits.offset != 0 ? w * d : std::fma(w, d, m);
    } else if (traits.stored_min) {
      const float m = -(HalfToFloat(block.m) * static_cast<float>(block.minimum[s]));
      out[j] = std::fma(w, d * static_cast<float>(block.scale[s]), m);
    } else {
      out[j] = w * (d * static_cast<float>(static_cast<int8_t>(block.scale[s])));
    }
  }
}

}  // namespace

const FormatTraits& TraitsOf(WeightFormat format) { return kTraits[static_cast<int>(format)]; }

WeightBlock ReadWeightBlock(WeightFormat format, const std::byte* row, int64_t block) {
  const FormatTraits& traits = TraitsOf(format);
  const auto* bytes = reinterpret_cast<const uint8_t*>(row);
  if (!traits.super) return ReadSimple(format, bytes + block * traits.block_bytes);
  return ReadSuper(format, bytes + block / 8 * traits.block_bytes, static_cast<int>(block % 8));
}

int64_t RowBytes(WeightFormat format, int64_t columns) {
  const FormatTraits& traits = TraitsOf(format);
  return columns / traits.block_columns * traits.block_bytes;
}

void DequantizeRow(WeightFormat format, const std::byte* row, int64_t columns, float* out) {
  if (TraitsOf(format).is_float) {
    for (int64_t i = 0; i < columns; ++i) {
      if (format == WeightFormat::kF32) {
        std::memcpy(out + i, row + 4 * i, 4);
        continue;
      }
      uint16_t bits = 0;
      std::memcpy(&bits, row + 2 * i, 2);
      out[i] = format == WeightFormat::kF16 ? HalfToFloat(bits) : BFloatToFloat(bits);
    }
    return;
  }
  for (int64_t b = 0; b < columns / 32; ++b) {
    DequantizeBlock(format, ReadWeightBlock(format, row, b), out + 32 * b);
  }
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 31, mantissa = half & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 1u << 22 : 0));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00 | (magnitude >> 13 & 0x3ff);
  if (magnitude >= 0x477ff000u) return sign | 0x7c00;  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {                       // below 2^-14: a denormal half
    const float scaled = std::bit_cast<float>(magnitude) + 0.5f;  // ulp of [0.5, 1) is 2^-24
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(scaled) - 0x3f000000u);
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded - 0x38000000u) >> 13);
}

float BFloatToFloat(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

uint16_t FloatToBFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace pagoda::kernels::cpu
