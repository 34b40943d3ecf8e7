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
  return progress;
}

StepResult FromWire(wire::StepResult& in) {
  StepResult result;
  result.epoch = Epoch(in.epoch());
  result.step = StepNumber(in.step());
  result.compute_us = in.compute_us();
  result.samples.reserve(static_cast<size_t>(in.samples_size()));
  for (const auto& sample : in.samples()) {
    result.samples.push_back({SlotId(sample.slot()), sample.token_id(), FromWire(sample.logprobs())});
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
  }
  for (const PlanSample& sample : plan.samples) {
    auto* added = out.add_samples();
    added->set_rows_index(sample.rows_index);
    added->set_slot(sample.slot.value());
    added->set_output_index(sample.output_index);
  }
  for (const SlotId slot : plan.ends) out.add_ends(slot.value());
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

}  // namespace pagoda::coordinator
