// Decides what each step of one pipeline computes: which sequences run, how their prompts are cut, who gets which KV block.
// A plain state machine: events and `now` go in, plans and outputs come out; no clock, thread or socket.
// Owned by the pipeline's engine thread; no locks.
//
// Invariants:
// - every accepted request ends exactly once per choice, and no output index is emitted twice;
// - two plans in flight share a decoding sequence only as run-ahead (the later one's row takes the token that the earlier
//   samples), and never more than stages + 1 plans are in flight;
// - a block comes home only when no row in flight uses it; at idle no block is in use;
// - the oldest running sequence of the best priority is never preempted, and one max_model_len sequence always fits.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/limits.h"
#include "common/status.h"
#include "coordinator/block_pool.h"
#include "coordinator/fair_share.h"
#include "coordinator/held_blocks.h"
#include "coordinator/kv_move.h"
#include "coordinator/prefix_cache.h"
#include "coordinator/quarantine.h"
#include "coordinator/request.h"
#include "coordinator/sequence.h"
#include "coordinator/service_times.h"
#include "coordinator/step_cost.h"
#include "coordinator/step_plan.h"

namespace pagoda::coordinator {

// What an assembly of the pipeline can take.
struct EpochSettings {
  Epoch epoch;
  int stages = 1;
  int blocks = 0;               // of the KV pool; blocks * block_tokens >= max_model_len
  int block_tokens = 16;
  int64_t max_model_len = 0;
  int vocabulary = 0;
  int max_step_rows = 256;
  int max_sequences = 128;      // running at once
  int max_slots = 256;          // at least twice max_sequences
  int max_sample_rows = 128;
  bool prefix_caching = true;
  bool chunked_prefill = true;  // chunks as long as those who decode can bear, by measured time
  int max_queued_requests = 2048;  // until LimitQueue says otherwise
  std::vector<int> stage_layers;        // of each stage; for counting
  std::vector<RestoredBlock> restored;  // KV that survived; the prefix cache starts with it
  int64_t max_queue_wait_ns = limits::kMaxQueueWaitMs * 1'000'000;  // predicted to wait longer: refused at once
};

// Why an epoch ended.
enum class EpochEnd : uint8_t {
  kPlanned,  // handed over or drained: nobody is to blame
  kLost,     // a worker died, hung or broke the protocol: what was in flight may have done it
};

struct SchedulerStats {
  int running = 0;
  int waiting = 0;
  int blocks_total = 0;
  int blocks_used = 0;    // held by sequences
  int blocks_cached = 0;  // kept by the prefix cache alone
  int64_t kv_tokens = 0;  // positions that running sequences have computed or are to compute next
  int plans_in_flight = 0;
  int64_t preemptions = 0;
  int64_t prefix_hit_tokens = 0;
  int64_t prefix_query_tokens = 0;
  int64_t prompt_tokens = 0;      // of admitted prompts
  int64_t generated_tokens = 0;
  int64_t steps = 0;
  int64_t rows = 0;
  int64_t surplus_rows = 0;       // computed and thrown away
  int64_t forks = 0;
  int64_t drafts = 0;             // times that a sequence's next tokens were guessed
  int64_t draft_tokens = 0;
  int64_t accepted_draft_tokens = 0;
  // Token-layers computed again for sequences that ran before, by the way they took: by the lost stages from kept inputs; from
  // the tokens on by the stages up to the lost ones; by all stages.
  int64_t replayed_token_layers = 0;
  int64_t refilled_token_layers = 0;
  int64_t recomputed_token_layers = 0;
  int64_t recomputed_tokens = 0;     // of the last
  int64_t kept_tokens = 0;           // of such sequences, whose KV was there
  int64_t predicted_wait_ns = 0;  // of a request that would come now
  int64_t moved_blocks = 0;       // of other pipelines' KV, which entered the prefix cache
  int64_t trials = 0;             // suspects that ran alone
  int64_t quarantined = 0;
};

// What may wait in all, in times max_queued_requests: the second time is for tenants that have little there.
inline constexpr int kFullQueues = 2;

class Scheduler {
 public:
  Scheduler();
  ~Scheduler();

  // The pipeline takes plans from now on, from step 1. Requires that no epoch is open, and settings that hold together.
  void BeginEpoch(const EpochSettings& settings);
  // The workers' state is gone: what ran goes back to the queue with its tokens. When they were lost, the requests that were
  // in flight count a death; one that was alone in flight in two deaths ends with an error and its prompt is refused for a while.
  void EndEpoch(EpochEnd why = EpochEnd::kPlanned);
  bool epoch_open() const { return epoch_open_; }

  // Each of these may add to outputs and refusals.
  void Submit(Request request, int64_t now_ns);
  void Cancel(RequestId id, uint32_t attempt = 0);  // not a newer attempt than this one; 0: whatever runs
  void Abort(RequestId id, const std::string& message);     // ends with an error
  void StopChoice(RequestId id, int choice, int count);
  void DropRouter(RouterId router);                         // its requests end without a word
  void LimitQueue(int max_queued_requests) { settings_.max_queued_requests = max_queued_requests; }
  void Tick(int64_t now_ns);                                // deadlines
  void FailAll(const std::string& message);                 // ends everything with an error
  // An error means that the workers broke the protocol; the epoch must end.
  absl::Status OnResult(const StepResult& result, int64_t now_ns);

