// Random loads, cancels, stops, replays, lost epochs, priorities, budgets, stage counts and forks, by seed: whatever
// happens, every request ends exactly once with the tokens of an undisturbed run, and all blocks come home.
#include <gtest/gtest.h>

#include <random>

#include "tests/coordinator/toy_pipeline.h"

namespace pagoda::coordinator {
namespace {

using testing::ToyPipeline;
using testing::ToyToken;

struct Choice {
  std::vector<TokenId> expected;
  FinishReason expected_finish = FinishReason::kNone;
  std::vector<TokenId> got;
  FinishReason finish = FinishReason::kNone;
  int ends = 0;
  int stop_count = -1;
};

struct Client {
  Request request;
  std::vector<Choice> choices;
  bool cancelled = false;
  bool refused = false;
  bool forgotten = false;  // its router went
  std::vector<PositionLogprobs> prompt_logprobs;

  bool ended() const {
    if (refused || forgotten) return true;
    for (const Choice& choice : choices) {
      if (choice.finish == FinishReason::kNone) return false;
    }
    return true;
  }
};

class World {
 public:
  explicit World(uint64_t seed) : seed_(seed), random_(seed) {
    settings_ = RandomSettings();
    Open();
  }

  void RunAll() {
    const int requests = Between(3, 40);
    int submitted = 0;
    for (int turn = 0; turn < 200000; ++turn) {
      now_ns_ += Between(1, 1000);
      if (submitted < requests && Chance(25)) {
        Submit();
        ++submitted;
      }
      Disturb();
      scheduler_.Tick(now_ns_);
      Dispatch();
      Collect();
      if (toy_->has_result() && Chance(60)) Result();
      Collect();
      if (::testing::Test::HasFailure()) return;
      if (submitted == requests && AllEnded() && scheduler_.idle()) {
        Settle();
        return;
      }
    }
    ADD_FAILURE() << "seed " << seed_ << ": no end in sight; running " << scheduler_.stats().running << ", waiting "
                  << scheduler_.stats().waiting << ", in flight " << toy_->in_flight();
  }

  const SchedulerStats stats() const { return scheduler_.stats(); }

 private:
  int Between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool Chance(int percent) { return Between(1, 100) <= percent; }

  EpochSettings RandomSettings() {
    EpochSettings settings;
    settings.epoch = Epoch(++epoch_);
    settings.stages = Between(1, 4);
    settings.block_tokens = settings_.block_tokens > 0 && epoch_ > 1 ? settings_.block_tokens : Between(1, 6);
    settings.max_model_len = epoch_ > 1 ? settings_.max_model_len : Between(24, 60);
    const int least = static_cast<int>((settings.max_model_len + settings.block_tokens - 1) / settings.block_tokens);
    settings.blocks = least + Between(0, 3 * least);
    settings.vocabulary = 64;
    settings.max_step_rows = Between(1, 40);
    settings.max_sequences = Between(1, 12);
    settings.max_slots = 2 * settings.max_sequences + Between(0, 3);
    settings.max_sample_rows = Between(1, 12);
    settings.prefix_caching = epoch_ > 1 ? settings_.prefix_caching : Chance(75);
    settings.max_queued_requests = 1000;
    return settings;
  }

  void Open() {
    toy_ = std::make_unique<ToyPipeline>(settings_);
    scheduler_.BeginEpoch(settings_);
  }

  void Submit() {
    Client client;
    Request& request = client.request;
    request.id = {seed_, clients_.size() + 1};
    request.router = RouterId(static_cast<uint64_t>(Between(1, 2)));
    request.priority = Between(0, 2);
    const int length = Between(1, static_cast<int>(settings_.max_model_len) - 1);
    const int family = Between(0, 2);  // prompts of one family begin alike
    for (int i = 0; i < length; ++i) {
      const bool common = i < length * 2 / 3;
      request.prompt.push_back(common ? (family * 7 + i) % 64 : Between(0, 63));
    }
    request.choices.resize(static_cast<size_t>(Chance(70) ? 1 : Between(2, 5)));
    Sampling& sampling = request.sampling;
    sampling.seed = static_cast<uint64_t>(Between(0, 1000));
    sampling.max_tokens = Between(1, 30);
    sampling.min_tokens = Chance(20) ? Between(0, 5) : 0;
    if (Chance(60)) sampling.stop_token_ids = {Between(0, 3), Between(4, 7)};
    if (Chance(30)) sampling.logprobs = 1;
    const int guessing = Between(0, 9);  // half leave it to the scheduler
    sampling.speculative_tokens = guessing < 5 ? 0 : guessing < 7 ? -1 : Between(1, 6);
    if (Chance(20)) sampling.prompt_logprobs = 1;
    request.bypass_prefix_cache = Chance(10);
    if (Chance(20)) request.cache_salt = "other";
    for (size_t i = 0; i < request.choices.size(); ++i) client.choices.push_back(Expect(request, static_cast<int>(i)));
    scheduler_.Submit(request, now_ns_);
    clients_.push_back(std::move(client));
  }

