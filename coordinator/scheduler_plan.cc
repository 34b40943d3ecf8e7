// Forming the next micro-batch: decodes first, then chunks of prompts under the row budget, admitting from the queue.
#include <algorithm>
#include <iterator>
#include <utility>

#include "coordinator/scheduler.h"

namespace pagoda::coordinator {
namespace {

// Below this many rows a prompt chunk wastes the pass over the weights.
constexpr int kMinChunkRows = 64;
// A step with a chunk may take this many times what it takes without.
constexpr double kStepStretch = 1.9;
constexpr int kLeastChunkRows = 16;   // whatever it costs: prompts must get on
constexpr int kChunkOfNobody = 128;   // while nobody decodes: who comes to decode next waits for what is in flight

int CeilDivide(int a, int b) { return (a + b - 1) / b; }

}  // namespace

std::optional<StepPlan> Scheduler::NextPlan(int64_t now_ns) {
  if (!epoch_open_ || static_cast<int>(in_flight_.size()) > settings_.stages) return std::nullopt;
  if (!rebuilds_.empty()) return NextRebuild();
  if (running_.empty() && waiting_.empty()) return std::nullopt;
  now_ns_ = now_ns;
  if (MustDrainForTrial()) return std::nullopt;
  Draft draft;
  draft.rows_left = settings_.max_step_rows;
  draft.samples_left = settings_.max_sample_rows;
  draft.record.dispatched_ns = now_ns;
  draft.record.found_idle = in_flight_.empty();

  AddDecodes(draft);
  const int decode_rows = settings_.max_step_rows - draft.rows_left;
  const int prefill_rows = std::min({draft.rows_left, PrefillTarget(decode_rows), ChunkLimit(decode_rows)});
  draft.rows_left = prefill_rows;
  AddPrefills(draft, prefill_rows);
  while (draft.rows_left > 0 && draft.samples_left > 0 && RowsToRebuild() < settings_.max_step_rows &&
         AdmitNext(draft, now_ns)) {
  }
  if (draft.plan.rows.empty()) {
    PAGODA_CHECK(draft.plan.starts.empty() && draft.plan.copies.empty() && draft.record.users.empty());
    if (rebuilds_.empty()) return std::nullopt;
    return NextRebuild();
  }
  draft.record.decode_rows = decode_rows;
  draft.record.prompt_rows = draft.plan.TotalRows() - decode_rows;
  return Complete(std::move(draft));
}

// Numbers the plan, adds what is told with whichever plan comes next, and counts it as in flight.
StepPlan Scheduler::Complete(Draft draft) {
  draft.plan.starts.insert(draft.plan.starts.begin(), std::make_move_iterator(pending_starts_.begin()),
                           std::make_move_iterator(pending_starts_.end()));
  pending_starts_.clear();
  draft.plan.names = std::exchange(pending_names_, {});
  draft.record.step = next_step_;
  draft.plan.epoch = settings_.epoch;
  draft.plan.step = StepNumber(next_step_++);
  draft.plan.ends = std::exchange(pending_ends_, {});
  // A slot that ends with this plan can start again with the next.
  free_slots_.insert(free_slots_.end(), draft.plan.ends.begin(), draft.plan.ends.end());
  ++totals_.steps;
  totals_.rows += draft.plan.TotalRows();
  rebuilds_in_flight_ += draft.record.is_rebuild;
  in_flight_.push_back(std::move(draft.record));
  return std::move(draft.plan);
}

// How many rows of prompts the plan should have, so that the stages' micro-batches are of a size.
int Scheduler::PrefillTarget(int decode_rows) const {
  int64_t pending = 0;
  for (const SequencePointer& sequence : running_) {
    if (sequence->state == SequenceState::kRunning) pending += std::max(0, sequence->pending_rows());
  }
  int64_t counted = 0;
  for (const SequencePointer& sequence : waiting_) {
    pending += sequence->length();
    if (++counted == settings_.max_sequences) break;
  }
  const int64_t even = (pending + decode_rows + settings_.stages - 1) / settings_.stages;
  return static_cast<int>(std::clamp<int64_t>(
      even - decode_rows, std::min(kMinChunkRows, settings_.max_step_rows), settings_.max_step_rows));
}

// Rows of prompts that hold up those who decode by no more than a step of theirs: the gap between two of their tokens stays
// within twice what it is without. From measured times; before there are any, no limit.
int Scheduler::ChunkLimit(int decode_rows) const {
  const double decode_ns = cost_.DecodeNs(std::max(decode_rows, 1));
  const double row_ns = cost_.PromptRowNs();
  if (!settings_.chunked_prefill || decode_ns <= 0 || row_ns <= 0) return settings_.max_step_rows;
  if (decode_rows == 0) return std::min(settings_.max_step_rows, kChunkOfNobody);
  // Where far more wait than decode, more is gained by getting the prompts done.
  const double crowd = std::max(1.0, static_cast<double>(waiting_.size()) / (2 * decode_rows));
  const double rows = std::max<double>(kLeastChunkRows, (kStepStretch - 1) * decode_ns / row_ns) * crowd;
  return static_cast<int>(std::min<double>(rows, settings_.max_step_rows));
}

// A sequence has one row to run: its newest token's, which a plan in flight may still have to sample (run-ahead). Those
// whose token comes from a plan that is at least `stages` back make no stage wait; only when there are none of them (and
// nothing else to do), one that has to wait is taken.
void Scheduler::AddDecodes(Draft& draft) {
  std::vector<SequencePointer> ready;
  std::vector<SequencePointer> early;
  std::vector<SequencePointer> decoding;
  bool prompts_pending = !waiting_.empty();
  for (const SequencePointer& sequence : running_) {
    if (sequence->state != SequenceState::kRunning || !OnTrial(*sequence)) continue;
    if (sequence->pending_rows() > 1) {
      prompts_pending = true;
      continue;
    }
    decoding.push_back(sequence);
  }
  const std::unordered_map<const Sequence*, int> drafts = PlanDrafts(decoding, prompts_pending);
  for (const SequencePointer& sequence : decoding) {
    if (sequence->pending_rows() < 1 || sequence->unread_samples > 1) continue;
    if (sequence->unread_samples > 0 && drafts.contains(sequence.get())) continue;
    // What is in flight will end it: no row beyond.
    if (sequence->output_count() + sequence->unread_samples >= OutputLimit(*sequence)) continue;
    const bool waits = sequence->unread_samples > 0 &&
                       next_step_ - sequence->last_sample_step < static_cast<uint64_t>(settings_.stages);
    (waits ? early : ready).push_back(sequence);
  }
  std::vector<SequencePointer>& chosen = ready.empty() && !prompts_pending ? early : ready;
  std::stable_sort(chosen.begin(), chosen.end(), [](const SequencePointer& a, const SequencePointer& b) {
    return a->last_sample_step < b->last_sample_step;
  });
  int quota = std::min(CeilDivide(static_cast<int>(decoding.size()), settings_.stages), draft.samples_left);
  const int reserved = prompts_pending ? std::max(1, settings_.max_step_rows / 8) : 0;
  quota = std::min(quota, std::max(1, draft.rows_left - reserved));
  if (static_cast<int>(chosen.size()) > quota) chosen.resize(static_cast<size_t>(quota));
  std::sort(chosen.begin(), chosen.end(), SequenceOrder());
  int others = static_cast<int>(chosen.size());
  for (const SequencePointer& sequence : chosen) {
    --others;
    if (draft.samples_left == 0) return;  // a first token may have taken more, for its forks
    if (sequence->state != SequenceState::kRunning || !MakeRoom(draft, sequence)) continue;
    const auto wanted = drafts.find(sequence.get());
    const int guesses = wanted == drafts.end() ? 0 : std::min(wanted->second, draft.rows_left - 1 - others - reserved);
    AddRows(draft, sequence, 1, DraftsOf(draft, *sequence, guesses));
  }
}

// Goes on with prompts that have begun, the oldest first. Chunks of one sequence may follow each other in flight.
void Scheduler::AddPrefills(Draft& draft, int rows) {
  draft.rows_left = rows;
  const std::vector<SequencePointer> running(running_.begin(), running_.end());
  for (const SequencePointer& sequence : running) {
    if (draft.rows_left == 0 || draft.samples_left == 0) return;
    if (sequence->state != SequenceState::kRunning || sequence->pending_rows() <= 1 || !OnTrial(*sequence)) continue;
    AddRows(draft, sequence, std::min(draft.rows_left, sequence->pending_rows()));
  }
}

// Its sibling is computing the same prompt and will fork it.
bool Scheduler::HeldBack(const Sequence& sequence) const {
  if (!sequence.fresh()) return false;
  for (const SequencePointer& sibling : live_.at(sequence.request->id).sequences) {
    if (sibling.get() != &sequence && sibling->state == SequenceState::kRunning && sibling->fresh() &&
        sibling->unread_samples == 0 && sibling->scheduled < sibling->request->prompt_length) {
      return true;
    }
  }
  return false;
}

// Takes the first of the queue that may run. False when none can now.
bool Scheduler::AdmitNext(Draft& draft, int64_t now_ns) {
  if (free_slots_.empty()) return false;
  if (static_cast<int>(running_.size()) + finished_in_flight_ >= settings_.max_sequences) return false;
  const auto found = std::find_if(waiting_.begin(), waiting_.end(), [this](const SequencePointer& sequence) {
    return OnTrial(*sequence) && !HeldBack(*sequence);
  });
  if (found == waiting_.end()) return false;
  const SequencePointer sequence = *found;
  if (DropLate(sequence, now_ns)) return true;
  if (sequence->request->suspect() && sequence->request != trial_) return false;  // it has to run alone
  if (!TakeBlocksFor(*sequence)) return false;

  waiting_.erase(found);
  sequence->state = SequenceState::kRunning;
  running_.insert(sequence);
  if (sequence->first_scheduled_ns == 0) {
    sequence->first_scheduled_ns = now_ns;
    times_.Admitted(now_ns, !waiting_.empty());
    shares_.Served(sequence->request->start_tag);
    if (!sequence->request->canary) totals_.prompt_tokens += sequence->request->prompt_length;
  }
  sequence->request->started = true;
  // Rows may follow a rebuild only, so they wait for the next plan.
  const bool after_rebuild = !rebuilds_.empty();
  StartOn(after_rebuild ? pending_starts_ : draft.plan.starts, sequence);
  if (after_rebuild) return true;
  AddRows(draft, sequence, std::min(draft.rows_left, sequence->pending_rows()));
  return true;
}

// It would come too late: its place goes to one that can still be served in time.
bool Scheduler::DropLate(const SequencePointer& sequence, int64_t now_ns) {
  if (!WouldMissDeadline(*sequence->request, now_ns)) return false;
  const std::shared_ptr<RequestState> request = sequence->request;
  Refuse(*request, RefusalCode::kDeadlineExceeded,
         absl::StrCat("the deadline cannot be met any more: ", (request->deadline_ns - now_ns) / 1'000'000,
                      " ms are left after the queue"));
  Abandon(request->id, FinishReason::kNone, "");
  return true;
}

// All blocks of what is known of it, from the prefix cache as far as that goes. All or nothing.
bool Scheduler::TakeBlocksFor(Sequence& sequence) {
  const int block_tokens = settings_.block_tokens;
  const int needed = CeilDivide(sequence.length(), block_tokens);
  const bool read_cache =
      settings_.prefix_caching && !sequence.request->bypass_prefix_cache && !sequence.wants_prompt_logprobs;
  std::vector<BlockHandle> blocks;
  std::vector<BlockHash> hashes;
  if (settings_.prefix_caching) hashes = HashFullBlocks(sequence.request->cache_salt, sequence.tokens, block_tokens);
  if (read_cache) {
    // At least one token is computed: its logits are wanted.
    const size_t most = static_cast<size_t>((sequence.length() - 1) / block_tokens);
    blocks = cache_->Match(std::span(hashes).first(std::min(most, hashes.size())));
  }
  const int hit_blocks = static_cast<int>(blocks.size());
  // Some room stays for those that run to grow into.
  const int margin = running_.empty() ? 0 : std::max(1, settings_.blocks / 100);
  if (Available() - (needed - hit_blocks) < margin) {
    while (!blocks.empty()) blocks.pop_back();
    return false;
  }
  while (static_cast<int>(blocks.size()) < needed) blocks.push_back(*Allocate());
  sequence.blocks = std::move(blocks);
  sequence.hashes = std::move(hashes);
  sequence.offered_blocks = hit_blocks;
  sequence.worker_blocks = hit_blocks;
  sequence.scheduled = hit_blocks * block_tokens;
  if (!sequence.reported_first) sequence.cached_tokens = std::min(sequence.scheduled, sequence.request->prompt_length);
  if (sequence.resumed) {
    sequence.resumed = false;
    const int64_t again = sequence.length() - sequence.scheduled;
    int64_t layers = 0;
    for (const int count : settings_.stage_layers) layers += count;
    totals_.recomputed_tokens += again;
    totals_.recomputed_token_layers += again * layers;
    totals_.kept_tokens += sequence.scheduled;
  }
  QueueRebuilds(sequence, hit_blocks);
  if (read_cache) {
    totals_.prefix_hit_tokens += sequence.scheduled;
    totals_.prefix_query_tokens += sequence.length();
  }
  return true;
}

void Scheduler::StartOn(std::vector<StartSlot>& starts, const SequencePointer& sequence) {
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  StartSlot start{.slot = sequence->slot,
                  .request = sequence->request->id,
                  .choice = sequence->choice,
                  .prompt_length = sequence->request->prompt_length,
                  .history = sequence->tokens,
                  .blocks = {},
                  .sampling = sequence->request->sampling,
                  .trace = sequence->request->trace};
  for (int i = 0; i < sequence->worker_blocks; ++i) start.blocks.push_back(sequence->blocks[static_cast<size_t>(i)].id());
  starts.push_back(std::move(start));
  if (sequence->wants_prompt_logprobs) {
    sequence->prompt_logprobs.assign(static_cast<size_t>(sequence->request->prompt_length), {});
  }
}

void Scheduler::Use(PlanRecord& record, const SequencePointer& sequence) {
  if (std::find(record.users.begin(), record.users.end(), sequence) != record.users.end()) return;
  record.users.push_back(sequence);
  ++sequence->in_flight;
}

// The next `count` positions of the sequence, and guesses beyond; samples when they reach its end. Its blocks are there.
void Scheduler::AddRows(Draft& draft, const SequencePointer& sequence, int count, std::vector<TokenId> drafts) {
  PlanRows rows;
  rows.slot = sequence->slot;
  rows.first_position = sequence->scheduled;
  const bool samples = sequence->scheduled + count == sequence->virtual_length();
  PAGODA_CHECK(samples || drafts.empty());
  count += static_cast<int>(drafts.size());
  rows.count = count;
  rows.drafts = drafts;
  rows.accepted.assign(sequence->tokens.end() - sequence->untold, sequence->tokens.end());
  sequence->untold = 0;
  const int end = sequence->scheduled + count;
  const int blocks_needed = CeilDivide(end, settings_.block_tokens);
  const int leader_worker_blocks = sequence->worker_blocks;
  const int first_block = sequence->scheduled / settings_.block_tokens;
  // A table entry that a copy replaced, where the workers' table already has it.
  for (const PlanCopy& copy : draft.plan.copies) {
    if (first_block < sequence->worker_blocks && sequence->blocks[static_cast<size_t>(first_block)].id() == copy.to) {
      rows.replace_blocks.push_back({first_block, copy.to});
    }
  }
  for (; sequence->worker_blocks < blocks_needed; ++sequence->worker_blocks) {
    rows.new_blocks.push_back(sequence->blocks[static_cast<size_t>(sequence->worker_blocks)].id());
  }
  rows.prompt_logprobs = sequence->wants_prompt_logprobs && sequence->scheduled < sequence->request->prompt_length - 1;
  const int rows_index = static_cast<int>(draft.plan.rows.size());
  draft.record.rows.push_back({sequence, end, count, rows.prompt_logprobs,
                               drafts.empty() ? -1 : static_cast<int>(draft.record.samples.size())});
  draft.plan.rows.push_back(std::move(rows));
  draft.rows_left -= count;
  sequence->scheduled = end;
  Use(draft.record, sequence);
  if (!samples) return;
  const bool first_output = sequence->fresh() && sequence->unread_samples == 0;
  draft.plan.samples.push_back({rows_index, sequence->slot, sequence->virtual_length() - sequence->request->prompt_length});
  if (!drafts.empty()) {
    ++totals_.drafts;
    totals_.draft_tokens += static_cast<int64_t>(drafts.size());
  }
  draft.record.samples.push_back({sequence, sequence->slot, std::move(drafts)});
  --draft.samples_left;
  if (first_output) AddForks(draft, sequence, rows_index, leader_worker_blocks);
  ++sequence->unread_samples;
  sequence->last_sample_step = next_step_;
}

// The other choices of the request share the prompt's blocks and sample their first token from the same row. One that
// finds no slot stays in the queue and comes in by itself later.
void Scheduler::AddForks(Draft& draft, const SequencePointer& leader, int rows_index, int leader_worker_blocks) {
  for (const SequencePointer& sequence : live_.at(leader->request->id).sequences) {
    if (sequence->state != SequenceState::kWaiting || !sequence->fresh() || sequence == leader) continue;
    if (free_slots_.empty() || draft.samples_left == 0) return;
    if (static_cast<int>(running_.size()) + finished_in_flight_ >= settings_.max_sequences) return;
    waiting_.erase(sequence);
    if (waiting_.empty()) times_.QueueEmpty();
    sequence->state = SequenceState::kRunning;
    running_.insert(sequence);
    sequence->slot = free_slots_.back();
    free_slots_.pop_back();
    sequence->scheduled = leader->scheduled;
    for (const BlockHandle& block : leader->blocks) sequence->blocks.push_back(block.Share());
    sequence->worker_blocks = leader_worker_blocks;
    sequence->hashes = leader->hashes;
    sequence->offered_blocks = leader->offered_blocks;
    sequence->first_scheduled_ns = leader->first_scheduled_ns;
    if (!sequence->reported_first) sequence->cached_tokens = leader->cached_tokens;
    sequence->wants_prompt_logprobs = false;
    draft.plan.starts.push_back({.slot = sequence->slot,
                                 .request = sequence->request->id,
                                 .choice = sequence->choice,
                                 .prompt_length = sequence->request->prompt_length,
                                 .history = {},
                                 .blocks = {},
                                 .sampling = nullptr,
                                 .fork_of = leader->slot.value() + 1,
                                 .trace = sequence->request->trace});
    draft.plan.samples.push_back({rows_index, sequence->slot, 0});
    draft.record.samples.push_back({sequence, sequence->slot, {}});
    --draft.samples_left;
    Use(draft.record, sequence);
    ++sequence->unread_samples;
    sequence->last_sample_step = next_step_;
    ++totals_.forks;
  }
}

int Scheduler::Available() const { return settings_.prefix_caching ? cache_->available() : pool_->free(); }

std::optional<BlockHandle> Scheduler::Allocate() {
  std::optional<BlockHandle> block = cache_->Allocate();
  if (block.has_value() && !partial_.empty()) partial_.erase(block->id());
  return block;
}

// A plan in flight that copies from the block keeps it from coming home, but does not mind that it is written after.
bool Scheduler::SharedWithASequence(const BlockHandle& block) const {
  const auto copies = copy_sources_.find(block.id());
  return pool_->references(block.id()) - (copies == copy_sources_.end() ? 0 : copies->second) > 1;
}

// The block that the next row of a decoding sequence writes to is there and its own. False: not in this plan.
bool Scheduler::MakeRoom(Draft& draft, const SequencePointer& sequence) {
  const size_t index = static_cast<size_t>(sequence->scheduled / settings_.block_tokens);
  PAGODA_CHECK(index <= sequence->blocks.size());
  const bool grows = index == sequence->blocks.size();
  if (!grows && !SharedWithASequence(sequence->blocks[index])) return true;
  std::optional<BlockHandle> block = Allocate();
  while (!block.has_value()) {
    if (!PreemptFor(sequence)) return false;
    if (sequence->state != SequenceState::kRunning) return false;
    if (!grows && !SharedWithASequence(sequence->blocks[index])) return true;  // the other holder is gone
    block = Allocate();
  }
  if (grows) {
    sequence->blocks.push_back(std::move(*block));
    return true;
  }
  draft.plan.copies.push_back({sequence->blocks[index].id(), block->id()});
  ++copy_sources_[sequence->blocks[index].id()];
  std::swap(sequence->blocks[index], *block);
  draft.record.held.push_back(std::move(*block));
  return true;
}

// Gives up the youngest of the lowest priority, never the oldest. False: wait for what is on its way home.
bool Scheduler::PreemptFor(const SequencePointer& sequence) {
  if (draining_ > 0 || finished_in_flight_ > 0) return false;
  if (running_.size() < 2) return false;
  // Those that a trial keeps waiting go first.
  SequencePointer victim = *running_.rbegin();
  if (trial_ != nullptr && victim->request == trial_) {
    const auto other = std::find_if(running_.rbegin(), running_.rend(),
                                    [this](const SequencePointer& candidate) { return candidate->request != trial_; });
    if (other != running_.rend()) victim = *other;
  }
  Preempt(victim);
  return victim == sequence || victim->state == SequenceState::kWaiting;
}

void Scheduler::Preempt(const SequencePointer& victim) {
  ++totals_.preemptions;
  if (victim->in_flight > 0) {
    victim->state = SequenceState::kDraining;
    ++draining_;
    return;
  }
  running_.erase(victim);
  LeaveWorkers(*victim);
  victim->state = SequenceState::kWaiting;
  waiting_.insert(victim);
}

}  // namespace pagoda::coordinator
