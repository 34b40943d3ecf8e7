#include "coordinator/store/etcd_store.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/mutex.h"
#include "common/config.h"
#include "coordinator/store/encoding.h"
#include "etcd/etcd.pb.h"

namespace pagoda::coordinator {
namespace {

namespace pb = ::etcdserverpb;

constexpr absl::Duration kLookEvery = absl::Seconds(2);      // beside the watch
constexpr absl::Duration kRetryPause = absl::Milliseconds(200);  // when the watch cannot tell

// Of one width, so that etcd compares them as numbers.
std::string Number(uint64_t value) { return absl::StrFormat("%020d", value); }

std::string EncodeLeader(const Candidate& who) {
  return nlohmann::json{{"name", who.name}, {"address", who.address}}.dump();
}
Candidate DecodeLeader(const std::string& text) {
  const nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
  if (!value.is_object()) return {};
  return {.name = value.value("name", ""), .address = value.value("address", "")};
}

pb::RequestOp Put(const std::string& key, const std::string& value, int64_t lease = 0) {
  pb::RequestOp operation;
  operation.mutable_request_put()->set_key(key);
  operation.mutable_request_put()->set_value(value);
  operation.mutable_request_put()->set_lease(lease);
  return operation;
}
pb::RequestOp Delete(const std::string& key) {
  pb::RequestOp operation;
  operation.mutable_request_delete_range()->set_key(key);
  return operation;
}
pb::Compare MadeAt(const std::string& key, int64_t revision) {
  pb::Compare compare;
  compare.set_target(pb::Compare::CREATE);
  compare.set_key(key);
  compare.set_create_revision(revision);
  return compare;
}

class EtcdStore final : public Store {
 public:
  EtcdStore(EtcdOptions options, std::unique_ptr<EtcdClient> client)
      : client_(std::move(client)),
        prefix_(options.prefix),
        leader_key_(prefix_ + "leader"),
        terms_key_(prefix_ + "terms"),
        epoch_key_(prefix_ + "counters/epoch"),
        pipeline_key_(prefix_ + "counters/pipeline"),
        ttl_s_(std::max<int64_t>(1, absl::ToInt64Seconds(options.lease + absl::Milliseconds(999)))) {}

  absl::StatusOr<Leader> Campaign(const Candidate& candidate) override {
    MutexLock lock(&mutex_);
    pb::RangeRequest look;
    look.set_key(leader_key_);
    PAGODA_ASSIGN_OR_RETURN(const pb::RangeResponse seen, client_->Range(look));
    seen_revision_ = seen.header().revision();
    if (seen.kvs_size() > 0) {
      const Leader leader = See(seen.kvs(0));
      if (leader.self) PAGODA_RETURN_IF_ERROR(MakeCounters());  // its campaign was cut off after the first half
      return leader;
    }
    candidate_ = candidate;
    PAGODA_ASSIGN_OR_RETURN(lease_, client_->GrantLease(ttl_s_));
    PAGODA_ASSIGN_OR_RETURN(const pb::TxnResponse taken, client_->Txn(TakeRequest()));
    seen_revision_ = taken.header().revision();
    if (!taken.succeeded()) {
      (void)client_->RevokeLease(lease_);
      const pb::RangeResponse& other = taken.responses(0).response_range();
      if (other.kvs_size() == 0) return absl::UnavailableError("the leadership changes at this moment");
      return See(other.kvs(0));
    }
    term_ = taken.header().revision();
    PAGODA_RETURN_IF_ERROR(MakeCounters());
    return Leader{.who = candidate, .term = static_cast<uint64_t>(term_), .self = true};
  }

  absl::Status Renew() override {
    int64_t lease = 0;
    {
      MutexLock lock(&mutex_);
      if (term_ == 0) return NotLeader();
      lease = lease_;
    }
    const absl::Status kept = client_->KeepLease(lease);  // not under the lock: epochs need not wait for it
    MutexLock lock(&mutex_);
    if (kept.ok() && !retaking_) return kept;
    if (!kept.ok() && !absl::IsNotFound(kept)) return kept;
    const absl::Status retaken = Retake(kept.ok());
    if (absl::IsFailedPrecondition(retaken)) term_ = 0;
    return retaken;
  }

  absl::Status Resign() override {
    MutexLock lock(&mutex_);
    if (term_ == 0) return absl::OkStatus();
    term_ = 0;
    return client_->RevokeLease(lease_);
  }

  // Not by its key: whoever wrongly counts as gone must learn from its lease that it does not lead any more.
  bool CanDepose() const override { return true; }
  absl::Status Depose(const std::string& address) override {
    int64_t lease = 0;
    {
      MutexLock lock(&mutex_);
      if (term_ != 0 || seen_address_ != address) return absl::OkStatus();
      lease = seen_lease_;
    }
    const absl::Status revoked = client_->RevokeLease(lease);
    return absl::IsNotFound(revoked) ? absl::OkStatus() : revoked;
  }

