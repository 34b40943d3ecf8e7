// What the kernels of one instruction set look like to the backend: plain structs in, plain functions, no library types, so
// that files built with different machine flags share no inline code. Everything here is private to kernels/cpu.
//
// Packed weights. 16 rows make a tile; a tile holds its blocks of 32 columns in order, in three arrays that start at
// multiples of 64 bytes: quants, scales (both one entry per block) and, for K-quants, supers (one entry per 8 blocks counted
// from the start of the file's row, so a tile that starts inside a super-block has `super_phase` blocks missing).
//   quants, per block: low nibbles as 4 vectors of 64 bytes: byte g*64 + r*4 + j holds row r, columns 8g+j (low) and 8g+4+j
//     (high nibble); 5-bit formats add 64 bytes of fifth bits (bit i of 64-bit word v: byte i of vector v, where vector v is
//     columns 4v..4v+3); 6-bit formats add 128 bytes: byte i of half h holds 2 bits for vectors 4h..4h+3, lowest first.
//     Q8_0: 8 vectors, byte v*64 + r*4 + j is row r, column 4v+j, plus 128. Float formats: [32][16] elements as stored.
//   scales, per block: f16 d[16] (Q4_0, Q5_0, Q8_0); d[16], m[16] (Q4_1, Q5_1); sc[16], min[16] bytes (Q4_K, Q5_K); sc[2][16]
//     signed bytes (Q3_K, Q6_K); sc[2][16], min[2][16] bytes (Q2_K).
//   supers, per 8 blocks: f16 d[16], and f16 dmin[16] (Q2_K, Q4_K, Q5_K).
#pragma once

#include <cstdint>

#include "kernels/numerics.h"