  // The undisturbed run.
  Choice Expect(const Request& request, int index) {
    Choice choice;
    std::vector<TokenId> history = request.prompt;
    const Sampling& sampling = request.sampling;
    while (true) {
      const int output_index = static_cast<int>(choice.expected.size());
      const TokenId token = ToyToken(history, sampling.seed, index, output_index, 64, output_index < sampling.min_tokens);
      history.push_back(token);
      choice.expected.push_back(token);
      const auto& stops = sampling.stop_token_ids;
      const bool stop = std::find(stops.begin(), stops.end(), token) != stops.end();
      if (stop && output_index >= sampling.min_tokens) {
        choice.expected_finish = FinishReason::kStop;
        return choice;
      }
      if (output_index + 1 >= sampling.max_tokens || static_cast<int64_t>(history.size()) >= settings_.max_model_len) {
        choice.expected_finish = FinishReason::kLength;
        return choice;
      }
    }
  }

  void Disturb() {
    if (clients_.empty()) return;
    const auto any = [this]() -> Client& { return clients_[static_cast<size_t>(Between(0, static_cast<int>(clients_.size()) - 1))]; };
    const int dice = Between(0, 999);
    if (dice < 10) {
      Client& client = any();
      client.cancelled = true;
      scheduler_.Cancel(client.request.id);
    } else if (dice < 20) {
      Client& client = any();
      const int choice = Between(0, static_cast<int>(client.choices.size()) - 1);
      Choice& state = client.choices[static_cast<size_t>(choice)];
      if (state.finish != FinishReason::kNone || state.got.empty()) return;
      state.stop_count = Between(1, static_cast<int>(state.got.size()));
      scheduler_.StopChoice(client.request.id, choice, state.stop_count);
    } else if (dice < 26) {
      Replay(any());
    } else if (dice < 30) {
      scheduler_.EndEpoch();
      settings_ = RandomSettings();
      Open();
    } else if (dice < 31) {
      const RouterId router(static_cast<uint64_t>(Between(1, 2)));
      Collect();
      scheduler_.DropRouter(router);
      for (Client& client : clients_) {
        if (client.request.router == router && !client.ended()) client.forgotten = true;
      }
    }
  }

  // As a router does after a break: the same request, a later attempt, the tokens that it has.
  void Replay(Client& client) {
    Collect();
    if (client.ended() || client.cancelled) return;
    ++client.request.attempt;
    for (size_t i = 0; i < client.choices.size(); ++i) {
      if (client.choices[i].stop_count >= 0) return;
      client.request.choices[i].tokens = client.choices[i].got;
      client.request.choices[i].finished = client.choices[i].finish != FinishReason::kNone;
    }
    scheduler_.Submit(client.request, now_ns_);
  }

  void Dispatch() {
    for (int i = 0; i < 10; ++i) {
      const std::optional<StepPlan> plan = scheduler_.NextPlan(now_ns_);
      if (!plan.has_value()) return;
      toy_->Execute(*plan);
      ASSERT_EQ(toy_->errors(), "") << "seed " << seed_;
      if (Chance(30)) return;
    }
  }

  void Result() {
    const absl::Status status = scheduler_.OnResult(toy_->TakeResult(), now_ns_);
    ASSERT_TRUE(status.ok()) << "seed " << seed_ << ": " << status;
  }

