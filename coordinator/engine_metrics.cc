#include "coordinator/engine_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include <array>
#include <functional>

#include "common/metrics.h"
#include "coordinator/request_log.h"

namespace pagoda::coordinator {
namespace {

constexpr double kNsPerSecondDouble = 1e9;

}  // namespace

struct EngineMetrics::State {
  State(prometheus::Registry& into, prometheus::Labels with) : registry(into), labels(std::move(with)) {}
  prometheus::Registry& registry;
  prometheus::Labels labels;
  std::vector<std::function<void()>> removers;
  SchedulerStats last;

  prometheus::Gauge *running, *waiting, *blocks_used, *blocks_total, *blocks_cached, *kv_tokens, *leaked;
  prometheus::Counter *hit_tokens, *query_tokens, *preemptions, *prompt_tokens, *generation_tokens, *steps, *rows, *surplus,
      *drafts, *draft_tokens, *accepted, *epochs, *refused;
  prometheus::Counter *replayed, *refilled, *recomputed, *recomputed_tokens, *kept_tokens, *moved_blocks, *moved_bytes;
  std::array<prometheus::Counter*, std::size(kAllKvMoveEnds)> moves{};
  prometheus::Histogram *queue_time, *prefill_time, *decode_time, *step_time;
  std::array<prometheus::Counter*, 5> finished{};

