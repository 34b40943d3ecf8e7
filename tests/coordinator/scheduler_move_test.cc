// KV that moves from one pipeline to another. In the toy pipeline a token follows from the KV that its row sees, so a block that
// is used before its bytes came, or given out while they come, gives a wrong token.
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>

#include "tests/coordinator/toy_requests.h"

namespace pagoda::coordinator {
namespace {

using testing::kVocabulary;
using testing::MakeRequest;
using testing::Prompt;
using testing::ToyPipeline;
using testing::ToyToken;
using testing::Undisturbed;

constexpr int kBlockTokens = 4;
constexpr KvMoveCost kFree{.block_ns = 0, .fixed_ns = 0};

EpochSettings Settings(int blocks = 256) {
  EpochSettings settings;
  settings.epoch = Epoch(1);
  settings.stages = 2;
  settings.blocks = blocks;
  settings.block_tokens = kBlockTokens;
  settings.max_model_len = 128;
  settings.vocabulary = kVocabulary;
  settings.max_step_rows = 32;
  settings.max_sequences = 16;
  settings.max_slots = 32;
  settings.max_sample_rows = 16;
  settings.stage_layers = {2, 2};
  return settings;
}

// One pipeline with its workers.
struct Side {
  explicit Side(int blocks = 256) : toy(Settings(blocks)) { scheduler.BeginEpoch(Settings(blocks)); }
  ~Side() { EXPECT_EQ(toy.errors(), ""); }
  void Turn() {
    while (std::optional<StepPlan> plan = scheduler.NextPlan(1)) toy.Execute(*plan);
    if (toy.has_result()) {
      ASSERT_TRUE(scheduler.OnResult(toy.TakeResult(), 1).ok());
    }
    for (const ChoiceOutput& output : scheduler.TakeOutputs()) {
      auto& to = tokens[output.request.low];
      to.insert(to.end(), output.tokens.begin(), output.tokens.end());
    }
  }
  void Turn(int times) {
    for (int i = 0; i < times; ++i) Turn();
  }
  void Finish() {
    for (int i = 0; i < 20000 && !scheduler.idle(); ++i) Turn();
    ASSERT_TRUE(scheduler.idle());
    EXPECT_EQ(scheduler.stats().blocks_used, 0);
    EXPECT_EQ(scheduler.leaked_blocks(), 0);
  }
  Scheduler scheduler;
  ToyPipeline toy;
  std::map<uint64_t, std::vector<TokenId>> tokens;
};

// What the ranks do.
void Copy(Side& from, Side& to, const KvReservation& reservation) {
  ASSERT_EQ(reservation.from.size(), reservation.to.size());
  for (size_t i = 0; i < reservation.to.size(); ++i) to.toy.Keep(reservation.to[i], from.toy.Content(reservation.from[i]));
}

class SchedulerMove : public ::testing::Test {
 protected:
  void Run(int requests, int prompt, int outputs, int turns) {
    for (int i = 0; i < requests; ++i) {
      all.push_back(MakeRequest(static_cast<uint64_t>(i), Prompt(static_cast<uint64_t>(i), prompt), outputs));
      a->scheduler.Submit(all.back(), 1);
    }
    a->Turn(turns);
  }
  // The pipeline is left, and the router submits what ran there to the other one.
  void LeaveA() {
    a->scheduler.EndEpoch();
    for (Request request : all) {
      if (cancelled.contains(request.id.low)) continue;
      request.attempt = 2;
      request.accepted = true;
      request.choices[0].tokens = a->tokens[request.id.low];
      b->tokens[request.id.low] = a->tokens[request.id.low];
      b->scheduler.Submit(request, 1);
    }
  }
  void FinishAll() {
    b->Finish();
    for (const Request& request : all) {
      if (cancelled.contains(request.id.low)) continue;
      EXPECT_EQ(b->tokens[request.id.low], Undisturbed(request)) << request.id.low;
    }
  }
  int tokens_so_far() const {
    int sum = 0;
    for (const Request& request : all) {
      const auto found = a->tokens.find(request.id.low);
      sum += static_cast<int>(request.prompt.size() + (found == a->tokens.end() ? 0 : found->second.size()));
    }
    return sum;
  }

