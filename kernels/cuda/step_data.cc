#include "kernels/cuda/step_data.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/objects.h"

namespace pagoda::kernels::cuda {
namespace {

constexpr int kPaddingRows = 128;  // rows past the step's own that recorded steps may compute

absl::Status CheckStep(const Backend::StepBegin& begin) {
  const KvShape& shape = begin.cache->shape();
  const AttentionParams& attention = *begin.attention;
  if (attention.kv_heads != shape.kv_heads || attention.head_dim != shape.head_dim || attention.query_heads <= 0 ||
      static_cast<int>(attention.kv_head_of.size()) != attention.query_heads) {
    return absl::InvalidArgumentError(absl::StrCat("step: ", attention.query_heads, " query and ", attention.kv_heads,
                                                   " KV heads of ", attention.head_dim, " do not fit the cache"));
  }
  for (const int32_t kv : attention.kv_head_of) {
    if (kv < 0 || kv >= attention.kv_heads) return absl::InvalidArgumentError(absl::StrCat("step: KV head ", kv));
  }
  for (const SequenceRows& sequence : begin.step.sequences) {
    const int64_t last = sequence.first_position + sequence.rows - 1;
    if (sequence.first_row < 0 || sequence.rows < 0 || sequence.first_row + sequence.rows > begin.step.rows ||
        sequence.first_position < 0 || last > (int64_t{1} << 30) ||
        (sequence.rows > 0 && last / shape.block_tokens >= static_cast<int64_t>(sequence.blocks.size()))) {
      return absl::InvalidArgumentError(absl::StrCat("step: rows [", sequence.first_row, ", ", sequence.first_row + sequence.rows,
                                                     ") of ", begin.step.rows, " at position ", sequence.first_position,
                                                     " with ", sequence.blocks.size(), " blocks"));
    }
    for (const int32_t block : sequence.blocks) {
      if (block < 0 || block >= shape.blocks) {
        return absl::InvalidArgumentError(absl::StrCat("step: block ", block, " of a cache of ", shape.blocks));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status StepData::Reserve(Device& device, const size_t (&wanted)[kSections], bool* moved) {
  bool fits = device_.bytes() > 0;
  for (int i = 0; i < kSections; ++i) fits = fits && wanted[i] <= capacity_[i];
  if (fits) return absl::OkStatus();
  *moved = true;
  for (int i = 0; i < kSections; ++i) {
    capacity_[i] = std::max<size_t>(capacity_[i], 256);
    while (capacity_[i] < wanted[i]) capacity_[i] *= 2;
    offset_[i + 1] = offset_[i] + capacity_[i];
  }
  if (absl::Status status = device.Synchronize("wait for the step before"); !status.ok()) return status;
  auto memory = DeviceMemory::New(device, offset_[kSections], "the step's rows");
  if (!memory.ok()) return memory.status();
  auto pinned = DeviceMemory::NewPinned(device, offset_[kSections]);
  if (!pinned.ok()) return pinned.status();
  device_ = *std::move(memory);
  host_ = *std::move(pinned);
  return absl::OkStatus();
}

absl::Status StepData::Begin(Device& device, const Backend::StepBegin& begin, int warps, bool* moved) {
  begun_ = false;
  if (begin.attention == nullptr || begin.rope == nullptr || begin.cache == nullptr) {
    return absl::InvalidArgumentError("step: attention, rope and cache must be known when it begins");
  }
  if (absl::Status status = CheckStep(begin); !status.ok()) return status;
  const AttentionParams& attention = *begin.attention;
  const AttentionPlan plan = PlanAttention(begin.step, attention, warps);
  const size_t rows = static_cast<size_t>(begin.step.rows), kv_heads = static_cast<size_t>(attention.kv_heads);
  size_t ids = 0;
  for (const SequenceRows& sequence : begin.step.sequences) ids += sequence.blocks.size();
  const size_t row_bytes = (rows + kPaddingRows) * sizeof(int32_t);
  const size_t wanted[kSections] = {
      2 * sizeof(int32_t), (kv_heads + 1) * sizeof(int32_t), attention.kv_head_of.size() * sizeof(int32_t),
      begin.rope->frequencies.size() * sizeof(float), row_bytes, row_bytes, row_bytes,
      begin.step.sequences.size() * sizeof(int32_t), ids * sizeof(int32_t), plan.units.size() * sizeof(AttentionUnit),
      plan.joins.size() * sizeof(AttentionJoin)};
  if (absl::Status status = Reserve(device, wanted, moved); !status.ok()) return status;
  const size_t padded_dim = static_cast<size_t>(LayoutOf(begin.cache->shape()).padded_dim);
  const size_t partial_bytes = static_cast<size_t>(plan.partials) * padded_dim * sizeof(float);
  if (partial_o_.bytes() < partial_bytes || partial_ml_.bytes() < static_cast<size_t>(plan.partials) * 8) {
    *moved = true;
    if (absl::Status status = device.Synchronize("wait for the step before"); !status.ok()) return status;
    auto o = DeviceMemory::New(device, 2 * partial_bytes, "attention's partial results");
    if (!o.ok()) return o.status();
    auto ml = DeviceMemory::New(device, static_cast<size_t>(plan.partials) * 16, "attention's partial results");
    if (!ml.ok()) return ml.status();
    partial_o_ = *std::move(o);
    partial_ml_ = *std::move(ml);
  }

  Put<int32_t>(kCounts)[0] = unit_count_ = static_cast<int>(plan.units.size());
  Put<int32_t>(kCounts)[1] = join_count_ = static_cast<int>(plan.joins.size());
  int32_t* order = Put<int32_t>(kHeadOrder);
  int count = 0;
  for (int kv = 0; kv < attention.kv_heads; ++kv) {
    Put<int32_t>(kHeadBegin)[kv] = count;
    for (int h = 0; h < attention.query_heads; ++h) {
      if (attention.kv_head_of[static_cast<size_t>(h)] == kv) order[count++] = h;
    }
  }
  Put<int32_t>(kHeadBegin)[attention.kv_heads] = count;
  std::copy(begin.rope->frequencies.begin(), begin.rope->frequencies.end(), Put<float>(kFrequencies));
  std::fill_n(Put<int32_t>(kRowSequence), rows + kPaddingRows, -1);
  std::fill_n(Put<int32_t>(kRowPosition), rows + kPaddingRows, 0);
  int32_t id = 0;
  for (size_t s = 0; s < begin.step.sequences.size(); ++s) {
    const SequenceRows& sequence = begin.step.sequences[s];
    Put<int32_t>(kBlockBegin)[s] = id;
    std::copy(sequence.blocks.begin(), sequence.blocks.end(), Put<int32_t>(kBlockIds) + id);
    id += static_cast<int32_t>(sequence.blocks.size());
    for (int r = 0; r < sequence.rows; ++r) {
      Put<int32_t>(kRowSequence)[sequence.first_row + r] = static_cast<int32_t>(s);
      Put<int32_t>(kRowPosition)[sequence.first_row + r] = static_cast<int32_t>(sequence.first_position + r);
    }
  }
  std::copy(begin.tokens.begin(), begin.tokens.end(), Put<int32_t>(kTokens));
  std::copy(plan.units.begin(), plan.units.end(), Put<AttentionUnit>(kUnits));
  std::copy(plan.joins.begin(), plan.joins.end(), Put<AttentionJoin>(kJoins));
  rows_ = begin.step.rows;
  begun_ = true;
  const size_t used = plan.joins.empty() ? offset_[kUnits] + wanted[kUnits] : offset_[kJoins] + wanted[kJoins];
  return device.Check(cudaMemcpyAsync(device_.as<void>(), host_.as<void>(), used, cudaMemcpyHostToDevice, device.stream()),
                      "copy the step's rows");
}

StepView StepData::view() const {
  return {.row_sequence = at<int32_t>(kRowSequence),
          .row_position = at<int32_t>(kRowPosition),
          .block_begin = at<int32_t>(kBlockBegin),
          .block_ids = at<int32_t>(kBlockIds)};
}

}  // namespace pagoda::kernels::cuda
