// Activations, KV caches and plain buffers of the CPU backend.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/memory.h"

namespace pagoda::kernels::cpu {

class CpuBuffer final : public Buffer {
 public:
  CpuBuffer(Memory memory, size_t bytes) : memory_(std::move(memory)), bytes_(bytes) {}
  void* data() override { return memory_.get(); }
  size_t bytes() const override { return bytes_; }

 private:
  Memory memory_;
  size_t bytes_;
};

class CpuActivation final : public Activation {
 public:
  static absl::StatusOr<std::unique_ptr<CpuActivation>> Make(int64_t max_rows, int64_t columns,
                                                             ActivationForms forms);
  int64_t max_rows() const override { return max_rows_; }
  int64_t columns() const override { return columns_; }
  // Row r of the f32 form, or null.
  float* row(int64_t r) const { return f32_ == nullptr ? nullptr : f32_ + r * columns_; }
  const QuantRows* quant(int bits) const {
    const QuantRows& rows = bits == 8 ? int8_ : int12_;
    return rows.q == nullptr ? nullptr : &rows;
  }

 private:
  int64_t max_rows_ = 0;
  int64_t columns_ = 0;
  Memory memory_;
  float* f32_ = nullptr;
  QuantRows int8_{.bits = 8};
  QuantRows int12_{.bits = 12};
};

class CpuKvCache final : public KvCache {
 public:
  static absl::StatusOr<std::unique_ptr<CpuKvCache>> Make(const KvShape& shape);
  const KvShape& shape() const override { return shape_; }
  size_t bytes() const override { return static_cast<size_t>(shape_.layers) * layer_bytes(); }
  const KvLayout& layout() const { return layout_; }
  size_t layer_bytes() const { return static_cast<size_t>(shape_.blocks) * layout_.block_bytes; }
  uint8_t* layer(int index) const { return memory_.get() + index * layer_bytes(); }
  bool movable() const override { return true; }
  void ReadBlock(int32_t block, std::span<std::byte> out) const override;
  void WriteBlock(int32_t block, std::span<const std::byte> in) override;

 private:
  KvShape shape_;
  KvLayout layout_;
  Memory memory_;
};

KvLayout LayoutOf(const KvShape& shape);

}  // namespace pagoda::kernels::cpu
