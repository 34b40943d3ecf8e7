#include "worker/blob/kv_puller.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "common/clock.h"
#include "common/limits.h"
#include "pagoda/internal/v1/blob.grpc.pb.h"

namespace pagoda::worker {
namespace {

namespace v1 = ::pagoda::internal::v1;

v1::ReadKvBlocksRequest RequestOf(const KvFill& fill, const KvFormat& format) {
  v1::ReadKvBlocksRequest request;
  request.set_epoch(fill.source_epoch.value());
  request.set_link_token(fill.source_token.data(), fill.source_token.size());
  request.set_shard_digest(format.shard_digest);
  request.set_kv_cache_type(format.kv_cache_type);
  request.set_block_tokens(format.block_tokens);
  request.set_block_bytes(format.block_bytes);
  request.mutable_blocks()->Assign(fill.from.begin(), fill.from.end());
  return request;
}

// Puts a stream of bytes together to blocks, and each whole one into its place.
class BlockWriter {
 public:
  BlockWriter(KvWindow& window, const KvFill& fill, size_t block_bytes) : window_(window), fill_(fill), block_(block_bytes) {}

  absl::Status Take(std::string_view data) {
    while (!data.empty()) {
      if (next_ == fill_.to.size()) return absl::DataLossError("more came than was asked for");
      const size_t count = std::min(data.size(), block_.size() - filled_);
      std::memcpy(block_.data() + filled_, data.data(), count);
      data.remove_prefix(count);
      filled_ += count;
      if (filled_ < block_.size()) continue;
      PAGODA_RETURN_IF_ERROR(window_.Write(fill_.move, fill_.to[next_++], block_));
      filled_ = 0;
    }
    return absl::OkStatus();
  }
  size_t blocks() const { return next_; }

 private:
  KvWindow& window_;
  const KvFill& fill_;
  std::vector<std::byte> block_;
  size_t filled_ = 0;
  size_t next_ = 0;
};

}  // namespace

KvPuller::KvPuller(std::shared_ptr<KvWindow> window, security::SharedTls tls)
    : window_(std::move(window)), tls_(std::move(tls)), thread_([this] { Run(); }) {}

KvPuller::~KvPuller() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    queue_.clear();
    if (context_ != nullptr) context_->TryCancel();
  }
  thread_.join();
}

void KvPuller::Pull(KvFill fill, Done done) {
  MutexLock lock(&mutex_);
  if (!stop_) queue_.emplace_back(std::move(fill), std::move(done));
}

void KvPuller::Run() {
  while (true) {
    std::pair<KvFill, Done> next;
    {
      MutexLock lock(&mutex_);
      mutex_.Await([this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stop_ || !queue_.empty(); });
      if (stop_) return;
      next = std::move(queue_.front());
      queue_.pop_front();
    }
    next.second(Fetch(next.first));
  }
}

KvFilled KvPuller::Fetch(const KvFill& fill) {
  KvFilled filled{.move = fill.move, .epoch = fill.epoch};
  const MonotonicNs begin_ns = NowNs();
  const std::optional<KvWindow::Facts> facts = window_->facts();
  const absl::Status status = facts.has_value() && facts->epoch == fill.epoch
                                  ? Read(fill, *facts, filled.bytes)
                                  : absl::FailedPreconditionError(absl::StrCat("epoch ", fill.epoch.value(), " is over"));
  if (!status.ok()) filled.error = status.ToString();
  filled.took_us = (NowNs() - begin_ns) / 1000;
  return filled;
}

absl::Status KvPuller::Read(const KvFill& fill, const KvWindow::Facts& facts, int64_t& bytes) {
  const auto stub = v1::Blob::NewStub(security::ChannelTo(fill.source, tls_, {security::Role::kWorker}));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(fill.timeout_ms));
  {
    MutexLock lock(&mutex_);
    if (stop_) return absl::CancelledError("the worker stops");
    context_ = &context;
  }
  const auto reader = stub->ReadKvBlocks(&context, RequestOf(fill, facts.format));
  BlockWriter writer(*window_, fill, facts.format.block_bytes);
  v1::ReadKvBlocksChunk chunk;
  absl::Status taken;
  while (taken.ok() && reader->Read(&chunk)) {
    bytes += static_cast<int64_t>(chunk.data().size());
    taken = writer.Take(chunk.data());
  }
  if (!taken.ok()) context.TryCancel();
  const grpc::Status status = reader->Finish();
  {
    MutexLock lock(&mutex_);
    context_ = nullptr;
  }
  if (!taken.ok()) return Annotate(taken, fill.source);
  if (!status.ok()) {
    return {static_cast<absl::StatusCode>(status.error_code()), absl::StrCat(fill.source, ": ", status.error_message())};
  }
  if (writer.blocks() == fill.to.size()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(fill.source, ": sent ", writer.blocks(), " blocks of ", fill.to.size()));
}

}  // namespace pagoda::worker
