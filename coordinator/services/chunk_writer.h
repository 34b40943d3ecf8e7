// The server's end of a stream of chunks that a function produces one after the other.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <utility>

#include "common/status.h"

namespace pagoda::coordinator {

inline grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(AsStd(status.message())));
}

template <typename Chunk>
class ChunkWriter final : public grpc::ServerWriteReactor<Chunk> {
 public:
  // Fills the chunk; false when there is none left; an error ends the call with it.
  using Next = std::function<absl::StatusOr<bool>(Chunk&)>;

  static ChunkWriter* Start(Next next) {
    auto* writer = new ChunkWriter(std::move(next));
    writer->WriteNext();
    return writer;
  }

 private:
  explicit ChunkWriter(Next next) : next_(std::move(next)) {}
  void WriteNext() {
    chunk_.Clear();
    const absl::StatusOr<bool> more = next_(chunk_);
    if (!more.ok()) {
      this->Finish(ToGrpc(more.status()));
    } else if (!*more) {
      this->Finish(grpc::Status::OK);
    } else {
      this->StartWrite(&chunk_);
    }
  }
  void OnWriteDone(bool ok) override {
    if (ok) {
      WriteNext();
    } else {
      this->Finish(grpc::Status::CANCELLED);
    }
  }
  void OnDone() override { delete this; }

  Next next_;
  Chunk chunk_;
};

}  // namespace pagoda::coordinator