  // KV that moves between pipelines: what this one has when it is left (held until FinishKv), and blocks that it takes of another's
  // offer (nobody's until FinishKv: then they are in the prefix cache, if they arrived). The end of the epoch ends both.
  KvOffer OfferKv(uint64_t move);
  KvReservation ReserveKv(uint64_t move, const KvOffer& offer, const KvMoveCost& cost);
  void FinishKv(uint64_t move, bool arrived);

  // The next micro-batch to dispatch, if one should be now. Call until it has none.
  std::optional<StepPlan> NextPlan(int64_t now_ns);

  std::vector<ChoiceOutput> TakeOutputs();
  std::vector<Refusal> TakeRefusals();
  std::vector<DeathNotice> TakeDeathNotices();

  // Of the last result that was read.
  StepNumber last_read_step() const { return StepNumber(last_read_step_); }
  // The earliest deadline of a request; nothing when none has one.
  std::optional<int64_t> NextDeadline() const;
  // How long a request of the tenant that came now would wait for its first row, as the queue moved lately.
  int64_t PredictedWaitNs(const std::string& tenant, int priority) const;
  SchedulerStats stats() const;
  bool idle() const { return live_.empty() && in_flight_.empty() && rebuilds_.empty(); }
  // Nothing runs or moves and yet a block is in use: how many. The pool's own check, at idle.
  int leaked_blocks() const;

 private:
  using SequencePointer = std::shared_ptr<Sequence>;

  // What a plan in flight has of one sequence.
  struct RowsRecord {
    SequencePointer sequence;
    int end_position = 0;  // rows up to here are done when the result is read
    int rows = 0;
    bool prompt_logprobs = false;
    int sample = -1;       // index of the sample that tells how many of the drafts came true; -1: no drafts
  };
  struct SampleRecord {
    SequencePointer sequence;
    SlotId slot;
    std::vector<TokenId> drafts;
  };
  struct PlanRecord {
    uint64_t step = 0;
    int64_t dispatched_ns = 0;
    bool found_idle = false;               // no other plan was in flight
    int decode_rows = 0;                   // those whose logits are wanted
    int prompt_rows = 0;
    std::vector<RowsRecord> rows;
    std::vector<SampleRecord> samples;     // as in the plan
    std::vector<SequencePointer> users;    // each once
    std::vector<BlockHandle> held;         // sources of copies
    std::vector<BlockName> rebuilt;        // of a rebuild
    std::vector<BlockHandle> rebuilding;   // its blocks
    bool is_rebuild = false;
  };
  // Blocks of one chain that some stages have to fill again before a sequence that was admitted can use them.
  struct RebuildItem {
    RestoredBlock how;                 // stages, and whether from kept inputs
    int first_block = 0;
    std::vector<BlockHandle> blocks;   // from the chain's beginning to the last to fill
    std::vector<BlockHash> hashes;     // of the same
    std::vector<TokenId> tokens;       // of the same
    int blocks_left() const { return static_cast<int>(blocks.size()) - first_block; }
  };
  // A plan being formed.
  struct Draft {
    StepPlan plan;
    PlanRecord record;
    int rows_left = 0;
    int samples_left = 0;
  };
  struct MovingIn {
    std::vector<BlockHandle> kept;                              // of the prefix cache already
    std::vector<std::pair<BlockHash, BlockHandle>> arriving;
    int sequences = 0;  // that will want a place
  };
  struct LiveRequest {
    std::shared_ptr<RequestState> state;
    std::vector<SequencePointer> sequences;
  };

  // scheduler.cc: life of a request.
  absl::Status Validate(const Request& request, RefusalCode& code) const;
  absl::Status CheckLoad(const Request& request, int64_t now_ns, int& retry_after_ms) const;
  bool HasRoomOfItsOwn(const Request& request) const;
  int64_t ServiceNs(const Sampling& sampling) const;  // foretold, from its first row
  bool WouldMissDeadline(const RequestState& request, int64_t now_ns) const;
  void LearnFrom(const RequestState& request, const Sequence& sequence);  // its end, or the end of its time
  void Refuse(const RequestState& request, RefusalCode code, std::string message);
  void Accept(Request request, int64_t now_ns);
  void Finish(SequencePointer sequence, FinishReason reason, std::string error, ChoiceOutput* joined);
  void Abandon(RequestId id, FinishReason reason, const std::string& error);  // kNone: without a word
  void ForgetIfEnded(const RequestState& request);
  ChoiceOutput OutputOf(const Sequence& sequence) const;
  void LeaveWorkers(Sequence& sequence);  // gives back slot and blocks
  FinishReason ReasonToStop(const Sequence& sequence) const;
  int OutputLimit(const Sequence& sequence) const;