  std::unique_ptr<Side> a = std::make_unique<Side>();
  std::unique_ptr<Side> b = std::make_unique<Side>();
  std::vector<Request> all;
  std::set<uint64_t> cancelled;
};

TEST_F(SchedulerMove, OnlyTailsAreComputedAgain) {
  Run(6, 40, 60, 40);
  const KvOffer offer = a->scheduler.OfferKv(1);
  EXPECT_EQ(offer.chains.size(), 6u);
  EXPECT_EQ(offer.sequences, 6);
  const KvReservation reservation = b->scheduler.ReserveKv(1, offer, kFree);
  ASSERT_GE(reservation.to.size(), 6u * 10);
  EXPECT_TRUE(reservation.takes_all);
  a->Turn(5);  // it runs on meanwhile
  Copy(*a, *b, reservation);
  b->scheduler.FinishKv(1, true);
  a->scheduler.FinishKv(1, true);
  EXPECT_EQ(b->scheduler.stats().moved_blocks, static_cast<int64_t>(reservation.to.size()));
  const int64_t before = tokens_so_far();
  LeaveA();
  FinishAll();
  const SchedulerStats stats = b->scheduler.stats();
  EXPECT_EQ(stats.kept_tokens + stats.recomputed_tokens, before);
  EXPECT_LT(stats.recomputed_tokens, 6 * 4 * kBlockTokens) << "the last block, and what came while the others moved";
}

TEST_F(SchedulerMove, WhatDidNotArriveIsFreeAgainAndNotInTheCache) {
  Run(4, 40, 40, 30);
  const KvReservation reservation = b->scheduler.ReserveKv(1, a->scheduler.OfferKv(1), kFree);
  ASSERT_FALSE(reservation.to.empty());
  EXPECT_EQ(b->scheduler.stats().blocks_used, static_cast<int>(reservation.to.size()));
  EXPECT_EQ(b->scheduler.leaked_blocks(), 0) << "they are on their way";
  for (const BlockId block : reservation.to) b->toy.Keep(block, {7, 7, 7, 7});  // half a move
  b->scheduler.FinishKv(1, false);
  EXPECT_EQ(b->scheduler.stats().blocks_used, 0);
  EXPECT_EQ(b->scheduler.stats().blocks_cached, 0);
  a->scheduler.FinishKv(1, false);
  LeaveA();
  FinishAll();
  EXPECT_EQ(b->scheduler.stats().kept_tokens, 0);
  EXPECT_EQ(b->scheduler.stats().moved_blocks, 0);
}

TEST_F(SchedulerMove, WhatIsThereAlreadyIsNotMovedAndStaysUntilTheRestHasCome) {
  b->scheduler.Submit(MakeRequest(100, Prompt(0, 24), 2), 1);
  b->Finish();
  const int cached = b->scheduler.stats().blocks_cached;
  ASSERT_GE(cached, 6);
  Run(1, 24, 40, 20);
  const KvOffer offer = a->scheduler.OfferKv(1);
  ASSERT_EQ(offer.chains.size(), 1u);
  const KvReservation reservation = b->scheduler.ReserveKv(1, offer, kFree);
  EXPECT_EQ(reservation.to.size(), offer.chains[0].size() - 6);
  Copy(*a, *b, reservation);
  b->scheduler.FinishKv(1, true);
  a->scheduler.FinishKv(1, true);
  LeaveA();
  FinishAll();
  EXPECT_LT(b->scheduler.stats().recomputed_tokens, 2 * kBlockTokens);
}

TEST_F(SchedulerMove, WhatWasComputedMeanwhileStays) {
  Run(1, 40, 40, 30);
  const KvReservation reservation = b->scheduler.ReserveKv(1, a->scheduler.OfferKv(1), kFree);
  b->scheduler.Submit(MakeRequest(100, Prompt(0, 40), 2), 1);
  while (!b->scheduler.idle()) b->Turn();
  Copy(*a, *b, reservation);
  b->scheduler.FinishKv(1, true);
  a->scheduler.FinishKv(1, true);
  EXPECT_EQ(b->scheduler.stats().moved_blocks, static_cast<int64_t>(reservation.to.size()) - 10);
  LeaveA();
  FinishAll();
}

TEST_F(SchedulerMove, BlocksOfACancelledSequenceAreHeldUntilTheMoveEnds) {
  Run(2, 40, 40, 30);
  const KvOffer offer = a->scheduler.OfferKv(1);
  const KvReservation reservation = b->scheduler.ReserveKv(1, offer, kFree);
  std::vector<std::vector<TokenId>> before;
  for (const BlockId block : reservation.from) before.push_back(a->toy.Content(block));
  for (uint64_t id : {0u, 1u}) {
    a->scheduler.Cancel({1, id});
    cancelled.insert(id);
  }
  // Others would like the room.
  for (uint64_t i = 10; i < 30; ++i) a->scheduler.Submit(MakeRequest(i, Prompt(i, 60), 30), 1);
  a->Turn(600);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(a->toy.Content(reservation.from[i]), before[i]);
  a->scheduler.FinishKv(1, false);
  b->scheduler.FinishKv(1, false);
  a->Finish();
  EXPECT_EQ(b->scheduler.stats().blocks_used, 0);
}

TEST_F(SchedulerMove, RunningSequencesKeepRoomToGrowAndNoMoreIsTakenThanThereIs) {
  b = std::make_unique<Side>(64);
  for (uint64_t i = 100; i < 104; ++i) b->scheduler.Submit(MakeRequest(i, Prompt(i, 40), 30), 1);
  b->Turn(20);
  const int free = 64 - b->scheduler.stats().blocks_used;
  Run(8, 40, 40, 60);
  const KvReservation reservation = b->scheduler.ReserveKv(1, a->scheduler.OfferKv(1), kFree);
  EXPECT_FALSE(reservation.takes_all);
  EXPECT_LE(static_cast<int>(reservation.to.size()), free - 4);
  b->Turn(100);
  Copy(*a, *b, reservation);
  b->scheduler.FinishKv(1, true);
  a->scheduler.FinishKv(1, true);
  LeaveA();
  FinishAll();
  for (uint64_t i = 100; i < 104; ++i) EXPECT_EQ(b->tokens[i], Undisturbed(MakeRequest(i, Prompt(i, 40), 30)));
}

TEST_F(SchedulerMove, AFullPoolTakesNothing) {
  b = std::make_unique<Side>(32);
  b->scheduler.Submit(MakeRequest(100, Prompt(100, 118), 9), 1);
  b->Turn(5);
  ASSERT_GE(b->scheduler.stats().blocks_used, 30);
  Run(2, 40, 40, 30);
  const KvReservation reservation = b->scheduler.ReserveKv(1, a->scheduler.OfferKv(1), kFree);
  EXPECT_TRUE(reservation.to.empty());
  EXPECT_EQ(reservation.empty_because, KvMoveEnd::kNoRoom);
  b->Finish();
}

TEST_F(SchedulerMove, WhatIsSoonerComputedAgainDoesNotMove) {
  Run(2, 40, 40, 30);
  const KvOffer offer = a->scheduler.OfferKv(1);
  ASSERT_GT(offer.prompt_row_ns, 0);
  const double block_ns = offer.prompt_row_ns * kBlockTokens;
  KvReservation reservation = b->scheduler.ReserveKv(1, offer, {.block_ns = 1.1 * block_ns, .fixed_ns = 0});
  EXPECT_TRUE(reservation.to.empty());
  EXPECT_EQ(reservation.empty_because, KvMoveEnd::kCheaper);
  EXPECT_TRUE(reservation.takes_all);
  EXPECT_EQ(b->scheduler.stats().blocks_used, 0);
  reservation = b->scheduler.ReserveKv(2, offer, {.block_ns = 0.5 * block_ns, .fixed_ns = 100 * block_ns});
  EXPECT_EQ(reservation.empty_because, KvMoveEnd::kCheaper) << "few blocks, and it takes its time to begin";
  reservation = b->scheduler.ReserveKv(3, offer, {.block_ns = 0.5 * block_ns, .fixed_ns = 0});
  EXPECT_FALSE(reservation.to.empty());
  b->scheduler.FinishKv(3, false);
}

TEST_F(SchedulerMove, ForksOfOnePromptMoveItOnce) {
  Request forks = MakeRequest(1, Prompt(1, 40), 30);
  forks.choices.resize(3);
  a->scheduler.Submit(forks, 1);
  std::map<int, std::vector<TokenId>> tokens;
  const auto turn = [&](Side& side) {
    while (std::optional<StepPlan> plan = side.scheduler.NextPlan(1)) side.toy.Execute(*plan);
    if (side.toy.has_result()) {
      ASSERT_TRUE(side.scheduler.OnResult(side.toy.TakeResult(), 1).ok());
    }
    for (const ChoiceOutput& output : side.scheduler.TakeOutputs()) {
      auto& to = tokens[output.choice];
      to.insert(to.end(), output.tokens.begin(), output.tokens.end());
    }
  };
  for (int i = 0; i < 18; ++i) turn(*a);
  const KvOffer offer = a->scheduler.OfferKv(1);
  ASSERT_EQ(offer.chains.size(), 3u);
  const KvReservation reservation = b->scheduler.ReserveKv(1, offer, kFree);
  size_t of_chains = 0;
  for (const auto& chain : offer.chains) of_chains += chain.size();
  EXPECT_EQ(reservation.to.size(), of_chains - 2 * 10) << "the prompt has ten blocks";
  Copy(*a, *b, reservation);
  b->scheduler.FinishKv(1, true);
  a->scheduler.EndEpoch();
  forks.attempt = 2;
  forks.accepted = true;
  for (int choice = 0; choice < 3; ++choice) forks.choices[static_cast<size_t>(choice)].tokens = tokens[choice];
  b->scheduler.Submit(forks, 1);
  for (int i = 0; i < 2000 && !b->scheduler.idle(); ++i) turn(*b);
  for (int choice = 0; choice < 3; ++choice) {
    std::vector<TokenId> history = forks.prompt;
    for (int i = 0; i < 30; ++i) history.push_back(ToyToken(history, 1, choice, i, kVocabulary, false));
    EXPECT_EQ(tokens[choice], std::vector<TokenId>(history.begin() + 40, history.end())) << choice;
  }
  EXPECT_EQ(b->scheduler.stats().blocks_used, 0);
  EXPECT_LT(b->scheduler.stats().recomputed_tokens, 3 * 2 * kBlockTokens);
}

TEST_F(SchedulerMove, ShortOnesAndThoseThatWouldNotReadTheCacheAreNotOffered) {
  a->scheduler.Submit(MakeRequest(1, Prompt(1, 6), 4), 1);
  Request bypass = MakeRequest(2, Prompt(2, 40), 20);
  bypass.bypass_prefix_cache = true;
  a->scheduler.Submit(bypass, 1);
  a->Turn(6);
  const KvOffer offer = a->scheduler.OfferKv(1);
  EXPECT_EQ(offer.sequences, 2);
  EXPECT_TRUE(offer.chains.empty());
  const KvReservation reservation = b->scheduler.ReserveKv(1, offer, kFree);
  EXPECT_EQ(reservation.empty_because, KvMoveEnd::kNothing);
  EXPECT_TRUE(reservation.takes_all);
  a->scheduler.FinishKv(1, false);
  a->Finish();
}

TEST_F(SchedulerMove, TheEndOfAnEpochEndsItsMoves) {
  Run(2, 40, 40, 30);
  const KvReservation reservation = b->scheduler.ReserveKv(1, a->scheduler.OfferKv(1), kFree);
  b->scheduler.EndEpoch();
  EpochSettings next = Settings();
  next.epoch = Epoch(2);
  b->scheduler.BeginEpoch(next);
  b->scheduler.FinishKv(1, true);  // of another life
  EXPECT_EQ(b->scheduler.stats().blocks_cached, 0);
  a->scheduler.EndEpoch();
  a->scheduler.FinishKv(1, true);
}

// Moves that arrive, fail or are cut by epochs, under load on both sides, with cancels and small pools.
TEST(SchedulerMoves, AnyOutcomeGivesTheSameTokens) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto up_to = [&](int most) { return static_cast<int>(random() % static_cast<uint64_t>(most + 1)); };
    const int blocks = 40 + up_to(60);
    Side a(blocks), b(blocks);
    std::map<uint64_t, Request> of_a, of_b;
    for (uint64_t i = 0; i < 6; ++i) {
      of_a[i] = MakeRequest(i, Prompt(random() % 4, 8 + up_to(50)), 4 + up_to(40));
      of_b[100 + i] = MakeRequest(100 + i, Prompt(random() % 4, 8 + up_to(50)), 4 + up_to(40));
      a.scheduler.Submit(of_a[i], 1);
      b.scheduler.Submit(of_b[100 + i], 1);
    }
    for (uint64_t move = 1; move <= 3; ++move) {
      a.Turn(up_to(30));
      b.Turn(up_to(30));
      const KvReservation reservation = b.scheduler.ReserveKv(move, a.scheduler.OfferKv(move), kFree);
      a.Turn(up_to(20));
      if (random() % 3 == 0) {
        const uint64_t id = random() % 6;
        a.scheduler.Cancel({1, id});
        of_a.erase(id);
      }
      b.Turn(up_to(20));
      const bool arrives = random() % 3 != 0;
      if (arrives) {
        Copy(a, b, reservation);
      } else {
        for (const BlockId block : reservation.to) b.toy.Keep(block, {9, 9, 9, 9});
      }
      b.Turn(up_to(10));
      a.scheduler.FinishKv(move, arrives);
      b.scheduler.FinishKv(move, arrives);
    }
    a.scheduler.EndEpoch();
    for (auto& [id, request] : of_a) {
      Request again = request;
      again.attempt = 2;
      again.accepted = true;
      again.choices[0].tokens = b.tokens[id] = a.tokens[id];
      b.scheduler.Submit(again, 1);
    }
    b.Finish();
    of_b.insert(of_a.begin(), of_a.end());
    for (const auto& [id, request] : of_b) EXPECT_EQ(b.tokens[id], Undisturbed(request)) << id;
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace pagoda::coordinator
