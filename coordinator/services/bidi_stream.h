// The server's end of a bidirectional stream: reads one message at a time, writes from a bounded queue. Lives as long as the
// call or as someone holds it. Thread rule: Send, Close and Finish from any thread; OnMessage and OnGone are called by
// gRPC's threads, OnMessage one at a time, OnGone once and last.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace pagoda::coordinator {

template <typename In, typename Out>
class BidiStream : public grpc::ServerBidiReactor<In, Out>, public std::enable_shared_from_this<BidiStream<In, Out>> {
 public:
  // A peer that lets this many messages pile up is cut.
  static constexpr size_t kMaxQueued = 65536;

  explicit BidiStream(grpc::CallbackServerContext* context) : context_(context) {}

  // Once, by who made it.
  void Begin() {
    self_ = this->shared_from_this();
    this->StartRead(&incoming_);
  }

  // False when the stream is over.
  bool Send(Out message) {
    const Out* start = nullptr;
    bool cut = false;
    {
      MutexLock lock(&mutex_);
      if (finishing_) return false;
      if (queue_.size() >= kMaxQueued) {
        cut = true;
      } else {
        queue_.push_back(std::move(message));
        if (!writing_) start = &queue_.front();
        writing_ = true;
      }
    }
    // Outside of the lock: gRPC may call back on this thread.
    if (cut) {
      Abort();
      return false;
    }
    if (start != nullptr) this->StartWrite(start);
    return true;
  }

  // Ends the call with `status` once the write in progress is through.
  void Finish(const grpc::Status& status) {
    {
      MutexLock lock(&mutex_);
      if (finishing_) return;
      finishing_ = true;
      status_ = status;
      if (writing_) return;
    }
    grpc::ServerBidiReactor<In, Out>::Finish(status);
  }

  // Ends the call now, whatever is unsent.
  void Abort() {
    {
      MutexLock lock(&mutex_);
      if (gone_) return;
      context_->TryCancel();
    }
    Finish(grpc::Status(grpc::StatusCode::ABORTED, "cut"));
  }

 protected:
  virtual void OnMessage(In& message) = 0;
  virtual void OnGone() = 0;

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status::OK);
      return;
    }
    OnMessage(incoming_);
    {
      MutexLock lock(&mutex_);
      if (finishing_) return;
    }
    incoming_.Clear();
    this->StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    bool finish = false;
    const Out* next = nullptr;
    {
      MutexLock lock(&mutex_);
      queue_.pop_front();
      if (!ok && !finishing_) {
        finishing_ = true;
        status_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the peer is gone");
      }
      // What is still queued goes out before an orderly end.
      finish = finishing_ && (!ok || !status_.ok() || queue_.empty());
      writing_ = !finish && !queue_.empty();
      if (writing_) next = &queue_.front();
      if (finish) queue_.clear();
    }
    if (finish) grpc::ServerBidiReactor<In, Out>::Finish(status_);
    if (next != nullptr) this->StartWrite(next);
  }

  void OnCancel() override { Finish(grpc::Status::CANCELLED); }

  void OnDone() override {
    {
      MutexLock lock(&mutex_);
      gone_ = true;
      finishing_ = true;
    }
    OnGone();
    self_.reset();  // may end this
  }

  grpc::CallbackServerContext* const context_;
  std::shared_ptr<BidiStream> self_;
  In incoming_;
  Mutex mutex_;
  std::deque<Out> queue_;  // the front is being written; only its writer touches the front outside of the lock
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_;
};

}  // namespace pagoda::coordinator
