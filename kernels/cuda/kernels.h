// The launchers of the device's kernels: plain structs in, one function each, which checks what must hold of the shapes
// (cudaErrorInvalidValue) and launches on the stream. All pointers are device memory. Nothing of absl here: nvcc reads it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/numerics.h"

namespace pagoda::kernels::cuda {

// One row of quantised 32-column blocks, in the order in which matrix instructions take it: element order within a block, and
// blocks before rows: [blocks][capacity][32 bytes], 12 bits: [blocks][capacity][64 bytes], 8 high and 8 low bytes by turns.
// Column k = 16 h + 4 t + j of a block is byte 8 t + 4 h + j (12 bits: 16 t + 4 h + j, low parts 8 further).
struct QuantView {
  int8_t* q = nullptr;            // null: this form is not wanted
  float2* scale_sum = nullptr;    // [blocks][capacity]: scale, scale * sum of q
  float2* half_sums = nullptr;    // [blocks][capacity]: of columns 0..15 and 16..31
};
// The forms of an activation. 16-bit forms: [blocks][capacity][32], column k = 16 s + 8 h + 2 t + j is element 8 t + 4 s + 2 h + j.
struct FormsView {
  int64_t columns = 0;
  int64_t capacity = 0;     // rows, a multiple of 128
  float* f32 = nullptr;     // [capacity, columns]
  uint16_t* f16 = nullptr;
  uint16_t* bf16 = nullptr;
  // For wgmma, f16 or bf16: [blocks][capacity / 8][4 groups of 8 columns][8 rows][8].
  uint16_t* blocked = nullptr;
  bool blocked_bf16 = false;
  QuantView int8, int12;
};

struct EmbedParams {
  int format = 0;                   // WeightFormat
  const uint8_t* table = nullptr;   // as in the file
  int64_t row_bytes = 0;
  const int32_t* tokens = nullptr;  // [rows], in range
  int64_t rows = 0;
  int64_t columns = 0;
  float* out = nullptr;
  int64_t stride = 0;
};
cudaError_t LaunchEmbed(const EmbedParams& params, cudaStream_t stream);

inline constexpr int kMaxPlanes = 64;
struct AddNormKernelParams {
  float* residual = nullptr;
  int64_t residual_stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  int plane_count = 0;
  const float* planes[kMaxPlanes] = {};  // each [rows, columns]
  int8_t adds[kMaxPlanes] = {};
  const float* norm_weight = nullptr;    // null: only add
  float epsilon = 0;
  FormsView out;
};
cudaError_t LaunchAddNorm(const AddNormKernelParams& params, cudaStream_t stream);

struct QuantizeParams {
  const float* in = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
  FormsView out;
};
cudaError_t LaunchQuantize(const QuantizeParams& params, cudaStream_t stream);

struct GateParams {
  const float* gate_up = nullptr;  // [rows, 2 columns]
  int64_t stride = 0;
  int64_t rows = 0;
  bool gelu = false;
  FormsView out;
};
cudaError_t LaunchGate(const GateParams& params, cudaStream_t stream);

struct CopyRowsKernelParams {
  const float* from = nullptr;
  int64_t from_stride = 0;
  float* to = nullptr;
  int64_t to_stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  const int32_t* indices = nullptr;  // row i comes from indices[i]; null: from i
};
cudaError_t LaunchCopyRows(const CopyRowsKernelParams& params, cudaStream_t stream);

// Packing: file rows on the device -> tiles of records (packed_layout.h).
struct PackParams {
  int format = 0;
  const uint8_t* file = nullptr;  // [rows, row_bytes]
  int64_t row_bytes = 0;
  int64_t rows = 0;
  int64_t first_block = 0;        // of 32 columns within the file's row
  int64_t blocks = 0;
  uint8_t* records = nullptr;     // [tiles][blocks][record]
};
cudaError_t LaunchPack(const PackParams& params, cudaStream_t stream);

// One slice of a product: its blocks end at end_block. After the last slice of a shard: pop and add `adds` times; then the value
// is output plane `plane`, or (-1) is pushed.
struct SliceStep {
  int32_t end_block = 0;
  int8_t ends_shard = 0;
  int8_t adds = 0;
  int16_t plane = -1;
};
struct GemmParams {
  int format = 0;
  const uint8_t* records = nullptr;
  int64_t rows = 0;                    // of weights in this segment
  int blocks = 0;
  const SliceStep* slices = nullptr;   // device
  int slice_count = 0;
  int max_depth = 0;                   // of the stack of the shards' tree
  int activation_bits = 0;             // 8, 12; 0: a float form
  FormsView input;
  int64_t tokens = 0;
  const float* bias = nullptr;         // [rows] or null
  float* out = nullptr;                // of the segment's first row
  int64_t row_stride = 0;
  int64_t plane_stride = 0;
  int shared_limit = 0;                // bytes of shared memory that a block may have
  float* stack = nullptr;              // [max_depth][tokens][rows]: scratch of products of many tokens
};
int64_t GemmStackFloats(const GemmParams& params);
cudaError_t LaunchGemm(const GemmParams& params, cudaStream_t stream);

// Keys and values of one (block, KV head), tile after tile of 16 tokens: K elements, V elements, and for 8 bits f32 scales of K [16]
// and of V [16]. Dimensions are padded to 32. Within a tile:
//   K: [dim / 32][token][32]: dimension 16 s + 8 h + 2 t + j of its group at 8 t + 4 s + 2 h + j
//   V: [dim / 16][g][t][8]: dimension 8 n + g (of 16), tokens 2 t, 2 t + 1, 2 t + 8, 2 t + 9 at 4 n + 0..3
struct KvView {
  int type = 0;  // KvType
  int head_dim = 0;
  int padded_dim = 0;
  int block_tokens = 0;
  int kv_heads = 0;
  int64_t tile_bytes = 0;
  int64_t value_at = 0;  // within a tile
  int64_t scale_at = 0;
  int64_t head_bytes = 0;
  int64_t block_bytes = 0;
  uint8_t* layer = nullptr;  // block 0
};
__host__ __device__ inline int64_t KvKeyIndex(int token, int dim) {  // element within K of a tile
  const int in = dim & 31;
  return (static_cast<int64_t>(dim >> 5) * 16 + token) * 32 + ((in >> 1) & 3) * 8 + (in >> 4) * 4 + ((in >> 3) & 1) * 2 + (in & 1);
}
__host__ __device__ inline int64_t KvValueIndex(int token, int dim) {
  const int t = (token >> 1) & 3, pair = token >> 3;
  return (static_cast<int64_t>(dim >> 4) * 8 + (dim & 7)) * 32 + t * 8 + ((dim >> 3) & 1) * 4 + pair * 2 + (token & 1);
}

// What a step's rows are, on the device. Written once per step, read by every layer.
struct StepView {
  const int32_t* row_sequence = nullptr;  // [padded rows]; -1: no row
  const int32_t* row_position = nullptr;
  const int32_t* block_begin = nullptr;   // [sequences]: where its block ids start
  const int32_t* block_ids = nullptr;
};

struct RopeStoreParams {
  float* qkv = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
  int query_heads = 0;
  const float* frequencies = nullptr;  // device, [pairs]
  int pairs = 0;
  bool interleaved = false;
  float magnitude = 1;
  KvView kv;
  StepView step;
};
cudaError_t LaunchRopeStore(const RopeStoreParams& params, cudaStream_t stream);

// Up to 16 query vectors (row-major over rows, then the heads of one KV head) against a run of chunks of their sequence.
struct AttentionUnit {
  int32_t sequence = 0;
  int32_t first_row = 0;       // of the sequence in the step
  int32_t first_position = 0;  // of that row
  int32_t kv_head = 0;
  int32_t first_vector = 0;    // among rows * heads of the KV head
  int32_t vectors = 0;         // at most 16
  int32_t first_chunk = 0;
  int32_t chunks = 0;
  int32_t partial = 0;         // where its vectors' results go among the partials; -1: to the output at once
};
// Rows whose chunks were split: joined in order.
struct AttentionJoin {
  int32_t first_row = 0;
  int32_t kv_head = 0;
  int32_t first_vector = 0;
  int32_t vectors = 0;
  int32_t partial = 0;  // the first chunk's first vector; the other chunks follow
  int32_t partials = 0;  // chunks
};
inline constexpr int kAttentionWarps = 4;  // of a block, each with a ring of so many tiles
inline int AttentionStages(int64_t tile_bytes) {
  const int64_t fit = (int64_t{200} << 10) / (kAttentionWarps * (tile_bytes + 8));
  return static_cast<int>(fit < 2 ? 2 : (fit > 4 ? 4 : fit));
}
struct AttendKernelParams {
  const float* qkv = nullptr;
  int64_t qkv_stride = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  KvView kv;
  StepView step;
  const int32_t* head_begin = nullptr;  // [kv_heads + 1] into head_order
  const int32_t* head_order = nullptr;  // query heads by KV head
  float scale = 0;
  int sliding_window = 0;
  int stages = 4;                       // AttentionStages
  const AttentionUnit* units = nullptr;
  const AttentionJoin* joins = nullptr;
  const int32_t* counts = nullptr;      // [2]: units, joins
  int unit_grid = 0;                    // warps and blocks to launch: at most so many are busy
  int join_grid = 0;
  float* partial_o = nullptr;           // [partial vectors][padded_dim]
  float* partial_ml = nullptr;          // [partial vectors][2]
};
cudaError_t LaunchAttend(const AttendKernelParams& params, cudaStream_t stream);

struct CopyBlocksParams {
  const int2* copies = nullptr;  // from, to
  int count = 0;
  uint8_t* base = nullptr;
  int64_t block_bytes = 0;
  int64_t layer_bytes = 0;
  int layers = 0;
};
cudaError_t LaunchCopyBlocks(const CopyBlocksParams& params, cudaStream_t stream);

// Kernels may overlap from now on (all devices of this process can, or none does).
void AllowOverlap(bool allowed);

// The name of the kernel that was launched last on this thread: for errors.
const char* LastKernel();

}  // namespace pagoda::kernels::cuda
