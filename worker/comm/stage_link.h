// Hidden states and sampled tokens between pipeline stages (design section 2.6 and 7). Rank j of a stage receives the hidden
// states from rank j mod T of the stage before; rank 0 of the last stage sends sampled tokens to rank 0 of stage 0.
// Owned by the engine's thread. Sends return at once; their buffers are the link's own and are reused when sent.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "worker/comm/transport.h"

namespace pagoda::worker {

struct StageShape {
  int tensor_parallel = 1;
};

class StageLink {
 public:
  StageLink(Transport& transport, PeerId self, std::vector<StageShape> stages, int hidden, int max_rows);
  ~StageLink();

  bool first() const;  // stage 0
  bool last() const;

  // To all ranks of the next stage that take theirs from this one. Copies; blocks only while too many sends are unfinished.
  absl::Status SendHidden(StepNumber step, const float* rows, int row_count, absl::Duration timeout,
                          const std::atomic<bool>* stop);
  // Posts the receive ahead of time so that data lands while the engine computes. At most two are posted.
  absl::Status PostReceiveHidden(StepNumber step, int row_count);
  // Requires PostReceiveHidden(step). The rows stay valid until the next PostReceiveHidden but one.
  absl::StatusOr<const float*> ReceiveHidden(StepNumber step, absl::Duration timeout, const std::atomic<bool>* stop);

  struct SlotToken {
    int32_t slot = 0;
    TokenId token = 0;
  };
  // From rank 0 of the last stage; exactly one message per step that samples, `samples` known to both from the plan.
  absl::Status SendTokens(StepNumber step, std::span<const SlotToken> tokens);
  absl::StatusOr<std::vector<SlotToken>> ReceiveTokens(StepNumber step, int samples, absl::Duration timeout,
                                                       const std::atomic<bool>* stop);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::worker
