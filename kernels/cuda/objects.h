// Packed weights, activations and the KV cache of the CUDA backend.
#pragma once

#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"

namespace pagoda::kernels::cuda {

class CudaActivation final : public Activation {
 public:
  static absl::StatusOr<std::unique_ptr<CudaActivation>> Make(Device& device, int64_t max_rows, int64_t columns,
                                                              ActivationForms forms, bool blocked = false);
  int64_t max_rows() const override { return max_rows_; }
  int64_t columns() const override { return view_.columns; }
  const FormsView& view() const { return view_; }

 private:
  int64_t max_rows_ = 0;
  FormsView view_;
  DeviceMemory memory_;
};

class CudaKvCache final : public KvCache {
 public:
  static absl::StatusOr<std::unique_ptr<CudaKvCache>> Make(Device& device, const KvShape& shape);
  const KvShape& shape() const override { return shape_; }
  size_t bytes() const override { return memory_.bytes(); }
  KvView view(int layer) const;
  int64_t layer_bytes() const { return view_.block_bytes * shape_.blocks; }

 private:
  KvShape shape_;
  KvView view_;
  DeviceMemory memory_;
};
KvView LayoutOf(const KvShape& shape);

class CudaPackedMatrix final : public PackedMatrix {
 public:
  struct Segment {
    int format = 0;
    int64_t first_row = 0;
    int64_t rows = 0;
    DeviceMemory records;
  };
  // `scratch` holds the file's rows while they are put in order; grown as needed.
  static absl::StatusOr<std::unique_ptr<CudaPackedMatrix>> Make(Device& device, std::span<const MatrixRows> parts,
                                                                const PackOptions& options, DeviceMemory& scratch);
  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  int planes() const override { return planes_; }
  int activation_bits() const override { return activation_bits_; }
  size_t bytes() const override { return bytes_; }
  void AddForms(ActivationForms& forms) const override;

  const std::vector<Segment>& segments() const { return segments_; }
  const SliceStep* slices() const { return slices_.as<SliceStep>(); }
  int slice_count() const { return slice_count_; }
  int max_depth() const { return max_depth_; }
  const float* bias() const { return bias_.as<float>(); }

 private:
  absl::Status AddSegment(Device& device, const MatrixRows& part, int64_t first_column, DeviceMemory& scratch);

  int64_t rows_ = 0;
  int64_t columns_ = 0;
  int planes_ = 1;
  int activation_bits_ = 0;
  int slice_count_ = 0;
  int max_depth_ = 0;
  size_t bytes_ = 0;
  std::vector<Segment> segments_;
  DeviceMemory slices_;
  DeviceMemory bias_;
};

}  // namespace pagoda::kernels::cuda
