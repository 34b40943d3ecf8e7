#include "worker/model/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace pagoda::worker {
namespace {

using kernels::Activation;
using kernels::ActivationForms;
using kernels::F32View;
using kernels::PackedMatrix;

std::span<std::byte> Bytes(float* data, int64_t count) {
  return {reinterpret_cast<std::byte*>(data), static_cast<size_t>(count) * sizeof(float)};
}

F32View Rows(float* data, int64_t rows, int64_t columns) {
  return {.data = data, .rows = rows, .columns = columns, .stride = columns};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Make(std::shared_ptr<const Shard> shard, kernels::Backend& backend,
                                                       const DecoderOptions& options) {
  auto decoder = std::unique_ptr<Decoder>(new Decoder(std::move(shard), backend, options));
  PAGODA_RETURN_IF_ERROR(decoder->Allocate());
  return decoder;
}

absl::StatusOr<float*> Decoder::Keep(absl::StatusOr<std::unique_ptr<kernels::Buffer>> buffer) {
  PAGODA_RETURN_IF_ERROR(buffer.status());
  float* data = static_cast<float*>((*buffer)->data());
  buffers_.push_back(*std::move(buffer));
  return data;
}

absl::StatusOr<float*> Decoder::Floats(int64_t count) {
  const size_t bytes = static_cast<size_t>(std::max<int64_t>(count, 16)) * sizeof(float);
  workspace_bytes_ += static_cast<int64_t>(bytes);
  return Keep(backend_.NewBuffer(bytes));
}

absl::StatusOr<float*> Decoder::HostFloats(int64_t count) {
  const size_t bytes = static_cast<size_t>(std::max<int64_t>(count, 16)) * sizeof(float);
  if (backend_.host_memory()) workspace_bytes_ += static_cast<int64_t>(bytes);
  return Keep(backend_.NewHostBuffer(bytes));
}

absl::StatusOr<std::unique_ptr<Activation>> Decoder::NewActivation(int64_t rows, int64_t columns,
                                                                   ActivationForms forms) {
  workspace_bytes_ += rows * columns * (4 * forms.f32 + 2 * forms.int8 + 3 * forms.int12);  // with scales and sums
  return backend_.NewActivation(rows, columns, forms);
}

absl::Status Decoder::Allocate() {
  const checkpoint::ModelSpec& spec = shard_->spec;
  const GroupPartition& group = shard_->partition;
  const RankPartition& mine = shard_->mine();
  const int64_t rows = options_.max_rows;
  const int64_t head_dim = spec.head_dim;

  rope_frequencies_ = checkpoint::RopeFrequencies(spec.rope);
  rope_ = {.frequencies = rope_frequencies_,
           .interleaved = spec.rope.layout == checkpoint::RopeLayout::kInterleaved,
           .magnitude = checkpoint::RopeAttentionFactor(spec.rope)};
  const int64_t heads_per_kv = spec.heads / spec.kv_heads;
  for (int64_t h = mine.query_heads.begin; h < mine.query_heads.end; ++h) {
    kv_head_of_.push_back(static_cast<int32_t>(h / heads_per_kv - mine.kv_heads.begin));
  }
  attention_ = {.query_heads = static_cast<int>(mine.query_heads.size()),
                .kv_heads = static_cast<int>(mine.kv_heads.size()),
                .kv_head_of = kv_head_of_,
                .head_dim = spec.head_dim,
                .softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim))),
                .sliding_window = spec.sliding_window};
  PAGODA_ASSIGN_OR_RETURN(kv_, backend_.NewKvCache({.layers = static_cast<int>(shard_->layers.size()),
                                                    .blocks = options_.kv_blocks,
                                                    .kv_heads = attention_.kv_heads,
                                                    .head_dim = spec.head_dim,
                                                    .block_tokens = options_.block_tokens,
                                                    .type = options_.kv_type}));
  for (const int member : mine.sub_group) {
    const RankPartition& other = group.ranks[static_cast<size_t>(member)];
    sub_attention_columns_.push_back(other.query_heads.size() * head_dim);
    sub_ffn_columns_.push_back(2 * other.ffn.size());
  }

  const int64_t attended = mine.output_query_heads.size() * head_dim;
  PAGODA_ASSIGN_OR_RETURN(residual_, Floats(rows * spec.hidden));
  PAGODA_ASSIGN_OR_RETURN(planes_, Floats(static_cast<int64_t>(group.planes.size()) * rows * spec.hidden));
  PAGODA_ASSIGN_OR_RETURN(qkv_, Floats(rows * (mine.query_heads.size() + 2 * mine.kv_heads.size()) * head_dim));
  PAGODA_ASSIGN_OR_RETURN(attended_, Floats(rows * attended));
  PAGODA_ASSIGN_OR_RETURN(gate_up_, Floats(rows * 2 * mine.down_ffn.size()));
  if (mine.sub_group.size() > 1 || group.ranks.size() > static_cast<size_t>(group.virtual_shards)) {
    const int64_t widest = std::max({static_cast<int64_t>(group.virtual_shards) * spec.hidden, attended,
                                     2 * mine.down_ffn.size()});
    PAGODA_ASSIGN_OR_RETURN(parts_, Floats(rows * widest));
  }
  hidden_host_ = residual_;
  if (!backend_.host_memory()) {
    if (!shard_->last()) {
      PAGODA_ASSIGN_OR_RETURN(hidden_host_, HostFloats(rows * spec.hidden));
    }
    if (group.ranks.size() > 1) {
      const int64_t planes = static_cast<int64_t>(std::max<size_t>(group.planes.size(), group.ranks.size()));
      PAGODA_ASSIGN_OR_RETURN(gather_host_, HostFloats(rows * std::max({planes * spec.hidden, attended,
                                                                         2 * mine.down_ffn.size()})));
    }
  }

  ActivationForms attention_forms, output_forms, ffn_forms, down_forms;
  for (const LayerWeights& layer : shard_->layers) {
    layer.qkv->AddForms(attention_forms);
    layer.output->AddForms(output_forms);
    layer.gate_up->AddForms(ffn_forms);
    layer.down->AddForms(down_forms);
  }
  PAGODA_ASSIGN_OR_RETURN(attention_input_, NewActivation(rows, spec.hidden, attention_forms));
  PAGODA_ASSIGN_OR_RETURN(output_input_, NewActivation(rows, attended, output_forms));
  PAGODA_ASSIGN_OR_RETURN(ffn_input_, NewActivation(rows, spec.hidden, ffn_forms));
  PAGODA_ASSIGN_OR_RETURN(down_input_, NewActivation(rows, mine.down_ffn.size(), down_forms));
  if (!shard_->last()) return absl::OkStatus();

  const int64_t head_rows = options_.max_head_rows;
  ActivationForms head_forms;
  if (shard_->head != nullptr) shard_->head->AddForms(head_forms);
  PAGODA_ASSIGN_OR_RETURN(head_residual_, Floats(head_rows * spec.hidden));
  PAGODA_ASSIGN_OR_RETURN(head_input_, NewActivation(head_rows, spec.hidden, head_forms));
  const int64_t vocabulary = mine.rank == 0 ? spec.vocabulary : mine.vocabulary.size();
  PAGODA_ASSIGN_OR_RETURN(logits_, HostFloats(head_rows * vocabulary));
  if (mine.rank == 0 && group.ranks.size() > 1) {
    PAGODA_ASSIGN_OR_RETURN(logit_parts_, HostFloats(head_rows * spec.vocabulary));
  }
  if (!backend_.host_memory()) {
    PAGODA_ASSIGN_OR_RETURN(head_out_, Floats(head_rows * mine.vocabulary.size()));
  }
  return absl::OkStatus();
}

