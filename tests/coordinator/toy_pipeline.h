// A pipeline's workers as the scheduler sees them: keeps the slot table that plans describe, fills a simulated KV pool, and
// samples token = hash(everything that the row can see in the KV pool). So a wrong block, a missing copy or a stale prefix
// hit gives a wrong token. Every rule of the plan's contract that is broken is reported.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "coordinator/scheduler.h"

namespace pagoda::coordinator::testing {

// What the toy model says after `history`: a pure function, so that an undisturbed run can be computed apart.
inline TokenId ToyToken(const std::vector<TokenId>& history, uint64_t seed, int choice, int output_index, int vocabulary,
                        bool mask_low) {
  uint64_t hash = 0x9e3779b97f4a7c15ULL ^ seed ^ (static_cast<uint64_t>(choice) << 32) ^ static_cast<uint64_t>(output_index);
  for (const TokenId token : history) {
    hash ^= static_cast<uint64_t>(token) + 0x9e3779b97f4a7c15ULL + (hash << 6) + (hash >> 2);
    hash *= 0xbf58476d1ce4e5b9ULL;
  }
  hash ^= hash >> 29;
  const uint64_t low = mask_low ? 8 : 0;  // stop ids of the tests are below 8
  // Seeds above 500 repeat themselves, but for a slip now and then: something to guess.
  if (seed > 500 && hash % 8 != 0) return static_cast<TokenId>(8 + (static_cast<uint64_t>(history.back()) + 1 + seed) % 6);
  return static_cast<TokenId>(low + hash % (static_cast<uint64_t>(vocabulary) - low));
}

class ToyPipeline {
 public:
  explicit ToyPipeline(const EpochSettings& settings)
      : settings_(settings),
        kv_(static_cast<size_t>(settings.blocks), std::vector<TokenId>(static_cast<size_t>(settings.block_tokens), -1)) {}

  // Runs a plan. The result waits in results(). Errors of the plan go to errors().
  void Execute(const StepPlan& plan) {
    if (plan.step.value() != next_step_) Error("step ", plan.step.value(), " where ", next_step_, " was due");
    next_step_ = plan.step.value() + 1;
    if (static_cast<int>(in_flight_.size()) > settings_.stages) Error("more than stages + 1 plans in flight");
    if (plan.TotalRows() > settings_.max_step_rows) Error("over the row budget");
    if (static_cast<int>(plan.samples.size()) > settings_.max_sample_rows) Error("over the sample budget");
    if (plan.rows.empty() && !plan.rebuild.has_value()) Error("a plan without rows");
    for (const BlockName& name : plan.names) names_[name.block] = {name.hash, kv_.at(Index(name.block))};
    StepResult result{.epoch = plan.epoch, .step = plan.step, .samples = {}, .prompt_logprobs = {}};
    Used used;
    for (const StartSlot& start : plan.starts) Start(start);
    for (const PlanCopy& copy : plan.copies) kv_.at(Index(copy.to)) = kv_.at(Index(copy.from));
    if (plan.rebuild.has_value()) Refill(*plan.rebuild);
    for (const PlanRows& rows : plan.rows) Run(rows, result, used);
    for (const PlanSample& sample : plan.samples) Sample(plan, sample, result);
    result.compute_us = 1000 + 10 * plan.TotalRows();  // guesses pay
    for (const SlotId slot : plan.ends) {
      if (slots_.erase(slot) == 0) Error("the end of slot ", slot.value(), ", which is not taken");
    }
    in_flight_.push_back({std::move(result), std::move(used)});
  }

  bool has_result() const { return !in_flight_.empty(); }
  size_t in_flight() const { return in_flight_.size(); }
  StepResult TakeResult() {
    StepResult result = std::move(in_flight_.front().result);
    in_flight_.pop_front();
    return result;
  }
  // What plans said that full blocks hold, as long as they do: what real ranks report when the next epoch begins.
  struct Named {
    BlockHash hash;
    std::vector<TokenId> tokens;
  };
  std::map<BlockId, Named> NamedBlocks() const {
    std::map<BlockId, Named> good;
    for (const auto& [block, named] : names_) {
      if (kv_[static_cast<size_t>(block.value())] == named.tokens) good.emplace(block, named);
    }
    return good;
  }
  // Blocks that go from one pipeline to another.
  const std::vector<TokenId>& Content(BlockId block) { return kv_.at(Index(block)); }
  // A block that this pipeline still has from before, or one whose KV a stage lost and only a rebuild brings back.
  void Keep(BlockId block, const std::vector<TokenId>& tokens) { kv_.at(Index(block)) = tokens; }
  void Lose(BlockId block, const std::vector<TokenId>& tokens) { lost_[block] = tokens; }
  int64_t rows_rebuilt() const { return rows_rebuilt_; }
  const std::string& errors() const { return errors_; }
  int64_t rows_run() const { return rows_run_; }
  int max_rows_of_a_step = 0;