  absl::Duration RenewEvery() const override { return absl::Seconds(ttl_s_) / 4; }
  absl::Duration LookEvery() const override { return kLookEvery; }

  void WaitForChange(absl::Duration timeout) override {
    int64_t revision = 0;
    bool leads = false;
    {
      MutexLock lock(&mutex_);
      revision = seen_revision_;
      leads = term_ != 0;
    }
    // A leader's own thread only has to keep time.
    if (leads || !client_->WaitForEvent(leader_key_, revision, timeout)) Sleep(leads ? timeout : std::min(timeout, kRetryPause));
  }
  void Cancel() override {
    client_->Cancel();
    MutexLock lock(&wait_mutex_);
    cancelled_ = true;
  }

  absl::StatusOr<StoredState> Load() override {
    pb::RangeRequest all;
    all.set_key(prefix_);
    all.set_range_end(prefix_.substr(0, prefix_.size() - 1) + static_cast<char>('/' + 1));
    PAGODA_ASSIGN_OR_RETURN(const pb::RangeResponse found, client_->Range(all));
    StoredState state;
    for (const pb::KeyValue& entry : found.kvs()) {
      const std::string key = entry.key().substr(prefix_.size());
      if (key.starts_with("deployments/")) {
        PAGODA_ASSIGN_OR_RETURN(state.deployments.emplace_back(), DecodeDeployment(entry.value()));
      } else if (key.starts_with("pipelines/")) {
        PAGODA_ASSIGN_OR_RETURN(state.pipelines.emplace_back(), DecodePipeline(entry.value()));
      } else if (key == "counters/epoch") {
        if (!absl::SimpleAtoi(entry.value(), &state.last_epoch)) return BadCounter(key, entry.value());
      } else if (key == "counters/pipeline") {
        if (!absl::SimpleAtoi(entry.value(), &state.last_pipeline)) return BadCounter(key, entry.value());
      }
    }
    MutexLock lock(&mutex_);
    last_pipeline_ = state.last_pipeline;
    return state;
  }

  absl::Status PutDeployment(const DeploymentSpec& spec) override {
    return Write({Put(DeploymentKey(spec.name), Encode(spec))});
  }
  absl::Status DeleteDeployment(const std::string& name) override { return Write({Delete(DeploymentKey(name))}); }
  absl::Status PutPipeline(const RestoredPipeline& pipeline) override {
    uint64_t last = 0;
    {
      MutexLock lock(&mutex_);
      last = last_pipeline_ = std::max(last_pipeline_, pipeline.id.value());
    }
    return Write({Put(PipelineKey(pipeline.id), Encode(pipeline)), Put(pipeline_key_, Number(last))});
  }
  absl::Status DeletePipeline(PipelineId pipeline) override { return Write({Delete(PipelineKey(pipeline))}); }

  absl::Status AdvanceEpoch(Epoch epoch) override {
    pb::Compare lower;
    lower.set_target(pb::Compare::VALUE);
    lower.set_result(pb::Compare::LESS);
    lower.set_key(epoch_key_);
    lower.set_value(Number(epoch.value()));
    return Write({Put(epoch_key_, Number(epoch.value()))}, &lower);
  }

 private:
  // The leader's key, and the key that tells by its revision whose leadership was the last.
  pb::TxnRequest TakeRequest() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    pb::TxnRequest take;
    *take.add_compare() = MadeAt(leader_key_, 0);
    *take.add_success() = Put(leader_key_, EncodeLeader(candidate_), lease_);
    *take.add_success() = Put(terms_key_, candidate_.name);
    take.add_failure()->mutable_request_range()->set_key(leader_key_);
    return take;
  }

