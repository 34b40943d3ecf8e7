// One micro-batch of one pipeline and what came of it, as plain values: worker.proto says what each field means. Read from the
// wire by control/, which checks every number against the assignment first.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "common/block_hash.h"
#include "common/ids.h"
#include "common/trace.h"
#include "worker/sampler/sampler.h"

namespace pagoda::worker {

struct StartSlot {
  int slot = 0;
  RequestId request;  // for logs only
  int choice = 0;
  int prompt_length = 0;
  std::vector<TokenId> history;
  std::vector<int32_t> blocks;
  std::shared_ptr<const SamplerParams> params;  // null for a fork
  int fork_of = -1;                             // slot; -1: none
  TraceContext trace = {};                      // of a sampled request
};

struct PlanCopy {
  int32_t from = 0;
  int32_t to = 0;
};

struct ReplaceBlock {
  int index = 0;
  int32_t block = 0;
};

struct PlanRows {
  int slot = 0;
  int first_position = 0;
  int count = 0;
  std::vector<int32_t> new_blocks;
  std::vector<ReplaceBlock> replace_blocks;
  bool prompt_logprobs = false;
  std::vector<TokenId> accepted;
  std::vector<TokenId> drafts;
  int known_end() const { return first_position + count - static_cast<int>(drafts.size()); }  // where the drafts begin
};

struct PlanSample {
  int rows_index = 0;
  int slot = 0;
  int output_index = 0;
};

struct BlockName {
  int32_t block = 0;
  BlockHash hash;
};

struct RebuildChain {
  std::vector<int32_t> blocks;
  int first_block = 0;
  std::vector<TokenId> tokens;
  int blocks_to_fill() const { return static_cast<int>(blocks.size()) - first_block; }
};

struct Rebuild {
  int first_stage = 0;
  int last_stage = 0;
  std::vector<RebuildChain> chains;
};

struct StepPlan {
  Epoch epoch;
  StepNumber step;
  std::vector<StartSlot> starts;
  std::vector<PlanCopy> copies;
  std::vector<PlanRows> rows;
  std::vector<PlanSample> samples;
  std::vector<int> ends;
  std::vector<BlockName> names;
  std::optional<Rebuild> rebuild;

  int TotalRows() const {
    int total = 0;
    for (const PlanRows& entry : rows) total += entry.count;
    return total;
  }
};

struct SampledToken {
  int slot = 0;
  TokenId token = 0;
  Logprobs logprobs;
  struct Further {
    TokenId token = 0;
    Logprobs logprobs;
  };
  std::vector<Further> further;
};

struct PromptLogprobs {
  int slot = 0;
  int first_position = 0;  // of the first entry's token
  std::vector<Logprobs> positions;
};

struct StepResult {
  Epoch epoch;
  StepNumber step;
  std::vector<SampledToken> samples;  // as in the plan
  std::vector<PromptLogprobs> prompt_logprobs;
  int64_t compute_us = 0;
};

}  // namespace pagoda::worker
