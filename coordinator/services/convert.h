// Between the wire's types and the plain values of the cores. What comes from outside is checked here for what the cores do
// not look at (numbers that are not finite, counts over a limit).
#pragma once

#include <span>

#include "common/status.h"
#include "coordinator/cluster_state.h"
#include "coordinator/links.h"
#include "coordinator/request.h"
#include "coordinator/resume_table.h"
#include "coordinator/step_plan.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "pagoda/internal/v1/worker.pb.h"
#include "pagoda/v1/admin.pb.h"

namespace pagoda::coordinator {

namespace wire = ::pagoda::internal::v1;

RequestId FromWire(const wire::RequestKey& key);
absl::StatusOr<Request> FromWire(wire::Submit& submit, RouterId router, int64_t now_ns);
void ToWire(const Sampling& sampling, wire::SettledSampling& out);
void ToWire(const StepTokens& head, std::span<ChoiceOutput* const> outputs, wire::StepTokens& out);
void ToWire(const Refusal& refusal, wire::Refused& out);
void ToWire(std::span<const DeathNotice> notices, wire::Deaths& out);
void ToWire(const std::vector<ResumeTable::Part>& parts, wire::ResumeAnswer& out);
void ToWire(const Snapshot& snapshot, wire::Snapshot& out);

WorkerInfo FromWire(const wire::Register& registration);
WorkerProgress FromWire(const wire::Heartbeat& heartbeat);
LoadDetails FromWire(const wire::LoadState& state);
StepResult FromWire(wire::StepResult& result);
void ToWire(const StepPlan& plan, wire::StepPlan& out);
void ToWire(const Assignment& assignment, wire::Assignment& out);
void ToWire(const SendLinkUp& link_up, wire::LinkUp& out);
void ToWire(const WorkerLink::KvFill& fill, const KvReservation& blocks, wire::FillKv& out);

absl::StatusOr<DeploymentSpec> FromWire(const ::pagoda::v1::DeploymentSpec& spec);
void ToWire(const DeploymentSpec& spec, ::pagoda::v1::DeploymentSpec& out);

}  // namespace pagoda::coordinator
