#include <cstring>

#include "coordinator/services/convert.h"

namespace pagoda::coordinator {
namespace {

PositionLogprobs FromWire(const ::pagoda::v1::PositionLogprobs& position) {
  PositionLogprobs out;
  out.reserve(static_cast<size_t>(position.entries_size()));
  for (const auto& entry : position.entries()) out.push_back({entry.token_id(), entry.logprob(), entry.rank()});
  return out;
}

void ToWire(const StartSlot& start, wire::StartSlot& out) {
  out.set_slot(start.slot.value());
  out.mutable_request()->set_high(start.request.high);
  out.mutable_request()->set_low(start.request.low);
  out.set_choice(start.choice);
  out.set_prompt_length(start.prompt_length);
  out.mutable_history()->Assign(start.history.begin(), start.history.end());
  for (const BlockId block : start.blocks) out.add_blocks(block.value());
  if (start.sampling != nullptr) ToWire(*start.sampling, *out.mutable_sampling());
  out.set_fork_of(start.fork_of);
  if (start.trace.sampled()) {
    out.mutable_trace()->set_trace_high(start.trace.trace_high);
    out.mutable_trace()->set_trace_low(start.trace.trace_low);
    out.mutable_trace()->set_span(start.trace.span);
  }
}

}  // namespace

WorkerInfo FromWire(const wire::Register& in) {
  WorkerInfo info;
  info.name = in.name();
  info.incarnation = in.incarnation();
  info.host = in.host();
  info.version = in.version();
  info.numerics_profile = in.numerics_profile();
  info.implementation = in.implementation();
  info.threads = in.threads();
  info.memory_bytes = in.memory_bytes();
  info.memory_bandwidth = in.memory_bandwidth();
  info.compute_rate = in.compute_rate();
  info.kv_cache_bytes = in.kv_cache_bytes();
  info.data_address = in.data_address();
  info.blob_address = in.blob_address();
  info.kv_moves = in.kv_moves();
  info.held_shard = in.held().shard_digest();
  return info;
}

WorkerProgress FromWire(const wire::Heartbeat& in) {
  WorkerProgress progress;
  progress.epoch = in.epoch();
  progress.last_step = in.last_step();
  progress.current_step = in.current_step();
  progress.waiting_for = in.waiting_for();
  progress.waiting_us = in.waiting_us();
  progress.compute_us = in.compute_us();
  progress.wait_in_us = in.wait_in_us();
  progress.send_us = in.send_us();
  progress.steps = in.steps();
  progress.bytes_sent = in.bytes_sent();
  progress.layers_us = in.layers_us();
  progress.head_us = in.head_us();
  progress.decode_rows = in.decode_rows();
  progress.operation = in.operation();
  return progress;
}

LoadDetails FromWire(const wire::LoadState& in) {
  LoadDetails details{.progress = in.progress(),
                      .weights_bytes = in.weights_bytes(),
                      .kv_bytes = in.kv_bytes(),
                      .shard_digest = in.shard_digest(),
                      .held = nullptr};
  const wire::HeldBlocks& held = in.held_blocks();
  const size_t count = static_cast<size_t>(held.blocks_size());
  if (count == 0 || held.hashes().size() != count * 16) return details;
  auto blocks = std::make_shared<HeldBlocks>(count);
  for (size_t i = 0; i < count; ++i) {
    HeldBlock& block = (*blocks)[i];
    block.block = BlockId(held.blocks(static_cast<int>(i)));
    std::memcpy(&block.hash.high, held.hashes().data() + i * 16, 8);
    std::memcpy(&block.hash.low, held.hashes().data() + i * 16 + 8, 8);
  }
  for (const int index : held.outputs()) {
    if (index >= 0 && static_cast<size_t>(index) < count) (*blocks)[static_cast<size_t>(index)].output = true;
  }
  details.held = std::move(blocks);
  return details;
}

StepResult FromWire(wire::StepResult& in) {
  StepResult result;
  result.epoch = Epoch(in.epoch());
  result.step = StepNumber(in.step());
  result.compute_us = in.compute_us();
  result.samples.reserve(static_cast<size_t>(in.samples_size()));
  for (const auto& sample : in.samples()) {
    SampledToken added{.slot = SlotId(sample.slot()), .token = sample.token_id(), .logprobs = FromWire(sample.logprobs()),
                       .further = {}};
    for (const auto& further : sample.further()) added.further.push_back({further.token_id(), FromWire(further.logprobs())});
    result.samples.push_back(std::move(added));
  }
  for (const auto& part : in.prompt_logprobs()) {
    PromptLogprobs added{.slot = SlotId(part.slot()), .first_position = part.first_position(), .positions = {}};
    for (const auto& position : part.positions()) added.positions.push_back(FromWire(position));
    result.prompt_logprobs.push_back(std::move(added));
  }
  return result;
}

void ToWire(const StepPlan& plan, wire::StepPlan& out) {
  out.set_epoch(plan.epoch.value());
  out.set_step(plan.step.value());
  for (const StartSlot& start : plan.starts) ToWire(start, *out.add_starts());
  for (const PlanCopy& copy : plan.copies) {
    auto* added = out.add_copies();
    added->set_from_block(copy.from.value());
    added->set_to_block(copy.to.value());
  }
  for (const PlanRows& rows : plan.rows) {
    auto* added = out.add_rows();
    added->set_slot(rows.slot.value());
    added->set_first_position(rows.first_position);
    added->set_count(rows.count);
    for (const BlockId block : rows.new_blocks) added->add_new_blocks(block.value());
    for (const ReplaceBlock& replace : rows.replace_blocks) {
      auto* entry = added->add_replace_blocks();
      entry->set_index(replace.index);
      entry->set_block(replace.block.value());
    }
    added->set_prompt_logprobs(rows.prompt_logprobs);
    if (!rows.accepted.empty()) added->mutable_accepted()->Assign(rows.accepted.begin(), rows.accepted.end());
    if (!rows.drafts.empty()) added->mutable_drafts()->Assign(rows.drafts.begin(), rows.drafts.end());
  }
  for (const PlanSample& sample : plan.samples) {
    auto* added = out.add_samples();
    added->set_rows_index(sample.rows_index);
    added->set_slot(sample.slot.value());
    added->set_output_index(sample.output_index);
  }
  for (const SlotId slot : plan.ends) out.add_ends(slot.value());
  for (const BlockName& name : plan.names) {
    auto* added = out.add_names();
    added->set_block(name.block.value());
    added->set_hash_high(name.hash.high);
    added->set_hash_low(name.hash.low);
  }
  if (!plan.rebuild.has_value()) return;
  out.mutable_rebuild()->set_first_stage(plan.rebuild->first_stage);
  out.mutable_rebuild()->set_last_stage(plan.rebuild->last_stage);
  for (const RebuildChain& chain : plan.rebuild->chains) {
    auto* added = out.mutable_rebuild()->add_chains();
    for (const BlockId block : chain.blocks) added->add_blocks(block.value());
    added->set_first_block(chain.first_block);
    added->mutable_tokens()->Assign(chain.tokens.begin(), chain.tokens.end());
  }
}

void ToWire(const Assignment& in, wire::Assignment& out) {
  out.set_pipeline(in.pipeline.value());
  out.set_epoch(in.epoch.value());
  out.set_model(in.model);
  out.set_model_digest(in.model_digest);
  out.set_stage(in.stage);
  out.set_rank(in.rank);
  for (const PlacedStage& stage : in.stages) {
    auto* added = out.add_stages();
    added->set_layer_begin(stage.layer_begin);
    added->set_layer_end(stage.layer_end);
    added->set_tensor_parallel(stage.tensor_parallel);
  }
  out.set_max_model_len(in.max_model_len);
  out.set_block_tokens(in.block_tokens);
  out.set_blocks(in.blocks);
  out.set_kv_cache_type(in.kv_cache_type);
  out.set_activation_bits(in.activation_bits);
  out.set_deployment(in.deployment);
  out.set_max_step_rows(in.max_step_rows);
  out.set_max_slots(in.max_slots);
  out.set_max_sample_rows(in.max_sample_rows);
  for (const std::string& peer : in.model_peers) out.add_model_peers()->set_address(peer);
}

void ToWire(const SendLinkUp& link_up, wire::LinkUp& out) {
  out.set_epoch(link_up.epoch.value());
  for (const LinkPeer& peer : link_up.peers) {
    auto* added = out.add_peers();
    added->set_stage(peer.stage);
    added->set_rank(peer.rank);
    added->set_data_address(peer.data_address);
    added->set_host(peer.host);
  }
}

void ToWire(const WorkerLink::KvFill& fill, const KvReservation& blocks, wire::FillKv& out) {
  out.set_move(fill.move);
  out.set_epoch(fill.epoch.value());
  out.set_source(fill.source);
  out.set_source_epoch(fill.source_epoch.value());
  out.set_source_token(fill.source_token);
  out.set_timeout_ms(fill.timeout_ms);
  for (const BlockId block : blocks.from) out.add_from(block.value());
  for (const BlockId block : blocks.to) out.add_to(block.value());
}

}  // namespace pagoda::coordinator
