// GGUF blocks read on the device: the twin of kernels/cpu/weight_blocks.cc, one block of 32 columns by the lanes of a warp.
#pragma once

#include "kernels/cuda/intrinsics.cuh"

namespace pagoda::kernels::cuda {

enum Format : int { kF32, kF16, kBF16, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K };

__host__ __device__ constexpr bool IsFloatFormat(int format) { return format <= kBF16; }
__host__ __device__ constexpr bool IsSuper(int format) { return format >= kQ2_K; }
__host__ __device__ constexpr int SubBlocks(int format) {
  return format == kQ2_K || format == kQ3_K || format == kQ6_K ? 2 : 1;
}
__host__ __device__ constexpr int OffsetOf(int format) {
  return format == kQ8_0 ? 128 : (format == kQ3_K ? 4 : (format == kQ6_K ? 32 : 0));
}
__host__ __device__ constexpr int MinFactor(int format) { return format == kQ4_0 ? -8 : (format == kQ5_0 ? -16 : 0); }
__host__ __device__ constexpr bool StoredMin(int format) {
  return format == kQ4_1 || format == kQ5_1 || format == kQ2_K || format == kQ4_K || format == kQ5_K;
}
__host__ __device__ constexpr int FileBlockBytes(int format) {
  constexpr int kBytes[] = {4, 2, 2, 18, 20, 22, 24, 34, 84, 110, 144, 176, 210};
  return kBytes[format];
}

struct BlockScales {
  uint16_t d = 0;
  uint16_t m = 0;
  uint8_t scale[2] = {0, 0};
  uint8_t minimum[2] = {0, 0};
};

__device__ inline uint16_t ReadU16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

__device__ inline const uint8_t* BlockAt(int format, const uint8_t* row, int64_t block) {
  return IsSuper(format) ? row + block / 8 * FileBlockBytes(format) : row + block * FileBlockBytes(format);
}

// Weight k (0..31) of a block, before the offset is taken away.
__device__ inline uint8_t ReadQuant(int format, const uint8_t* p, int part, int k) {
  const int half = part / 4, shift = 2 * (part % 4);
  const auto nibble = [&](const uint8_t* quants) { return k < 16 ? quants[k] & 15 : quants[k - 16] >> 4; };
  switch (format) {
    case kQ4_0:
      return static_cast<uint8_t>(nibble(p + 2));
    case kQ4_1:
      return static_cast<uint8_t>(nibble(p + 4));
    case kQ5_0:
      return static_cast<uint8_t>(nibble(p + 6) | (p[2 + k / 8] >> (k % 8) & 1) << 4);
    case kQ5_1:
      return static_cast<uint8_t>(nibble(p + 8) | (p[4 + k / 8] >> (k % 8) & 1) << 4);
    case kQ8_0:
      return p[2 + k] ^ 0x80;
    case kQ2_K:
      return p[16 + half * 32 + k] >> shift & 3;
    case kQ3_K:
      return static_cast<uint8_t>((p[32 + half * 32 + k] >> shift & 3) | (p[k] >> part & 1) << 2);
    case kQ6_K: {
      const uint8_t low = p[half * 64 + (part % 2) * 32 + k];
      return static_cast<uint8_t>((part % 4 < 2 ? low & 15 : low >> 4) | (p[128 + half * 32 + k] >> shift & 3) << 4);
    }
    default: {
      const uint8_t pair = p[(format == kQ4_K ? 16 : 48) + part / 2 * 32 + k];
      const int low = part % 2 == 0 ? pair & 15 : pair >> 4;
      return static_cast<uint8_t>(format == kQ5_K ? low | (p[16 + k] >> part & 1) << 4 : low);
    }
  }
}

__device__ inline BlockScales ReadScales(int format, const uint8_t* p, int part) {
  BlockScales out;
  switch (format) {
    case kQ4_0:
    case kQ5_0:
    case kQ8_0:
      out.d = ReadU16(p);
      return out;
    case kQ4_1:
    case kQ5_1:
      out.d = ReadU16(p);
      out.m = ReadU16(p + 2);
      return out;
    case kQ2_K:
      out.d = ReadU16(p + 80);
      out.m = ReadU16(p + 82);
      for (int s = 0; s < 2; ++s) {
        out.scale[s] = p[2 * part + s] & 15;
        out.minimum[s] = p[2 * part + s] >> 4;
      }
      return out;
    case kQ3_K:
      out.d = ReadU16(p + 108);
      for (int s = 0; s < 2; ++s) {
        const int index = 2 * part + s;
        const uint8_t* packed = p + 96;
        const int low = index < 8 ? packed[index] & 15 : packed[index - 8] >> 4;
        const int high = packed[8 + index % 4] >> (2 * (index / 4)) & 3;
        out.scale[s] = static_cast<uint8_t>((low | high << 4) - 32);
      }
      return out;
    case kQ6_K:
      out.d = ReadU16(p + 208);
      for (int s = 0; s < 2; ++s) out.scale[s] = p[192 + 2 * part + s];
      return out;
    default: {  // Q4_K, Q5_K
      const uint8_t* packed = p + 4;
      out.d = ReadU16(p);
      out.m = ReadU16(p + 2);
      if (part < 4) {
        out.scale[0] = packed[part] & 63;
        out.minimum[0] = packed[part + 4] & 63;
      } else {
        out.scale[0] = static_cast<uint8_t>((packed[part + 4] & 15) | (packed[part - 4] >> 6) << 4);
        out.minimum[0] = static_cast<uint8_t>(packed[part + 4] >> 4 | (packed[part] >> 6) << 4);
      }
      return out;
    }
  }
}

__device__ inline float Dequantize(int format, uint8_t w, const BlockScales& scales, int k) {
  const float d = HalfToFloat(scales.d);
  const float value = static_cast<float>(static_cast<int>(w) - OffsetOf(format));
  const int s = SubBlocks(format) == 2 ? k / 16 : 0;
  if (!IsSuper(format)) {
    if (OffsetOf(format) != 0) return value * d;
    return Fma(value, d, StoredMin(format) ? HalfToFloat(scales.m) : static_cast<float>(MinFactor(format)) * d);
  }
  if (StoredMin(format)) {
    const float m = -(HalfToFloat(scales.m) * static_cast<float>(scales.minimum[s]));
    return Fma(value, d * static_cast<float>(scales.scale[s]), m);
  }
  return value * (d * static_cast<float>(static_cast<int8_t>(scales.scale[s])));
}

}  // namespace pagoda::kernels::cuda
