#include "worker/control/wire.h"

#include <cstring>

#include <algorithm>

#include "common/limits.h"

namespace pagoda::worker {
namespace {

constexpr int kMostFillMs = 60'000;
constexpr absl::Duration kDefaultStepDeadline = absl::Seconds(30);  // when an assignment names none

template <size_t kBytes>
absl::Status CopySecret(std::string_view name, const std::string& from, std::array<std::byte, kBytes>& to) {
  if (from.size() != kBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a link ", AsAbsl(name), " of ", from.size(), " bytes; it must have ", kBytes));
  }
  std::memcpy(to.data(), from.data(), kBytes);
  return absl::OkStatus();
}

absl::Status CheckRange(std::string_view name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("assignment: ", AsAbsl(name), " is ", value, ", must be ", low, " to ", high));
}

absl::Status CheckAssignment(const wire::Assignment& message) {
  PAGODA_RETURN_IF_ERROR(CheckRange("number of stages", message.stages_size(), 1, limits::kMaxStages));
  PAGODA_RETURN_IF_ERROR(CheckRange("stage", message.stage(), 0, message.stages_size() - 1));
  const wire::StageLayout& mine = message.stages(message.stage());
  for (const wire::StageLayout& stage : message.stages()) {
    PAGODA_RETURN_IF_ERROR(CheckRange("tensor parallel size", stage.tensor_parallel(), 1, limits::kMaxTensorParallel));
  }
  PAGODA_RETURN_IF_ERROR(CheckRange("rank", message.rank(), 0, mine.tensor_parallel() - 1));
  PAGODA_RETURN_IF_ERROR(CheckRange("block_tokens", message.block_tokens(), 16, 1024));
  PAGODA_RETURN_IF_ERROR(CheckRange("block_tokens modulo 16", message.block_tokens() % 16, 0, 0));
  PAGODA_RETURN_IF_ERROR(CheckRange("blocks", message.blocks(), 1, INT32_MAX));
  PAGODA_RETURN_IF_ERROR(CheckRange("max_step_rows", message.max_step_rows(), 1, limits::kMaxStepRows));
  PAGODA_RETURN_IF_ERROR(CheckRange("max_slots", message.max_slots(), 1, limits::kMaxSlots));
  PAGODA_RETURN_IF_ERROR(CheckRange("max_sample_rows", message.max_sample_rows(), 0, limits::kMaxStepRows));
  return CheckRange("step_deadline_ms", message.step_deadline_ms(), 0, INT32_MAX);
}

std::shared_ptr<const SamplerParams> ParamsFromWire(const wire::SettledSampling& message) {
  auto params = std::make_shared<SamplerParams>();
  params->temperature = message.temperature();
  params->top_p = message.top_p();
  params->top_k = message.top_k();
  params->min_p = message.min_p();
  params->typical_p = message.typical_p();
  params->repetition_penalty = message.repetition_penalty();
  params->presence_penalty = message.presence_penalty();
  params->frequency_penalty = message.frequency_penalty();
  params->no_repeat_ngram_size = message.no_repeat_ngram_size();
  for (const wire::LogitBias& bias : message.logit_bias()) params->logit_bias.emplace_back(bias.token_id(), bias.bias());
  for (const pagoda::v1::TokenSequence& word : message.bad_words()) {
    params->bad_words.emplace_back(word.token_ids().begin(), word.token_ids().end());
  }
  params->allowed_token_ids.assign(message.allowed_token_ids().begin(), message.allowed_token_ids().end());
  params->seed = message.seed();
  params->min_tokens = message.min_tokens();
  params->stop_token_ids.assign(message.stop_token_ids().begin(), message.stop_token_ids().end());
  params->logprobs = std::min(message.logprobs(), limits::kMaxTopLogprobs);
  params->prompt_logprobs = std::min(message.prompt_logprobs(), limits::kMaxPromptLogprobs);
  return params;
}

StartSlot FromWire(const wire::StartSlot& message) {
  StartSlot start{.slot = message.slot(),
                  .request = {.high = message.request().high(), .low = message.request().low()},
                  .choice = message.choice(),
                  .prompt_length = message.prompt_length(),
                  .history = {message.history().begin(), message.history().end()},
                  .blocks = {message.blocks().begin(), message.blocks().end()},
                  .params = nullptr,
                  .fork_of = message.fork_of() - 1,
                  .trace = {.trace_high = message.trace().trace_high(),
                            .trace_low = message.trace().trace_low(),
                            .span = message.trace().span()}};
  if (start.fork_of < 0) start.params = ParamsFromWire(message.sampling());
  return start;
}

void FillPosition(const Logprobs& logprobs, pagoda::v1::PositionLogprobs& out) {
  for (const TokenLogprob& entry : logprobs) {
    pagoda::v1::TokenLogprob* wire_entry = out.add_entries();
    wire_entry->set_token_id(entry.token);
    wire_entry->set_logprob(entry.logprob);
    wire_entry->set_rank(entry.rank);
  }
}

}  // namespace

