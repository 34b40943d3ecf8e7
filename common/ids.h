// Strong ids: an epoch is not a step, a slot is not a block. Value types, ordered and hashable.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/hex.h"
#include "common/status.h"

namespace pagoda {

template <typename Tag, typename Rep>
class StrongId {
 public:
  using rep = Rep;
  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep value) : value_(value) {}
  constexpr Rep value() const { return value_; }
  constexpr auto operator<=>(const StrongId&) const = default;
  template <typename H>
  friend H AbslHashValue(H state, StrongId id) {
    return H::combine(std::move(state), id.value_);
  }

 private:
  Rep value_{};
};

using TokenId = int32_t;                                    // a vocabulary index; -1 is never valid
using BlockId = StrongId<struct BlockTag, int32_t>;         // one KV block, same on all ranks of a pipeline
using SlotId = StrongId<struct SlotTag, int32_t>;           // one running sequence of a pipeline
using Epoch = StrongId<struct EpochTag, uint64_t>;          // one assembly of a pipeline
using StepNumber = StrongId<struct StepTag, uint64_t>;      // dense within an epoch, from 1
using PipelineId = StrongId<struct PipelineTag, uint64_t>;  // one replica of one deployment
using WorkerId = StrongId<struct WorkerTag, uint64_t>;

// 128 random bits made by the router; 32 hex digits outside.
struct RequestId {
  uint64_t high = 0;
  uint64_t low = 0;
  auto operator<=>(const RequestId&) const = default;
  std::string ToString() const { return HexEncode64(high) + HexEncode64(low); }
  static RequestId Random();
  static absl::StatusOr<RequestId> Parse(std::string_view text);
  template <typename H>
  friend H AbslHashValue(H state, const RequestId& id) {
    return H::combine(std::move(state), id.high, id.low);
  }
};

}  // namespace pagoda

template <typename Tag, typename Rep>
struct std::hash<pagoda::StrongId<Tag, Rep>> {
  size_t operator()(pagoda::StrongId<Tag, Rep> id) const { return std::hash<Rep>()(id.value()); }
};
template <>
struct std::hash<pagoda::RequestId> {
  size_t operator()(const pagoda::RequestId& id) const {
    return static_cast<size_t>(id.high ^ (id.low * 0x9e3779b97f4a7c15ULL));
  }
};