 private:
  struct Slot {
    RequestId request;
    int choice = 0;
    int prompt_length = 0;
    std::vector<TokenId> history;  // what the last stage knows
    std::vector<TokenId> told;     // what stage 0 knows
    std::vector<BlockId> table;
    std::shared_ptr<const Sampling> sampling;
    bool must_run = false;
  };
  using Used = std::map<BlockId, RequestId>;
  struct Flight {
    StepResult result;
    Used used;
  };

  template <typename... Args>
  void Error(const Args&... args) {
    if (errors_.size() < 2000) absl::StrAppend(&errors_, args..., "\n");
  }
  size_t Index(BlockId block) {
    if (block.value() < 0 || block.value() >= settings_.blocks) {
      Error("block ", block.value(), " is not of the pool");
      return 0;
    }
    return static_cast<size_t>(block.value());
  }

  void Start(const StartSlot& start) {
    if (start.slot.value() < 0 || start.slot.value() >= settings_.max_slots) Error("slot ", start.slot.value());
    if (slots_.count(start.slot) > 0) Error("slot ", start.slot.value(), " is taken already");
    Slot slot;
    if (start.fork_of > 0) {
      const auto parent = slots_.find(SlotId(start.fork_of - 1));
      if (parent == slots_.end()) return Error("a fork of a slot that is not there");
      if (!start.history.empty() || !start.blocks.empty()) Error("a fork with a history or blocks of its own");
      slot = parent->second;
      if (slot.request != start.request) Error("a fork of another request");
    } else {
      slot.history = slot.told = start.history;
      slot.table = start.blocks;
      slot.sampling = start.sampling;
      slot.prompt_length = start.prompt_length;
    }
    slot.request = start.request;
    slot.choice = start.choice;
    slots_[start.slot] = std::move(slot);
  }

  void Refill(const Rebuild& rebuild) {
    int rows = 0;
    for (const RebuildChain& chain : rebuild.chains) {
      for (size_t i = static_cast<size_t>(chain.first_block); i < chain.blocks.size(); ++i) {
        const auto found = lost_.find(chain.blocks[i]);
        if (found == lost_.end()) {
          Error("block ", chain.blocks[i].value(), " is rebuilt although nobody lost it");
          continue;
        }
        kv_.at(Index(chain.blocks[i])) = found->second;
        lost_.erase(found);
        rows += settings_.block_tokens;
      }
    }
    if (rows > settings_.max_step_rows) Error("a rebuild over the row budget");
    rows_rebuilt_ += rows;
  }

