// Brings requests to pipelines and tokens back: owns the sessions in flight, the cluster view, the
// load counts. Every method is called on the event loop's thread (Upstream's events are posted to
// it). A request is accepted (Start returned OK) exactly once and then ends exactly once: OnDone,
// OnError, or Cancel. When a pipeline or a coordinator is lost the session is submitted again, with
// its tokens, until its deadline.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/limits.h"
#include "router/cluster_view.h"
#include "router/found_stream.h"
#include "router/metrics.h"
#include "router/model_registry.h"
#include "router/policy/breaker.h"
#include "router/policy/policy.h"
#include "router/session.h"

namespace pagoda::internal::v1 {
class ChoiceTokens;
class CoordinatorHello;
class CoordinatorMessage;
class Deaths;
class Refused;
class ResumeAnswer;
class RouterMessage;
class Snapshot;
class StepTokens;
}  // namespace pagoda::internal::v1

namespace pagoda::router {

// Who is told about a generation. Called on the event loop's thread; may call Cancel, not Start.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  virtual void OnDelta(const Session& session, ChoiceDelta delta) = 0;
  // After all news of one step: write now what was gathered.
  virtual void OnStepEnd() = 0;
  virtual void OnDone(const Session& session) = 0;
  virtual void OnError(const absl::Status& status) = 0;
  // This router goes: a client that can come back should do so, to another one.
  virtual void OnHandOver(const absl::Status& status) { OnError(status); }
};

class Dispatcher {
 public:
  struct Options {
    int max_requests_in_flight = 4096;
    size_t prefix_index_bytes = 64u << 20;
    PolicyOptions policy;
    int64_t hold_ms = limits::kHoldMs;  // new requests wait so long for a lost pipeline to come back
  };
  struct Edges {
    std::function<bool(int link, std::unique_ptr<internal::v1::RouterMessage>)> send;
    std::function<void(const std::string& address)> add_coordinator;
    std::function<MonotonicNs()> now;
  };
  Dispatcher(Options options, Edges edges, ModelRegistry* registry, Metrics* metrics);
  ~Dispatcher();

  // kUnavailable, kResourceExhausted: nothing was started and `sink` hears nothing.
  absl::Status Start(GenerationRequest request, std::shared_ptr<GenerationSink> sink);
  // No word about the request follows. Unknown ids are ignored.
  void Cancel(RequestId id);
  // Asks all coordinators what they know of a client's stream, and takes it from whoever generates for it (here or elsewhere).
  // `done` is called once, now or later.
  void FindStream(const std::string& tenant, const std::string& resume_id, std::function<void(FoundStream)> done);
  // Ends everything whose client can come back to another router.
  void HandOver(const absl::Status& status);

  void OnMessage(int link, const internal::v1::CoordinatorMessage& message);
  void OnLinkLost(int link);
  // Deadlines, sessions that wait for a pipeline. Call about every 100 ms.
  void Tick();
  // Ends everything in flight with an error (the grace of a shutdown is over).
  void FailAll(const absl::Status& status);

  int64_t in_flight() const { return static_cast<int64_t>(sessions_.size()); }
  const ClusterView& view() const { return view_; }
  int attached() const { return static_cast<int>(links_.size()); }

 private:
  static constexpr int64_t kRetryDelayMs = 50;  // after a refusal of an accepted request

  struct Running {
    std::unique_ptr<Session> session;
    std::shared_ptr<GenerationSink> sink;
    std::vector<BlockHash> chain;
    PipelineKey pipeline;            // link < 0: waits for one
    PipelineKey copy;                // where it was before, and its coordinator may still have it; link < 0: nowhere
    Epoch epoch;                     // of the pipeline when submitted
    std::vector<PipelineKey> avoid;  // of the current attempt
    int64_t counted_tokens = 0;      // in loads_
    bool accepted = false;  // it ran or waited somewhere: only its deadline ends it
    int losses = 0;         // given up by a coordinator that is alive
    int deaths = 0, deaths_alone = 0;  // as coordinators said
    MonotonicNs held_until_ns = 0;     // of one that was never accepted
    MonotonicNs retry_at_ns = 0;
    MonotonicNs last_news_ns = 0;
    MonotonicNs unplaced_ns = 0;       // since when it has waited for a pipeline that runs, or for its tokens; 0: it does not
    MonotonicNs cannot_go_on_ns = 0;   // since when its name means another model, or a shorter context
    bool touched = false;  // in this step
  };
  struct Link {
    std::string coordinator;
    std::vector<PipelineView> pipelines;
    uint32_t protocol = 1;
    std::string address;  // as its cluster's other coordinators know it
    bool leads = false;
    std::string follows;  // the last leader that it told of
  };
  // A pipeline of a coordinator that was lost; it keeps its model known for a while.
  struct Ghost {
    PipelineView pipeline;
    MonotonicNs until_ns = 0;
  };
  struct Query {
    std::set<int> links;  // that have not answered
    FoundStream found;
    std::function<void(FoundStream)> done;
    MonotonicNs until_ns = 0;
  };

  bool Place(Running& running);    // chooses and submits; false: no pipeline now
  void Unplace(Running& running);  // takes it out of the load counts
  void Replace(Running& running, const char* reason);
  bool MayComeBack(const GenerationRequest& request) const;  // a lost pipeline of its model
  void OpenResumed(RequestId id);
  void LetGo(RequestId id);  // of a stream that another router goes on with
  void OnResumeAnswer(int link, const internal::v1::ResumeAnswer& answer);
  void EndQueries(const std::function<bool(const Query&)>& which);
  void OnDeaths(const internal::v1::Deaths& deaths);
  void CloseStep(RequestId id);
  void PipelineFailed(PipelineKey key);
  void OnHello(int link, const internal::v1::CoordinatorHello& hello);
  void LeaveDeposed(const std::string& address);
  bool AnotherIsReady(const Running& running) const;
  RouteRequest RouteOf(const Running& running) const;
  absl::Status BindToItsNumerics(Session& session) const;
  absl::Status WhyItCannotGoOn(Running& running, MonotonicNs now) const;
  void OnSnapshot(int link, const internal::v1::Snapshot& snapshot);
  void OnStep(int link, const internal::v1::StepTokens& step);
  void OnChoice(int link, const internal::v1::ChoiceTokens& tokens,
                std::vector<RequestId>& touched);
  bool IsTakenOver(int link, const Running& running, const internal::v1::ChoiceTokens& tokens) const;
  void OnRefused(int link, const internal::v1::Refused& refused);
  void MergeView(bool whole);  // false: a coordinator's part was lost
  void End(RequestId id);
  void Fail(RequestId id, const absl::Status& status);
  void SendCancel(const Running& running);
  // Of those that `which` chooses, the oldest first.
  std::vector<RequestId> Oldest(const std::function<bool(const Running&)>& which) const;

  const Options options_;
  const Edges edges_;
  ModelRegistry* const registry_;
  Metrics* const metrics_;
  std::map<int, Link> links_;
  std::set<int> deposed_;  // streams of coordinators that led and lead no more, though they do not say so
  ClusterView view_;
  PipelineLoads loads_;
  PrefixIndex prefixes_;
  uint64_t choices_made_ = 0;
  CircuitBreakers breakers_;
  std::vector<Ghost> ghosts_;
  uint64_t next_query_ = 1;
  std::map<uint64_t, Query> queries_;
  absl::flat_hash_map<RequestId, Running> sessions_;
};

}  // namespace pagoda::router
