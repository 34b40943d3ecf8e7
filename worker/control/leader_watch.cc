#include "worker/control/leader_watch.h"

#include <grpcpp/grpcpp.h>

#include "health/health.grpc.pb.h"

namespace pagoda::worker {
namespace {

namespace health = grpc::health::v1;

constexpr char kServedByLeaders[] = "pagoda.internal.v1.WorkerControl";
constexpr absl::Duration kRetryAfter = absl::Seconds(1);

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, const security::SharedTls& tls) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  return security::ChannelTo(address, tls, {security::Role::kCoordinator}, arguments);
}

}  // namespace

LeaderWatch::LeaderWatch(std::vector<std::string> addresses, security::SharedTls tls,
                         std::function<void(const std::string&)> took_over)
    : addresses_(std::move(addresses)), tls_(std::move(tls)), took_over_(std::move(took_over)), contexts_(addresses_.size()) {
  for (size_t i = 0; i < addresses_.size(); ++i) threads_.emplace_back([this, i] { Watch(i); });
}

LeaderWatch::~LeaderWatch() { Stop(); }

void LeaderWatch::Stop() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    for (grpc::ClientContext* context : contexts_) {
      if (context != nullptr) context->TryCancel();
    }
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void LeaderWatch::Watch(size_t index) {
  const std::string& address = addresses_[index];
  const auto stub = health::Health::NewStub(MakeChannel(address, tls_));
  health::HealthCheckRequest request;
  request.set_service(kServedByLeaders);
  // Over calls too: one that was cut off and comes back as the leader has taken over meanwhile.
  bool known_not_to_lead = false;
  while (true) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    {
      MutexLock lock(&mutex_);
      if (stop_) return;
      contexts_[index] = &context;
    }
    const auto reader = stub->Watch(&context, request);
    health::HealthCheckResponse response;
    while (reader->Read(&response)) {
      const bool leads = response.status() == health::HealthCheckResponse::SERVING;
      if (leads && known_not_to_lead) took_over_(address);
      known_not_to_lead = !leads;
    }
    (void)reader->Finish();  // whatever ended it, another try follows
    MutexLock lock(&mutex_);
    contexts_[index] = nullptr;
    const auto stopped = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stop_; };
    if (mutex_.AwaitWithTimeout(stopped, kRetryAfter)) return;
  }
}

}  // namespace pagoda::worker
