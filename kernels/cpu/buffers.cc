#include "kernels/cpu/buffers.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace pagoda::kernels {
namespace cpu {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 40;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

int ElementBytes(KvType type) { return type == KvType::kF32 ? 4 : type == KvType::kI8 ? 1 : 2; }

// Cuts one piece of memory into aligned arrays; a first pass with a null base only counts.
class Carver {
 public:
  explicit Carver(uint8_t* base) : base_(base) {}
  template <typename T>
  void Take(T*& out, int64_t count) {
    if (base_ != nullptr) out = reinterpret_cast<T*>(base_ + used_);
    used_ += RoundUp(count * static_cast<int64_t>(sizeof(T)), 64);
  }
  int64_t used() const { return used_; }

 private:
  uint8_t* base_;
  int64_t used_ = 0;
};

// AMX reads groups of 32 rows: those past the last are never used, but must be there.
void CarveQuant(Carver& carver, int64_t max_rows, QuantRows& out) {
  const int64_t rows = max_rows + 32;
  carver.Take(out.q, rows * out.blocks * (out.bits == 8 ? 32 : 64));
  carver.Take(out.scale, rows * out.blocks);
  carver.Take(out.sum, rows * out.blocks);
  carver.Take(out.half_sum, rows * out.blocks * 2);
  carver.Take(out.total, rows * out.blocks);
  carver.Take(out.half_total, rows * out.blocks * 2);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CpuActivation>> CpuActivation::Make(int64_t max_rows, int64_t columns,
                                                                   ActivationForms forms) {
  const bool quantised = forms.int8 || forms.int12;
  if (max_rows < 0 || columns <= 0 || max_rows > kMaxElements / columns ||
      (quantised && columns % kQuantBlock != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("an activation of ", max_rows, " rows and ", columns, " columns"));
  }
  auto activation = std::make_unique<CpuActivation>();
  activation->max_rows_ = max_rows;
  activation->columns_ = columns;
  activation->int8_.blocks = activation->int12_.blocks = columns / kQuantBlock;
  const auto carve = [&](uint8_t* base) {
    Carver carver(base);
    if (forms.f32) carver.Take(activation->f32_, max_rows * columns);
    if (forms.int8) CarveQuant(carver, max_rows, activation->int8_);
    if (forms.int12) CarveQuant(carver, max_rows, activation->int12_);
    return carver.used();
  };
  // 64 bytes more, since a vector load may start at the last element.
  const int64_t bytes = carve(nullptr) + 64;
  activation->memory_ = MapMemory(bytes);
  if (activation->memory_ == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes of activations"));
  }
  carve(activation->memory_.get());
  return activation;
}

KvLayout LayoutOf(const KvShape& shape) {
  KvLayout layout;
  layout.type = static_cast<int>(shape.type);
  layout.head_dim = shape.head_dim;
  layout.padded_dim = static_cast<int>(RoundUp(shape.head_dim, 16));
  layout.block_tokens = shape.block_tokens;
  const int64_t element = ElementBytes(shape.type), tokens = shape.block_tokens;
  layout.value_at = RoundUp(tokens * shape.head_dim * element, 64);
  layout.key_scale_at = layout.value_at + RoundUp(tokens * layout.padded_dim * element, 64);
  const int64_t scales = shape.type == KvType::kI8 ? RoundUp(tokens * 4, 64) : 0;
  layout.value_scale_at = layout.key_scale_at + scales;
  layout.head_bytes = layout.value_scale_at + scales;
  layout.block_bytes = layout.head_bytes * shape.kv_heads;
  return layout;
}

absl::StatusOr<std::unique_ptr<CpuKvCache>> CpuKvCache::Make(const KvShape& shape) {
  const bool sane = shape.layers >= 0 && shape.blocks >= 0 && shape.kv_heads > 0 && shape.head_dim > 0 &&
                    shape.head_dim <= 1024 && shape.block_tokens > 0 && shape.block_tokens <= 4096;
  if (!sane || shape.block_tokens % kAttentionTile != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a KV cache of ", shape.layers, " layers, ", shape.blocks, " blocks of ", shape.block_tokens,
                     " tokens, ", shape.kv_heads, " heads of ", shape.head_dim));
  }
  if (shape.type == KvType::kF8) {
    return absl::UnimplementedError("a KV cache of f8 is only there on CUDA: choose f32, f16, bf16 or i8");
  }
  auto cache = std::make_unique<CpuKvCache>();
  cache->shape_ = shape;
  cache->layout_ = LayoutOf(shape);
  cache->memory_ = MapMemory(cache->bytes() + 64);
  if (cache->memory_ == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", cache->bytes(), " bytes of KV cache"));
  }
  return cache;
}

void CpuKvCache::ReadBlock(int32_t block, std::span<std::byte> out) const {
  const size_t bytes = static_cast<size_t>(layout_.block_bytes);
  for (int l = 0; l < shape_.layers; ++l) {
    std::memcpy(out.data() + static_cast<size_t>(l) * bytes, layer(l) + block * layout_.block_bytes, bytes);
  }
}

void CpuKvCache::WriteBlock(int32_t block, std::span<const std::byte> in) {
  const size_t bytes = static_cast<size_t>(layout_.block_bytes);
  for (int l = 0; l < shape_.layers; ++l) {
    std::memcpy(layer(l) + block * layout_.block_bytes, in.data() + static_cast<size_t>(l) * bytes, bytes);
  }
}

}  // namespace cpu

size_t KvBlockBytes(const KvShape& shape) {
  return static_cast<size_t>(shape.layers) * cpu::LayoutOf(shape).block_bytes;
}

}  // namespace pagoda::kernels
