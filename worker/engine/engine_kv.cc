// KV blocks that go from one pipeline to another: the window through which others read and write them, and fills on the engine's
// thread, in order with the plans that give blocks out.
#include "worker/engine/engine.h"

namespace pagoda::worker {

void Engine::OpenKvWindow(const LinkUp& link_up) {
  kernels::KvCache& kv = decoder_->kv();
  kv_window_->Open({.epoch = link_up.epoch,
                    .token = link_up.secret.token,
                    .format = {.shard_digest = shard_->digest,
                               .kv_cache_type = assignment_->kv_cache_type,
                               .block_tokens = assignment_->block_tokens,
                               .block_bytes = kernels::KvBlockBytes(kv.shape())},
                    .blocks = assignment_->blocks},
                   &kv);
}

// What the blocks held before is forgotten first: should the epoch end meanwhile, nobody may take them for it.
void Engine::Handle(KvFill fill) {
  const auto refuse = [&](const absl::Status& status) {
    sink_.OnKvFilled({.move = fill.move, .epoch = fill.epoch, .error = status.ToString()});
  };
  if (!assignment_.has_value() || fill.epoch != assignment_->epoch || executor_ == nullptr || pull_kv_ == nullptr) {
    return refuse(absl::FailedPreconditionError(absl::StrCat("epoch ", fill.epoch.value(), " is not under way here")));
  }
  if (fill.from.size() != fill.to.size()) return refuse(absl::InvalidArgumentError("as many blocks go out as come in"));
  if (const absl::Status expected = kv_window_->Expect(fill.move, fill.to); !expected.ok()) return refuse(expected);
  kv_record_->Forget(fill.to);
  pull_kv_(std::move(fill), [this](KvFilled filled) { Post(std::move(filled)); });
}

// Told from here, so that whatever comes after it on this thread sees the blocks.
void Engine::Handle(const KvFilled& filled) {
  kv_window_->Forbid(filled.move);
  sink_.OnKvFilled(filled);
}

void Engine::Handle(const EndKvFill& end) {
  if (assignment_.has_value() && assignment_->epoch == end.epoch) kv_window_->Forbid(end.move);
}

}  // namespace pagoda::worker
