#include "worker/kv/kv_window.h"

#include <utility>

namespace pagoda::worker {
namespace {

// In a time that says nothing of where they differ.
bool SameToken(const KvToken& a, std::span<const std::byte> b) {
  if (b.size() != a.size()) return false;
  std::byte difference{};
  for (size_t i = 0; i < a.size(); ++i) difference |= a[i] ^ b[i];
  return difference == std::byte{};
}

}  // namespace

void KvWindow::Open(Facts facts, kernels::KvCache* cache) {
  MutexLock lock(&mutex_);
  expected_.clear();
  facts_.reset();
  cache_ = nullptr;
  if (cache == nullptr || !cache->movable()) return;
  facts_ = std::move(facts);
  cache_ = cache;
}

void KvWindow::Close() {
  MutexLock lock(&mutex_);
  expected_.clear();
  facts_.reset();
  cache_ = nullptr;
}

absl::Status KvWindow::Expect(uint64_t move, std::span<const int32_t> blocks) {
  MutexLock lock(&mutex_);
  if (!facts_.has_value()) return absl::FailedPreconditionError("no epoch is under way whose KV can move");
  if (blocks.empty()) return absl::InvalidArgumentError("no blocks are to be filled");
  std::unordered_set<int32_t> expected;
  for (const int32_t block : blocks) {
    if (block < 0 || block >= facts_->blocks) {
      return absl::InvalidArgumentError(absl::StrCat("block ", block, " is to be filled; the pool has ", facts_->blocks));
    }
    if (!expected.insert(block).second) return absl::InvalidArgumentError(absl::StrCat("block ", block, " is to be filled twice"));
  }
  expected_[move] = std::move(expected);
  return absl::OkStatus();
}

void KvWindow::Forbid(uint64_t move) {
  MutexLock lock(&mutex_);
  expected_.erase(move);
}

std::optional<KvWindow::Facts> KvWindow::facts() const {
  MutexLock lock(&mutex_);
  return facts_;
}

absl::Status KvWindow::Check(Epoch epoch, std::span<const std::byte> token, const KvFormat& format) const {
  MutexLock lock(&mutex_);
  if (!facts_.has_value() || facts_->epoch != epoch) {
    return absl::FailedPreconditionError(absl::StrCat("epoch ", epoch.value(), " is not under way here"));
  }
  if (!SameToken(facts_->token, token)) return absl::PermissionDeniedError("the token is not that of the epoch");
  if (facts_->format != format) return absl::FailedPreconditionError("the KV here is of another shard or format");
  return absl::OkStatus();
}

absl::Status KvWindow::Read(Epoch epoch, int32_t block, std::span<std::byte> out) const {
  MutexLock lock(&mutex_);
  if (!facts_.has_value() || facts_->epoch != epoch) {
    return absl::FailedPreconditionError(absl::StrCat("epoch ", epoch.value(), " is over"));
  }
  if (block < 0 || block >= facts_->blocks || out.size() != facts_->format.block_bytes) {
    return absl::OutOfRangeError(absl::StrCat("block ", block, " of ", out.size(), " bytes; the pool has ", facts_->blocks,
                                              " of ", facts_->format.block_bytes));
  }
  cache_->ReadBlock(block, out);
  return absl::OkStatus();
}

absl::Status KvWindow::Write(uint64_t move, int32_t block, std::span<const std::byte> in) {
  MutexLock lock(&mutex_);
  const auto expected = expected_.find(move);
  if (expected == expected_.end() || !expected->second.contains(block) || in.size() != facts_->format.block_bytes) {
    return absl::CancelledError(absl::StrCat("block ", block, " is not to be filled any more"));
  }
  cache_->WriteBlock(block, in);
  return absl::OkStatus();
}

}  // namespace pagoda::worker
