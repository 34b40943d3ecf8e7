#include "router/upstream.h"

#include <grpcpp/grpcpp.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/mutex.h"
#include "pagoda/internal/v1/pipeline.grpc.pb.h"

namespace pagoda::router {
namespace {

namespace wire = pagoda::internal::v1;

constexpr size_t kMaxUnsentMessages = 65'536;
constexpr uint32_t kProtocol = 2;  // see coordinator/services/pipeline_service.cc

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

// The addresses of one host, IPv4 first and alone when there are any: a dual-stack coordinator is
// one coordinator.
std::vector<std::string> Resolve(const std::string& address) {
  const auto parsed = ParseHostPort(address);
  if (!parsed.ok()) return {};
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(parsed->host.c_str(), nullptr, &hints, &found) != 0) return {};
  std::set<std::string> four, six;
  for (addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    char host[NI_MAXHOST];
    if (getnameinfo(entry->ai_addr, entry->ai_addrlen, host, sizeof(host), nullptr, 0,
                    NI_NUMERICHOST) != 0)
      continue;
    (entry->ai_family == AF_INET ? four : six).insert(HostPort{host, parsed->port}.ToString());
  }
  freeaddrinfo(found);
  const std::set<std::string>& chosen = four.empty() ? six : four;
  return {chosen.begin(), chosen.end()};
}

}  // namespace

// One life of one stream. Deletes nothing itself: the state holds it until OnDone, and reads its
// last status there.
class AttachStream : public grpc::ClientBidiReactor<wire::RouterMessage, wire::CoordinatorMessage> {
 public:
  AttachStream(int link, std::string address, std::shared_ptr<grpc::Channel> channel,
               Upstream::Events* events, std::function<void(int, const std::string&)> ended)
      : link_(link),
        address_(std::move(address)),
        channel_(std::move(channel)),
        stub_(wire::Pipeline::NewStub(channel_)),
        events_(events),
        ended_(std::move(ended)) {}

  void Start(const std::string& router, const std::string& version, uint32_t protocol) {
    auto hello = std::make_unique<wire::RouterMessage>();
    hello->mutable_hello()->set_router(router);
    hello->mutable_hello()->set_protocol(protocol);
    hello->mutable_hello()->set_version(version);
    last_word_ns_ = NowNs();
    stub_->async()->Attach(&context_, this);
    AddHold();  // Send may start writes from outside of a reaction
    Send(std::move(hello));
    StartRead(&incoming_);
    StartCall();
  }

  bool Send(std::unique_ptr<wire::RouterMessage> message) {
    MutexLock lock(&mutex_);
    if (broken_ || unsent_.size() >= kMaxUnsentMessages) return false;
    unsent_.push_back(std::move(message));
    if (unsent_.size() == 1) StartWrite(unsent_.front().get());
    return true;
  }

  void Cancel() { context_.TryCancel(); }
  MonotonicNs last_word_ns() const { return last_word_ns_.load(std::memory_order_relaxed); }
  const std::string& address() const { return address_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  bool heard() const { return heard_.load(std::memory_order_relaxed); }

  void OnReadDone(bool ok) override {
    if (!ok) return Break();
    last_word_ns_.store(NowNs(), std::memory_order_relaxed);
    heard_.store(true, std::memory_order_relaxed);
    auto message = std::make_unique<wire::CoordinatorMessage>();
    message->Swap(&incoming_);
    events_->message(link_, std::move(message));
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Break();
    MutexLock lock(&mutex_);
    unsent_.pop_front();
    if (!broken_ && !unsent_.empty()) StartWrite(unsent_.front().get());
  }

  void OnDone(const grpc::Status& status) override {
    events_->lost(link_, address_, FromGrpc(status));
    const auto ended = std::move(ended_);
    ended(link_, status.error_message());  // may delete this
  }

 private:
  // What fails has ended: the call's own status follows. A cancel from here could hide what the coordinator said.
  void Break() {
    {
      MutexLock lock(&mutex_);
      if (broken_) return;
      broken_ = true;
    }
    RemoveHold();
  }

  const int link_;
  const std::string address_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<wire::Pipeline::Stub> stub_;
  Upstream::Events* const events_;
  std::function<void(int, const std::string&)> ended_;
  grpc::ClientContext context_;
  wire::CoordinatorMessage incoming_;
  std::atomic<MonotonicNs> last_word_ns_{0};
  std::atomic<bool> heard_{false};
  Mutex mutex_;
  std::deque<std::unique_ptr<wire::RouterMessage>> unsent_
      ABSL_GUARDED_BY(mutex_);  // the first is being written
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
};

// One GetTextBundle call; deletes itself.
class BundleFetch : public grpc::ClientReadReactor<wire::TextBundleChunk> {
 public:
  using Done = std::function<void(absl::StatusOr<Upstream::Bundle>)>;