absl::StatusOr<Assignment> FromWire(const wire::Assignment& message) {
  PAGODA_RETURN_IF_ERROR(CheckAssignment(message));
  Assignment assignment{.pipeline = PipelineId(message.pipeline()),
                        .epoch = Epoch(message.epoch()),
                        .deployment = message.deployment().empty() ? message.model() : message.deployment(),
                        .model = message.model(),
                        .model_digest = message.model_digest(),
                        .self = {.stage = message.stage(), .rank = message.rank()},
                        .max_model_len = message.max_model_len(),
                        .block_tokens = message.block_tokens(),
                        .blocks = message.blocks(),
                        .kv_cache_type = message.kv_cache_type(),
                        .activation_bits = message.activation_bits(),
                        .max_step_rows = message.max_step_rows(),
                        .max_slots = message.max_slots(),
                        .max_sample_rows = message.max_sample_rows(),
                        .step_deadline = message.step_deadline_ms() > 0 ? absl::Milliseconds(message.step_deadline_ms())
                                                                        : kDefaultStepDeadline};
  for (const wire::StageLayout& stage : message.stages()) {
    assignment.stages.push_back({stage.layer_begin(), stage.layer_end(), stage.tensor_parallel()});
  }
  for (const wire::BlobPeer& peer : message.model_peers()) assignment.model_peers.push_back(peer.address());
  return assignment;
}

absl::StatusOr<LinkUp> FromWire(const wire::LinkUp& message) {
  LinkUp link_up{.epoch = Epoch(message.epoch())};
  PAGODA_RETURN_IF_ERROR(CopySecret("token", message.link_token(), link_up.secret.token));
  if (!message.link_key().empty()) PAGODA_RETURN_IF_ERROR(CopySecret("key", message.link_key(), link_up.secret.key.emplace()));
  for (const wire::PeerAddress& peer : message.peers()) {
    PAGODA_RETURN_IF_ERROR(CheckRange("peer's stage", peer.stage(), 0, limits::kMaxStages - 1));
    PAGODA_RETURN_IF_ERROR(CheckRange("peer's rank", peer.rank(), 0, limits::kMaxTensorParallel - 1));
    link_up.peers.push_back({.peer = {.stage = peer.stage(), .rank = peer.rank()}, .address = peer.data_address()});
  }
  return link_up;
}

StepPlan FromWire(const wire::StepPlan& message) {
  StepPlan plan{.epoch = Epoch(message.epoch()), .step = StepNumber(message.step())};
  for (const wire::StartSlot& start : message.starts()) plan.starts.push_back(FromWire(start));
  for (const wire::PlanCopy& copy : message.copies()) plan.copies.push_back({copy.from_block(), copy.to_block()});
  for (const wire::PlanRows& rows : message.rows()) {
    PlanRows out{.slot = rows.slot(),
                 .first_position = rows.first_position(),
                 .count = rows.count(),
                 .new_blocks = {rows.new_blocks().begin(), rows.new_blocks().end()},
                 .prompt_logprobs = rows.prompt_logprobs(),
                 .accepted = {rows.accepted().begin(), rows.accepted().end()},
                 .drafts = {rows.drafts().begin(), rows.drafts().end()}};
    for (const wire::ReplaceBlock& replace : rows.replace_blocks()) {
      out.replace_blocks.push_back({replace.index(), replace.block()});
    }
    plan.rows.push_back(std::move(out));
  }
  for (const wire::PlanSample& sample : message.samples()) {
    plan.samples.push_back({sample.rows_index(), sample.slot(), sample.output_index()});
  }
  plan.ends.assign(message.ends().begin(), message.ends().end());
  for (const wire::BlockName& name : message.names()) {
    plan.names.push_back({name.block(), {.high = name.hash_high(), .low = name.hash_low()}});
  }
  if (!message.has_rebuild()) return plan;
  plan.rebuild = Rebuild{.first_stage = message.rebuild().first_stage(), .last_stage = message.rebuild().last_stage()};
  for (const wire::RebuildChain& chain : message.rebuild().chains()) {
    plan.rebuild->chains.push_back({.blocks = {chain.blocks().begin(), chain.blocks().end()},
                                    .first_block = chain.first_block(),
                                    .tokens = {chain.tokens().begin(), chain.tokens().end()}});
  }
  return plan;
}

absl::StatusOr<KvFill> FromWire(const wire::FillKv& message) {
  KvFill fill{.move = message.move(),
              .epoch = Epoch(message.epoch()),
              .source = message.source(),
              .source_epoch = Epoch(message.source_epoch()),
              .from = {message.from().begin(), message.from().end()},
              .to = {message.to().begin(), message.to().end()},
              .timeout_ms = std::clamp(message.timeout_ms(), 1, kMostFillMs)};
  PAGODA_RETURN_IF_ERROR(CopySecret("token", message.source_token(), fill.source_token));
  return fill;
}

