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

std::string NumericsOf(const PipelineRecord& pipeline, const DeploymentRecord& made_by) {
  if (pipeline.numerics_profile.empty()) return "";
  return absl::StrCat(pipeline.numerics_profile, " kv=", made_by.spec.kv_cache_type, " activations=", made_by.spec.activation_bits);
}

RestoredPipeline Stored(const PipelineRecord& pipeline, const DeploymentRecord& made_by) {
  return {.id = pipeline.id,
          .deployment = pipeline.deployment,
          .placement = pipeline.numerics_profile.empty() ? Placement() : pipeline.placement,
          .shard_digests = pipeline.shard_digests,
          .numerics_profile = pipeline.numerics_profile,
          .draining = pipeline.draining,
          .spec = made_by.spec,
          .model_digest = made_by.model.digest,
          .sizes = nullptr};
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