  // The lease ran out while etcd could not be reached, or nearly so. When nobody else led since then it goes on, under a new
  // term: nothing was started meanwhile. `lease_lives`: it is a new lease, whose taking was not answered.
  absl::Status Retake(bool lease_lives) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!lease_lives) {
      PAGODA_ASSIGN_OR_RETURN(lease_, client_->GrantLease(ttl_s_));
      retaking_ = true;
    }
    pb::TxnRequest take = TakeRequest();
    pb::Compare& mine = *take.add_compare();
    mine.set_target(pb::Compare::MOD);
    mine.set_key(terms_key_);
    mine.set_mod_revision(term_);
    PAGODA_ASSIGN_OR_RETURN(const pb::TxnResponse taken, client_->Txn(take));
    retaking_ = false;
    if (taken.succeeded()) {
      term_ = taken.header().revision();
      return absl::OkStatus();
    }
    const pb::RangeResponse& now = taken.responses(0).response_range();
    if (now.kvs_size() == 0 || now.kvs(0).lease() != lease_) return NotLeader();
    term_ = now.kvs(0).create_revision();  // the unanswered taking had worked
    return absl::OkStatus();
  }

  static absl::Status NotLeader() {
    return absl::FailedPreconditionError("this coordinator does not lead any more: its lease in etcd has run out");
  }
  static absl::Status BadCounter(const std::string& key, const std::string& value) {
    return absl::DataLossError(absl::StrCat("etcd has '", value, "' for ", key, ", which is not a number"));
  }
  std::string DeploymentKey(const std::string& name) const { return absl::StrCat(prefix_, "deployments/", name); }
  std::string PipelineKey(PipelineId id) const { return absl::StrCat(prefix_, "pipelines/", Number(id.value())); }

  Leader LeaderOf(const pb::KeyValue& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return {.who = DecodeLeader(entry.value()),
            .term = static_cast<uint64_t>(entry.create_revision()),
            .self = term_ != 0 && entry.create_revision() == term_};
  }

  Leader See(const pb::KeyValue& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Leader leader = LeaderOf(entry);
    seen_address_ = leader.who.address;
    seen_lease_ = entry.lease();
    return leader;
  }

  // What is compared by value must be there.
  absl::Status MakeCounters() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const std::string& key : {epoch_key_, pipeline_key_}) {
      pb::TxnRequest make;
      *make.add_compare() = MadeAt(key, 0);
      *make.add_success() = Put(key, Number(0));
      PAGODA_RETURN_IF_ERROR(client_->Txn(make).status());
    }
    return absl::OkStatus();
  }

  // All or nothing, and only while the leadership is the one that this object took.
  absl::Status Write(std::vector<pb::RequestOp> operations, const pb::Compare* condition = nullptr) {
    int64_t term = 0;
    {
      MutexLock lock(&mutex_);
      term = term_;
    }
    if (term == 0) return NotLeader();
    pb::TxnRequest request;
    *request.add_compare() = MadeAt(leader_key_, term);
    if (condition != nullptr) *request.add_compare() = *condition;
    for (pb::RequestOp& operation : operations) *request.add_success() = std::move(operation);
    PAGODA_ASSIGN_OR_RETURN(const pb::TxnResponse response, client_->Txn(request));
    if (response.succeeded()) return absl::OkStatus();
    return absl::FailedPreconditionError(
        condition == nullptr ? "another coordinator leads by now"
                             : "another coordinator leads by now, or the epoch was used already");
  }

  void Sleep(absl::Duration duration) {
    MutexLock lock(&wait_mutex_);
    wait_mutex_.AwaitWithTimeout([this]() ABSL_SHARED_LOCKS_REQUIRED(wait_mutex_) { return cancelled_; }, duration);
  }

  const std::unique_ptr<EtcdClient> client_;
  const std::string prefix_;
  const std::string leader_key_;
  const std::string terms_key_;
  const std::string epoch_key_;
  const std::string pipeline_key_;
  const int64_t ttl_s_;
  Mutex mutex_;
  int64_t lease_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t term_ ABSL_GUARDED_BY(mutex_) = 0;  // revision at which our leader key was made; 0: we do not lead
  Candidate candidate_ ABSL_GUARDED_BY(mutex_);
  bool retaking_ ABSL_GUARDED_BY(mutex_) = false;  // a taking was sent and not answered
  int64_t seen_revision_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string seen_address_ ABSL_GUARDED_BY(mutex_);  // of whoever led when it was last looked, and its lease
  int64_t seen_lease_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t last_pipeline_ ABSL_GUARDED_BY(mutex_) = 0;
  Mutex wait_mutex_;
  bool cancelled_ ABSL_GUARDED_BY(wait_mutex_) = false;
};

}  // namespace

bool IsEtcdAddress(const std::string& text) { return text.starts_with("etcd://") || text.starts_with("etcds://"); }

absl::StatusOr<EtcdOptions> ParseEtcdAddress(const std::string& text) {
  if (!IsEtcdAddress(text)) return absl::InvalidArgumentError(absl::StrCat("'", text, "' does not begin with etcd:// or etcds://"));
  EtcdOptions options;
  options.tls = text.starts_with("etcds://");
  const std::string rest = text.substr(text.find("://") + 3);
  const size_t slash = rest.find('/');
  if (slash != std::string::npos && slash + 1 < rest.size()) {
    options.prefix = rest.substr(slash);
    if (!options.prefix.ends_with('/')) options.prefix += '/';
  }
  for (const absl::string_view part : absl::StrSplit(rest.substr(0, slash), ',')) {
    PAGODA_ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(std::string(part)));
    options.endpoints.push_back(address.ToString());
  }
  return options;
}

absl::StatusOr<std::unique_ptr<Store>> OpenEtcdStore(const EtcdOptions& options) {
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<EtcdClient> client, EtcdClient::Make(options));
  return std::make_unique<EtcdStore>(options, std::move(client));
}

}  // namespace pagoda::coordinator
