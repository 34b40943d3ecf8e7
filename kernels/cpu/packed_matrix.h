// Weights in tiles of 16 rows (kernel_table.h) and the plan of the sums over virtual shards. Immutable after packing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/thread_team.h"

namespace pagoda::kernels::cpu {

// Rows of one format. Every segment starts with a new tile.
struct PackedSegment {
  WeightFormat format = WeightFormat::kF32;
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t tiles = 0;
  int64_t tile_bytes = 0;
  int64_t scales_at = 0;
  int64_t supers_at = 0;
  int super_phase = 0;
  Memory data;
  std::vector<float> bias;  // padded to whole tiles; empty: none
};

class CpuPackedMatrix final : public PackedMatrix {
 public:
  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  int planes() const override { return planes_; }
  int activation_bits() const override { return activation_bits_; }
  size_t bytes() const override { return bytes_; }

  const std::vector<PackedSegment>& segments() const { return segments_; }
  const std::vector<ShardStep>& steps() const { return steps_; }

 private:
  friend absl::StatusOr<std::unique_ptr<CpuPackedMatrix>> PackMatrix(std::span<const MatrixRows>,
                                                                     const PackOptions&, HugeArena&,
                                                                     ThreadTeam&);
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  int planes_ = 1;
  int activation_bits_ = 0;
  size_t bytes_ = 0;
  std::vector<PackedSegment> segments_;
  std::vector<ShardStep> steps_;
};

absl::StatusOr<std::unique_ptr<CpuPackedMatrix>> PackMatrix(std::span<const MatrixRows> parts,
                                                            const PackOptions& options,
                                                            HugeArena& arena, ThreadTeam& team);

}  // namespace pagoda::kernels::cpu