absl::Status Decoder::Run(const Input& input, GroupExchange& group) {
  const int64_t rows = input.step.rows;
  if (rows == 0) return absl::OkStatus();
  if (rows > options_.max_rows) {
    return absl::InvalidArgumentError(absl::StrCat("a step of ", rows, " rows, room for ", options_.max_rows));
  }
  const int64_t hidden = shard_->spec.hidden;
  PAGODA_RETURN_IF_ERROR(
      backend_.BeginStep({.step = input.step, .tokens = input.tokens, .attention = &attention_, .rope = &rope_, .cache = kv_.get()}));
  if (shard_->first()) {
    PAGODA_RETURN_IF_ERROR(backend_.Embed(shard_->embedding, input.tokens, Rows(residual_, rows, hidden)));
  } else {
    PAGODA_RETURN_IF_ERROR(
        backend_.Upload(input.hidden, residual_, static_cast<size_t>(rows * hidden) * sizeof(float)));
  }
  // A group exchanges data between the layers' operations, so only a rank that is alone has steps that can be recorded.
  if (group.alone()) {
    const bool single_rows = input.step.sequences.size() == static_cast<size_t>(rows);
    const int64_t padded = single_rows ? std::min<int64_t>(backend_.PaddedRows(rows), options_.max_rows) : rows;
    PAGODA_RETURN_IF_ERROR(backend_.RunStep({.owner = this, .rows = padded, .single_rows = single_rows},
                                            [&] { return RunLayers(padded, input.step, group); }));
  } else {
    PAGODA_RETURN_IF_ERROR(RunLayers(rows, input.step, group));
  }
  if (hidden_host_ != residual_ && !shard_->last()) {
    return backend_.Download(residual_, hidden_host_, static_cast<size_t>(rows * hidden) * sizeof(float));
  }
  return backend_.Synchronize();
}

