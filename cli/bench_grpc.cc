// The load over gRPC: pagoda.v1.Inference/Generate with token ids. One thread on one completion queue.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "cli/bench_load.h"
#include "pagoda/v1/inference.grpc.pb.h"
#include "security/cluster_tls.h"

namespace pagoda::cli {
namespace {

using Clock = std::chrono::system_clock;  // what gRPC's deadlines take

std::string GrpcAuthority(const BenchOptions& options) {
  if (!options.grpc_tls) return "";
  return options.authority.empty() ? "system" : options.authority;
}

grpc::ChannelArguments GrpcArguments(const BenchOptions& options) {
  grpc::ChannelArguments arguments;
  if (!options.server_name.empty()) arguments.SetSslTargetNameOverride(options.server_name);
  return arguments;
}

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

class GrpcLoad {
 public:
  GrpcLoad(const BenchOptions& options, const std::vector<PlannedRequest>& plan)
      : options_(options),
        plan_(plan),
        stub_(v1::Inference::NewStub(grpc::CreateCustomChannel(
            options.grpc, security::PublicChannelCredentials(GrpcAuthority(options)), GrpcArguments(options)))),
        records_(plan.size()) {}

  std::vector<RequestRecord> Run() {
    begin_ = Clock::now();
    while (next_ < plan_.size() || active_ > 0) {
      LaunchDue();
      void* tag = nullptr;
      bool ok = false;
      const auto event = queue_.AsyncNext(&tag, &ok, NextDeadline());
      if (event == grpc::CompletionQueue::GOT_EVENT) Advance(static_cast<Call*>(tag), ok);
    }
    queue_.Shutdown();
    return std::move(records_);
  }

 private:
  enum class Phase { kStarting, kReading, kFinishing };
  struct Call {
    size_t index = 0;
    Phase phase = Phase::kStarting;
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateResponse>> reader;
    v1::GenerateResponse response;
    grpc::Status status;
    double last_s = 0;
    int tokens = 0;
  };

  bool open_loop() const { return options_.request_rate > 0; }
  double NowSeconds() const { return Seconds(Clock::now() - begin_); }

  void LaunchDue() {
    while (next_ < plan_.size() && active_ < MostAtOnce(options_) &&
           (!open_loop() || plan_[next_].start_s <= NowSeconds())) {
      Launch(next_++);
    }
  }

  Clock::time_point NextDeadline() const {
    const bool waits_for_time = open_loop() && next_ < plan_.size() && active_ < MostAtOnce(options_);
    if (!waits_for_time) return Clock::now() + std::chrono::hours(24);
    return begin_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(plan_[next_].start_s));
  }

  void Launch(size_t index) {
    const PlannedRequest& planned = plan_[index];
    v1::GenerateRequest request;
    request.set_model(options_.model);
    request.mutable_tokens()->mutable_token_ids()->Add(planned.prompt.begin(), planned.prompt.end());
    request.mutable_sampling()->set_temperature(options_.temperature);
    request.mutable_sampling()->set_top_p(options_.top_p);
    request.mutable_sampling()->set_top_k(options_.top_k);
    if (options_.speculative_tokens >= 0) {
      request.mutable_sampling()->set_num_speculative_tokens(options_.speculative_tokens);
    }
    request.mutable_stopping()->set_max_tokens(planned.output_tokens);
    request.mutable_stopping()->set_ignore_eos(!options_.stop_at_eos);
    auto call = std::make_unique<Call>();
    call->index = index;
    const int limit_ms = options_.deadline_ms > 0 ? std::min(options_.deadline_ms, options_.timeout_ms) : options_.timeout_ms;
    call->context.set_deadline(Clock::now() + std::chrono::milliseconds(limit_ms));
    if (!options_.api_key.empty()) call->context.AddMetadata("authorization", "Bearer " + options_.api_key);
    call->reader = stub_->PrepareAsyncGenerate(&call->context, request, &queue_);
    call->reader->StartCall(call.get());
    records_[index].start_s = open_loop() ? planned.start_s : NowSeconds();
    records_[index].prompt_tokens = static_cast<int>(planned.prompt.size());
    ++active_;
    call.release();  // owned by the queue until its last event
  }

  void Advance(Call* call, bool ok) {
    switch (call->phase) {
      case Phase::kStarting:
      case Phase::kReading:
        if (ok && call->phase == Phase::kReading) OnResponse(*call);
        if (ok) {
          call->phase = Phase::kReading;
          call->response.Clear();
          call->reader->Read(&call->response, call);
        } else {
          call->phase = Phase::kFinishing;
          call->reader->Finish(&call->status, call);
        }
        return;
      case Phase::kFinishing:
        OnEnd(*call);
        delete call;
        --active_;
    }
  }

  void OnResponse(Call& call) {
    RequestRecord& record = records_[call.index];
    if (call.response.token_ids().empty()) return;
    const double now_s = NowSeconds();
    if (call.tokens == 0) {
      record.first_token_s = now_s;
    } else {
      record.gaps_s.push_back(static_cast<float>(now_s - call.last_s));
    }
    call.last_s = now_s;
    call.tokens += call.response.token_ids_size();
    const int cancel_after = plan_[call.index].cancel_after;
    if (cancel_after > 0 && call.tokens >= cancel_after && !record.cancelled) {
      record.cancelled = true;
      call.context.TryCancel();
    }
  }

  void OnEnd(Call& call) {
    RequestRecord& record = records_[call.index];
    record.end_s = NowSeconds();
    record.output_tokens = call.tokens;
    // The end may have been on its way when the cancel was sent.
    if (call.status.ok()) record.cancelled = false;
    if (!call.status.ok() && !record.cancelled) {
      record.error = absl::StrCat("gRPC ", call.status.error_code(), ": ", call.status.error_message());
    }
  }

  const BenchOptions& options_;
  const std::vector<PlannedRequest>& plan_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::vector<RequestRecord> records_;
  Clock::time_point begin_;
  size_t next_ = 0;
  int active_ = 0;
};

}  // namespace

absl::StatusOr<std::string> FirstModelOverGrpc(const BenchOptions& options) {
  const auto stub = v1::Inference::NewStub(grpc::CreateChannel(options.grpc, security::PublicChannelCredentials(GrpcAuthority(options))));
  grpc::ClientContext context;
  context.set_deadline(Clock::now() + std::chrono::seconds(10));
  v1::ListModelsResponse response;
  if (!options.api_key.empty()) context.AddMetadata("authorization", "Bearer " + options.api_key);
  const grpc::Status status = stub->ListModels(&context, {}, &response);
  if (!status.ok()) return absl::UnavailableError(absl::StrCat(options.grpc, ": ", status.error_message()));
  if (response.models().empty()) return absl::NotFoundError(options.grpc + " serves no model");
  return response.models(0).name();
}

absl::StatusOr<std::vector<RequestRecord>> LoadOverGrpc(const BenchOptions& options,
                                                        const std::vector<PlannedRequest>& plan) {
  return GrpcLoad(options, plan).Run();
}

}  // namespace pagoda::cli
