// One choice of one request inside the scheduler. Internal to scheduler*.cc.
#pragma once

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "common/block_hash.h"
#include "coordinator/block_pool.h"
#include "coordinator/ngram_drafter.h"
#include "coordinator/request.h"

namespace pagoda::coordinator {

// What the choices of one request share.
struct RequestState {
  RequestId id;
  RouterId router;
  uint32_t attempt = 0;
  int prompt_length = 0;
  std::string client_request_id;
  int priority = 0;
  std::string tenant;
  double start_tag = 0;  // of its tenant's fair share: the queue's order
  double charged = 0;    // cost that the tenant was charged
  double tenant_weight = 1;
  int deaths = 0;
  int deaths_alone = 0;
  bool suspect() const { return deaths >= 2; }
  uint64_t prompt_fingerprint = 0;
  uint64_t arrival = 0;  // dense order of submission
  int64_t arrived_ns = 0;
  int64_t deadline_ns = 0;
  int64_t foretold_end_ns = 0;  // 0: it was accepted elsewhere
  std::string cache_salt;
  bool bypass_prefix_cache = false;
  bool canary = false;
  bool resumable = false;
  bool started = false;  // something of it ran or was emitted: too late for a refusal
  std::shared_ptr<const Sampling> sampling;
  int unfinished = 0;    // choices
  TraceContext trace;
};

enum class SequenceState : uint8_t {
  kWaiting,
  kRunning,
  kDraining,  // preempted: takes no new rows, goes back to the queue when those in flight are read
  kFinished,  // its end is told; what is in flight runs out unseen
};

struct Sequence {
  std::shared_ptr<RequestState> request;
  int choice = 0;
  SequenceState state = SequenceState::kWaiting;
  std::vector<TokenId> tokens;  // prompt, then output: all that is known
  bool resumed = false;         // it ran before in another epoch or elsewhere: what it computes again is counted
  int stop_count = -1;          // the router found a stop string: no more than so many output tokens

  // Of the run that it is in; reset when it leaves the workers.
  SlotId slot{-1};
  int scheduled = 0;       // positions whose rows were dispatched
  int unread_samples = 0;  // tokens sampled by plans in flight
  int in_flight = 0;       // plans in flight that have rows or samples of it
  uint64_t last_sample_step = 0;
  int untold = 0;  // of its last tokens: verified drafts, which stage 0 hears of with the next rows
  std::vector<BlockHandle> blocks;
  int worker_blocks = 0;             // how many of them the workers' table has
  std::vector<BlockHash> hashes;     // chain over full blocks of tokens, as far as computed
  int offered_blocks = 0;            // to the prefix cache
  int cached_tokens = 0;
  bool reported_first = false;       // cached_tokens and times went out
  int64_t first_scheduled_ns = 0;
  int64_t first_token_ns = 0;
  int cleared_at = 0;                // of a suspect's trial: so many output tokens, and it is none any more
  bool wants_prompt_logprobs = false;
  std::vector<PositionLogprobs> prompt_logprobs;
  std::unique_ptr<NgramDrafter> drafter;  // made when there is time to draft

  int length() const { return static_cast<int>(tokens.size()); }
  int output_count() const { return length() - request->prompt_length; }
  bool fresh() const { return output_count() == 0; }
  int virtual_length() const { return length() + unread_samples; }
  int pending_rows() const { return virtual_length() - scheduled; }
  // Lower goes first.
  auto order() const { return std::tuple(request->priority, request->start_tag, request->arrival, choice); }
};

struct SequenceOrder {
  bool operator()(const std::shared_ptr<Sequence>& a, const std::shared_ptr<Sequence>& b) const {
    return a->order() < b->order();
  }
};

}  // namespace pagoda::coordinator