wire::WorkerMessage ToWire(const LoadReport& report) {
  wire::WorkerMessage message;
  wire::LoadState& state = *message.mutable_load_state();
  state.set_epoch(report.epoch.value());
  switch (report.phase) {
    case LoadPhase::kLoading: state.set_state(wire::LoadState::LOADING); break;
    case LoadPhase::kLoaded: state.set_state(wire::LoadState::LOADED); break;
    case LoadPhase::kLinked: state.set_state(wire::LoadState::LINKED); break;
  }
  state.set_progress(report.progress);
  state.set_weights_bytes(report.weights_bytes);
  state.set_kv_bytes(report.kv_bytes);
  state.set_workspace_bytes(report.workspace_bytes);
  state.set_shard_digest(report.shard_digest);
  wire::HeldBlocks& held = *state.mutable_held_blocks();
  std::string hashes;
  for (const KvRecord::Held& block : report.held) {
    if (block.output) held.add_outputs(held.blocks_size());
    held.add_blocks(block.block);
    const uint64_t hash[] = {block.hash.high, block.hash.low};
    hashes.append(reinterpret_cast<const char*>(hash), sizeof(hash));
  }
  held.set_hashes(std::move(hashes));
  return message;
}

wire::WorkerMessage ToWire(const FaultReport& report) {
  wire::WorkerMessage message;
  wire::Fault& fault = *message.mutable_fault();
  fault.set_epoch(report.epoch.value());
  fault.set_step(report.step.value());
  fault.set_stage(report.self.stage);
  fault.set_rank(report.self.rank);
  fault.set_operation(report.operation);
  fault.set_message(report.message);
  return message;
}

wire::WorkerMessage ToWire(const StepResult& result) {
  wire::WorkerMessage message;
  wire::StepResult& out = *message.mutable_step_result();
  out.set_epoch(result.epoch.value());
  out.set_step(result.step.value());
  out.set_compute_us(result.compute_us);
  for (const SampledToken& sample : result.samples) {
    wire::SampledToken& token = *out.add_samples();
    token.set_slot(sample.slot);
    token.set_token_id(sample.token);
    if (!sample.logprobs.empty()) FillPosition(sample.logprobs, *token.mutable_logprobs());
    for (const SampledToken::Further& further : sample.further) {
      wire::FurtherToken& next = *token.add_further();
      next.set_token_id(further.token);
      if (!further.logprobs.empty()) FillPosition(further.logprobs, *next.mutable_logprobs());
    }
  }
  for (const PromptLogprobs& prompt : result.prompt_logprobs) {
    wire::PromptLogprobs& entry = *out.add_prompt_logprobs();
    entry.set_slot(prompt.slot);
    entry.set_first_position(prompt.first_position);
    for (const Logprobs& position : prompt.positions) FillPosition(position, *entry.add_positions());
  }
  return message;
}

wire::WorkerMessage ToWire(const StepMonitor::Snapshot& snapshot) {
  wire::WorkerMessage message;
  wire::Heartbeat& heartbeat = *message.mutable_heartbeat();
  heartbeat.set_epoch(snapshot.epoch);
  heartbeat.set_last_step(snapshot.last_step);
  heartbeat.set_current_step(snapshot.current_step);
  heartbeat.set_waiting_for(snapshot.waiting_for);
  heartbeat.set_waiting_us(snapshot.waiting_us);
  heartbeat.set_compute_us(snapshot.compute_us);
  heartbeat.set_wait_in_us(snapshot.wait_in_us);
  heartbeat.set_send_us(snapshot.send_us);
  heartbeat.set_steps(snapshot.steps);
  heartbeat.set_bytes_sent(snapshot.bytes_sent);
  heartbeat.set_layers_us(snapshot.layers_us);
  heartbeat.set_head_us(snapshot.head_us);
  heartbeat.set_decode_rows(snapshot.decode_rows);
  heartbeat.set_operation(snapshot.operation);
  return message;
}

wire::WorkerMessage ToWire(const KvFilled& filled) {
  wire::WorkerMessage message;
  wire::KvFilled& out = *message.mutable_kv_filled();
  out.set_move(filled.move);
  out.set_epoch(filled.epoch.value());
  out.set_bytes(filled.bytes);
  out.set_took_us(filled.took_us);
  out.set_error(filled.error);
  return message;
}

wire::WorkerMessage LeftMessage(Epoch epoch) {
  wire::WorkerMessage message;
  message.mutable_left()->set_epoch(epoch.value());
  return message;
}

}  // namespace pagoda::worker