absl::Status Decoder::RunLayers(int64_t rows, const kernels::StepRows& step, GroupExchange& group) {
  kernels::StepRows padded = step;
  padded.rows = static_cast<int>(rows);
  bool planes = false;
  for (size_t i = 0; i < shard_->layers.size(); ++i) {
    const LayerWeights& weights = shard_->layers[i];
    PAGODA_RETURN_IF_ERROR(AddPlanes(rows, planes, weights.attention_norm, attention_input_.get()));
    PAGODA_RETURN_IF_ERROR(Attention(weights, static_cast<int>(i), padded, group));
    PAGODA_RETURN_IF_ERROR(AddPlanes(rows, true, weights.ffn_norm, ffn_input_.get()));
    PAGODA_RETURN_IF_ERROR(FeedForward(weights, rows, group));
    planes = true;
    group.Poll();
  }
  return AddPlanes(rows, planes, nullptr, nullptr);
}

absl::Status Decoder::AddPlanes(int64_t rows, bool planes, const float* norm, Activation* out) {
  const GroupPartition& group = shard_->partition;
  std::vector<const float*> pointers;
  for (size_t p = 0; planes && p < group.planes.size(); ++p) {
    pointers.push_back(planes_ + static_cast<int64_t>(p) * rows * shard_->spec.hidden);
  }
  std::span<const int> adds = group.adds_after_plane;
  return backend_.AddNorm({.residual = Rows(residual_, rows, shard_->spec.hidden),
                           .planes = pointers,
                           .adds_after_plane = planes ? adds : adds.first(0),
                           .norm_weight = norm,
                           .epsilon = shard_->spec.norm_epsilon,
                           .out = out});
}

absl::Status Decoder::Attention(const LayerWeights& weights, int layer, const kernels::StepRows& step,
                                GroupExchange& group) {
  const RankPartition& mine = shard_->mine();
  const int64_t rows = step.rows;
  attention_.layer = layer;
  const F32View qkv = Rows(qkv_, rows, weights.qkv->rows());
  PAGODA_RETURN_IF_ERROR(backend_.MatMulRopeAndStore({.matrix = weights.qkv.get(),
                                                      .input = attention_input_.get(),
                                                      .qkv = qkv,
                                                      .step = step,
                                                      .rope = rope_,
                                                      .attention = attention_},
                                                     *kv_));
  const int64_t columns = mine.query_heads.size() * shard_->spec.head_dim;
  const int64_t all_columns = mine.output_query_heads.size() * shard_->spec.head_dim;
  if (mine.sub_group.size() == 1) {
    PAGODA_RETURN_IF_ERROR(
        backend_.AttendAndQuantize(qkv, step, attention_, *kv_, Rows(attended_, rows, columns), *output_input_));
  } else {
    float* part = parts_;
    for (int m = 0; m < mine.sub_index; ++m) part += rows * sub_attention_columns_[static_cast<size_t>(m)];
    PAGODA_RETURN_IF_ERROR(backend_.Attend(qkv, step, attention_, *kv_, Rows(part, rows, columns)));
    PAGODA_RETURN_IF_ERROR(JoinSubGroup(sub_attention_columns_, 1, rows, attended_, group));
    PAGODA_RETURN_IF_ERROR(backend_.Quantize(Rows(attended_, rows, all_columns), *output_input_));
  }
  return PartialSums(*weights.output, *output_input_, rows, group);
}

