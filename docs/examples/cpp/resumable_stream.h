// A generation over gRPC that outlives its router: when the call breaks, it is made again by itself at the next of the
// addresses, with the request's id and the id of the last message that came, and goes on from there; no token is lost or
// doubled. It gives up when nothing came for 120 s. One thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pagoda/v1/inference.grpc.pb.h"

class ResumableStream {
 public:
  ResumableStream(std::vector<std::string> addresses, pagoda::v1::GenerateRequest request)
      : addresses_(std::move(addresses)), request_(std::move(request)) {
    request_.set_resumable(true);
    // Nobody guesses it: whoever knows it can read the stream.
    if (request_.request_id().empty()) request_.set_request_id(RandomId());
  }

  // Calls `on_message` for each message, in order and once; returns how the generation ended.
  grpc::Status Run(const std::function<void(const pagoda::v1::GenerateResponse&)>& on_message) {
    using Clock = std::chrono::steady_clock;
    Clock::time_point deadline = Clock::now() + kGiveUp;
    auto pause = kFirstPause;
    for (size_t at = 0;; at = (at + 1) % addresses_.size(), ++reconnects_) {
      grpc::Status status = OneCall(addresses_[at], [&](const pagoda::v1::GenerateResponse& message) {
        request_.set_last_event_id(message.event_id());
        deadline = Clock::now() + kGiveUp;
        pause = kFirstPause;
        on_message(message);
      });
      if (!MayPass(status) || Clock::now() + pause > deadline) return status;
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 2, kMostPause);
    }
  }
  int reconnects() const { return reconnects_; }

 private:
  static constexpr std::chrono::milliseconds kGiveUp{120'000};
  static constexpr std::chrono::milliseconds kFirstPause{20};
  static constexpr std::chrono::milliseconds kMostPause{2000};

  static std::string RandomId() {
    std::random_device device;
    std::string id;
    for (int i = 0; i < 32; ++i) id += "0123456789abcdef"[device() % 16];
    return id;
  }
  static bool MayPass(const grpc::Status& status) {
    return status.error_code() == grpc::StatusCode::UNAVAILABLE ||
           status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED ||
           status.error_code() == grpc::StatusCode::UNKNOWN || status.error_code() == grpc::StatusCode::CANCELLED;
  }
  grpc::Status OneCall(const std::string& address,
                       const std::function<void(const pagoda::v1::GenerateResponse&)>& on_message) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxSendMessageSize(64 << 20);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);  // a router whose host is gone is noticed
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto stub = pagoda::v1::Inference::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    // Declared in this order: a call's context and queue outlive its reader.
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    grpc::Status status;
    pagoda::v1::GenerateResponse message;
    bool silent = false;
    // Whether the step that was asked for last is done and was possible. What takes longer than kGiveUp is cancelled.
    const auto done = [&] {
      void* tag = nullptr;
      bool ok = false;
      while (queue.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + kGiveUp) == grpc::CompletionQueue::TIMEOUT) {
        silent = true;
        context.TryCancel();
      }
      return ok;
    };
    const auto stream = stub->AsyncGenerate(&context, request_, &queue, nullptr);
    for (bool more = done(); more;) {
      stream->Read(&message, nullptr);
      more = done();
      if (more) on_message(message);
    }
    stream->Finish(&status, nullptr);
    done();
    queue.Shutdown();
    return silent ? grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "nothing came for 120 s") : status;
  }

  const std::vector<std::string> addresses_;
  pagoda::v1::GenerateRequest request_;
  int reconnects_ = 0;
};
