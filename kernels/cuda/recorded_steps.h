// Steps recorded as CUDA graphs, by owner and padded row count. A key's first step runs as it is (kernels are loaded, memory finds its
// size), the second is recorded, later ones are replayed.
#pragma once

#include <functional>
#include <map>
#include <utility>

#include "kernels/cuda/device.h"

namespace pagoda::kernels::cuda {

class RecordedSteps {
 public:
  explicit RecordedSteps(Device& device) : device_(device) {}
  ~RecordedSteps() { ForgetAll(); }

  absl::Status Run(const Backend::StepKey& key, const std::function<absl::Status()>& body);
  void Forget(const void* owner);
  void ForgetAll();
  bool recording() const { return recording_; }
  int recorded() const;
  int64_t replayed() const { return replayed_; }

 private:
  absl::Status Record(cudaGraphExec_t& graph, const std::function<absl::Status()>& body);

  Device& device_;
  struct Entry {
    cudaGraphExec_t graph = nullptr;
    bool seen = false;
  };
  std::map<std::pair<const void*, int64_t>, Entry> entries_;
  bool recording_ = false;
  int64_t replayed_ = 0;
};

}  // namespace pagoda::kernels::cuda
