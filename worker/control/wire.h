// worker.proto's messages to and from the engine's plain values. What comes from the wire is checked here against the limits, and
// against the assignment by the engine.
#pragma once

#include "pagoda/internal/v1/worker.pb.h"
#include "worker/engine/engine.h"

namespace pagoda::worker {

namespace wire = pagoda::internal::v1;

absl::StatusOr<Assignment> FromWire(const wire::Assignment& message);
absl::StatusOr<LinkUp> FromWire(const wire::LinkUp& message);
StepPlan FromWire(const wire::StepPlan& message);
absl::StatusOr<KvFill> FromWire(const wire::FillKv& message);

wire::WorkerMessage ToWire(const LoadReport& report);
wire::WorkerMessage ToWire(const FaultReport& report);
wire::WorkerMessage ToWire(const StepResult& result);
wire::WorkerMessage ToWire(const StepMonitor::Snapshot& snapshot);
wire::WorkerMessage ToWire(const KvFilled& filled);
wire::WorkerMessage LeftMessage(Epoch epoch);

}  // namespace pagoda::worker
