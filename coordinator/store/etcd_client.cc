#include "coordinator/store/etcd_client.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <fstream>
#include <sstream>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "absl/time/clock.h"
#include "etcd/etcd.grpc.pb.h"

namespace pagoda::coordinator {
namespace {

namespace pb = ::etcdserverpb;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read '", path, "', which is for TLS to etcd"));
  return text.str();
}

// Another member may be able to answer.
bool TryAnother(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE || status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED ||
         status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
}

}  // namespace

struct EtcdClient::State {
  struct Member {
    std::string address;
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<pb::KV::Stub> kv;
    std::unique_ptr<pb::Lease::Stub> lease;
    std::unique_ptr<pb::Watch::Stub> watch;
  };
  absl::Duration call_timeout;
  std::vector<Member> members;
  std::atomic<size_t> current{0};
  Mutex mutex;
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
  grpc::ClientContext* watching ABSL_GUARDED_BY(mutex) = nullptr;

  // For what keeps the lease: a member that falls silent must not cost it while others answer. Asking twice does no harm.
  absl::Duration KeepPatience() const { return members.size() > 1 ? call_timeout / 4 : call_timeout; }

  // gRPC moves a connection on only while some thread polls, and a call on a lost channel fails without polling: a process
  // with no server of its own would see its new connection at the library's 5-second ticks.
  static constexpr absl::Duration kReconnectPoll = absl::Milliseconds(100);

  // `call(member, context)` on the member that worked last, then on the others. With several, one that is not connected is passed
  // over at first, so that a silent one costs nobody the lease; `patience` is what each is given.
  absl::Status OnSomeMember(absl::Duration patience, const std::function<grpc::Status(Member&, grpc::ClientContext&)>& call) {
    const size_t first = current.load();
    grpc::Status last;
    std::string where;
    std::vector<size_t> order;
    std::vector<size_t> not_connected;
    for (size_t i = 0; i < members.size(); ++i) {
      const size_t index = (first + i) % members.size();
      grpc::Channel& channel = *members[index].channel;
      const bool ready = channel.GetState(/*try_to_connect=*/true) == GRPC_CHANNEL_READY ||
                         channel.WaitForConnected(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(kReconnectPoll));
      if (ready && order.empty()) {
        order.push_back(index);
        for (size_t j = i + 1; j < members.size(); ++j) order.push_back((first + j) % members.size());
        break;
      }
      not_connected.push_back(index);
    }
    order.insert(order.end(), not_connected.begin(), not_connected.end());
    for (const size_t index : order) {
      Member& member = members[index];
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(patience));
      last = call(member, context);
      where = member.address;
      if (last.ok()) {
        current.store(index);
        return absl::OkStatus();
      }
      if (!TryAnother(last)) return absl::Status(static_cast<absl::StatusCode>(last.error_code()),
                                                 absl::StrCat("etcd ", where, ": ", last.error_message()));
    }
    current.store((first + 1) % members.size());
    return absl::UnavailableError(absl::StrCat("none of ", members.size(), " etcd endpoints answers; ", where, ": ", last.error_message()));
  }
};

EtcdClient::EtcdClient(std::unique_ptr<State> state) : state_(std::move(state)) {}
EtcdClient::~EtcdClient() = default;

absl::StatusOr<std::unique_ptr<EtcdClient>> EtcdClient::Make(const EtcdOptions& options) {
  if (options.endpoints.empty()) return absl::InvalidArgumentError("no etcd endpoint is named");
  auto state = std::make_unique<State>();
  state->call_timeout = options.call_timeout;
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (options.tls || !options.ca_file.empty() || !options.certificate_file.empty()) {
    grpc::SslCredentialsOptions ssl;
    PAGODA_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadFile(options.ca_file));
    PAGODA_ASSIGN_OR_RETURN(ssl.pem_cert_chain, ReadFile(options.certificate_file));
    PAGODA_ASSIGN_OR_RETURN(ssl.pem_private_key, ReadFile(options.key_file));
    credentials = grpc::SslCredentials(ssl);
  }
  for (const std::string& address : options.endpoints) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 3'000);
    const auto channel = grpc::CreateCustomChannel(address, credentials, arguments);
    state->members.push_back({address, channel, pb::KV::NewStub(channel), pb::Lease::NewStub(channel), pb::Watch::NewStub(channel)});
  }
  return std::unique_ptr<EtcdClient>(new EtcdClient(std::move(state)));
}

