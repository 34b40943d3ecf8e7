// The end of a simulated coordinator that routers talk to: snapshots, submissions, refusals, streams that are asked for.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/stream_errors.h"
#include "coordinator/pipeline_facts.h"
#include "coordinator/services/convert.h"
#include "tests/sim/cluster.h"

namespace pagoda::sim {

namespace wire = internal::v1;
using namespace coordinator;  // NOLINT: the sim's coordinator is made of them

SimCoordinator::RouterEnd* SimCoordinator::FindRouter(RouterId id) {
  const auto found = std::ranges::find_if(routers_, [&](const RouterEnd& r) { return r.id == id; });
  return found == routers_.end() ? nullptr : &*found;
}

void SimCoordinator::ToRouter(const RouterEnd& router, std::shared_ptr<wire::CoordinatorMessage> message) {
  if (message->has_tokens() && world_.TakeSpoil("lost")) return;
  cluster_.ToRouterProcess(router.stream, life_.process, router.life, std::move(message));
}

void SimCoordinator::Refuse(RouterId id, const Refusal& refusal) {
  const RouterEnd* router = FindRouter(id);
  if (router == nullptr) return;
  auto message = std::make_shared<wire::CoordinatorMessage>();
  ToWire(refusal, *message->mutable_refused());
  ToRouter(*router, message);
}

void SimCoordinator::PublishSnapshot() {
  snapshot_due_ = false;
  snapshot_at_ns_ = Now();
  Snapshot snapshot;
  snapshot.version = ++snapshot_version_;
  for (const auto& [id, pipeline] : state_.pipelines()) {
    const auto engine = engines_.find(id);
    if (engine == engines_.end()) continue;
    const Scheduler& scheduler = *engine->second.scheduler;
    snapshot.pipelines.push_back(SnapshotOf(pipeline, state_.DeploymentOf(pipeline),
                                            {.stats = scheduler.stats(),
                                             .leaving = refusing_,
                                             .created_unix_s = 0}));
  }
  for (const RouterEnd& router : routers_) {
    auto message = std::make_shared<wire::CoordinatorMessage>();
    ToWire(snapshot, *message->mutable_snapshot());
    ToRouter(router, message);
  }
}

void SimCoordinator::SendHello(const RouterEnd& router) {
  auto hello = std::make_shared<wire::CoordinatorMessage>();
  hello->mutable_hello()->set_coordinator(name_);
  hello->mutable_hello()->set_protocol(2);
  hello->mutable_hello()->set_address(name_);
  hello->mutable_hello()->set_leader(leads());
  if (!leads()) hello->mutable_hello()->set_leader_address(leader_);
  ToRouter(router, hello);
}

void SimCoordinator::OnRouterAttached(std::shared_ptr<Stream> stream, Life router) {
  routers_.push_back({std::move(stream), router, RouterId(next_router_++)});
  SendHello(routers_.back());
  if (leads()) PublishSnapshot();
}

void SimCoordinator::OnRouterLost(const std::shared_ptr<Stream>& stream) {
  const auto found = std::ranges::find_if(routers_, [&](const RouterEnd& r) { return r.stream == stream; });
  if (found == routers_.end()) return;
  const RouterId id = found->id;
  routers_.erase(found);
  resumable_.DetachRouter(id, Now());
  state_.StreamsMayReturn(Now());
  for (auto& [pipeline, engine] : engines_) {
    engine.scheduler->DropRouter(id);
    Pump(engine);
  }
}

void SimCoordinator::OnRouterMessage(const Stream* stream, const wire::RouterMessage& message) {
  const auto found = std::ranges::find_if(routers_, [&](const RouterEnd& r) { return r.stream.get() == stream; });
  if (found == routers_.end()) return;
  const RouterId router = found->id;
  if (message.has_submit()) return Submit(router, message.submit());
  if (message.has_resume_query()) return Answer(*found, message.resume_query());
  if (message.has_cancel()) resumable_.Detach(FromWire(message.cancel().request()), message.cancel().attempt(), Now());
  for (auto& [id, engine] : engines_) {
    if (message.has_cancel()) engine.scheduler->Cancel(FromWire(message.cancel().request()), message.cancel().attempt());
    if (message.has_stop()) engine.scheduler->StopChoice(FromWire(message.stop().request()), message.stop().choice(), message.stop().count());
    Pump(engine);
  }
}

void SimCoordinator::Submit(RouterId router, wire::Submit submit) {
  const PipelineId pipeline(submit.pipeline());
  ResumeTable::Label label{
      .tenant = submit.tenant(), .resume_id = submit.resume_id(), .part = submit.resume_part(), .router_state = submit.router_state()};
  absl::StatusOr<Request> request = FromWire(submit, router, Now());
  if (!request.ok()) return world_.Violate(absl::StrCat("a submission is refused as broken: ", request.status().message()));
  const auto engine = engines_.find(pipeline);
  if (!leads() || refusing_ || engine == engines_.end() || (engine->second.draining && !request->WasAccepted())) {
    const bool up = leads() && !refusing_;
    return Refuse(router, {.router = router,
                           .request = request->id,
                           .attempt = request->attempt,
                           .code = up ? RefusalCode::kNotFound : RefusalCode::kUnavailable,
                           .message = up ? "there is no such pipeline here" : "this coordinator does not lead, or is shutting down",
                           .retry_after_ms = 0});
  }
  for (auto& [id, other] : engines_) {
    if (id == pipeline || request->attempt == 1) continue;
    other.scheduler->Cancel(request->id, request->attempt);
    Pump(other);
  }
  if (const auto record = state_.pipelines().find(pipeline); record != state_.pipelines().end()) {
    const DeploymentRecord& made_by = state_.DeploymentOf(record->second);
    label.model_digest = made_by.model.digest;
    label.numerics = NumericsOf(record->second, made_by);
  }
  if (!label.resume_id.empty()) request->resumable = resumable_.Begin(std::move(label), *request, pipeline, Now());
  engine->second.scheduler->Submit(*std::move(request), Now());
  Pump(engine->second);
}

// As Coordinator::TakeOver: whoever generates for that client elsewhere is stopped.
void SimCoordinator::Answer(const RouterEnd& router, const wire::ResumeQuery& query) {
  const std::vector<ResumeTable::Part> parts = resumable_.Find(query.tenant(), query.resume_id(), Now());
  auto answer = std::make_shared<wire::CoordinatorMessage>();
  ToWire(parts, *answer->mutable_resume_answer());
  answer->mutable_resume_answer()->set_query(query.query());
  ToRouter(router, answer);
  for (const ResumeTable::Part& part : parts) {
    const auto engine = part.attached ? engines_.find(part.pipeline) : engines_.end();
    if (engine == engines_.end()) continue;
    engine->second.scheduler->Abort(part.request, std::string(kTakenOverError));
    Pump(engine->second);
  }
}

}  // namespace pagoda::sim
