#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/weight_blocks.h"

namespace pagoda::kernels::cpu {
namespace {

constexpr int64_t kMaxColumns = int64_t{1} << 24;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Where one row's block goes within its tile.
struct TilePlace {
  uint8_t* tile = nullptr;
  int row = 0;        // of the tile
  int64_t block = 0;  // of the packed part
};

void PutHalf(uint8_t* at, int row, uint16_t value) { std::memcpy(at + 2 * row, &value, 2); }

void PutQuants(const FormatTraits& traits, const WeightBlock& block, int row, uint8_t* quants) {
  if (traits.quant_bytes == 512) {
    for (int v = 0; v < 8; ++v) std::memcpy(quants + v * 64 + row * 4, block.w + 4 * v, 4);
    return;
  }
  for (int g = 0; g < 4; ++g) {
    for (int j = 0; j < 4; ++j) {
      quants[g * 64 + row * 4 + j] = (block.w[8 * g + j] & 15) | (block.w[8 * g + 4 + j] & 15) << 4;
    }
  }
  for (int k = 0; k < 32; ++k) {
    const int vector = k / 4, byte = row * 4 + k % 4;
    if (traits.quant_bytes == 320) {
      quants[256 + vector * 8 + byte / 8] |= (block.w[k] >> 4 & 1) << (byte % 8);
    } else if (traits.quant_bytes == 384) {
      quants[256 + vector / 4 * 64 + byte] |= (block.w[k] >> 4 & 3) << (2 * (vector % 4));
    }
  }
}

void PutBlock(const PackedSegment& segment, const WeightBlock& block, const TilePlace& place) {
  const FormatTraits& traits = TraitsOf(segment.format);
  PutQuants(traits, block, place.row, place.tile + place.block * traits.quant_bytes);
  uint8_t* scales = place.tile + segment.scales_at + place.block * traits.scale_bytes;
  if (!traits.super) {
    PutHalf(scales, place.row, block.d);
    if (traits.stored_min) PutHalf(scales + 32, place.row, block.m);
    return;
  }
  for (int s = 0; s < traits.sub_blocks; ++s) {
    scales[16 * s + place.row] = block.scale[s];
    if (traits.stored_min) scales[16 * (traits.sub_blocks + s) + place.row] = block.minimum[s];
  }
  uint8_t* super =
      place.tile + segment.supers_at + (place.block + segment.super_phase) / 8 * traits.super_bytes;
  PutHalf(super, place.row, block.d);
  if (traits.stored_min) PutHalf(super + 32, place.row, block.m);
}

struct PackSource {
  const MatrixRows* part = nullptr;
  int64_t first_column = 0;
  int64_t columns = 0;
};

void PackFloatRow(const PackSource& source, const std::byte* row, const TilePlace& place) {
  const int size = TraitsOf(source.part->format).block_bytes;
  row += source.first_column * size;
  for (int64_t k = 0; k < source.columns; ++k) {
    std::memcpy(place.tile + (k * kTileRows + place.row) * size, row + k * size, size);
  }
}

void PackTile(const PackSource& source, const PackedSegment& segment, int64_t tile) {
  const MatrixRows& part = *source.part;
  const int64_t row_bytes = RowBytes(part.format, part.columns);
  uint8_t* data = segment.data.get() + tile * segment.tile_bytes;
  const int rows = static_cast<int>(std::min<int64_t>(kTileRows, part.rows - tile * kTileRows));
  for (int r = 0; r < rows; ++r) {
    const std::byte* row = part.data + (tile * kTileRows + r) * row_bytes;
    if (TraitsOf(part.format).is_float) {
      PackFloatRow(source, row, {data, r, 0});
      continue;
    }
    for (int64_t b = 0; b < source.columns / kQuantBlock; ++b) {
      PutBlock(segment, ReadWeightBlock(part.format, row, source.first_column / kQuantBlock + b),
               {data, r, b});
    }
  }
}

PackedSegment ShapeSegment(const PackSource& source, int64_t first_row) {
  const FormatTraits& traits = TraitsOf(source.part->format);
  const int64_t blocks = source.columns / kQuantBlock;
  PackedSegment segment;
  segment.format = source.part->format;
  segment.first_row = first_row;
  segment.rows = source.part->rows;
  segment.tiles = (segment.rows + kTileRows - 1) / kTileRows;
  segment.scales_at = RoundUp(blocks * traits.quant_bytes, 64);
  segment.supers_at = segment.scales_at + RoundUp(blocks * traits.scale_bytes, 64);
  int64_t end = segment.supers_at;
  if (traits.super) {
    segment.super_phase = static_cast<int>(source.first_column / kQuantBlock % 8);
    end += RoundUp((blocks + segment.super_phase + 7) / 8 * traits.super_bytes, 64);
  }
  segment.tile_bytes = end;
  return segment;
}

absl::Status CheckPart(const MatrixRows& part, int64_t columns) {
  const FormatTraits& traits = TraitsOf(part.format);
  if (part.columns != columns || part.rows < 0 || part.columns <= 0 || part.columns > kMaxColumns) {
    return absl::InvalidArgumentError(absl::StrCat("pack: a part has ", part.rows, " rows of ", part.columns,
                                                   " columns where ", columns, " columns are meant"));
  }
  if (part.columns % kQuantBlock != 0 || part.columns % traits.block_columns != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("pack: ", part.columns, " columns are not whole blocks of the format"));
  }
  if (part.data == nullptr && part.rows > 0) return absl::InvalidArgumentError("pack: a part has no data");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ShardStep>> PlanSteps(const std::vector<int64_t>& cuts,
                                                 const PackOptions& options) {
  const int shards = static_cast<int>(cuts.size()) - 1;
  std::vector<ShardRange> planes = options.planes;
  if (planes.empty()) planes = {{options.first_shard, options.first_shard + shards}};
  std::vector<ShardStep> steps;
  int next = options.first_shard;
  for (size_t p = 0; p < planes.size(); ++p) {
    if (planes[p].begin != next || planes[p].size() <= 0 ||
        planes[p].end > options.first_shard + shards) {
      return absl::InvalidArgumentError(
          absl::StrCat("pack: plane ", p, " is [", planes[p].begin, ", ", planes[p].end,
                       "), but the planes must follow each other from shard ", options.first_shard));
    }
    next = planes[p].end;
    const std::vector<int> adds = AddsAfterLeaf(planes[p]);
    for (size_t i = 0; i < adds.size(); ++i) {
      const size_t shard = planes[p].begin - options.first_shard + i;
      ShardStep step;
      step.end_block = static_cast<int32_t>((cuts[shard + 1] - cuts[0]) / kQuantBlock);
      step.adds = static_cast<int16_t>(adds[i]);
      step.plane = i + 1 == adds.size() ? static_cast<int16_t>(p) : int16_t{-1};
      steps.push_back(step);
    }
  }
  if (next != options.first_shard + shards) {
    return absl::InvalidArgumentError("pack: the planes do not cover all shards");
  }
  return steps;
}

absl::Status CheckCuts(const std::vector<int64_t>& cuts, int64_t columns) {
  if (cuts.size() < 2 || cuts.size() > std::numeric_limits<int16_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("pack: ", cuts.size(), " shard borders"));
  }
  for (size_t i = 0; i < cuts.size(); ++i) {
    if (cuts[i] < 0 || cuts[i] > columns || cuts[i] % kQuantBlock != 0 || (i > 0 && cuts[i] <= cuts[i - 1])) {
      return absl::InvalidArgumentError(absl::StrCat("pack: shard border ", cuts[i], " of ", columns, " columns"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CpuPackedMatrix>> PackMatrix(std::span<const MatrixRows> parts,
                                                            const PackOptions& options,
                                                            HugeArena& arena, ThreadTeam& team) {
  if (parts.empty()) return absl::InvalidArgumentError("pack: no parts");
  if (options.activation_bits != 8 && options.activation_bits != 12) {
    return absl::InvalidArgumentError(absl::StrCat("pack: activations of ", options.activation_bits, " bits"));
  }
  std::vector<int64_t> cuts = options.shard_columns;
  if (cuts.empty()) cuts = {0, parts[0].columns};
  if (absl::Status status = CheckCuts(cuts, parts[0].columns); !status.ok()) return status;
  auto steps = PlanSteps(cuts, options);
  if (!steps.ok()) return steps.status();

  auto matrix = std::make_unique<CpuPackedMatrix>();
  matrix->steps_ = *std::move(steps);
  matrix->columns_ = cuts.back() - cuts.front();
  matrix->planes_ = options.planes.empty() ? 1 : static_cast<int>(options.planes.size());
  for (const MatrixRows& part : parts) {
    if (absl::Status status = CheckPart(part, parts[0].columns); !status.ok()) return status;
    const PackSource source{&part, cuts.front(), matrix->columns_};
    PackedSegment segment = ShapeSegment(source, matrix->rows_);
    segment.data = arena.Allocate(segment.tiles * segment.tile_bytes);
    if (segment.data == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("pack: no memory for ", segment.tiles * segment.tile_bytes, " bytes of weights"));
    }
    team.Run(segment.tiles, [&](int, int64_t tile) { PackTile(source, segment, tile); });
    matrix->rows_ += segment.rows;
    matrix->bytes_ += segment.tiles * segment.tile_bytes;
    if (!TraitsOf(part.format).is_float) matrix->activation_bits_ = options.activation_bits;
    matrix->segments_.push_back(std::move(segment));
    if (options.consumed) options.consumed(static_cast<size_t>(&part - parts.data()));
  }
  if (!options.bias.empty()) {
    if (matrix->planes_ != 1 || static_cast<int64_t>(options.bias.size()) != matrix->rows_) {
      return absl::InvalidArgumentError(absl::StrCat("pack: a bias of ", options.bias.size(), " values for ",
                                                     matrix->rows_, " rows in ", matrix->planes_, " planes"));
    }
    for (PackedSegment& segment : matrix->segments_) {
      segment.bias.assign(segment.tiles * kTileRows, 0.0f);
      std::copy_n(options.bias.begin() + segment.first_row, segment.rows, segment.bias.begin());
    }
  }
  return matrix;
}

}  // namespace pagoda::kernels::cpu