  void Collect() {
    for (const Refusal& refusal : scheduler_.TakeRefusals()) {
      ADD_FAILURE() << "seed " << seed_ << ": refused: " << refusal.message;
    }
    for (const ChoiceOutput& output : scheduler_.TakeOutputs()) {
      Client& client = clients_.at(output.request.low - 1);
      if (output.attempt < client.request.attempt) continue;  // as a router does
      ASSERT_FALSE(client.forgotten);
      Choice& choice = client.choices.at(static_cast<size_t>(output.choice));
      ASSERT_EQ(choice.ends, 0) << "seed " << seed_ << ": something after the end";
      ASSERT_EQ(output.first_index, static_cast<int>(choice.got.size())) << "seed " << seed_;
      choice.got.insert(choice.got.end(), output.tokens.begin(), output.tokens.end());
      const bool wants = client.request.sampling.logprobs >= 0;
      ASSERT_EQ(output.logprobs.size(), wants ? output.tokens.size() : 0u);
      if (!output.prompt_logprobs.empty()) client.prompt_logprobs = output.prompt_logprobs;
      if (output.finish == FinishReason::kNone) continue;
      choice.finish = output.finish;
      ++choice.ends;
      ASSERT_NE(output.finish, FinishReason::kError) << "seed " << seed_ << ": " << output.error;
    }
  }

  bool AllEnded() const {
    return std::all_of(clients_.begin(), clients_.end(), [](const Client& client) { return client.ended(); });
  }

  void Settle() {
    const SchedulerStats stats = scheduler_.stats();
    EXPECT_EQ(stats.blocks_used, 0) << "seed " << seed_;
    EXPECT_EQ(scheduler_.leaked_blocks(), 0) << "seed " << seed_;
    for (const Client& client : clients_) {
      for (const Choice& choice : client.choices) Check(client, choice);
      const bool begun = !client.choices[0].got.empty();
      if (client.request.sampling.prompt_logprobs >= 0 && begun && client.request.attempt == 0) {
        ASSERT_EQ(client.prompt_logprobs.size(), client.request.prompt.size()) << "seed " << seed_;
        EXPECT_TRUE(client.prompt_logprobs[0].empty());
        for (size_t p = 1; p < client.prompt_logprobs.size(); ++p) {
          ASSERT_EQ(client.prompt_logprobs[p].size(), 1u) << "seed " << seed_ << " position " << p;
          EXPECT_EQ(client.prompt_logprobs[p][0].token, client.request.prompt[p]);
        }
      }
    }
  }

  void Check(const Client& client, const Choice& choice) {
    ASSERT_LE(choice.got.size(), choice.expected.size()) << "seed " << seed_;
    for (size_t i = 0; i < choice.got.size(); ++i) {
      ASSERT_EQ(choice.got[i], choice.expected[i]) << "seed " << seed_ << " request " << client.request.id.low << " token " << i;
    }
    if (client.forgotten) return;
    ASSERT_EQ(choice.ends, 1) << "seed " << seed_;
    if (client.cancelled && choice.finish == FinishReason::kCancelled) return;
    if (choice.stop_count >= 0) return;
    EXPECT_EQ(choice.got.size(), choice.expected.size()) << "seed " << seed_;
    EXPECT_EQ(choice.finish, choice.expected_finish) << "seed " << seed_;
  }

  const uint64_t seed_;
  std::mt19937_64 random_;
  uint64_t epoch_ = 0;
  EpochSettings settings_;
  int64_t now_ns_ = 1;
  Scheduler scheduler_;
  std::unique_ptr<ToyPipeline> toy_;
  std::vector<Client> clients_;
};

TEST(SchedulerProperty, EveryRequestEndsOnceWithItsTokens) {
  SchedulerStats sum;
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    World world(seed);
    world.RunAll();
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
    const SchedulerStats stats = world.stats();
    sum.preemptions += stats.preemptions;
    sum.prefix_hit_tokens += stats.prefix_hit_tokens;
    sum.surplus_rows += stats.surplus_rows;
    sum.forks += stats.forks;
    sum.steps += stats.steps;
    sum.drafts += stats.drafts;
    sum.draft_tokens += stats.draft_tokens;
    sum.accepted_draft_tokens += stats.accepted_draft_tokens;
  }
  // The seeds did meet what they are for.
  EXPECT_GT(sum.preemptions, 1000);
  EXPECT_GT(sum.prefix_hit_tokens, 10000);
  EXPECT_GT(sum.surplus_rows, 1000);
  EXPECT_GT(sum.forks, 1000);
  EXPECT_GT(sum.drafts, 3000);
  EXPECT_GT(sum.accepted_draft_tokens, 5000);
  EXPECT_GT(sum.draft_tokens, sum.accepted_draft_tokens + 2000);
}

}  // namespace
}  // namespace pagoda::coordinator