  // scheduler_trial.cc: suspects run alone.
  void CountDeaths();
  bool MustDrainForTrial();
  bool OnTrial(const Sequence& sequence) const { return trial_ == nullptr || sequence.request == trial_; }
  void AfterTrialToken(const Sequence& sequence);

  // scheduler_result.cc
  absl::Status CheckResult(const StepResult& result) const;
  bool CameEarly(const StepResult& result) const;
  absl::Status ReadResult(const StepResult& result, int64_t now_ns);
  void TakePromptLogprobs(const StepResult& result, const PlanRecord& record);
  void TakeSample(const SampleRecord& record, const SampledToken& sample, int64_t now_ns);
  void TakeDrafts(const RowsRecord& rows, const SampledToken& sample);
  void LearnCost(const PlanRecord& record, const StepResult& result, int64_t now_ns);
  void OfferBlocks(Sequence& sequence, int read_end);
  void Drained(const SequencePointer& sequence);

  // scheduler_plan.cc
  void AddDecodes(Draft& draft);
  void AddPrefills(Draft& draft, int rows);
  bool AdmitNext(Draft& draft, int64_t now_ns);
  bool HeldBack(const Sequence& sequence) const;
  bool DropLate(const SequencePointer& sequence, int64_t now_ns);
  bool TakeBlocksFor(Sequence& sequence);
  void AddRows(Draft& draft, const SequencePointer& sequence, int count, std::vector<TokenId> drafts = {});
  void AddForks(Draft& draft, const SequencePointer& leader, int rows_index, int leader_worker_blocks);
  void StartOn(std::vector<StartSlot>& starts, const SequencePointer& sequence);
  StepPlan Complete(Draft draft);
  bool MakeRoom(Draft& draft, const SequencePointer& sequence);
  bool PreemptFor(const SequencePointer& sequence);
  void Preempt(const SequencePointer& victim);
  std::optional<BlockHandle> Allocate();
  int Available() const;
  int PrefillTarget(int decode_rows) const;
  int ChunkLimit(int decode_rows) const;
  bool SharedWithASequence(const BlockHandle& block) const;
  static void Use(PlanRecord& record, const SequencePointer& sequence);

  // scheduler_draft.cc
  // How many tokens to guess for each of these decoding sequences; empty: nobody waits to be guessed for.
  std::unordered_map<const Sequence*, int> PlanDrafts(const std::vector<SequencePointer>& decoding, bool prompts_pending);
  std::vector<TokenId> DraftsOf(const Draft& draft, Sequence& sequence, int wanted);
  int MostDrafts(const Sequence& sequence) const;
  // scheduler_rebuild.cc
  void RestoreBlocks();
  void QueueRebuilds(const Sequence& sequence, int hit_blocks);
  int RowsToRebuild() const;
  StepPlan NextRebuild();
  void CountRebuild(const RebuildItem& item, int blocks);

  // scheduler_move.cc
  std::set<BlockId> BlocksToRebuild() const;
  static void LetGo(MovingIn moving);
  int blocks_moving() const;

  EpochSettings settings_;
  bool epoch_open_ = false;
  bool ever_open_ = false;
  uint64_t next_step_ = 1;
  uint64_t last_read_step_ = 0;
  uint64_t next_arrival_ = 1;
  std::unordered_map<RequestId, LiveRequest> live_;
  std::multiset<int64_t> deadlines_;
  std::set<SequencePointer, SequenceOrder> waiting_;
  std::set<SequencePointer, SequenceOrder> running_;  // kRunning and kDraining
  int finished_in_flight_ = 0;                        // kFinished with rows in flight
  int draining_ = 0;

  std::unordered_map<BlockId, int> copy_sources_;     // blocks that plans in flight copy from, how often

  std::vector<SlotId> free_slots_;
  std::vector<SlotId> pending_ends_;
  std::vector<StartSlot> pending_starts_;        // of sequences that wait for a rebuild
  std::vector<BlockName> pending_names_;         // for the next plan
  std::unordered_map<BlockId, RestoredBlock> partial_;  // blocks of the prefix cache that some stages do not have
  std::map<uint64_t, StepResult> early_;         // results that overtook one of another rank
  int rebuilds_in_flight_ = 0;
  std::vector<ChoiceOutput> outputs_;
  std::vector<Refusal> refusals_;
  std::vector<DeathNotice> death_notices_;
  FairShare shares_;
  ServiceTimes times_;
  Quarantine quarantine_;
  std::shared_ptr<RequestState> trial_;  // the suspect that runs alone: nothing else gets rows
  int64_t now_ns_ = 0;                   // the last one heard of
  SchedulerStats totals_;
  StepCost cost_;
  bool drafting_ = false;  // guessing paid when the last plan was made

  // In this order: handles in in_flight_ and sequences go before the cache, the cache before the pool.
  std::unique_ptr<BlockPool> pool_;
  std::unique_ptr<PrefixCache> cache_;
  std::deque<PlanRecord> in_flight_;
  std::deque<RebuildItem> rebuilds_;
  std::map<uint64_t, std::vector<BlockHandle>> moving_out_;  // by move
  std::map<uint64_t, MovingIn> moving_in_;
};

}  // namespace pagoda::coordinator
