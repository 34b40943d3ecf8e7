#include "kernels/cuda/recorded_steps.h"

namespace pagoda::kernels::cuda {

absl::Status RecordedSteps::Run(const Backend::StepKey& key, const std::function<absl::Status()>& body) {
  Entry& entry = entries_[{key.owner, key.rows}];
  if (!entry.seen) {
    entry.seen = true;
    return body();
  }
  if (entry.graph == nullptr) {
    if (absl::Status status = Record(entry.graph, body); !status.ok()) return status;
  } else {
    ++replayed_;
  }
  return device_.Check(cudaGraphLaunch(entry.graph, device_.stream()), "replay a recorded step");
}

absl::Status RecordedSteps::Record(cudaGraphExec_t& graph, const std::function<absl::Status()>& body) {
  if (absl::Status status = device_.Check(cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal), "begin to record");
      !status.ok()) {
    return status;
  }
  recording_ = true;
  const absl::Status result = body();
  recording_ = false;
  cudaGraph_t recorded = nullptr;
  const absl::Status ended = device_.Check(cudaStreamEndCapture(device_.stream(), &recorded), "end of a recorded step");
  if (!result.ok() || !ended.ok()) {
    if (recorded != nullptr) cudaGraphDestroy(recorded);
    return result.ok() ? ended : result;
  }
  const absl::Status made = device_.Check(cudaGraphInstantiate(&graph, recorded, 0), "make a graph of a recorded step");
  cudaGraphDestroy(recorded);
  return made;
}

void RecordedSteps::Forget(const void* owner) {
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (owner != nullptr && it->first.first != owner) {
      ++it;
      continue;
    }
    if (it->second.graph != nullptr) cudaGraphExecDestroy(it->second.graph);
    it = entries_.erase(it);
  }
}

void RecordedSteps::ForgetAll() { Forget(nullptr); }

int RecordedSteps::recorded() const {
  int count = 0;
  for (const auto& [key, entry] : entries_) count += entry.graph != nullptr;
  return count;
}

}  // namespace pagoda::kernels::cuda
