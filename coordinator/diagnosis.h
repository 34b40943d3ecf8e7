// Who holds a pipeline up, and how: from what its ranks last said of themselves and from what a probe of a silent one found.
// Pure: the words that operators read, and the kinds that metrics count.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pagoda::coordinator {

enum class FaultKind : uint8_t {
  kDeath,      // its process is gone
  kWedge,      // it is there and does nothing (stopped, swapped out, stuck)
  kSlowness,   // it reports, and its step takes too long
  kPartition,  // it cannot be reached, or two that both report cannot reach each other
};
std::string_view NameOf(FaultKind kind);

// A TCP connect to one of the worker's ports.
enum class ProbeResult : uint8_t { kAnswered, kRefused, kUnreachable };

struct RankView {
  int stage = 0;
  int rank = 0;
  std::string worker;
  int64_t silent_ms = 0;      // since its last heartbeat
  uint64_t step = 0;          // under way; 0: none
  uint64_t last_step = 0;     // finished
  std::string operation;      // what it did when it last reported
  std::string waiting_for;    // a peer, if that is what it did
  int64_t waiting_ms = 0;
};

// "stage 1 rank 0 (worker-1)"
std::string NameOf(const RankView& rank);
// "in 'run the layers', step 12": what it did when it was last heard of.
std::string DoingOf(const RankView& rank);

struct Diagnosis {
  FaultKind kind = FaultKind::kSlowness;
  int culprit = -1;  // index; -1: nobody in particular
  std::string text;
};

// A rank says nothing: what it was found to be. `ranks` are those of its pipeline, for who waits for it.
Diagnosis DiagnoseSilence(const std::vector<RankView>& ranks, int silent, ProbeResult probe);
// All report, and yet `step` gives no result.
Diagnosis DiagnoseStall(const std::vector<RankView>& ranks, uint64_t step);

}  // namespace pagoda::coordinator