absl::Status Decoder::FeedForward(const LayerWeights& weights, int64_t rows, GroupExchange& group) {
  const RankPartition& mine = shard_->mine();
  const kernels::GateKind kind = shard_->spec.activation == checkpoint::ActivationKind::kGeluGated
                                     ? kernels::GateKind::kGelu
                                     : kernels::GateKind::kSilu;
  if (mine.sub_group.size() == 1) {
    PAGODA_RETURN_IF_ERROR(backend_.MatMulGated({.matrix = weights.gate_up.get(),
                                                 .input = ffn_input_.get(),
                                                 .scratch = Rows(gate_up_, rows, weights.gate_up->rows()),
                                                 .kind = kind},
                                                *down_input_));
    return PartialSums(*weights.down, *down_input_, rows, group);
  }
  float* part = parts_;
  for (int m = 0; m < mine.sub_index; ++m) part += rows * sub_ffn_columns_[static_cast<size_t>(m)];
  PAGODA_RETURN_IF_ERROR(backend_.MatMul({.matrix = weights.gate_up.get(),
                                          .input = ffn_input_.get(),
                                          .rows = rows,
                                          .out = part,
                                          .row_stride = weights.gate_up->rows(),
                                          .plane_stride = 0}));
  PAGODA_RETURN_IF_ERROR(JoinSubGroup(sub_ffn_columns_, 2, rows, gate_up_, group));
  PAGODA_RETURN_IF_ERROR(
      backend_.GatedActivation(Rows(gate_up_, rows, 2 * mine.down_ffn.size()), kind, *down_input_));
  return PartialSums(*weights.down, *down_input_, rows, group);
}

absl::Status Decoder::PartialSums(const PackedMatrix& matrix, const Activation& input, int64_t rows,
                                  GroupExchange& group) {
  const GroupPartition& partition = shard_->partition;
  const RankPartition& mine = shard_->mine();
  const int64_t hidden = shard_->spec.hidden;
  const bool sliced = mine.tensor_parallel > partition.virtual_shards;
  float* base = sliced ? parts_ : planes_;
  std::vector<int64_t> floats;
  float* out = base;
  for (const RankPartition& rank : partition.ranks) {
    floats.push_back(static_cast<int64_t>(rank.planes.size()) * rows * rank.output_rows.size());
    if (rank.rank < mine.rank) out += floats.back();
  }
  const int64_t slice = mine.output_rows.size();
  PAGODA_RETURN_IF_ERROR(backend_.MatMul({.matrix = &matrix,
                                          .input = &input,
                                          .rows = rows,
                                          .out = out,
                                          .row_stride = slice,
                                          .plane_stride = rows * slice}));
  if (group.alone()) return absl::OkStatus();
  PAGODA_RETURN_IF_ERROR(GatherParts(base, floats, {}, group));
  if (!sliced) return absl::OkStatus();
  const float* from = base;
  for (const RankPartition& rank : partition.ranks) {  // slices of rows of shard s become plane s
    const int64_t width = rank.output_rows.size();
    PAGODA_RETURN_IF_ERROR(backend_.CopyRows({.from = from,
                                              .from_stride = width,
                                              .to = planes_ + rank.shards.begin * rows * hidden + rank.output_rows.begin,
                                              .to_stride = hidden,
                                              .rows = rows,
                                              .columns = width}));
    from += floats[static_cast<size_t>(rank.rank)];
  }
  return absl::OkStatus();
}

