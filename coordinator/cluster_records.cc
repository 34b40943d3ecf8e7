#include "coordinator/cluster_records.h"

#include "absl/strings/str_cat.h"

namespace pagoda::coordinator {

std::string_view NameOf(WorkerPhase phase) {
  switch (phase) {
    case WorkerPhase::kIdle:
      return "idle";
    case WorkerPhase::kLoading:
    case WorkerPhase::kLoaded:
      return "loading";
    case WorkerPhase::kReady:
      return "ready";
    case WorkerPhase::kReleasing:
      return "releasing";
    case WorkerPhase::kLost:
      return "lost";
  }
  return "";
}

std::string_view NameOf(PipelinePhase phase) {
  switch (phase) {
    case PipelinePhase::kPending:
      return "pending";
    case PipelinePhase::kLoading:
    case PipelinePhase::kLinking:
      return "assembling";
    case PipelinePhase::kReady:
      return "ready";
    case PipelinePhase::kDraining:
      return "draining";
  }
  return "";
}

std::string Explain(const PipelineRecord& pipeline, int64_t now_ns) {
  if (pipeline.phase == PipelinePhase::kReady || pipeline.phase == PipelinePhase::kDraining) return "";
  const bool pending = pipeline.phase == PipelinePhase::kPending;
  if (pipeline.last_fault.empty()) return pending ? pipeline.message : "";
  std::string text = pipeline.message;
  if (!pending || text == pipeline.last_fault) {
    text = pending ? "" : absl::StrCat(pipeline.message, " again; ");
    absl::StrAppend(&text, "the last try failed (", pipeline.failures, " in a row): ", pipeline.last_fault);
  }
  if (pending && pipeline.not_before_ns > now_ns) {
    absl::StrAppend(&text, "; the next try is in ", (pipeline.not_before_ns - now_ns + 999'999'999) / 1'000'000'000, " s");
  }
  return text;
}

}  // namespace pagoda::coordinator
