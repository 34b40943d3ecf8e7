#include "worker/control/worker_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include "common/metrics.h"
#include "common/mutex.h"

namespace pagoda::worker {
namespace {

double Seconds(int64_t ns) { return static_cast<double>(ns) / kNsPerSecond; }

}  // namespace

// The series of one assignment: looked up once, when its model, stage or rank changes.
struct WorkerMetrics::State {
  struct Series {
    std::string key;
    prometheus::Histogram* step = nullptr;
    prometheus::Histogram* compute = nullptr;
    prometheus::Histogram* wait_in = nullptr;
    prometheus::Histogram* group_wait = nullptr;
    prometheus::Histogram* send = nullptr;
    prometheus::Counter* rows = nullptr;
    prometheus::Counter* bytes_sent = nullptr;
    uint64_t bytes_seen = 0;
  };

  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  prometheus::Family<prometheus::Histogram>& step_family =
      prometheus::BuildHistogram().Name("pagoda_worker_step_seconds").Help("Wall time of one step on this rank.").Register(*registry);
  prometheus::Family<prometheus::Histogram>& phase_family =
      prometheus::BuildHistogram()
          .Name("pagoda_worker_step_phase_seconds")
          .Help("Time of one step by phase: wait_in (for hidden states or tokens), compute, group_wait (for ranks of the group), send.")
          .Register(*registry);
  prometheus::Family<prometheus::Counter>& rows_family =
      prometheus::BuildCounter().Name("pagoda_worker_rows_total").Help("Token rows run through this rank's layers.").Register(*registry);
  prometheus::Family<prometheus::Counter>& sent_family =
      prometheus::BuildCounter().Name("pagoda_worker_sent_bytes_total").Help("Bytes sent to other ranks.").Register(*registry);
  prometheus::Gauge& weights = prometheus::BuildGauge().Name("pagoda_worker_weights_bytes").Help("Bytes of loaded weights.").Register(*registry).Add({});
  prometheus::Gauge& kv = prometheus::BuildGauge().Name("pagoda_worker_kv_cache_bytes").Help("Bytes of the KV cache.").Register(*registry).Add({});
  prometheus::Gauge& connected = prometheus::BuildGauge().Name("pagoda_worker_connected").Help("1 while registered at a coordinator.").Register(*registry).Add({});
  prometheus::Gauge& loading = prometheus::BuildGauge().Name("pagoda_worker_loading").Help("1 from an assignment until its pipeline is linked: the stage is loaded, or waits for others.").Register(*registry).Add({});
  prometheus::Counter& faults = prometheus::BuildCounter().Name("pagoda_worker_faults_total").Help("Epochs that this worker saw fail.").Register(*registry).Add({});

  Mutex mutex;
  Series series ABSL_GUARDED_BY(mutex);

  void Select(const Assignment& assignment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::string key = absl::StrCat(assignment.deployment, "|", assignment.self.stage, "|", assignment.self.rank);
    if (series.key == key) return;
    const prometheus::Labels labels{{"model_name", assignment.deployment},
                                    {"stage", std::to_string(assignment.self.stage)},
                                    {"rank", std::to_string(assignment.self.rank)}};
    const auto phase = [&](const char* name) {
      prometheus::Labels with = labels;
      with["phase"] = name;
      return &phase_family.Add(with, kStepSecondsBuckets);
    };
    const uint64_t seen = series.bytes_seen;
    series = {.key = std::move(key),
              .step = &step_family.Add(labels, kStepSecondsBuckets),
              .compute = phase("compute"),
              .wait_in = phase("wait_in"),
              .group_wait = phase("group_wait"),
              .send = phase("send"),
              .rows = &rows_family.Add(labels),
              .bytes_sent = &sent_family.Add(labels),
              .bytes_seen = seen};
  }
};

WorkerMetrics::WorkerMetrics() : state_(std::make_unique<State>()) {}
WorkerMetrics::~WorkerMetrics() = default;
std::shared_ptr<prometheus::Registry> WorkerMetrics::registry() const { return state_->registry; }

void WorkerMetrics::OnStep(const Assignment& assignment, const StepTimes& times, const Transport::Counters& counters) {
  MutexLock lock(&state_->mutex);
  state_->Select(assignment);
  State::Series& series = state_->series;
  series.step->Observe(Seconds(times.compute_ns + times.wait_in_ns + times.group_wait_ns + times.send_ns));
  series.compute->Observe(Seconds(times.compute_ns));
  series.wait_in->Observe(Seconds(times.wait_in_ns));
  series.group_wait->Observe(Seconds(times.group_wait_ns));
  series.send->Observe(Seconds(times.send_ns));
  series.rows->Increment(times.rows);
  if (counters.bytes_sent > series.bytes_seen) {
    series.bytes_sent->Increment(static_cast<double>(counters.bytes_sent - series.bytes_seen));
  }
  series.bytes_seen = counters.bytes_sent;
}

void WorkerMetrics::OnLoad(const LoadReport& report) {
  state_->loading.Set(report.phase == LoadPhase::kLinked ? 0 : 1);
  if (report.phase == LoadPhase::kLoading) return;
  state_->weights.Set(static_cast<double>(report.weights_bytes));
  state_->kv.Set(static_cast<double>(report.kv_bytes));
}

void WorkerMetrics::OnFault() { state_->faults.Increment(); }
void WorkerMetrics::OnLeft() { state_->loading.Set(0); }
void WorkerMetrics::SetConnected(bool connected) {
  state_->loading.Set(0);  // what was under way ends with the attachment; an assignment sets it again
  state_->connected.Set(connected ? 1 : 0);
}
bool WorkerMetrics::Ready() const { return state_->connected.Value() > 0 && state_->loading.Value() == 0; }

}  // namespace pagoda::worker