  static void Start(std::shared_ptr<grpc::Channel> channel, const std::string& digest, Done done,
                    std::function<void()> ended) {
    auto* fetch = new BundleFetch(std::move(channel), std::move(done), std::move(ended));
    fetch->request_.set_model_digest(digest);
    fetch->context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    fetch->stub_->async()->GetTextBundle(&fetch->context_, &fetch->request_, fetch);
    fetch->StartRead(&fetch->chunk_);
    fetch->StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    size_ += chunk_.data().size();
    if (size_ > limits::kMaxModelHeaderBytes) {
      context_.TryCancel();
      return;
    }
    if (bundle_.empty() || bundle_.back().name != chunk_.name())
      bundle_.push_back({chunk_.name(), ""});
    bundle_.back().bytes += chunk_.data();
    StartRead(&chunk_);
  }

  void OnDone(const grpc::Status& status) override {
    if (status.ok()) {
      done_(std::move(bundle_));
    } else {
      done_(Annotate(FromGrpc(status), "fetching the text bundle"));
    }
    std::function<void()> ended = std::move(ended_);
    delete this;
    ended();
  }

 private:
  BundleFetch(std::shared_ptr<grpc::Channel> channel, Done done, std::function<void()> ended)
      : stub_(wire::Pipeline::NewStub(channel)), done_(std::move(done)), ended_(std::move(ended)) {}

  const std::unique_ptr<wire::Pipeline::Stub> stub_;
  const Done done_;
  std::function<void()> ended_;
  grpc::ClientContext context_;
  wire::TextBundleRequest request_;
  wire::TextBundleChunk chunk_;
  Upstream::Bundle bundle_;
  size_t size_ = 0;
};

struct Upstream::State : std::enable_shared_from_this<Upstream::State> {
  // An address that should have a stream.
  struct Target {
    int link = -1;  // its stream now, -1: none
    int failures = 0;
    std::string last_error;  // of the attempt before
    MonotonicNs retry_at_ns = 0;
    MonotonicNs wanted_until_ns = 0;  // addresses that resolve no more are dropped
  };

  State(Options o, Events e) : options(std::move(o)), events(std::move(e)) {}

