// Elements of the KV cache: 2 bytes (f16, bf16) or 1 (integers, e4m3) with a scale per token and head.
#pragma once

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/kernels.h"

namespace pagoda::kernels::cuda {

enum KvKind : int { kKvF32, kKvF16, kKvBF16, kKvI8, kKvF8 };  // of KvType

__host__ __device__ constexpr bool KvHasScales(int type) { return type == kKvI8 || type == kKvF8; }
__host__ __device__ constexpr int KvElementBytes(int type) { return KvHasScales(type) ? 1 : 2; }
__host__ __device__ constexpr float KvLimit(int type) { return type == kKvF8 ? 448.0f : 127.0f; }

__device__ inline void StoreKvElement(int type, uint8_t* base, int64_t index, float value, float inverse) {
  switch (type) {
    case kKvF16:
      reinterpret_cast<uint16_t*>(base)[index] = FloatToHalf(value);
      break;
    case kKvBF16:
      reinterpret_cast<uint16_t*>(base)[index] = FloatToBFloat(value);
      break;
    case kKvI8:
      base[index] = static_cast<uint8_t>(static_cast<int8_t>(inverse == 0.0f ? 0 : NearestInt(value * inverse)));
      break;
    default:
      base[index] = inverse == 0.0f ? 0 : FloatToFp8(value * inverse);
  }
}

// A 1-byte element as 16 bits that the matrix instruction takes: exact in f16.
__device__ __forceinline__ uint32_t ByteToHalf(int type, uint32_t byte) {
  return type == kKvI8 ? FloatToHalf(static_cast<float>(static_cast<int8_t>(byte))) : FloatToHalf(Fp8ToFloat(static_cast<uint8_t>(byte)));
}

}  // namespace pagoda::kernels::cuda
