#include "coordinator/diagnosis.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace pagoda::coordinator {
namespace {

// Those that wait for the rank, with what for and how long.
std::string WaitersFor(const std::vector<RankView>& ranks, int culprit) {
  const RankView& of = ranks[static_cast<size_t>(culprit)];
  const std::string place = absl::StrCat("stage ", of.stage, " rank ", of.rank);
  std::string text;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const RankView& rank = ranks[i];
    if (static_cast<int>(i) == culprit || rank.waiting_for.empty()) continue;
    const bool names_another = absl::StrContains(rank.waiting_for, " from stage ") && !absl::StrContains(rank.waiting_for, place);
    if (names_another) continue;
    absl::StrAppend(&text, "; ", NameOf(rank), " waits ", rank.waiting_ms, " ms to ", rank.waiting_for);
  }
  return text;
}

}  // namespace

std::string_view NameOf(FaultKind kind) {
  switch (kind) {
    case FaultKind::kDeath:
      return "death";
    case FaultKind::kWedge:
      return "wedge";
    case FaultKind::kSlowness:
      return "slowness";
    case FaultKind::kPartition:
      return "partition";
  }
  return "";
}

std::string NameOf(const RankView& rank) { return absl::StrCat("stage ", rank.stage, " rank ", rank.rank, " (", rank.worker, ")"); }

std::string DoingOf(const RankView& rank) {
  if (rank.operation.empty()) {
    return rank.last_step == 0 ? "before its first step" : absl::StrCat("between steps, after step ", rank.last_step);
  }
  if (rank.step == 0) return absl::StrCat("in '", rank.operation, "', before a step");
  return absl::StrCat("in '", rank.operation, "', step ", rank.step);
}

Diagnosis DiagnoseSilence(const std::vector<RankView>& ranks, int silent, ProbeResult probe) {
  const RankView& rank = ranks[static_cast<size_t>(silent)];
  Diagnosis result{.kind = FaultKind::kWedge, .culprit = silent, .text = {}};
  std::string how;
  switch (probe) {
    case ProbeResult::kAnswered:
      how = "is wedged: its host takes connections for it, but the process";
      break;
    case ProbeResult::kRefused:
      result.kind = FaultKind::kDeath;
      how = "is dead: its host refuses connections to it, and it";
      break;
    case ProbeResult::kUnreachable:
      result.kind = FaultKind::kPartition;
      how = "cannot be reached (its host or the network is gone); it";
      break;
  }
  result.text = absl::StrCat(NameOf(rank), " ", how, " has said nothing for ", rank.silent_ms, " ms, last heard ", DoingOf(rank),
                             WaitersFor(ranks, silent));
  return result;
}

Diagnosis DiagnoseStall(const std::vector<RankView>& ranks, uint64_t step) {
  Diagnosis result;
  // Whoever is in this step or before it and waits for nobody holds up all others.
  for (size_t i = 0; i < ranks.size(); ++i) {
    const RankView& rank = ranks[i];
    if (rank.last_step >= step || !rank.waiting_for.empty() || rank.operation.empty()) continue;
    result.culprit = static_cast<int>(i);
    result.text = absl::StrCat(NameOf(rank), " is slow or stuck ", DoingOf(rank), WaitersFor(ranks, result.culprit));
    return result;
  }
  // Everybody waits: the first one whose peer has done its part does not get what was sent.
  for (size_t i = 0; i < ranks.size(); ++i) {
    const RankView& rank = ranks[i];
    if (rank.waiting_for.empty() || rank.last_step >= step) continue;
    for (size_t j = 0; j < ranks.size(); ++j) {
      const RankView& peer = ranks[j];
      const std::string place = absl::StrCat("from stage ", peer.stage, " rank ", peer.rank);
      if (j == i || !absl::StrContains(rank.waiting_for, place) || peer.last_step < rank.step) continue;
      result.kind = FaultKind::kPartition;
      result.culprit = static_cast<int>(i);
      result.text = absl::StrCat("nothing gets from ", NameOf(peer), ", which finished step ", peer.last_step, ", to ",
                                 NameOf(rank), ", which waits ", rank.waiting_ms, " ms to ", rank.waiting_for);
      return result;
    }
  }
  for (const RankView& rank : ranks) {
    absl::StrAppend(&result.text, result.text.empty() ? "" : "; ", NameOf(rank), " finished step ", rank.last_step, ", ",
                    DoingOf(rank));
  }
  return result;
}

}  // namespace pagoda::coordinator