namespace pagoda::kernels::cpu {

inline constexpr int kTileRows = 16;
inline constexpr int kFormats = 13;  // of WeightFormat
inline constexpr int kMaxTreeDepth = 24;

// One virtual shard of a product: its blocks end at `end_block`; then pop and add `adds` times; then the value is complete
// as output plane `plane`, or (-1) is pushed.
struct ShardStep {
  int32_t end_block = 0;
  int16_t adds = 0;
  int16_t plane = -1;
};

// Quantised rows. 8 bits: q is [rows][columns]. 12 bits: q is [rows][blocks][64], 32 high parts and 32 low parts; the value
// is 16 * high + low.
struct QuantRows {
  int bits = 8;
  int64_t blocks = 0;
  int8_t* q = nullptr;
  float* scale = nullptr;         // [rows][blocks]
  float* sum = nullptr;           // [rows][blocks]
  float* half_sum = nullptr;      // [rows][blocks][2]: of columns 0..15 and 16..31 of each block
  int32_t* total = nullptr;       // [rows][blocks]: sum of q
  int32_t* half_total = nullptr;  // [rows][blocks][2]
};

// Blocks of 32 values to quantise: block i is at in + i * in_stride and becomes block first + i * stride of the rows, counted
// through all rows (row * blocks + block).
struct QuantizeTask {
  const float* in = nullptr;
  int64_t in_stride = 32;
  int64_t first = 0;
  int64_t stride = 1;
  int64_t count = 0;
};

struct GemmTask {
  const uint8_t* tiles = nullptr;  // the first tile
  int64_t tile_bytes = 0;
  int64_t scales_at = 0;  // within a tile
  int64_t supers_at = 0;
  int super_phase = 0;
  int tile_count = 0;
  int last_rows = kTileRows;  // rows of the last tile that exist
  int64_t blocks = 0;
  const QuantRows* quant = nullptr;  // quantised formats
  const float* input = nullptr;      // float formats: [rows, blocks * 32]
  int64_t first_token = 0;
  int64_t tokens = 0;
  const ShardStep* steps = nullptr;
  int step_count = 0;
  const float* bias = nullptr;  // of the first tile's first row, padded to whole tiles; or null
  float* out = nullptr;         // of the first tile's first row and token 0
  int64_t row_stride = 0;
  int64_t plane_stride = 0;
};
using GemmFunction = void (*)(const GemmTask& task);

struct AddNormRow {
  float* residual = nullptr;
  int64_t columns = 0;
  const float* const* planes = nullptr;  // [plane_count], already at this row
  const int* adds = nullptr;
  int plane_count = 0;
  const float* norm_weight = nullptr;  // null: no norm
  float epsilon = 0;
  float* normed = nullptr;  // [columns]
};

struct GateRow {
  const float* gate = nullptr;
  const float* up = nullptr;
  int64_t columns = 0;
  bool gelu = false;
  float* out = nullptr;
};

// KV storage of one block, layer and head: K as [tiles of 16 tokens][head_dim][16], V as [block_tokens][padded head_dim],
// and for 8 bits f32 scales [block_tokens] of K and then of V.
struct KvLayout {
  int type = 0;  // KvType
  int head_dim = 0;
  int padded_dim = 0;  // to a multiple of 16
  int block_tokens = 0;
  int64_t value_at = 0;  // bytes from the start of the head's storage
  int64_t key_scale_at = 0;
  int64_t value_scale_at = 0;
  int64_t head_bytes = 0;
  int64_t block_bytes = 0;  // all heads
};

struct RopeRow {
  float* head = nullptr;  // turned in place
  const float* cosine = nullptr;
  const float* sine = nullptr;
  int pairs = 0;
  bool interleaved = false;
};
struct StoreRow {
  const KvLayout* layout = nullptr;
  uint8_t* head = nullptr;  // the storage of this block and KV head
  int token = 0;            // within the block
  const float* key = nullptr;
  const float* value = nullptr;
};

// Query vectors of one KV head and consecutive rows of one sequence.
struct AttendTask {
  const KvLayout* layout = nullptr;
  const uint8_t* layer = nullptr;  // block 0 of the layer
  int kv_head = 0;
  const int32_t* blocks = nullptr;
  int64_t first_position = 0;  // of the first row
  int rows = 0;
  int heads = 0;
  const int32_t* head_ids = nullptr;  // [heads]: query heads
  const float* query = nullptr;       // of the first row, head 0
  int64_t query_stride = 0;           // floats from row to row
  float* out = nullptr;
  int64_t out_stride = 0;
  float scale = 0;
  int sliding_window = 0;
  float* scratch = nullptr;  // of this thread, AttendScratchFloats()
};
inline constexpr int kAttendVectors = 48;  // query vectors (rows x heads) of one task at most; a multiple of 16
// Scratch in floats: queries, outputs, a K tile and a V tile, scores, running maximum and sum; the last three are read in
// sixteens from anywhere.
constexpr int64_t AttendScratchFloats(int64_t padded_dim) {
  return 2 * kAttendVectors * padded_dim + 32 * padded_dim + (kAttendVectors + 16) * 19;
}

struct KernelTable {
  GemmFunction gemm[kFormats][2] = {};  // [format][12-bit input]; float formats use [0]
  // Tiles a thread should take at once for so many tokens; a register block of the kernel.
  int (*tiles_at_once)(int64_t tokens) = nullptr;
  void (*quantize)(const QuantizeTask& task, const QuantRows& out) = nullptr;
  void (*add_norm_row)(const AddNormRow& row) = nullptr;
  void (*gate_row)(const GateRow& row) = nullptr;
  // The largest of them; NaN never wins, -inf when there is none.
  float (*largest)(const float* values, int64_t count) = nullptr;
  void (*rope_row)(const RopeRow& row) = nullptr;
  void (*store_row)(const StoreRow& row) = nullptr;
  void (*attend)(const AttendTask& task) = nullptr;
};
const KernelTable& ScalarKernels();
const KernelTable& Avx2Kernels();    // require the instructions when called
const KernelTable& Avx512Kernels();
const KernelTable& AmxKernels();

}  // namespace pagoda::kernels::cpu
