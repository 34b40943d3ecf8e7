#include "kernels/cuda/objects.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/weight_blocks.h"
#include "kernels/cuda/device_formats.h"
#include "kernels/cuda/slice_plan.h"
#include "kernels/numerics.h"

namespace pagoda::kernels::cuda {
namespace {

constexpr int64_t kCapacityUnit = 128;  // rows that one block of the product of many tokens reads
constexpr int64_t kMaxElements = int64_t{1} << 40;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Lays out arrays one after another; a first pass with a null base only counts.
class Carver {
 public:
  explicit Carver(uint8_t* base) : base_(base) {}
  template <typename T>
  void Take(T*& out, int64_t count) {
    if (base_ != nullptr) out = reinterpret_cast<T*>(base_ + used_);
    used_ += RoundUp(count * static_cast<int64_t>(sizeof(T)), 256);
  }
  size_t used() const { return static_cast<size_t>(used_); }

 private:
  uint8_t* base_;
  int64_t used_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaActivation>> CudaActivation::Make(Device& device, int64_t max_rows, int64_t columns,
                                                                     ActivationForms forms, bool for_warpgroups) {
  const bool blocked = forms.int8 || forms.int12 || forms.f16 || forms.bf16;
  if (max_rows < 0 || columns <= 0 || max_rows > kMaxElements / columns || (blocked && columns % kQuantBlock != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("an activation of ", max_rows, " rows and ", columns, " columns"));
  }
  auto activation = std::make_unique<CudaActivation>();
  activation->max_rows_ = max_rows;
  FormsView& view = activation->view_;
  view.columns = columns;
  view.blocked_bf16 = forms.bf16;
  view.capacity = RoundUp(std::max<int64_t>(max_rows, 1), kCapacityUnit);
  const auto carve = [&](uint8_t* base) {
    Carver carver(base);
    const int64_t elements = view.capacity * columns, blocks = view.capacity * (columns / kQuantBlock);
    if (forms.f32) carver.Take(view.f32, elements);
    if (forms.f16) carver.Take(view.f16, elements);
    if (forms.bf16) carver.Take(view.bf16, elements);
    if (for_warpgroups && forms.f16 != forms.bf16) carver.Take(view.blocked, elements);
    for (QuantView* quant : {forms.int8 ? &view.int8 : nullptr, forms.int12 ? &view.int12 : nullptr}) {
      if (quant == nullptr) continue;
      carver.Take(quant->q, elements * (quant == &view.int12 ? 2 : 1));
      carver.Take(quant->scale_sum, blocks);
      carver.Take(quant->half_sums, blocks);
    }
    return carver.used();
  };
  auto memory = DeviceMemory::New(device, carve(nullptr), "activations", true);
  if (!memory.ok()) return memory.status();
  activation->memory_ = *std::move(memory);
  carve(activation->memory_.as<uint8_t>());
  return activation;
}

KvView LayoutOf(const KvShape& shape) {
  KvView view;
  view.type = static_cast<int>(shape.type);
  view.head_dim = shape.head_dim;
  view.padded_dim = static_cast<int>(RoundUp(shape.head_dim, 32));
  view.block_tokens = shape.block_tokens;
  view.kv_heads = shape.kv_heads;
  const bool bytes = shape.type == KvType::kI8 || shape.type == KvType::kF8;
  view.value_at = 16 * view.padded_dim * (bytes ? 1 : 2);
  view.scale_at = 2 * view.value_at;
  view.tile_bytes = view.scale_at + (bytes ? 2 * 16 * 4 : 0);
  view.head_bytes = view.tile_bytes * (shape.block_tokens / 16);
  view.block_bytes = view.head_bytes * shape.kv_heads;
  return view;
}

absl::StatusOr<std::unique_ptr<CudaKvCache>> CudaKvCache::Make(Device& device, const KvShape& shape) {
  const bool sane = shape.layers >= 0 && shape.blocks >= 0 && shape.kv_heads > 0 && shape.head_dim > 0 && shape.head_dim <= 256 &&
                    shape.block_tokens > 0 && shape.block_tokens <= 4096;
  if (!sane || shape.block_tokens % kAttentionTile != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a KV cache of ", shape.layers, " layers, ", shape.blocks, " blocks of ",
                                                   shape.block_tokens, " tokens, ", shape.kv_heads, " heads of ",
                                                   shape.head_dim, " (at most 256 on CUDA)"));
  }
  if (shape.type == KvType::kF32) {
    return absl::UnimplementedError("a KV cache of f32 is not supported on CUDA: choose f16, bf16, i8 or f8");
  }
  const int padded = static_cast<int>(RoundUp(shape.head_dim, 32));
  if (padded != 32 && padded != 64 && padded != 96 && padded != 128 && padded != 256) {
    return absl::UnimplementedError(absl::StrCat("heads of ", shape.head_dim, " dimensions: CUDA has kernels for up to 128, and 256"));
  }
  auto cache = std::make_unique<CudaKvCache>();
  cache->shape_ = shape;
  cache->view_ = LayoutOf(shape);
  auto memory = DeviceMemory::New(device, static_cast<size_t>(cache->layer_bytes()) * static_cast<size_t>(shape.layers),
                                  "the KV cache", true);
  if (!memory.ok()) return memory.status();
  cache->memory_ = *std::move(memory);
  return cache;
}

KvView CudaKvCache::view(int layer) const {
  KvView view = view_;
  view.layer = memory_.as<uint8_t>() + layer * layer_bytes();
  return view;
}

absl::StatusOr<std::unique_ptr<CudaPackedMatrix>> CudaPackedMatrix::Make(Device& device, std::span<const MatrixRows> parts,
                                                                         const PackOptions& options, DeviceMemory& scratch) {
  if (parts.empty()) return absl::InvalidArgumentError("pack: no parts");
  if (options.activation_bits != 8 && options.activation_bits != 12) {
    return absl::InvalidArgumentError(absl::StrCat("pack: activations of ", options.activation_bits, " bits"));
  }
  std::vector<int64_t> cuts = options.shard_columns;
  if (cuts.empty()) cuts = {0, parts[0].columns};
  if (cuts.size() < 2 || cuts.back() > parts[0].columns) return absl::InvalidArgumentError("pack: shard borders past the columns");
  auto plan = PlanSlices(cuts, options);
  if (!plan.ok()) return plan.status();
  auto matrix = std::make_unique<CudaPackedMatrix>();
  matrix->columns_ = cuts.back() - cuts.front();
  matrix->planes_ = plan->planes;
  matrix->slice_count_ = static_cast<int>(plan->steps.size());
  matrix->max_depth_ = plan->max_depth;
  auto slices = DeviceMemory::New(device, plan->steps.size() * sizeof(SliceStep), "slices");
  if (!slices.ok()) return slices.status();
  matrix->slices_ = *std::move(slices);
  absl::Status status = device.Upload(plan->steps.data(), matrix->slices_.as<void>(), plan->steps.size() * sizeof(SliceStep));
  if (!status.ok()) return status;
  for (const MatrixRows& part : parts) {
    const int64_t unit = cpu::TraitsOf(part.format).block_columns;
    if (part.columns != parts[0].columns || part.rows < 0 || part.columns <= 0 || part.columns % kQuantBlock != 0 ||
        part.columns % unit != 0 || (part.data == nullptr && part.rows > 0)) {
      return absl::InvalidArgumentError(absl::StrCat("pack: a part of ", part.rows, " rows and ", part.columns, " columns where ",
                                                     parts[0].columns, " are meant, in whole blocks"));
    }
    if (!cpu::TraitsOf(part.format).is_float) matrix->activation_bits_ = options.activation_bits;
    if (status = matrix->AddSegment(device, part, cuts.front(), scratch); !status.ok()) return status;
  }
  if (!options.bias.empty()) {
    if (matrix->planes_ != 1 || static_cast<int64_t>(options.bias.size()) != matrix->rows_) {
      return absl::InvalidArgumentError(absl::StrCat("pack: a bias of ", options.bias.size(), " values for ", matrix->rows_,
                                                     " rows in ", matrix->planes_, " planes"));
    }
    auto bias = DeviceMemory::New(device, options.bias.size() * sizeof(float), "a bias");
    if (!bias.ok()) return bias.status();
    matrix->bias_ = *std::move(bias);
    if (status = device.Upload(options.bias.data(), matrix->bias_.as<void>(), options.bias.size() * sizeof(float)); !status.ok()) {
      return status;
    }
  }
  return matrix;
}

absl::Status CudaPackedMatrix::AddSegment(Device& device, const MatrixRows& part, int64_t first_column, DeviceMemory& scratch) {
  Segment segment{.format = static_cast<int>(part.format), .first_row = rows_, .rows = part.rows, .records = {}};
  const int64_t blocks = columns_ / kQuantBlock, tiles = (part.rows + kTileRows - 1) / kTileRows;
  const int64_t row_bytes = cpu::RowBytes(part.format, part.columns);
  const size_t bytes = static_cast<size_t>(tiles * blocks) * static_cast<size_t>(DeviceRecordBytes(segment.format));
  auto records = DeviceMemory::New(device, bytes, "weights");
  if (!records.ok()) return records.status();
  segment.records = *std::move(records);
  const size_t file_bytes = static_cast<size_t>(part.rows * row_bytes);
  if (scratch.bytes() < file_bytes) {
    if (absl::Status status = device.Synchronize("wait for the weights before"); !status.ok()) return status;
    scratch = {};
    auto larger = DeviceMemory::New(device, file_bytes, "weights on their way");
    if (!larger.ok()) return larger.status();
    scratch = *std::move(larger);
  }
  if (absl::Status status = device.Upload(part.data, scratch.as<void>(), file_bytes); !status.ok()) return status;
  const PackParams params{.format = segment.format,
                          .file = scratch.as<uint8_t>(),
                          .row_bytes = row_bytes,
                          .rows = part.rows,
                          .first_block = first_column / kQuantBlock,
                          .blocks = blocks,
                          .records = segment.records.as<uint8_t>()};
  if (absl::Status status = device.Check(LaunchPack(params, device.stream()), "pack weights"); !status.ok()) return status;
  rows_ += part.rows;
  bytes_ += bytes;
  segments_.push_back(std::move(segment));
  return absl::OkStatus();
}

void CudaPackedMatrix::AddForms(ActivationForms& forms) const {
  for (const Segment& segment : segments_) {
    switch (static_cast<WeightFormat>(segment.format)) {
      case WeightFormat::kF32:
        forms.f32 = true;
        break;
      case WeightFormat::kF16:
        forms.f16 = true;
        break;
      case WeightFormat::kBF16:
        forms.bf16 = true;
        break;
      default:
        forms.int8 |= activation_bits_ == 8;
        forms.int12 |= activation_bits_ == 12;
    }
  }
}

}  // namespace pagoda::kernels::cuda