absl::Status Decoder::GatherParts(float* base, std::span<const int64_t> floats, std::span<const int> members,
                                  GroupExchange& group) {
  const int rank = shard_->mine().rank;
  float* host = backend_.host_memory() ? base : gather_host_;
  std::vector<std::span<std::byte>> parts;
  int64_t at = 0, mine_at = 0;
  for (size_t r = 0; r < floats.size(); ++r) {
    if (static_cast<int>(r) == rank) mine_at = at;
    parts.push_back(Bytes(host + at, floats[r]));
    at += floats[r];
  }
  if (host == base) {
    PAGODA_RETURN_IF_ERROR(backend_.Synchronize());
    return group.Gather(parts, rank, members);
  }
  PAGODA_RETURN_IF_ERROR(backend_.Download(base + mine_at, host + mine_at, parts[static_cast<size_t>(rank)].size()));
  PAGODA_RETURN_IF_ERROR(group.Gather(parts, rank, members));
  const int64_t after = mine_at + floats[static_cast<size_t>(rank)];
  PAGODA_RETURN_IF_ERROR(backend_.Upload(host, base, static_cast<size_t>(mine_at) * sizeof(float)));
  return backend_.Upload(host + after, base + after, static_cast<size_t>(at - after) * sizeof(float));
}

absl::Status Decoder::JoinSubGroup(std::span<const int64_t> columns, int halves, int64_t rows, float* out,
                                   GroupExchange& group) {
  const RankPartition& mine = shard_->mine();
  std::vector<int64_t> floats(static_cast<size_t>(mine.tensor_parallel), 0);
  int64_t total = 0;
  for (size_t m = 0; m < columns.size(); ++m) {
    floats[static_cast<size_t>(mine.sub_group[m])] = rows * columns[m];
    total += columns[m];
  }
  PAGODA_RETURN_IF_ERROR(GatherParts(parts_, floats, mine.sub_group, group));
  int64_t at = 0;
  const float* from = parts_;
  for (const int64_t width : columns) {
    const int64_t half = width / halves;
    for (int h = 0; h < halves; ++h) {
      PAGODA_RETURN_IF_ERROR(backend_.CopyRows({.from = from + h * half,
                                                .from_stride = width,
                                                .to = out + h * (total / halves) + at,
                                                .to_stride = total,
                                                .rows = rows,
                                                .columns = half}));
    }
    from += rows * width;
    at += half;
  }
  return absl::OkStatus();
}

absl::Status Decoder::NormHeadRows(std::span<const int> rows) {
  const int64_t count = static_cast<int64_t>(rows.size());
  const int64_t hidden = shard_->spec.hidden;
  if (!shard_->last() || count > options_.max_head_rows) {
    return absl::InvalidArgumentError(absl::StrCat("logits of ", count, " rows, room for ", options_.max_head_rows));
  }
  PAGODA_RETURN_IF_ERROR(
      backend_.GatherRows(Rows(residual_, options_.max_rows, hidden), rows, Rows(head_residual_, count, hidden)));
  if (shard_->head == nullptr) return absl::OkStatus();
  return backend_.AddNorm({.residual = Rows(head_residual_, count, hidden),
                           .planes = {},
                           .adds_after_plane = {},
                           .norm_weight = shard_->final_norm,
                           .epsilon = shard_->spec.norm_epsilon,
                           .out = head_input_.get()});
}

absl::Status Decoder::RunHead(std::span<const int> rows, float* out) {
  PAGODA_RETURN_IF_ERROR(NormHeadRows(rows));
  if (shard_->head == nullptr) return absl::OkStatus();
  return backend_.MatMul({.matrix = shard_->head.get(),
                          .input = head_input_.get(),
                          .rows = static_cast<int64_t>(rows.size()),
                          .out = out,
                          .row_stride = shard_->mine().vocabulary.size(),
                          .plane_stride = 0});
}

absl::Status Decoder::Sample(std::span<const int> rows, std::span<const kernels::Backend::SampleRow> choices,
                             std::span<TokenId> tokens, GroupExchange& group) {
  if (!samples_here(group)) return absl::InternalError("sampling on a device that does not");
  PAGODA_RETURN_IF_ERROR(RunHead(rows, head_out_));
  return backend_.Sample(Rows(head_out_, static_cast<int64_t>(rows.size()), shard_->spec.vocabulary), choices, tokens);
}