  void Run(const PlanRows& rows, StepResult& result, Used& used) {
    const auto found = slots_.find(rows.slot);
    if (found == slots_.end()) return Error("rows of slot ", rows.slot.value(), ", which is not taken");
    Slot& slot = found->second;
    for (const BlockId block : rows.new_blocks) slot.table.push_back(block);
    for (const ReplaceBlock& replace : rows.replace_blocks) {
      if (replace.index >= static_cast<int>(slot.table.size())) return Error("replaces a table entry that is not there");
      slot.table[static_cast<size_t>(replace.index)] = replace.block;
    }
    const int end = rows.first_position + rows.count;
    if (rows.count < 1) Error("no rows");
    if (end > static_cast<int>(slot.table.size()) * settings_.block_tokens) return Error("rows beyond the block table");
    const int drafts = static_cast<int>(rows.drafts.size());
    const int known = end - drafts;
    if (drafts >= rows.count) return Error("drafts without a known token before them");
    if (known > static_cast<int>(slot.history.size())) return Error("a row whose token nobody knows");
    if (drafts > 0 && known != static_cast<int>(slot.history.size())) Error("drafts that do not follow what is known");
    if (!rows.accepted.empty()) {
      if (static_cast<int>(slot.told.size() + rows.accepted.size()) != known) Error("accepted tokens leave a gap");
      slot.told.insert(slot.told.end(), rows.accepted.begin(), rows.accepted.end());
    }
    if (known > static_cast<int>(slot.told.size())) return Error("a row whose token stage 0 does not know");
    std::vector<TokenId> tokens(slot.told.begin(), slot.told.begin() + known);
    tokens.insert(tokens.end(), rows.drafts.begin(), rows.drafts.end());
    for (int p = rows.first_position; p < end; ++p) {
      const BlockId block = slot.table[static_cast<size_t>(p / settings_.block_tokens)];
      for (const Flight& flight : in_flight_) {
        const auto other = flight.used.find(block);
        if (other != flight.used.end() && other->second != slot.request) {
          Error("block ", block.value(), " is written while rows of another request in flight use it");
        }
      }
      kv_.at(Index(block))[static_cast<size_t>(p % settings_.block_tokens)] = tokens[static_cast<size_t>(p)];
    }
    for (size_t i = 0; i * static_cast<size_t>(settings_.block_tokens) < static_cast<size_t>(end); ++i) {
      used[slot.table[i]] = slot.request;
    }
    rows_run_ += rows.count;
    if (!rows.prompt_logprobs) return;
    PromptLogprobs part{.slot = rows.slot, .first_position = rows.first_position + 1, .positions = {}};
    for (int p = rows.first_position; p < end; ++p) {
      if (p + 1 >= static_cast<int>(slot.history.size())) break;
      part.positions.push_back({{slot.history[static_cast<size_t>(p) + 1], -0.5f * static_cast<float>(p), 1}});
    }
    result.prompt_logprobs.push_back(std::move(part));
  }

  void Sample(const StepPlan& plan, const PlanSample& sample, StepResult& result) {
    if (sample.rows_index < 0 || sample.rows_index >= static_cast<int>(plan.rows.size())) return Error("rows_index");
    const PlanRows& rows = plan.rows[static_cast<size_t>(sample.rows_index)];
    const auto source = slots_.find(rows.slot);
    const auto target = slots_.find(sample.slot);
    if (source == slots_.end() || target == slots_.end()) return Error("a sample of a slot that is not taken");
    const int drafts = static_cast<int>(rows.drafts.size());
    const int end = rows.first_position + rows.count - drafts;
    Slot& slot = target->second;
    if (drafts > 0 && rows.slot != sample.slot) Error("drafts of another slot");
    if (static_cast<int>(slot.history.size()) != end) Error("a sample that does not follow the history of its slot");
    if (sample.output_index != end - slot.prompt_length) Error("output_index ", sample.output_index);
    // What attention sees.
    std::vector<TokenId> seen;
    for (int p = 0; p < end + drafts; ++p) {
      const BlockId block = source->second.table[static_cast<size_t>(p / settings_.block_tokens)];
      seen.push_back(kv_.at(Index(block))[static_cast<size_t>(p % settings_.block_tokens)]);
      if (p < end - 1) continue;
      const int done = p - (end - 1);
      const int output_index = sample.output_index + done;
      const bool mask = output_index < slot.sampling->min_tokens;
      const TokenId token = ToyToken(seen, slot.sampling->seed, slot.choice, output_index, settings_.vocabulary, mask);
      slot.history.push_back(token);
      PositionLogprobs logprobs;
      if (slot.sampling->logprobs >= 0) logprobs = {{token, -1.5f, 1}};
      if (done == 0) {
        result.samples.push_back({.slot = sample.slot, .token = token, .logprobs = std::move(logprobs), .further = {}});
      } else {
        result.samples.back().further.push_back({token, std::move(logprobs)});
      }
      if (done < drafts && token != rows.drafts[static_cast<size_t>(done)]) break;
    }
    if (drafts == 0) slot.told = slot.history;
  }

  const EpochSettings settings_;
  std::vector<std::vector<TokenId>> kv_;  // [blocks][block_tokens], the token whose KV is there
  std::map<SlotId, Slot> slots_;
  std::deque<Flight> in_flight_;
  uint64_t next_step_ = 1;
  int64_t rows_run_ = 0;
  int64_t rows_rebuilt_ = 0;
  std::map<BlockId, Named> names_;
  std::map<BlockId, std::vector<TokenId>> lost_;
  std::string errors_;
};

}  // namespace pagoda::coordinator::testing
