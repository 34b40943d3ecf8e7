// Puts rows of a model file into the device's order: a warp per record, its lanes gather what they will later read.
#include "kernels/cuda/device_formats.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_layout.cuh"

namespace pagoda::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// A weight's 16 or 32 bits as stored; rows past the end are zero.
__device__ uint32_t FileWord(const PackParams& p, int64_t row, int64_t column) {
  if (row >= p.rows) return 0;
  const int size = p.format == kF32 ? 4 : 2;
  const uint8_t* at = p.file + row * p.row_bytes + (p.first_block * 32 + column) * size;
  uint32_t word = ReadU16(at);
  if (size == 4) word |= static_cast<uint32_t>(ReadU16(at + 2)) << 16;
  return word;
}

__device__ void PackFloats(const PackParams& p, int64_t first_row, int64_t block, int lane, uint32_t* record) {
  if (p.format == kF32) {
    for (int i = lane; i < 512; i += 32) record[i] = FileWord(p, first_row + i % 16, block * 32 + i / 16);
    return;
  }
  const int g = lane / 4, t = lane % 4;
  for (int step = 0; step < 2; ++step) {
    for (int r = 0; r < 4; ++r) {
      const int64_t row = first_row + g + r % 2 * 8, column = block * 32 + step * 16 + r / 2 * 8 + 2 * t;
      record[(step * 32 + lane) * 4 + r] = FileWord(p, row, column) | FileWord(p, row, column + 1) << 16;
    }
  }
}

__device__ uint8_t QuantAt(const PackParams& p, int64_t row, int64_t block, int k) {
  if (row >= p.rows) return static_cast<uint8_t>(OffsetOf(p.format));
  const int64_t in_file = p.first_block + block;
  return ReadQuant(p.format, BlockAt(p.format, p.file + row * p.row_bytes, in_file), static_cast<int>(in_file % 8), k);
}

__device__ BlockScales ScalesAt(const PackParams& p, int64_t row, int64_t block) {
  if (row >= p.rows) return {};
  const int64_t in_file = p.first_block + block;
  return ReadScales(p.format, BlockAt(p.format, p.file + row * p.row_bytes, in_file), static_cast<int>(in_file % 8));
}

__device__ void PackQuants(const PackParams& p, int64_t first_row, int64_t block, int lane, uint8_t* record) {
  const int g = lane / 4, t = lane % 4;
  uint32_t words[2] = {0, 0}, high = 0;
  for (int i = 0; i < 16; ++i) {  // byte i of a0, a1, a2, a3
    const int64_t row = first_row + g + (i / 4 % 2) * 8;
    const uint32_t w = QuantAt(p, row, block, i / 8 * 16 + 4 * t + i % 4);
    if (p.format == kQ8_0) {
      record[lane * 16 + i] = static_cast<uint8_t>(w ^ 0x80);
      continue;
    }
    words[i / 4 % 2] |= (w & 15) << (8 * (i % 4) + (i >= 8 ? 4 : 0));
    high |= (w >> 4) << (p.format == kQ6_K ? 2 * i : i);
  }
  if (p.format == kQ8_0) return;
  uint32_t* nibbles = reinterpret_cast<uint32_t*>(record) + lane * 2;
  nibbles[0] = words[0];
  nibbles[1] = words[1];
  if (p.format == kQ6_K) {
    reinterpret_cast<uint32_t*>(record + 256)[lane] = high;
  } else if (QuantBytes(p.format) == 320) {
    reinterpret_cast<uint16_t*>(record + 256)[lane] = static_cast<uint16_t>(high);
  }
}

// Lanes 0..15: one row each.
__device__ void PackScales(const PackParams& p, int64_t first_row, int64_t block, int lane, uint8_t* record) {
  if (lane >= 16) return;
  const BlockScales scales = ScalesAt(p, first_row + lane, block);
  const int g = lane % 8, second = lane / 8;
  reinterpret_cast<uint16_t*>(record + QuantBytes(p.format))[2 * g + second] = scales.d;
  if (StoredMin(p.format)) reinterpret_cast<uint16_t*>(record + MinAt(p.format))[2 * g + second] = scales.m;
  if (!IsSuper(p.format)) return;
  uint8_t* subs = record + SubScaleAt(p.format) + 4 * g + second;
  subs[0] = scales.scale[0];
  if (SubBlocks(p.format) == 1) {
    subs[2] = scales.minimum[0];
    return;
  }
  subs[2] = scales.scale[1];
  if (StoredMin(p.format)) {
    subs[32] = scales.minimum[0];
    subs[34] = scales.minimum[1];
  }
}

// grid: x over groups of 4 blocks, y (and z) over tiles.
__global__ void Pack(PackParams p) {
  FollowPrevious();
  const int lane = threadIdx.x % 32;
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t tile = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  if (block >= p.blocks || tile * kTileRows >= p.rows) return;
  uint8_t* record = p.records + (tile * p.blocks + block) * RecordBytes(p.format);
  if (IsFloatFormat(p.format)) {
    PackFloats(p, tile * kTileRows, block, lane, reinterpret_cast<uint32_t*>(record));
  } else {
    PackQuants(p, tile * kTileRows, block, lane, record);
    PackScales(p, tile * kTileRows, block, lane, record);
  }
}

}  // namespace

int DeviceRecordBytes(int format) { return RecordBytes(format); }

cudaError_t LaunchPack(const PackParams& p, cudaStream_t stream) {
  if (p.rows == 0 || p.blocks == 0) return cudaSuccess;
  if (p.format < 0 || p.format > kQ6_K || p.first_block < 0) return cudaErrorInvalidValue;
  const int64_t tiles = (p.rows + kTileRows - 1) / kTileRows, y = tiles < 32768 ? tiles : 32768;
  const dim3 grid(static_cast<unsigned>((p.blocks + kWarps - 1) / kWarps), static_cast<unsigned>(y),
                  static_cast<unsigned>((tiles + y - 1) / y));
  return Launch("Pack", Pack, {grid, dim3(kThreads), 0, stream}, p);
}

}  // namespace pagoda::kernels::cuda
