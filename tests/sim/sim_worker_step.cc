// How a simulated worker runs a plan: the order of the real StepExecutor, without its blocking waits.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/services/convert.h"
#include "tests/sim/cluster.h"
#include "tests/sim/sim_worker.h"
#include "tests/sim/toy_model.h"
#include "worker/control/wire.h"

namespace pagoda::sim {
namespace {

constexpr int64_t kStepDeadline = 6 * kSecond;
constexpr int kMaxUnreadRebuilds = 256;  // as worker/engine/engine.cc
constexpr int kPieces = 4;  // floats that carry one value: 16 bits each, exactly

void Encode(uint64_t value, float* out) {
  for (int i = 0; i < kPieces; ++i) out[i] = static_cast<float>((value >> (16 * i)) & 0xffff);
}
uint64_t Decode(const float* in) {
  uint64_t value = 0;
  for (int i = 0; i < kPieces; ++i) value |= static_cast<uint64_t>(in[i]) << (16 * i);
  return value;
}

// Tokens of drafting sequences reach stage 0 with the next plan instead.
bool GoesBack(const worker::StepPlan& plan, const worker::PlanSample& sample) {
  return plan.rows[static_cast<size_t>(sample.rows_index)].drafts.empty();
}

}  // namespace

void SimWorker::OnPlan(const internal::v1::StepPlan& message) {
  worker::StepPlan plan = worker::FromWire(message);
  if (!assignment_ || plan.epoch != assignment_->epoch) return;
  if (!linked_) return Fault("a plan came before the peers were linked");
  const uint64_t due = last_step_ + plans_.size() + 1;
  if (plan.step.value() != due) return Fault(absl::StrCat("step ", plan.step.value(), " came where ", due, " was due"));
  // As the real engine: the one in progress is not counted.
  if (static_cast<int>(plans_.size()) - 1 >= stages() + 2 + kMaxUnreadRebuilds) world_.Violate(absl::StrCat(name_, " has too many unread plans"));
  plans_.push_back(std::move(plan));
  if (phase_ == Phase::kIdle) Begin();
}

void SimWorker::OnHidden(Epoch epoch, uint64_t step, Hidden hidden) {
  if (!assignment_ || assignment_->epoch != epoch) return;
  hidden_.try_emplace(step, std::move(hidden));
  Pump();
}

void SimWorker::OnTokens(Epoch epoch, uint64_t step, Tokens tokens) {
  if (!assignment_ || assignment_->epoch != epoch) return;
  tokens_.try_emplace(step, std::move(tokens));
  Pump();
}

void SimWorker::OnGathered(Epoch epoch, uint64_t step, int rank) {
  if (!assignment_ || assignment_->epoch != epoch) return;
  std::vector<int>& ranks = gathered_[step];
  if (std::ranges::count(ranks, rank) == 0) ranks.push_back(rank);
  Pump();
}

// The step waits for a peer; whoever waits too long reports with its name.
bool SimWorker::Wait(Phase phase, const std::string& what) {
  if (phase_ == phase && waiting_for_ == what) return false;
  phase_ = phase;
  waiting_for_ = what;
  waiting_since_ns_ = world_.now_ns();
  world_.After(life_, kStepDeadline, [this, what, step = last_step_, epoch_life = epoch_life_] {
    if (epoch_life == epoch_life_ && last_step_ == step && waiting_for_ == what) Fault(absl::StrCat(what, ": no word in time"));
  });
  return false;
}

void SimWorker::Begin() {
  if (plans_.empty()) {
    phase_ = Phase::kIdle;
    waiting_for_.clear();
    return;
  }
  phase_ = Phase::kForks;
  waiting_for_ = "apply the plan";
  Pump();
}

void SimWorker::Pump() {
  if (phase_ == Phase::kForks) {
    if (first() && !TakeTokens(StepsForForks())) return;
    Apply();
    if (!assignment_) return;
    phase_ = Phase::kTokens;
    waiting_for_ = "find the rows' tokens";
  }
  if (phase_ == Phase::kTokens || phase_ == Phase::kHidden) {
    if (!TakeInput()) return;
    Compute();
    return;
  }
  if (phase_ == Phase::kGroup) {
    if (static_cast<int>(gathered_[plans_.front().step.value()].size()) < stage().tensor_parallel - 1) return;
    Finish();
  }
}

size_t SimWorker::StepsForForks() const {
  size_t steps = 0;
  for (const worker::StartSlot& start : plans_.front().starts) {
    for (size_t i = 0; start.fork_of >= 0 && i < pending_.size(); ++i) {
      for (const Pending::Sample& sample : pending_[i].samples) {
        if (sample.slot == start.fork_of && slots_->at(sample.slot).generation == sample.generation) steps = i + 1;
      }
    }
  }
  return steps;
}

size_t SimWorker::StepsForRows() {
  size_t steps = 0;
  for (const worker::PlanRows& rows : plans_.front().rows) {
    const worker::SlotTable::Slot& slot = slots_->at(rows.slot);
    const int last_row = rows.known_end() - 1;
    bool found = last_row < static_cast<int>(slot.tokens.size()) || !rows.accepted.empty();
    for (size_t i = 0; i < pending_.size(); ++i) {
      for (const Pending::Sample& sample : pending_[i].samples) {
        if (sample.slot != rows.slot || sample.generation != slot.generation || sample.position > last_row) continue;
        steps = std::max(steps, i + 1);
        found = found || sample.position == last_row;
      }
    }
    if (!found) world_.Violate(absl::StrCat(name_, ": a plan's row has a token that nobody knows"));
  }
  return steps;
}

bool SimWorker::TakeTokens(size_t steps) {
  for (; steps > 0; --steps) {
    const Pending& pending = pending_.front();
    const auto found = tokens_.find(pending.step);
    if (found == tokens_.end()) return Wait(phase_, absl::StrCat("receive sampled tokens of step ", pending.step));
    const auto& samples = found->second.samples;
    for (size_t i = 0; i < samples.size() && i < pending.samples.size(); ++i) {
      const absl::Status status = slots_->Append(pending.samples[i].slot, pending.samples[i].generation,
                                                 pending.samples[i].position, samples[i].second);
      if (!status.ok()) world_.Violate(absl::StrCat(name_, ": ", status.message()));
    }
    tokens_.erase(found);
    pending_.pop_front();
  }
  return true;
}

void SimWorker::Apply() {
  const worker::StepPlan& plan = plans_.front();
  record_->BeginPlan(plan, Runs());
  const absl::Status status = slots_->Apply(plan);
  if (!status.ok()) {
    world_.Violate(absl::StrCat(name_, ": a plan does not fit the slots: ", status.message()));
    return Fault("apply the plan");
  }
  PlaceRows();
  for (const worker::PlanCopy& copy : plan.copies) {
    for (int layer = stage().layer_begin; layer < stage().layer_end; ++layer) {
      for (int i = 0; i < assignment_->block_tokens; ++i) Kv(layer, copy.to, i) = Kv(layer, copy.from, i);
    }
  }
}

void SimWorker::PlaceRows() {
  const worker::StepPlan& plan = plans_.front();
  rows_.clear();
  for (const worker::PlanRows& rows : plan.rows) rows_.push_back({rows.first_position, rows.count, slots_->at(rows.slot).blocks});
  if (!plan.rebuild) return;
  for (const worker::RebuildChain& chain : plan.rebuild->chains) {
    rows_.push_back({chain.first_block * assignment_->block_tokens, chain.blocks_to_fill() * assignment_->block_tokens, chain.blocks});
  }
}

bool SimWorker::Runs() const {
  const worker::StepPlan& plan = plans_.front();
  return !plan.rebuild || (assignment_->stage >= plan.rebuild->first_stage && assignment_->stage <= plan.rebuild->last_stage);
}
bool SimWorker::Feeds() const {
  const worker::StepPlan& plan = plans_.front();
  return plan.rebuild && assignment_->stage + 1 == plan.rebuild->first_stage;
}

void SimWorker::TakeRowTokens() {
  const worker::StepPlan& plan = plans_.front();
  for (const worker::PlanRows& rows : plan.rows) {
    const worker::SlotTable::Slot& slot = slots_->at(rows.slot);
    int position = rows.known_end() - static_cast<int>(rows.accepted.size());
    for (const TokenId token : rows.accepted) {
      const absl::Status status = slots_->Append(rows.slot, slot.generation, position++, token);
      if (!status.ok()) return world_.Violate(absl::StrCat(name_, ": ", status.message()));
    }
    if (rows.known_end() > static_cast<int>(slot.tokens.size())) return world_.Violate(absl::StrCat(name_, ": a row's token is not known"));
    row_tokens_.insert(row_tokens_.end(), slot.tokens.begin() + rows.first_position, slot.tokens.begin() + rows.known_end());
    row_tokens_.insert(row_tokens_.end(), rows.drafts.begin(), rows.drafts.end());
  }
  Pending pending{.step = plan.step.value(), .samples = {}};
  for (const worker::PlanSample& sample : plan.samples) {
    if (!GoesBack(plan, sample)) continue;
    const auto& slot = slots_->at(sample.slot);
    pending.samples.push_back({sample.slot, slot.generation, slot.prompt_length + sample.output_index});
  }
  if (!pending.samples.empty()) pending_.push_back(std::move(pending));
}

bool SimWorker::TakeInput() {
  const worker::StepPlan& plan = plans_.front();
  values_.clear();
  if (!Runs()) return true;
  if (!first()) {
    const auto found = hidden_.find(plan.step.value());
    if (found == hidden_.end()) {
      return Wait(Phase::kHidden, absl::StrCat("receive hidden states from stage ", assignment_->stage - 1));
    }
    values_ = std::move(found->second.rows);
    hidden_.erase(found);
    return true;
  }
  row_tokens_.clear();
  if (plan.rebuild) {
    for (const worker::RebuildChain& chain : plan.rebuild->chains) {
      row_tokens_.insert(row_tokens_.end(), chain.tokens.begin(), chain.tokens.end());
    }
  } else {
    if (!TakeTokens(StepsForRows())) return false;
    TakeRowTokens();
  }
  size_t next = 0;
  for (const Rows& rows : rows_) {
    for (int r = 0; r < rows.count; ++r) values_.push_back(ToyEmbed(row_tokens_[next++], rows.first_position + r, assignment_->activation_bits));
  }
  return true;
}

void SimWorker::Compute() {
  phase_ = Phase::kCompute;
  waiting_for_ = "run the layers";
  const int64_t takes = world_.Uniform(200 * kUs, 2 * kMs) * cluster_.SlownessOf(life_.process) * cluster_.options().pace;
  world_.After(life_, takes, [this, takes, epoch_life = epoch_life_] {
    if (epoch_life != epoch_life_) return;
    compute_us_ = takes / kUs;
    if (Runs()) RunLayers();
    phase_ = Phase::kGroup;
    const uint64_t step = plans_.front().step.value();
    for (const coordinator::LinkPeer& peer : peers_) {
      if (peer.stage != assignment_->stage || peer.rank == assignment_->rank) continue;
      cluster_.SendToWorker(life_, peer, [epoch = assignment_->epoch, step, rank = assignment_->rank](SimWorker& to) {
        to.OnGathered(epoch, step, rank);
      });
    }
    if (stage().tensor_parallel > 1) {
      Wait(Phase::kGroup, "gather in the group");
      waiting_for_ = "gather in the group";
    }
    Pump();
  });
}

uint64_t& SimWorker::Kv(int layer, int32_t block, int offset) {
  const size_t local = static_cast<size_t>(layer - stage().layer_begin);
  const size_t at = (local * static_cast<size_t>(assignment_->blocks) + static_cast<size_t>(block)) *
                        static_cast<size_t>(assignment_->block_tokens) + static_cast<size_t>(offset);
  return kv_.at(at);
}

void SimWorker::RunLayers() {
  const int block_tokens = assignment_->block_tokens;
  size_t next = 0;
  for (const Rows& rows : rows_) {
    for (int r = 0; r < rows.count; ++r, ++next) {
      const int position = rows.first_position + r;
      if (next >= values_.size() || position / block_tokens >= static_cast<int>(rows.blocks.size())) {
        return world_.Violate(absl::StrCat(name_, ": a row without input or block"));
      }
      uint64_t hidden = values_[next];
      for (int layer = stage().layer_begin; layer < stage().layer_end; ++layer) {
        Kv(layer, rows.blocks[static_cast<size_t>(position / block_tokens)], position % block_tokens) = ToyKv(hidden, layer) ^ (world_.TakeSpoil("kv") ? 1 : 0);
        for (int p = 0; p <= position; ++p) {
          hidden = ToyAttend(hidden, Kv(layer, rows.blocks[static_cast<size_t>(p / block_tokens)], p % block_tokens));
        }
      }
      values_[next] = hidden;
    }
  }
  if (last() || next == 0) return;
  std::vector<float> floats(values_.size() * kPieces);
  for (size_t i = 0; i < values_.size(); ++i) Encode(values_[i], &floats[i * kPieces]);
  std::vector<kernels::SequenceRows> sequences;
  int row = 0;
  for (const Rows& rows : rows_) {
    sequences.push_back({.first_row = row, .rows = rows.count, .first_position = rows.first_position, .blocks = rows.blocks});
    row += rows.count;
  }
  record_->KeepOutputs(sequences, floats.data());
}

void SimWorker::SendHidden(const std::vector<uint64_t>& rows) {
  const uint64_t step = plans_.front().step.value();
  for (const coordinator::LinkPeer& peer : peers_) {
    if (peer.stage != assignment_->stage + 1 || peer.rank % stage().tensor_parallel != assignment_->rank) continue;
    cluster_.SendToWorker(life_, peer, [epoch = assignment_->epoch, step, rows](SimWorker& to) {
      to.OnHidden(epoch, step, {rows});
    });
  }
}

void SimWorker::SendOn() {
  const worker::StepPlan& plan = plans_.front();
  if (last()) return;
  if (Feeds()) {
    std::vector<uint64_t> kept;
    for (const worker::RebuildChain& chain : plan.rebuild->chains) {
      for (size_t i = static_cast<size_t>(chain.first_block); i < chain.blocks.size(); ++i) {
        const float* floats = record_->OutputsOf(chain.blocks[i]);
        if (floats == nullptr) return Fault(absl::StrCat("what was sent on for block ", chain.blocks[i], " is not kept any more"));
        for (int t = 0; t < assignment_->block_tokens; ++t) kept.push_back(Decode(floats + t * kPieces));
      }
    }
    return SendHidden(kept);
  }
  if (!Runs() || (plan.rebuild && assignment_->stage == plan.rebuild->last_stage)) return;
  SendHidden(values_);
}

// Row after row as long as the drafts come true.
worker::SampledToken SimWorker::Sample(const worker::StepPlan& plan, const worker::PlanSample& sample) {
  worker::SampledToken result{.slot = sample.slot, .token = -1, .logprobs = {}, .further = {}};
  const auto index = static_cast<size_t>(sample.rows_index);
  const std::vector<TokenId>& drafts = plan.rows[index].drafts;
  size_t row = 0;
  for (size_t i = 0; i <= index; ++i) row += static_cast<size_t>(plan.rows[i].count);
  row -= 1 + drafts.size();
  const worker::SlotTable::Slot& slot = slots_->at(sample.slot);
  for (size_t done = 0;; ++done) {
    const int output_index = sample.output_index + static_cast<int>(done);
    if (static_cast<int>(slot.tokens.size()) != slot.prompt_length + output_index) {
      world_.Violate(absl::StrCat(name_, ": output ", output_index, " after ", slot.tokens.size(), " tokens"));
    }
    const TokenId token = ToySample(values_.at(row + done),
                                    {.seed = slot.params->seed,
                                     .choice = slot.choice,
                                     .output_index = output_index,
                                     .may_stop = output_index >= slot.params->min_tokens,
                                     .period = slot.params->top_k},
                                    slot.tokens);
    const absl::Status status = slots_->Append(sample.slot, slot.generation, slot.prompt_length + output_index, token);
    if (!status.ok()) world_.Violate(absl::StrCat(name_, ": ", status.message()));
    if (done == 0) {
      result.token = token;
    } else {
      result.further.push_back({.token = token, .logprobs = {}});
    }
    if (done == drafts.size() || token != drafts[done]) return result;
  }
}

void SimWorker::Finish() {
  SendOn();
  if (!assignment_) return;
  const worker::StepPlan plan = plans_.front();
  worker::StepResult result{.epoch = plan.epoch, .step = plan.step, .samples = {}, .prompt_logprobs = {}, .compute_us = compute_us_};
  if (last() && !plan.rebuild) {
    Tokens tokens;
    for (const worker::PlanSample& sample : plan.samples) {
      result.samples.push_back(Sample(plan, sample));
      if (GoesBack(plan, sample)) tokens.samples.emplace_back(sample.slot, result.samples.back().token);
    }
    if (assignment_->rank == 0 && !tokens.samples.empty()) {
      for (const coordinator::LinkPeer& peer : peers_) {
        if (peer.stage != 0) continue;
        cluster_.SendToWorker(life_, peer, [epoch = plan.epoch, step = plan.step.value(), tokens](SimWorker& to) {
          to.OnTokens(epoch, step, tokens);
        });
      }
    }
  }
  const int reporter = plan.rebuild ? plan.rebuild->last_stage : stages() - 1;
  if (assignment_->stage == reporter && assignment_->rank == 0 && stream_ != nullptr) {
    SimCoordinator* coordinator = cluster_.CoordinatorOf(*coordinator_);
    auto message = std::make_shared<internal::v1::WorkerMessage>(worker::ToWire(result));
    if (coordinator != nullptr) {
      stream_->Send(life_.process, [coordinator, stream = stream_, message] {
        coordinator->OnResult(stream.get(), coordinator::FromWire(*message->mutable_step_result()));
      });
    }
  }
  slots_->End(plan);
  gathered_.erase(plan.step.value());
  last_step_ = plan.step.value();
  plans_.pop_front();
  Begin();
}

}  // namespace pagoda::sim
