// The plain statement of the arithmetic of numerics.h. Every other kernel file must give the same bits.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/backend.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/weight_blocks.h"

namespace pagoda::kernels::cpu {
namespace {

// One row of a tile.
struct TileRow {
  const GemmTask* task = nullptr;
  const uint8_t* tile = nullptr;
  int row = 0;
};

float HalfAt(const uint8_t* p, int row) {
  uint16_t bits = 0;
  std::memcpy(&bits, p + 2 * row, 2);
  return HalfToFloat(bits);
}

int WeightAt(const FormatTraits& traits, const uint8_t* quants, int row, int k) {
  const int vector = k / 4, byte = row * 4 + k % 4;
  if (traits.quant_bytes == 512) return quants[vector * 64 + byte] - traits.offset;
  const uint8_t pair = quants[k / 8 * 64 + byte];
  int w = vector % 2 == 0 ? pair & 15 : pair >> 4;
  if (traits.quant_bytes == 320) w |= (quants[256 + vector * 8 + byte / 8] >> (byte % 8) & 1) << 4;
  if (traits.quant_bytes == 384) {
    w |= (quants[256 + vector / 4 * 64 + byte] >> (2 * (vector % 4)) & 3) << 4;
  }
  return w - traits.offset;
}

struct ScaleMin {
  float d = 0;
  float m = 0;
};
ScaleMin ScalesAt(const FormatTraits& traits, const TileRow& at, int64_t block, int sub) {
  const GemmTask& task = *at.task;
  const uint8_t* scales = at.tile + task.scales_at + block * traits.scale_bytes;
  if (!traits.super) {
    const float d = HalfAt(scales, at.row);
    return {d, traits.stored_min ? HalfAt(scales + 32, at.row) : static_cast<float>(traits.min_factor) * d};
  }
  const uint8_t* super = at.tile + task.supers_at + (block + task.super_phase) / 8 * traits.super_bytes;
  const uint8_t scale = scales[16 * sub + at.row];
  if (!traits.stored_min) return {HalfAt(super, at.row) * static_cast<float>(static_cast<int8_t>(scale)), 0};
  const uint8_t minimum = scales[16 * (traits.sub_blocks + sub) + at.row];
  return {HalfAt(super, at.row) * static_cast<float>(scale),
          -(HalfAt(super + 32, at.row) * static_cast<float>(minimum))};
}

// Rows of input that share one look at the weights; every one of them is summed as if it were alone.
constexpr int kTokensAtOnce = 8;
struct TokenGroup {
  int64_t first = 0;
  int count = 0;
};

void QuantsAt(const QuantRows& quant, int64_t token, int64_t block, int16_t* q) {
  if (quant.bits == 8) {
    std::copy_n(quant.q + (token * quant.blocks + block) * 32, 32, q);
    return;
  }
  const int8_t* parts = quant.q + (token * quant.blocks + block) * 64;
  for (int k = 0; k < 32; ++k) q[k] = static_cast<int16_t>(16 * parts[k] + parts[32 + k]);
}

// f[t]: the sum over blocks begin..end of token t of the group.
void QuantShard(WeightFormat format, const TileRow& at, TokenGroup tokens, int64_t begin, int64_t end, float* f) {
  const FormatTraits& traits = TraitsOf(format);
  const QuantRows& quant = *at.task->quant;
  const int width = 32 / traits.sub_blocks;
  std::fill_n(f, tokens.count, 0.0f);
  for (int64_t b = begin; b < end; ++b) {
    const uint8_t* quants = at.tile + b * traits.quant_bytes;
    int16_t w[32], q[32];
    ScaleMin scales[2];
    for (int k = 0; k < 32; ++k) w[k] = static_cast<int16_t>(WeightAt(traits, quants, at.row, k));
    for (int s = 0; s < traits.sub_blocks; ++s) scales[s] = ScalesAt(traits, at, b, s);
    for (int t = 0; t < tokens.count; ++t) {
      QuantsAt(quant, tokens.first + t, b, q);
      const float scale = quant.scale[(tokens.first + t) * quant.blocks + b];
      for (int s = 0; s < traits.sub_blocks; ++s) {
        int32_t total = 0, weighted = 0;
        for (int k = s * width; k < (s + 1) * width; ++k) {
          weighted += w[k] * q[k];
          total += q[k];
        }
        f[t] = std::fma(scales[s].d * scale, static_cast<float>(weighted), f[t]);
        if (traits.stored_min || traits.min_factor != 0) {
          f[t] = std::fma(scales[s].m, scale * static_cast<float>(total), f[t]);
        }
      }
    }
  }
}

void FloatShard(WeightFormat format, const TileRow& at, TokenGroup tokens, int64_t begin, int64_t end, float* f) {
  const int size = TraitsOf(format).block_bytes;
  const int64_t columns = at.task->blocks * 32;
  const float* x = at.task->input + tokens.first * columns;
  std::fill_n(f, tokens.count, 0.0f);
  for (int64_t k = begin * 32; k < end * 32; ++k) {
    const uint8_t* p = at.tile + (k * kTileRows + at.row) * size;
    float w = 0;
    uint16_t bits = 0;
    if (format == WeightFormat::kF32) {
      std::memcpy(&w, p, 4);
    } else {
      std::memcpy(&bits, p, 2);
      w = format == WeightFormat::kF16 ? HalfToFloat(bits) : BFloatToFloat(bits);
    }
    for (int t = 0; t < tokens.count; ++t) f[t] = std::fma(w, x[t * columns + k], f[t]);
  }
}

// One row of weights for a group of tokens.
template <WeightFormat kFormat>
void GemmRow(const TileRow& at, int64_t n, TokenGroup tokens) {
  const GemmTask& task = *at.task;
  float stack[kMaxTreeDepth][kTokensAtOnce];
  int depth = 0;
  int64_t begin = 0;
  for (int i = 0; i < task.step_count; ++i) {
    const ShardStep& step = task.steps[i];
    float f[kTokensAtOnce];
    if (TraitsOf(kFormat).is_float) {
      FloatShard(kFormat, at, tokens, begin, step.end_block, f);
    } else {
      QuantShard(kFormat, at, tokens, begin, step.end_block, f);
    }
    begin = step.end_block;
    for (int a = 0; a < step.adds; ++a) {
      --depth;
      for (int t = 0; t < tokens.count; ++t) f[t] = stack[depth][t] + f[t];
    }
    if (step.plane < 0) {
      std::copy_n(f, tokens.count, stack[depth++]);
      continue;
    }
    for (int t = 0; t < tokens.count; ++t) {
      if (task.bias != nullptr) f[t] += task.bias[n];
      const int64_t row = tokens.first - task.first_token + t;
      task.out[step.plane * task.plane_stride + row * task.row_stride + n] = f[t];
    }
  }
}

template <WeightFormat kFormat>
void Gemm(const GemmTask& task) {
  for (int tile = 0; tile < task.tile_count; ++tile) {
    const int rows = tile + 1 == task.tile_count ? task.last_rows : kTileRows;
    for (int row = 0; row < rows; ++row) {
      const TileRow at{&task, task.tiles + tile * task.tile_bytes, row};
      for (int64_t t = 0; t < task.tokens; t += kTokensAtOnce) {
        const int count = static_cast<int>(std::min<int64_t>(kTokensAtOnce, task.tokens - t));
        GemmRow<kFormat>(at, tile * kTileRows + row, {task.first_token + t, count});
      }
    }
  }
}

int TilesAtOnce(int64_t) { return 1; }

float AddLanes(const float* lanes) {
  float sum[kTileRows];
  std::copy_n(lanes, 16, sum);
  for (int apart = 8; apart > 0; apart /= 2) {
    for (int i = 0; i < apart; ++i) sum[i] = sum[i] + sum[i + apart];
  }
  return sum[0];
}

uint32_t MagnitudeBits(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, 4);
  return bits & 0x7fffffffu;
}

// The largest |x| as bits, so that infinities and NaNs win.
float TopOf(const float* x, int count) {
  uint32_t top = 0;
  for (int i = 0; i < count; ++i) top = std::max(top, MagnitudeBits(x[i]));
  float value = 0;
  std::memcpy(&value, &top, 4);
  return value;
}

struct Scaling {
  float scale = 0;
  float inverse = 0;
};
Scaling ScalingOf(float top, float limit) {
  if (!(top < INFINITY)) return {NAN, 0};
  if (top < kSmallestTop) return {0, 0};
  return {top / limit, limit / top};
}

void Quantize(const QuantizeTask& task, const QuantRows& out) {
  const float limit = out.bits == 8 ? 127.0f : 2047.0f;
  for (int64_t i = 0; i < task.count; ++i) {
    const float* x = task.in + i * task.in_stride;
    const int64_t at = task.first + i * task.stride;
    const Scaling scaling = ScalingOf(TopOf(x, 32), limit);
    int32_t totals[2] = {};
    for (int k = 0; k < 32; ++k) {
      const int q = scaling.inverse == 0 ? 0 : static_cast<int>(std::nearbyint(x[k] * scaling.inverse));
      totals[k / 16] += q;
      if (out.bits == 8) {
        out.q[at * 32 + k] = static_cast<int8_t>(q);
      } else {
        const int high = std::clamp((q + 8) >> 4, -127, 127);
        out.q[at * 64 + k] = static_cast<int8_t>(high);
        out.q[at * 64 + 32 + k] = static_cast<int8_t>(q - 16 * high);
      }
    }
    out.scale[at] = scaling.scale;
    out.total[at] = totals[0] + totals[1];
    out.sum[at] = scaling.scale * static_cast<float>(out.total[at]);
    for (int h = 0; h < 2; ++h) {
      out.half_total[2 * at + h] = totals[h];
      out.half_sum[2 * at + h] = scaling.scale * static_cast<float>(totals[h]);
    }
  }
}

float Largest(const float* values, int64_t count) {
  float best = -__builtin_inff();
  for (int64_t i = 0; i < count; ++i) best = values[i] > best ? values[i] : best;
  return best;
}

void AddNorm(const AddNormRow& row) {
  if (row.plane_count > 0) {
    float stack[kMaxTreeDepth];
    for (int64_t i = 0; i < row.columns; ++i) {
      int depth = 0;
      for (int p = 0; p < row.plane_count; ++p) {
        float f = row.planes[p][i];
        for (int a = 0; a < row.adds[p]; ++a) f = stack[--depth] + f;
        stack[depth++] = f;
      }
      row.residual[i] = row.residual[i] + stack[0];
    }
  }
  if (row.norm_weight == nullptr) return;
  float lanes[16] = {};
  for (int64_t i = 0; i < row.columns; ++i) {
    lanes[i % 16] = std::fma(row.residual[i], row.residual[i], lanes[i % 16]);
  }
  const float r = 1.0f / std::sqrt(AddLanes(lanes) / static_cast<float>(row.columns) + row.epsilon);
  for (int64_t i = 0; i < row.columns; ++i) row.normed[i] = (row.residual[i] * r) * row.norm_weight[i];
}

void Gate(const GateRow& row) {
  for (int64_t i = 0; i < row.columns; ++i) {
    const float g = row.gate[i];
    const float z = row.gelu ? g * std::fma(kGeluCubic, g * g, kGeluLinear) : g;
    row.out[i] = (g / (1.0f + ScalarExp(-z))) * row.up[i];
  }
}

void Rope(const RopeRow& row) {
  for (int i = 0; i < row.pairs; ++i) {
    float& a = row.head[row.interleaved ? 2 * i : i];
    float& b = row.head[row.interleaved ? 2 * i + 1 : i + row.pairs];
    const float c = row.cosine[i], s = row.sine[i], old_a = a, old_b = b;
    a = std::fma(old_a, c, -(old_b * s));
    b = std::fma(old_a, s, old_b * c);
  }
}

// Element `index` of an array of KV values of this type.
void PutKv(const KvLayout& layout, uint8_t* base, int64_t index, float value, float inverse) {
  const uint16_t half = static_cast<KvType>(layout.type) == KvType::kF16 ? FloatToHalf(value) : FloatToBFloat(value);
  switch (static_cast<KvType>(layout.type)) {
    case KvType::kF32:
      std::memcpy(base + 4 * index, &value, 4);
      break;
    case KvType::kI8:
      base[index] = static_cast<uint8_t>(static_cast<int8_t>(inverse == 0 ? 0 : std::nearbyint(value * inverse)));
      break;
    default:
      std::memcpy(base + 2 * index, &half, 2);
  }
}

float GetKv(const KvLayout& layout, const uint8_t* base, int64_t index, const float* scales, int token) {
  float value = 0;
  uint16_t bits = 0;
  switch (static_cast<KvType>(layout.type)) {
    case KvType::kF32:
      std::memcpy(&value, base + 4 * index, 4);
      return value;
    case KvType::kI8:
      return static_cast<float>(static_cast<int8_t>(base[index])) * scales[token];
    default:
      std::memcpy(&bits, base + 2 * index, 2);
      return static_cast<KvType>(layout.type) == KvType::kF16 ? HalfToFloat(bits) : BFloatToFloat(bits);
  }
}

int64_t KeyIndex(const KvLayout& layout, int token, int d) {
  return (static_cast<int64_t>(token / 16) * layout.head_dim + d) * 16 + token % 16;
}

void Store(const StoreRow& row) {
  const KvLayout& layout = *row.layout;
  Scaling key, value;
  if (static_cast<KvType>(layout.type) == KvType::kI8) {
    key = ScalingOf(TopOf(row.key, layout.head_dim), 127.0f);
    value = ScalingOf(TopOf(row.value, layout.head_dim), 127.0f);
    reinterpret_cast<float*>(row.head + layout.key_scale_at)[row.token] = key.scale;
    reinterpret_cast<float*>(row.head + layout.value_scale_at)[row.token] = value.scale;
  }
  for (int d = 0; d < layout.head_dim; ++d) {
    PutKv(layout, row.head, KeyIndex(layout, row.token, d), row.key[d], key.inverse);
    PutKv(layout, row.head + layout.value_at, static_cast<int64_t>(row.token) * layout.padded_dim + d, row.value[d],
          value.inverse);
  }
}

// One row and query head.
void AttendVector(const AttendTask& task, int row, int head) {
  const KvLayout& layout = *task.layout;
  const float* q = task.query + row * task.query_stride + static_cast<int64_t>(task.head_ids[head]) * layout.head_dim;
  float* o = task.out + row * task.out_stride + static_cast<int64_t>(task.head_ids[head]) * layout.head_dim;
  const int64_t position = task.first_position + row;
  const int64_t first =
      task.sliding_window > 0 ? std::max<int64_t>(0, position - task.sliding_window + 1) : 0;
  float m = -INFINITY, l = 0;
  std::fill_n(o, layout.head_dim, 0.0f);
  for (int64_t tile = first / 16; tile <= position / 16; ++tile) {
    const int64_t base = tile * 16;
    const uint8_t* storage = task.layer + task.blocks[base / layout.block_tokens] * layout.block_bytes +
                             task.kv_head * layout.head_bytes;
    const auto* key_scales = reinterpret_cast<const float*>(storage + layout.key_scale_at);
    const auto* value_scales = reinterpret_cast<const float*>(storage + layout.value_scale_at);
    const int begin = static_cast<int>(std::max<int64_t>(0, first - base));
    const int end = static_cast<int>(std::min<int64_t>(16, position - base + 1));
    const int offset = static_cast<int>(base % layout.block_tokens);
    float s[16], p[16] = {}, top = -INFINITY;
    for (int j = begin; j < end; ++j) {
      float dot = 0;
      for (int d = 0; d < layout.head_dim; ++d) {
        dot = std::fma(q[d], GetKv(layout, storage, KeyIndex(layout, offset + j, d), key_scales, offset + j), dot);
      }
      s[j] = dot * task.scale;
      top = std::max(top, s[j]);
    }
    const float next = std::max(m, top);
    const float c = ScalarExp(m - next);
    for (int j = begin; j < end; ++j) p[j] = ScalarExp(s[j] - next);
    l = std::fma(l, c, AddLanes(p));
    m = next;
    for (int d = 0; d < layout.head_dim; ++d) {
      float sum = o[d] * c;
      for (int j = begin; j < end; ++j) {
        const int64_t index = static_cast<int64_t>(offset + j) * layout.padded_dim + d;
        sum = std::fma(p[j], GetKv(layout, storage + layout.value_at, index, value_scales, offset + j), sum);
      }
      o[d] = sum;
    }
  }
  for (int d = 0; d < layout.head_dim; ++d) o[d] = o[d] / l;
}

void Attend(const AttendTask& task) {
  for (int row = 0; row < task.rows; ++row) {
    for (int head = 0; head < task.heads; ++head) AttendVector(task, row, head);
  }
}

template <WeightFormat kFormat>
void SetGemm(KernelTable& table) {
  for (GemmFunction& gemm : table.gemm[static_cast<int>(kFormat)]) gemm = Gemm<kFormat>;
}

KernelTable MakeTable() {
  KernelTable table;
  SetGemm<WeightFormat::kF32>(table);
  SetGemm<WeightFormat::kF16>(table);
  SetGemm<WeightFormat::kBF16>(table);
  SetGemm<WeightFormat::kQ4_0>(table);
  SetGemm<WeightFormat::kQ4_1>(table);
  SetGemm<WeightFormat::kQ5_0>(table);
  SetGemm<WeightFormat::kQ5_1>(table);
  SetGemm<WeightFormat::kQ8_0>(table);
  SetGemm<WeightFormat::kQ2_K>(table);
  SetGemm<WeightFormat::kQ3_K>(table);
  SetGemm<WeightFormat::kQ4_K>(table);
  SetGemm<WeightFormat::kQ5_K>(table);
  SetGemm<WeightFormat::kQ6_K>(table);
  table.tiles_at_once = TilesAtOnce;
  table.quantize = Quantize;
  table.add_norm_row = AddNorm;
  table.largest = Largest;
  table.gate_row = Gate;
  table.rope_row = Rope;
  table.store_row = Store;
  table.attend = Attend;
  return table;
}

}  // namespace

const KernelTable& ScalarKernels() {
  static const KernelTable table = MakeTable();
  return table;
}

}  // namespace pagoda::kernels::cpu
