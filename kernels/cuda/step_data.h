// What a step's rows are, in one block of device memory at addresses that stay (recorded steps hold them): made on the host, copied
// once. Grows by doubling; then what was recorded must be forgotten.
#pragma once

#include <vector>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/device.h"

namespace pagoda::kernels::cuda {

class StepData {
 public:
  // `warps`: of attention that the device runs at once. Checks rows and blocks against the cache. Sets *moved when addresses
  // that were handed out before no longer hold.
  absl::Status Begin(Device& device, const Backend::StepBegin& begin, int warps, bool* moved);

  StepView view() const;
  const int32_t* tokens() const { return at<int32_t>(kTokens); }
  const AttentionUnit* units() const { return at<AttentionUnit>(kUnits); }
  const AttentionJoin* joins() const { return at<AttentionJoin>(kJoins); }
  const int32_t* counts() const { return at<int32_t>(kCounts); }
  const int32_t* head_begin() const { return at<int32_t>(kHeadBegin); }
  const int32_t* head_order() const { return at<int32_t>(kHeadOrder); }
  const float* frequencies() const { return at<float>(kFrequencies); }
  float* partial_o() const { return partial_o_.as<float>(); }
  float* partial_ml() const { return partial_ml_.as<float>(); }
  int unit_count() const { return unit_count_; }
  int join_count() const { return join_count_; }
  int rows() const { return rows_; }
  bool begun() const { return begun_; }

 private:
  // In the order of the memory: what changes in size most comes last.
  enum Section { kCounts, kHeadBegin, kHeadOrder, kFrequencies, kRowSequence, kRowPosition, kTokens, kBlockBegin, kBlockIds, kUnits, kJoins, kSections };
  template <typename T>
  T* at(Section section) const {
    return reinterpret_cast<T*>(device_.as<uint8_t>() + offset_[section]);
  }
  absl::Status Reserve(Device& device, const size_t (&wanted)[kSections], bool* moved);
  template <typename T>
  T* Put(Section section) {
    return reinterpret_cast<T*>(host_.as<uint8_t>() + offset_[section]);
  }

  size_t capacity_[kSections] = {};
  size_t offset_[kSections + 1] = {};
  DeviceMemory device_;
  DeviceMemory host_;
  DeviceMemory partial_o_;
  DeviceMemory partial_ml_;
  int unit_count_ = 0;
  int join_count_ = 0;
  int rows_ = 0;
  bool begun_ = false;
};

}  // namespace pagoda::kernels::cuda
