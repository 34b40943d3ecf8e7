// The operations of the CPU backend that are several in one: what one task has just computed is turned, gated, quantised or
// searched while it is in the cache, and the threads meet once instead of two or three times. The bits are those of the
// operations one by one, which is what shapes that do not fit fall back to.
#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/backend_impl.h"

namespace pagoda::kernels::cpu {
namespace {

// What of the input of a product should stay in the second-level cache; rows go by multiples of all register blocks.
constexpr int64_t kInputBytesAtOnce = 384 << 10;
constexpr int64_t kRowUnit = 48;
// Gate and up of a task before they become one.
constexpr int64_t kGateScratchFloats = 40 << 10;
constexpr int64_t kUnitTiles = kQuantBlock / kTileRows;
// Rows of the vocabulary whose logits are looked at together.
constexpr int64_t kSearchTiles = 16;

// Rows of one task when their input takes `row_bytes` each: even parts of what the cache holds.
int64_t RowsAtOnce(int64_t rows, int64_t row_bytes) {
  const int64_t by_cache = std::max(kRowUnit, kInputBytesAtOnce / row_bytes / kRowUnit * kRowUnit);
  const int64_t parts = (rows + by_cache - 1) / by_cache;
  return std::min(rows, (rows + parts * kRowUnit - 1) / (parts * kRowUnit) * kRowUnit);
}

}  // namespace

absl::Status CpuBackend::MatMulRopeAndStore(const QkvParams& params, KvCache& cache) {
  const auto& matrix = static_cast<const CpuPackedMatrix&>(*params.matrix);
  const auto& input = static_cast<const CpuActivation&>(*params.input);
  const AttentionParams& attention = params.attention;
  const int64_t dim = attention.head_dim, rows = params.step.rows;
  const std::vector<PackedSegment>& segments = matrix.segments();
  const bool fits = dim % kTileRows == 0 && matrix.planes() == 1 && segments.size() == 3 &&
                    segments[0].rows == attention.query_heads * dim && segments[1].rows == attention.kv_heads * dim &&
                    segments[2].rows == attention.kv_heads * dim;
  if (!fits) return Backend::MatMulRopeAndStore(params, cache);
  auto& kv = static_cast<CpuKvCache&>(cache);
  absl::Status status = CheckMatMul({&matrix, &input, rows, params.qkv.data, params.qkv.stride, 0});
  if (status.ok()) status = CheckStep("rope and store", params.qkv, params.step, attention, kv);
  if (status.ok()) status = PlaceRows(params.step, params.rope, attention);
  if (!status.ok() || rows == 0) return status;

  // KV heads, which are twice the work, are spread evenly among the query heads.
  const int heads = attention.query_heads + attention.kv_heads;
  const int64_t chunk = RowsAtOnce(rows, matrix.columns() * (matrix.activation_bits() == 8 ? 1 : 2));
  const int64_t chunks = (rows + chunk - 1) / chunk;
  const int64_t tiles = dim / kTileRows;
  const auto multiply = [&](int segment, int64_t head, int64_t first_row, int64_t count) {
    float* out = params.qkv.data + first_row * params.qkv.stride + segments[segment].first_row + head * dim;
    RunSlice(matrix, input, {&segments[segment], head * tiles, tiles, first_row, count}, out, params.qkv.stride, 0);
    return out;
  };
  team_.Run(heads * chunks, [&](int, int64_t task) {
    const int64_t index = task / chunks, first_row = task % chunks * chunk;
    const int64_t count = std::min(chunk, rows - first_row);
    const int64_t kv_before = index * attention.kv_heads / heads;
    const bool is_kv = (index + 1) * attention.kv_heads / heads != kv_before;
    if (!is_kv) {
      float* query = multiply(0, index - kv_before, first_row, count);
      for (int64_t r = 0; r < count; ++r) {
        if (places_[first_row + r].sequence == nullptr) continue;
        RopeHeads(query + r * params.qkv.stride, first_row + r, 1, static_cast<int>(dim), params.rope);
      }
      return;
    }
    float* key = multiply(1, kv_before, first_row, count);
    const float* value = multiply(2, kv_before, first_row, count);
    for (int64_t r = 0; r < count; ++r) {
      if (places_[first_row + r].sequence == nullptr) continue;
      float* head = key + r * params.qkv.stride;
      RopeHeads(head, first_row + r, 1, static_cast<int>(dim), params.rope);
      StoreHead(head, value + r * params.qkv.stride, first_row + r, static_cast<int>(kv_before), attention.layer, kv);
    }
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::AttendAndQuantize(F32View qkv, const StepRows& step, const AttentionParams& attention,
                                           const KvCache& cache, F32View out, Activation& forms) {
  auto& activation = static_cast<CpuActivation&>(forms);
  if (attention.head_dim % kQuantBlock != 0) return Backend::AttendAndQuantize(qkv, step, attention, cache, out, forms);
  if (activation.columns() != out.columns || activation.max_rows() < step.rows) {
    return Unfit("attention", absl::StrCat("an output of ", out.columns, " columns into [", activation.max_rows(), ", ",
                                           activation.columns(), "]"));
  }
  return AttendParts(qkv, step, attention, static_cast<const CpuKvCache&>(cache), out, &activation);
}

absl::Status CpuBackend::MatMulGated(const GatedMatMulParams& params, Activation& out) {
  const auto& matrix = static_cast<const CpuPackedMatrix&>(*params.matrix);
  const auto& input = static_cast<const CpuActivation&>(*params.input);
  auto& activation = static_cast<CpuActivation&>(out);
  const std::vector<PackedSegment>& segments = matrix.segments();
  const int64_t rows = params.scratch.rows, columns = activation.columns();
  const bool fits = matrix.planes() == 1 && segments.size() == 2 && segments[0].rows == columns &&
                    segments[1].rows == columns && columns % kQuantBlock == 0 && rows <= activation.max_rows();
  if (!fits) return Backend::MatMulGated(params, out);
  absl::Status status = CheckMatMul({&matrix, &input, rows, params.scratch.data, params.scratch.stride, 0});
  if (!status.ok() || rows == 0) return status;

  // A task: some rows by some units of 32 columns. Its units go by a few at a time, so that their results stay close.
  const int64_t units = columns / kQuantBlock;
  const int64_t chunk = std::min(RowsAtOnce(rows, matrix.columns()), kGateScratchFloats / (2 * kQuantBlock));
  const int64_t chunks = (rows + chunk - 1) / chunk;
  const int64_t parts = team_.threads() == 1 ? 1 : std::min<int64_t>(units, 4 * team_.threads());
  const int64_t at_once = std::clamp<int64_t>(kGateScratchFloats / (chunk * 2 * kQuantBlock), 1, 4);
  for (int t = 0; t < team_.threads(); ++t) {
    if (Scratch(t, kGateScratchFloats) == nullptr) return absl::ResourceExhaustedError("gated product: no scratch memory");
  }
  const auto gate = [&](float* scratch, int64_t first_row, int64_t count, int64_t unit, int64_t width) {
    const bool keep = activation.row(0) != nullptr;
    float* results = keep ? activation.row(first_row) + unit * kQuantBlock : scratch;
    const int64_t stride = keep ? columns : 2 * width;
    for (int64_t r = 0; r < count; ++r) {
      const float* row = scratch + r * 2 * width;
      kernels_.gate_row({row, row + width, width, params.kind == GateKind::kGelu, results + r * stride});
    }
    for (int64_t block = 0; block < width / kQuantBlock; ++block) {
      QuantizeColumn(results + block * kQuantBlock, stride, first_row, count, unit + block, activation);
    }
  };
  team_.Run(chunks * parts, [&](int thread, int64_t task) {
    const int64_t first_row = task / parts * chunk, count = std::min(chunk, rows - first_row), part = task % parts;
    const int64_t end = units * (part + 1) / parts;
    float* scratch = Scratch(thread, kGateScratchFloats);
    for (int64_t unit = units * part / parts; unit < end;) {
      const int64_t taken = std::min(at_once, end - unit), width = taken * kQuantBlock;
      for (int half = 0; half < 2; ++half) {
        RunSlice(matrix, input, {&segments[half], unit * kUnitTiles, taken * kUnitTiles, first_row, count},
                 scratch + half * width, 2 * width, 0);
      }
      gate(scratch, first_row, count, unit, width);
      unit += taken;
    }
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::MatMulLargest(const MatMulParams& params, std::span<Largest> largest) {
  const auto& matrix = static_cast<const CpuPackedMatrix&>(*params.matrix);
  const auto& input = static_cast<const CpuActivation&>(*params.input);
  if (matrix.planes() != 1) return Backend::MatMulLargest(params, largest);
  if (absl::Status status = CheckMatMul(params); !status.ok()) return status;
  const int64_t rows = params.rows;
  if (static_cast<int64_t>(largest.size()) < rows) return Unfit("largest of a product", "no room for the rows");
  CutMatMul(matrix, rows);
  tops_.assign(slices_.size() * rows, Top{-std::numeric_limits<float>::infinity(), -1});
  constexpr int64_t kWidth = kSearchTiles * kTileRows;
  for (int t = 0; t < team_.threads(); ++t) {
    if (Scratch(t, rows * kWidth) == nullptr) return absl::ResourceExhaustedError("largest of a product: no scratch memory");
  }
  team_.Run(static_cast<int64_t>(slices_.size()), [&](int thread, int64_t i) {
    const MatMulSlice& slice = slices_[i];
    float* scratch = Scratch(thread, rows * kWidth);
    for (int64_t tile = slice.first_tile; tile < slice.first_tile + slice.tiles; tile += kSearchTiles) {
      MatMulSlice part = slice;
      part.first_tile = tile;
      part.tiles = std::min(kSearchTiles, slice.first_tile + slice.tiles - tile);
      RunSlice(matrix, input, part, scratch, kWidth, 0);
      const int64_t count = std::min(part.tiles * kTileRows, slice.segment->rows - tile * kTileRows);
      for (int64_t r = 0; r < slice.tokens; ++r) {
        const float* values = scratch + r * kWidth;
        Top& top = tops_[i * rows + slice.first_token + r];
        const float best = kernels_.largest(values, count);
        if (!(best > top.value)) continue;
        top.value = best;
        top.index = static_cast<int32_t>(slice.segment->first_row + tile * kTileRows + (std::find(values, values + count, best) - values));
      }
    }
  });
  for (int64_t r = 0; r < rows; ++r) {
    Top best{-std::numeric_limits<float>::infinity(), -1};
    for (size_t i = 0; i < slices_.size(); ++i) {
      const Top& top = tops_[i * rows + r];
      if (top.value > best.value || (top.value == best.value && top.index >= 0 && top.index < best.index)) best = top;
    }
    largest[r] = {best.index, best.value};
  }
  return absl::OkStatus();
}

}  // namespace pagoda::kernels::cpu