absl::StatusOr<std::vector<TokenId>> Decoder::LargestOnDevice(std::span<const int> rows) {
  std::vector<kernels::Backend::SampleRow> choices;
  for (size_t i = 0; i < rows.size(); ++i) choices.push_back({.row = static_cast<int>(i)});
  std::vector<TokenId> tokens(rows.size());
  PAGODA_RETURN_IF_ERROR(RunHead(rows, head_out_));
  PAGODA_RETURN_IF_ERROR(backend_.Sample(Rows(head_out_, static_cast<int64_t>(rows.size()), shard_->spec.vocabulary), choices, tokens));
  return tokens;
}

absl::StatusOr<std::vector<TokenId>> Decoder::LargestLogits(std::span<const int> rows) {
  if (shard_->partition.ranks.size() != 1) return absl::InternalError("the largest logits of one rank's part of the vocabulary");
  if (!backend_.host_memory()) return LargestOnDevice(rows);
  PAGODA_RETURN_IF_ERROR(NormHeadRows(rows));
  std::vector<kernels::Backend::Largest> largest(rows.size());
  PAGODA_RETURN_IF_ERROR(backend_.MatMulLargest({.matrix = shard_->head.get(),
                                                 .input = head_input_.get(),
                                                 .rows = static_cast<int64_t>(rows.size()),
                                                 .out = logits_,
                                                 .row_stride = shard_->spec.vocabulary,
                                                 .plane_stride = 0},
                                                largest));
  std::vector<TokenId> tokens;
  for (const kernels::Backend::Largest& one : largest) tokens.push_back(std::max(one.index, 0));  // all NaN: token 0
  return tokens;
}

absl::StatusOr<F32View> Decoder::Logits(std::span<const int> rows, GroupExchange& group) {
  const RankPartition& mine = shard_->mine();
  const int64_t count = static_cast<int64_t>(rows.size());
  const int64_t vocabulary = shard_->spec.vocabulary;
  if (count == 0) return F32View{};
  const bool spread = mine.rank == 0 && !group.alone();
  float* host = spread ? logit_parts_ : logits_;
  float* out = backend_.host_memory() ? host : head_out_;
  PAGODA_RETURN_IF_ERROR(RunHead(rows, out));
  if (out == host) {
    PAGODA_RETURN_IF_ERROR(backend_.Synchronize());
  } else {
    PAGODA_RETURN_IF_ERROR(
        backend_.Download(out, host, static_cast<size_t>(count * mine.vocabulary.size()) * sizeof(float)));
  }
  const F32View view = Rows(logits_, count, vocabulary);
  if (group.alone()) return view;
  std::vector<std::span<std::byte>> parts;
  float* next = logit_parts_;
  for (const RankPartition& rank : shard_->partition.ranks) {
    const int64_t floats = count * rank.vocabulary.size();
    parts.push_back(mine.rank == 0 ? Bytes(next, floats) : std::span<std::byte>());
    if (mine.rank == 0) next += floats;
  }
  PAGODA_RETURN_IF_ERROR(group.GatherTo(0, Bytes(host, count * mine.vocabulary.size()), parts));
  if (mine.rank != 0) return F32View{};
  for (const RankPartition& rank : shard_->partition.ranks) {
    const float* from = reinterpret_cast<const float*>(parts[static_cast<size_t>(rank.rank)].data());
    const size_t width = static_cast<size_t>(rank.vocabulary.size());
    for (int64_t r = 0; r < count && width > 0; ++r) {
      std::memcpy(logits_ + r * vocabulary + rank.vocabulary.begin, from + static_cast<size_t>(r) * width,
                  width * sizeof(float));
    }
  }
  return view;
}

absl::Status Decoder::CopyBlocks(std::span<const kernels::Backend::BlockCopy> copies) {
  return copies.empty() ? absl::OkStatus() : backend_.CopyBlocks(copies, *kv_);
}

}  // namespace pagoda::worker
