// A router's end of Pipeline.Attach for tests: submits, and collects what comes back per request and choice.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/mutex.h"
#include "pagoda/internal/v1/pipeline.grpc.pb.h"

namespace pagoda::coordinator::testing {

class AttachClient {
 public:
  struct Stream {
    std::vector<int> tokens;
    ::pagoda::v1::FinishReason finish = ::pagoda::v1::FINISH_REASON_UNSPECIFIED;
    int ends = 0;
    int gaps = 0;  // tokens that came twice or out of order
    std::string error;
  };

  explicit AttachClient(const std::string& address)
      : stub_(internal::v1::Pipeline::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))) {
    context_.set_wait_for_ready(true);
    stream_ = stub_->Attach(&context_);
    internal::v1::RouterMessage message;
    message.mutable_hello()->set_router("test");
    message.mutable_hello()->set_protocol(1);
    stream_->Write(message);
    reader_ = std::thread([this] { Read(); });
  }
  ~AttachClient() { Break(); }

  // As a router that dies.
  void Break() {
    if (!reader_.joinable()) return;
    context_.TryCancel();
    reader_.join();
  }

  static internal::v1::RouterMessage MakeSubmit(uint64_t id, uint64_t pipeline, const std::vector<int>& prompt, int max_tokens,
                                                uint64_t seed, int choices = 1) {
    internal::v1::RouterMessage message;
    auto* submit = message.mutable_submit();
    submit->mutable_request()->set_high(7);
    submit->mutable_request()->set_low(id);
    submit->set_attempt(1);
    submit->set_pipeline(pipeline);
    for (const int token : prompt) submit->add_prompt(token);
    for (int i = 0; i < choices; ++i) submit->add_choices();
    auto* sampling = submit->mutable_sampling();
    sampling->set_top_p(1);
    sampling->set_typical_p(1);
    sampling->set_repetition_penalty(1);
    sampling->set_max_tokens(max_tokens);
    sampling->set_seed(seed);
    sampling->set_logprobs(-1);
    sampling->set_prompt_logprobs(-1);
    return message;
  }
  void Send(const internal::v1::RouterMessage& message) { stream_->Write(message); }
  void Cancel(uint64_t id) {
    internal::v1::RouterMessage message;
    message.mutable_cancel()->mutable_request()->set_high(7);
    message.mutable_cancel()->mutable_request()->set_low(id);
    stream_->Write(message);
  }

  bool WaitFor(const std::function<bool()>& condition_locked, absl::Duration timeout = absl::Seconds(20)) {
    MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(condition_locked, timeout);
  }
  bool WaitForEnd(uint64_t id, int choice = 0) {
    return WaitFor([&] { return streams_[{id, choice}].ends > 0 || refused_.count(id) > 0; });
  }
  Stream Get(uint64_t id, int choice = 0) {
    MutexLock lock(&mutex_);
    return streams_[{id, choice}];
  }
  std::map<uint64_t, internal::v1::Refused> refused() {
    MutexLock lock(&mutex_);
    return refused_;
  }
  internal::v1::Snapshot snapshot() {
    MutexLock lock(&mutex_);
    return snapshot_;
  }
  // The first pipeline that takes work; 0 on time-out.
  uint64_t WaitForPipeline() {
    uint64_t id = 0;
    WaitFor([&] {
      for (const auto& pipeline : snapshot_.pipelines()) {
        if (pipeline.ready()) id = pipeline.pipeline();
      }
      return id != 0;
    });
    return id;
  }
  // Pipelines that a snapshot showed as lost, but not so that their streams would leave.
  int half_lost() {
    MutexLock lock(&mutex_);
    return half_lost_;
  }
  size_t TokensOf(uint64_t id, int choice = 0) { return Get(id, choice).tokens.size(); }
  std::map<std::pair<uint64_t, int>, Stream>& streams_locked() { return streams_; }

 private:
  void Read() {
    internal::v1::CoordinatorMessage message;
    while (stream_->Read(&message)) {
      MutexLock lock(&mutex_);
      if (message.has_snapshot()) {
        snapshot_ = message.snapshot();
        for (const auto& pipeline : snapshot_.pipelines()) half_lost_ += !pipeline.ready() && !pipeline.epoch_closed();
      }
      if (message.has_refused()) refused_[message.refused().request().low()] = message.refused();
      for (const auto& choice : message.tokens().choices()) {
        Stream& stream = streams_[{choice.request().low(), choice.choice()}];
        if (choice.first_index() != static_cast<int>(stream.tokens.size())) ++stream.gaps;
        stream.tokens.insert(stream.tokens.end(), choice.tokens().begin(), choice.tokens().end());
        if (choice.finish() == ::pagoda::v1::FINISH_REASON_UNSPECIFIED) continue;
        stream.finish = choice.finish();
        stream.error = choice.error();
        ++stream.ends;
      }
    }
  }

  grpc::ClientContext context_;
  std::unique_ptr<internal::v1::Pipeline::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<internal::v1::RouterMessage, internal::v1::CoordinatorMessage>> stream_;
  std::thread reader_;
  Mutex mutex_;
  internal::v1::Snapshot snapshot_;
  std::map<uint64_t, internal::v1::Refused> refused_;
  int half_lost_ = 0;
  std::map<std::pair<uint64_t, int>, Stream> streams_;
};

}  // namespace pagoda::coordinator::testing