  template <typename Family, typename... Args>
  auto* Keep(Family& family, const prometheus::Labels& with, Args&&... args) {
    auto& series = family.Add(with, std::forward<Args>(args)...);
    removers.push_back([&family, &series] { family.Remove(&series); });
    return &series;
  }
  prometheus::Gauge* Gauge(const char* name, const char* help) {
    return Keep(prometheus::BuildGauge().Name(name).Help(help).Register(registry), labels);
  }
  prometheus::Counter* Counter(const char* name, const char* help, const prometheus::Labels& more = {}) {
    prometheus::Labels with = labels;
    with.insert(more.begin(), more.end());
    return Keep(prometheus::BuildCounter().Name(name).Help(help).Register(registry), with);
  }
  prometheus::Histogram* Histogram(const char* name, const char* help, const std::vector<double>& buckets) {
    return Keep(prometheus::BuildHistogram().Name(name).Help(help).Register(registry), labels, buckets);
  }
};

EngineMetrics::EngineMetrics(prometheus::Registry& registry, const std::string& deployment, PipelineId pipeline)
    : state_(new State(registry, {{"model_name", deployment}, {"pipeline", std::to_string(pipeline.value())}})) {
  State& s = *state_;
  s.running = s.Gauge("pagoda_running_sequences", "Sequences that have a slot on the workers");
  s.waiting = s.Gauge("pagoda_waiting_sequences", "Sequences in the pipeline's queue");
  s.blocks_used = s.Gauge("pagoda_kv_blocks_used", "KV blocks that sequences hold");
  s.blocks_total = s.Gauge("pagoda_kv_blocks", "KV blocks of the pipeline's pool");
  s.blocks_cached = s.Gauge("pagoda_kv_blocks_cached", "KV blocks that only the prefix cache keeps");
  s.kv_tokens = s.Gauge("pagoda_kv_tokens", "Token positions of the sequences that hold KV blocks; shared blocks count for each");
  s.leaked = s.Gauge("pagoda_coordinator_leaked_blocks", "KV blocks in use although nothing runs: always 0");
  s.hit_tokens = s.Counter("pagoda_prefix_cache_hit_tokens_total", "Tokens found in the prefix cache");
  s.query_tokens = s.Counter("pagoda_prefix_cache_query_tokens_total", "Tokens looked up in the prefix cache");
  s.preemptions = s.Counter("pagoda_preemptions_total", "Sequences sent back to the queue for want of KV blocks");
  s.prompt_tokens = s.Counter("pagoda_prompt_tokens_total", "Tokens of admitted prompts");
  s.generation_tokens = s.Counter("pagoda_generation_tokens_total", "Tokens generated");
  s.steps = s.Counter("pagoda_steps_total", "Micro-batches dispatched");
  s.rows = s.Counter("pagoda_step_rows_total", "Token rows dispatched");
  s.surplus = s.Counter("pagoda_surplus_rows_total", "Token rows computed for sequences that had ended");
  s.drafts = s.Counter("pagoda_speculation_drafts_total", "Times that a sequence's next tokens were guessed");
  s.draft_tokens = s.Counter("pagoda_speculation_draft_tokens_total", "Tokens guessed");
  s.accepted = s.Counter("pagoda_speculation_accepted_tokens_total", "Guessed tokens that came true");
  s.epochs = s.Counter("pagoda_epochs_total", "Assemblies of the pipeline");
  s.refused = s.Counter("pagoda_refused_requests_total", "Requests that the pipeline refused");
  const auto again = [&](const char* way) {
    return s.Counter("pagoda_resumed_token_layers_total",
                     "Token-layers computed again for sequences that ran before: replay (by lost stages, from kept inputs), "
                     "refill (by the stages up to the lost ones), recompute (by all)",
                     {{"way", way}});
  };
  s.replayed = again("replay");
  s.refilled = again("refill");
  s.recomputed = again("recompute");
  s.recomputed_tokens = s.Counter("pagoda_resumed_tokens_recomputed_total",
                                  "Tokens that all stages computed again for sequences that ran before");
  s.kept_tokens = s.Counter("pagoda_resumed_tokens_kept_total", "Tokens of sequences that ran before whose KV was still there");
  s.moved_blocks = s.Counter("pagoda_moved_kv_blocks_total", "KV blocks taken over from pipelines that were left on purpose");
  s.moved_bytes = s.Counter("pagoda_moved_kv_bytes_total", "Bytes of them, over all ranks");
  for (const KvMoveEnd end : kAllKvMoveEnds) {
    s.moves[static_cast<size_t>(end)] =
        s.Counter("pagoda_kv_moves_total",
                  "Times that the pipeline was left on purpose, by what became of its KV: moved to another pipeline, or why it was "
                  "computed again there",
                  {{"result", std::string(NameOf(end))}});
  }
  s.queue_time = s.Histogram("pagoda_request_queue_seconds", "From arrival to the first scheduled row", kRequestSecondsBuckets);
  s.prefill_time =
      s.Histogram("pagoda_request_prefill_seconds", "From the first scheduled row to the first token", kTimeToFirstTokenBuckets);
  s.decode_time = s.Histogram("pagoda_request_decode_seconds", "From the first token to the last", kRequestSecondsBuckets);
  s.step_time = s.Histogram("pagoda_step_seconds", "From a micro-batch's dispatch to its result", kStepSecondsBuckets);
  for (size_t i = 0; i < s.finished.size(); ++i) {
    const FinishReason reason = static_cast<FinishReason>(i);
    if (reason == FinishReason::kNone) continue;
    s.finished[i] = s.Counter("pagoda_finished_choices_total", "Choices that ended, by reason", {{"reason", std::string(NameOf(reason))}});
  }
}

EngineMetrics::~EngineMetrics() {
  for (const auto& remove : state_->removers) remove();
}

void EngineMetrics::Observe(const ChoiceOutput& output) {
  if (output.first_index == 0 && !output.tokens.empty()) {
    state_->queue_time->Observe(static_cast<double>(output.queue_ns) / kNsPerSecondDouble);
    state_->prefill_time->Observe(static_cast<double>(output.prefill_ns) / kNsPerSecondDouble);
  }
  if (output.finish == FinishReason::kNone) return;
  state_->finished[static_cast<size_t>(output.finish)]->Increment();
  if (output.decode_ns > 0) state_->decode_time->Observe(static_cast<double>(output.decode_ns) / kNsPerSecondDouble);
}

void EngineMetrics::ObserveStep(double seconds) { state_->step_time->Observe(seconds); }
void EngineMetrics::CountEpoch() { state_->epochs->Increment(); }
void EngineMetrics::CountRefusal() { state_->refused->Increment(); }
void EngineMetrics::CountKvMove(KvMoveEnd end) { state_->moves[static_cast<size_t>(end)]->Increment(); }
void EngineMetrics::CountKvBytes(int64_t bytes) { state_->moved_bytes->Increment(static_cast<double>(bytes)); }

void EngineMetrics::Set(const SchedulerStats& stats, int leaked_blocks) {
  State& s = *state_;
  s.running->Set(stats.running);
  s.waiting->Set(stats.waiting);
  s.blocks_used->Set(stats.blocks_used);
  s.blocks_total->Set(stats.blocks_total);
  s.blocks_cached->Set(stats.blocks_cached);
  s.kv_tokens->Set(static_cast<double>(stats.kv_tokens));
  s.leaked->Set(leaked_blocks);
  const auto add = [](prometheus::Counter* counter, int64_t now, int64_t before) {
    if (now > before) counter->Increment(static_cast<double>(now - before));
  };
  add(s.hit_tokens, stats.prefix_hit_tokens, s.last.prefix_hit_tokens);
  add(s.query_tokens, stats.prefix_query_tokens, s.last.prefix_query_tokens);
  add(s.preemptions, stats.preemptions, s.last.preemptions);
  add(s.prompt_tokens, stats.prompt_tokens, s.last.prompt_tokens);
  add(s.generation_tokens, stats.generated_tokens, s.last.generated_tokens);
  add(s.steps, stats.steps, s.last.steps);
  add(s.rows, stats.rows, s.last.rows);
  add(s.surplus, stats.surplus_rows, s.last.surplus_rows);
  add(s.drafts, stats.drafts, s.last.drafts);
  add(s.draft_tokens, stats.draft_tokens, s.last.draft_tokens);
  add(s.accepted, stats.accepted_draft_tokens, s.last.accepted_draft_tokens);
  add(s.replayed, stats.replayed_token_layers, s.last.replayed_token_layers);
  add(s.refilled, stats.refilled_token_layers, s.last.refilled_token_layers);
  add(s.recomputed, stats.recomputed_token_layers, s.last.recomputed_token_layers);
  add(s.recomputed_tokens, stats.recomputed_tokens, s.last.recomputed_tokens);
  add(s.moved_blocks, stats.moved_blocks, s.last.moved_blocks);
  add(s.kept_tokens, stats.kept_tokens, s.last.kept_tokens);
  s.last = stats;
}

}  // namespace pagoda::coordinator