  void Maintain();
  void ResolveAll(MonotonicNs now);
  void StartDue(MonotonicNs now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void OnEnded(int link, const std::string& why);
  void RetryLater(const AttachStream& stream, int link, const std::string& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  const Options options;
  Events events;
  Mutex mutex;
  std::map<std::string, Target> targets ABSL_GUARDED_BY(mutex);
  std::map<int, std::shared_ptr<AttachStream>> streams ABSL_GUARDED_BY(mutex);
  int next_link ABSL_GUARDED_BY(mutex) = 1;
  int fetches ABSL_GUARDED_BY(mutex) = 0;
  // Streams and channels to be destroyed. Never on gRPC's own threads: the last channel joins them.
  std::vector<std::shared_ptr<void>> retired ABSL_GUARDED_BY(mutex);
  bool closing ABSL_GUARDED_BY(mutex) = false;
  bool wake ABSL_GUARDED_BY(mutex) = false;
  std::thread maintainer;
};

void Upstream::State::ResolveAll(MonotonicNs now) {
  std::set<std::string> addresses;
  for (const std::string& coordinator : options.coordinators) {
    for (std::string& address : Resolve(coordinator)) addresses.insert(std::move(address));
  }
  MutexLock lock(&mutex);
  for (const std::string& address : addresses) {
    targets[address].wanted_until_ns = now + 10 * options.resolve_interval_ms * kNsPerMs;
  }
}

void Upstream::State::StartDue(MonotonicNs now) {
  for (auto place = targets.begin(); place != targets.end();) {
    auto& [address, target] = *place;
    if (target.link < 0 && target.wanted_until_ns < now) {
      place = targets.erase(place);
      continue;
    }
    if (target.link < 0 && target.retry_at_ns <= now) {
      grpc::ChannelArguments arguments;
      arguments.SetMaxReceiveMessageSize(static_cast<int>(limits::kMaxGrpcMessageBytes));
      arguments.SetMaxSendMessageSize(static_cast<int>(limits::kMaxGrpcMessageBytes));
      arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
      arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
      auto channel =
          security::ChannelTo(address, options.tls, {security::Role::kCoordinator}, arguments);
      target.link = next_link++;
      auto stream = std::make_shared<AttachStream>(
          target.link, address, std::move(channel), &events,
          [self = shared_from_this()](int ended, const std::string& why) {
            self->OnEnded(ended, why);
          });
      streams[target.link] = stream;
      stream->Start(options.router_name, options.version, std::min(kProtocol, options.announced_protocol));
    }
    ++place;
  }
}

void Upstream::State::OnEnded(int link, const std::string& why) {
  MutexLock lock(&mutex);
  const auto found = streams.find(link);
  PAGODA_CHECK(found != streams.end(), "a stream ends once");
  RetryLater(*found->second, link, why);
  retired.push_back(std::move(found->second));
  streams.erase(found);
  wake = true;
}

void Upstream::State::RetryLater(const AttachStream& stream, int link, const std::string& why) {
  const auto place = targets.find(stream.address());
  if (closing || place == targets.end() || place->second.link != link) return;
  Target& target = place->second;
  target.link = -1;
  target.failures = stream.heard() ? 1 : std::min(target.failures + 1, 16);
  const int64_t backoff =
      std::min(options.max_backoff_ms, options.min_backoff_ms << std::min(target.failures, 10));
  target.retry_at_ns = NowNs() + backoff * kNsPerMs;
  if (stream.heard() || target.failures == 1 || why != target.last_error) {
    LogWarning(stream.heard() ? "coordinator_lost" : "coordinator_unreachable",
               {{"address", stream.address()}, {"error", why}, {"retry_ms", backoff}});
  }
  target.last_error = why;
}

void Upstream::State::Maintain() {
  MonotonicNs resolve_at = 0;
  while (true) {
    const MonotonicNs now = NowNs();
    if (now >= resolve_at) {
      ResolveAll(now);
      resolve_at = now + options.resolve_interval_ms * kNsPerMs;
    }
    std::vector<std::shared_ptr<void>> gone;  // let go of after the lock
    MutexLock lock(&mutex);
    gone.swap(retired);
    if (closing) return;
    StartDue(now);
    for (auto& [link, stream] : streams) {
      if (now - stream->last_word_ns() > options.silence_timeout_ms * kNsPerMs) stream->Cancel();
    }
    MonotonicNs next =
        now + std::min(options.silence_timeout_ms, options.resolve_interval_ms) * kNsPerMs / 4;
    for (const auto& [address, target] : targets) {
      if (target.link < 0) next = std::min(next, target.retry_at_ns);
    }
    const auto changed = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex) { return closing || wake; };
    mutex.AwaitWithTimeout(changed,
                           absl::Nanoseconds(std::max<MonotonicNs>(next - now, kNsPerMs)));
    wake = false;
  }
}

Upstream::Upstream(Options options, Events events)
    : state_(std::make_shared<State>(std::move(options), std::move(events))) {
  state_->maintainer = std::thread([state = state_.get()] { state->Maintain(); });
}

Upstream::~Upstream() {
  {
    MutexLock lock(&state_->mutex);
    state_->closing = true;
    for (auto& [link, stream] : state_->streams) stream->Cancel();
  }
  state_->maintainer.join();
  std::vector<std::shared_ptr<void>> gone;
  MutexLock lock(&state_->mutex);
  const auto idle = [state = state_.get()]() ABSL_SHARED_LOCKS_REQUIRED(state->mutex) {
    return state->streams.empty() && state->fetches == 0;
  };
  state_->mutex.Await(idle);
  gone.swap(state_->retired);
}

void Upstream::AddAddress(const std::string& address) {
  MutexLock lock(&state_->mutex);
  state_->targets[address].wanted_until_ns =
      NowNs() + 60 * state_->options.resolve_interval_ms * kNsPerMs;
  state_->wake = true;
}

bool Upstream::Send(int link, std::unique_ptr<internal::v1::RouterMessage> message) {
  std::shared_ptr<AttachStream> stream;
  {
    MutexLock lock(&state_->mutex);
    const auto found = state_->streams.find(link);
    if (found == state_->streams.end()) return false;
    stream = found->second;
  }
  return stream->Send(std::move(message));
}

void Upstream::FetchTextBundle(int link, const std::string& digest,
                               std::function<void(absl::StatusOr<Bundle>)> done) {
  std::shared_ptr<grpc::Channel> channel;
  {
    MutexLock lock(&state_->mutex);
    const auto found = state_->streams.find(link);
    if (found != state_->streams.end() && !state_->closing) {
      channel = found->second->channel();
      ++state_->fetches;
    }
  }
  if (!channel) return done(absl::UnavailableError("the coordinator is not connected"));
  BundleFetch::Start(channel, digest, std::move(done), [state = state_, channel]() mutable {
    MutexLock lock(&state->mutex);
    state->retired.push_back(std::move(channel));
    --state->fetches;
  });
}

}  // namespace pagoda::router
