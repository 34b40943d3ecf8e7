// A scheduler with a toy pipeline behind it and a clock of its own: what is submitted, and what became of it.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>

#include "coordinator/scheduler.h"
#include "tests/coordinator/toy_requests.h"

namespace pagoda::coordinator::testing {

inline constexpr int64_t kMs = 1'000'000;

inline EpochSettings Settings(int max_sequences = 4) {
  EpochSettings settings;
  settings.epoch = Epoch(1);
  settings.blocks = 256;
  settings.block_tokens = 4;
  settings.max_model_len = 256;
  settings.vocabulary = kVocabulary;
  settings.max_sequences = max_sequences;
  settings.max_slots = 2 * max_sequences;
  settings.max_sample_rows = max_sequences;
  return settings;
}

// Of a tenant, {1, id} of router 1.
inline Request MakeRequest(uint64_t id, int max_tokens, const std::string& tenant = "", int prompt_length = 6) {
  Request request;
  request.id = {1, id};
  request.router = RouterId(1);
  request.attempt = 1;
  request.tenant = tenant;
  request.client_request_id = absl::StrCat("client-", id);
  for (int i = 0; i < prompt_length; ++i) {
    request.prompt.push_back(static_cast<TokenId>((id * 131 + static_cast<uint64_t>(i) * 7) % kVocabulary));
  }
  request.choices.resize(1);
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = id;
  return request;
}

// A pipeline whose step takes 10 ms, whatever is in it.
class Line {
 public:
  explicit Line(const EpochSettings& settings = Settings()) : settings_(settings) { Open(); }
  ~Line() { EXPECT_EQ(toy->errors(), ""); }

  void Open() {
    toy = std::make_unique<ToyPipeline>(settings_);
    scheduler.BeginEpoch(settings_);
  }
  void Die() {
    scheduler.EndEpoch(EpochEnd::kLost);
    Collect();
    Open();
  }
  void Submit(Request request) {
    scheduler.Submit(std::move(request), now);
    Collect();
  }
  void Dispatch() {
    while (std::optional<StepPlan> plan = scheduler.NextPlan(now)) {
      last_slots.clear();
      last_starts = plan->starts;
      for (const PlanRows& rows : plan->rows) last_slots.insert(rows.slot);
      toy->Execute(*plan);
    }
    Collect();
  }
  void Step() {
    Dispatch();
    now += 10 * kMs;
    scheduler.Tick(now);
    if (toy->has_result()) {
      EXPECT_TRUE(scheduler.OnResult(toy->TakeResult(), now).ok());
    }
    Collect();
  }
  void RunOut(int most = 10'000) {
    for (int i = 0; i < most && !scheduler.idle(); ++i) Step();
    EXPECT_TRUE(scheduler.idle());
    EXPECT_EQ(scheduler.leaked_blocks(), 0);
  }
  void Collect() {
    for (ChoiceOutput& output : scheduler.TakeOutputs()) {
      auto& list = tokens[output.request.low];
      list.insert(list.end(), output.tokens.begin(), output.tokens.end());
      if (output.finish == FinishReason::kNone) continue;
      ended.push_back(output.request.low);
      ended_ns[output.request.low] = now;
      if (output.finish == FinishReason::kError) errors[output.request.low] = output.error;
    }
    for (Refusal& refusal : scheduler.TakeRefusals()) refused[refusal.request.low] = refusal;
    for (const DeathNotice& notice : scheduler.TakeDeathNotices()) {
      deaths[notice.request.low] = {notice.deaths, notice.deaths_alone};
    }
  }

  Scheduler scheduler;
  std::unique_ptr<ToyPipeline> toy;
  int64_t now = 1000 * kMs;
  std::map<uint64_t, std::vector<TokenId>> tokens;
  std::vector<uint64_t> ended;
  std::map<uint64_t, int64_t> ended_ns;
  std::map<uint64_t, std::string> errors;
  std::map<uint64_t, Refusal> refused;
  std::map<uint64_t, std::pair<int, int>> deaths;
  std::set<SlotId> last_slots;
  std::vector<StartSlot> last_starts;

 private:
  const EpochSettings settings_;
};

}  // namespace pagoda::coordinator::testing