absl::StatusOr<pb::RangeResponse> EtcdClient::Range(const pb::RangeRequest& request) {
  pb::RangeResponse response;
  PAGODA_RETURN_IF_ERROR(state_->OnSomeMember(state_->call_timeout, [&](State::Member& member, grpc::ClientContext& context) {
    return member.kv->Range(&context, request, &response);
  }));
  return response;
}

absl::StatusOr<pb::TxnResponse> EtcdClient::Txn(const pb::TxnRequest& request) {
  pb::TxnResponse response;
  PAGODA_RETURN_IF_ERROR(state_->OnSomeMember(state_->call_timeout, [&](State::Member& member, grpc::ClientContext& context) {
    return member.kv->Txn(&context, request, &response);
  }));
  return response;
}

absl::StatusOr<int64_t> EtcdClient::GrantLease(int64_t ttl_s) {
  pb::LeaseGrantRequest request;
  request.set_ttl(ttl_s);
  pb::LeaseGrantResponse response;
  PAGODA_RETURN_IF_ERROR(state_->OnSomeMember(state_->call_timeout, [&](State::Member& member, grpc::ClientContext& context) {
    return member.lease->LeaseGrant(&context, request, &response);
  }));
  if (!response.error().empty()) return absl::InternalError(absl::StrCat("etcd grants no lease: ", response.error()));
  return response.id();
}

absl::Status EtcdClient::KeepLease(int64_t lease) {
  int64_t ttl = 0;
  PAGODA_RETURN_IF_ERROR(state_->OnSomeMember(state_->KeepPatience(), [&](State::Member& member, grpc::ClientContext& context) {
    pb::LeaseKeepAliveRequest request;
    request.set_id(lease);
    pb::LeaseKeepAliveResponse response;
    const auto stream = member.lease->LeaseKeepAlive(&context);
    const bool answered = stream->Write(request) && stream->WritesDone() && stream->Read(&response);
    if (answered) {
      ttl = response.ttl();
      context.TryCancel();
      stream->Finish();
      return grpc::Status::OK;
    }
    const grpc::Status status = stream->Finish();
    return status.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream ended without an answer") : status;
  }));
  return ttl > 0 ? absl::OkStatus() : absl::NotFoundError("the lease has expired");
}

absl::Status EtcdClient::RevokeLease(int64_t lease) {
  pb::LeaseRevokeRequest request;
  request.set_id(lease);
  pb::LeaseRevokeResponse response;
  return state_->OnSomeMember(state_->call_timeout, [&](State::Member& member, grpc::ClientContext& context) {
    return member.lease->LeaseRevoke(&context, request, &response);
  });
}

bool EtcdClient::WaitForEvent(const std::string& key, int64_t revision, absl::Duration timeout) {
  State& state = *state_;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout));
  {
    MutexLock lock(&state.mutex);
    if (state.cancelled) return true;
    state.watching = &context;
  }
  pb::WatchRequest request;
  request.mutable_create_request()->set_key(key);
  request.mutable_create_request()->set_start_revision(revision + 1);
  const auto stream = state.members[state.current.load() % state.members.size()].watch->Watch(&context);
  bool seen = false;
  pb::WatchResponse response;
  if (stream->Write(request)) {
    while (!seen && stream->Read(&response)) seen = response.events_size() > 0 || response.canceled();
  }
  context.TryCancel();
  const grpc::Status status = stream->Finish();
  MutexLock lock(&state.mutex);
  state.watching = nullptr;
  return seen || state.cancelled || status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
}

void EtcdClient::Cancel() {
  MutexLock lock(&state_->mutex);
  state_->cancelled = true;
  if (state_->watching != nullptr) state_->watching->TryCancel();
}

}  // namespace pagoda::coordinator
