#include "worker/sampler/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/sampling.h"
#include "common/status.h"
#include "worker/sampler/fixed_math.h"
#include "worker/sampler/philox.h"

namespace pagoda::worker {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

struct LogSumExp {
  float top = 0;
  double log_sum = 0;
  float Of(float logit) const { return static_cast<float>((static_cast<double>(logit) - top) - log_sum); }
};

}  // namespace

Sampler::Sampler(int vocabulary, kernels::Isa isa)
    : vocabulary_(vocabulary),
      kernels_(kernels::LogitKernelsOf(isa)),
      group_max_((static_cast<size_t>(vocabulary) + kernels::kLogitGroup - 1) / kernels::kLogitGroup),
      ids_(static_cast<size_t>(vocabulary) + kSlack) {}

Sampled Sampler::Sample(std::span<const float> logits, const SamplingContext& context) {
  PAGODA_CHECK(static_cast<int>(logits.size()) == vocabulary_);
  const SamplerParams& params = *context.params;
  std::span<const float> scores = logits;
  if (NeedsEditing(context)) {
    edited_.assign(logits.begin(), logits.end());
    Mask(context);
    Penalise(context);
    scores = edited_;
    if (Largest(scores) == kMasked) {
      edited_.assign(logits.begin(), logits.end());
      KeepAllowed(params);
      scores = edited_;
    }
  }
  Sampled sampled;
  sampled.token = params.temperature < kGreedyBelow ? ArgMax(scores) : ChooseAtRandom(scores, context);
  if (params.logprobs >= 0) sampled.logprobs = LogprobsOf(logits, sampled.token, params.logprobs);
  return sampled;
}

Logprobs Sampler::LogprobsOf(std::span<const float> logits, TokenId token, int top) {
  LogSumExp sum{.top = Largest(logits)};
  // What weighs less than 2^-31 of the likeliest counts as nothing: together at most 2.3e-5 of the sum for 49,152 tokens.
  const uint64_t mass = std::max<uint64_t>(WeighAll(logits, sum.top, 1.0f), kernels::kWeightOne);
  sum.log_sum = FixedLog(static_cast<double>(mass) / kernels::kWeightOne);
  Logprobs result;
  result.reserve(static_cast<size_t>(std::max(top, 0)) + 1);
  result.push_back({token, sum.Of(logits[static_cast<size_t>(token)]), RankOf(logits, token)});
  if (top <= 0) return result;
  FindTop(logits, std::min(top, vocabulary_));
  candidates_.clear();
  for (const int32_t id : ids_) candidates_.push_back({id, logits[static_cast<size_t>(id)], 0});
  std::sort(candidates_.begin(), candidates_.end(), Better);
  int rank = 0;
  for (const Candidate& candidate : candidates_) result.push_back({candidate.token, sum.Of(candidate.value), ++rank});
  return result;
}

std::optional<Sampler::DeviceChoice> Sampler::ForDevice(const SamplingContext& context) const {
  const SamplerParams& params = *context.params;
  const bool random = params.temperature >= kGreedyBelow;
  if (params.logprobs >= 0 || params.prompt_logprobs >= 0 || !params.allowed_token_ids.empty() || !params.bad_words.empty() ||
      params.no_repeat_ngram_size > 0 || (random && params.typical_p < 1)) {
    return std::nullopt;
  }
  DeviceChoice choice;
  if (random) {
    choice.factor = static_cast<float>(1.0 / params.temperature);
    choice.least = static_cast<uint32_t>(std::ceil(std::clamp(params.min_p, 0.0, 1.0) * kernels::kWeightOne));
    choice.uniform = UniformOf(params.seed, static_cast<uint32_t>(context.choice), static_cast<uint32_t>(context.output_index));
  }
  if (!NeedsEditing(context)) return choice;
  absl::flat_hash_map<TokenId, TokenEdit> edits;
  const auto edit_of = [&](TokenId token) -> TokenEdit* {
    if (token < 0 || token >= vocabulary_) return nullptr;
    TokenEdit& edit = edits[token];
    edit.token = token;
    return &edit;
  };
  if (context.output_index < params.min_tokens) {
    for (const TokenId token : params.stop_token_ids) {
      if (TokenEdit* edit = edit_of(token)) edit->forbid = true;
    }
  }
  for (const auto& [token, bias] : params.logit_bias) {
    TokenEdit* edit = edit_of(token);
    if (edit == nullptr) continue;
    if (edit->bias != 0) return std::nullopt;  // the same token twice: the order of two sums is the host's
    edit->bias = bias;
  }
  if (params.UsesCounts() && context.counts != nullptr) {
    for (const auto& [token, entry] : context.counts->entries()) {
      TokenEdit* edit = edit_of(token);
      if (edit == nullptr) continue;
      edit->seen = true;
      edit->output = entry.output;
    }
  }
  for (const auto& [token, edit] : edits) choice.edits.push_back(edit);
  return choice;
}

bool Sampler::TakesLargest(const SamplingContext& context) {
  return context.params->temperature < kGreedyBelow && context.params->logprobs < 0 && !NeedsEditing(context);
}

bool Sampler::NeedsEditing(const SamplingContext& context) {
  const SamplerParams& params = *context.params;
  return !params.allowed_token_ids.empty() || !params.bad_words.empty() || params.no_repeat_ngram_size > 0 ||
         context.output_index < params.min_tokens || !params.logit_bias.empty() || params.UsesCounts();
}

void Sampler::KeepAllowed(const SamplerParams& params) {
  if (params.allowed_token_ids.empty()) return;
  scratch_.assign(static_cast<size_t>(vocabulary_), kMasked);
  for (const TokenId token : params.allowed_token_ids) {
    if (token >= 0 && token < vocabulary_) scratch_[static_cast<size_t>(token)] = edited_[static_cast<size_t>(token)];
  }
  edited_.swap(scratch_);
}

void Sampler::Mask(const SamplingContext& context) {
  const SamplerParams& params = *context.params;
  const auto in_range = [&](TokenId token) { return token >= 0 && token < vocabulary_; };
  const auto forbid = [&](TokenId token) {
    if (in_range(token)) edited_[static_cast<size_t>(token)] = kMasked;
  };
  KeepAllowed(params);
  const std::span<const TokenId> output =
      context.tokens.subspan(std::min(context.tokens.size(), static_cast<size_t>(context.prompt_length)));
  for (const std::vector<TokenId>& word : params.bad_words) {
    if (word.empty() || word.size() > output.size() + 1) continue;
    const std::span<const TokenId> tail = output.last(word.size() - 1);
    if (std::equal(tail.begin(), tail.end(), word.begin())) forbid(word.back());
  }
  if (params.no_repeat_ngram_size > 0) MaskRepeatedNgrams(context);
  if (context.output_index < params.min_tokens) {
    for (const TokenId token : params.stop_token_ids) forbid(token);
  }
  for (const auto& [token, bias] : params.logit_bias) {
    if (in_range(token)) edited_[static_cast<size_t>(token)] += bias;
  }
}

void Sampler::MaskRepeatedNgrams(const SamplingContext& context) {
  const std::span<const TokenId> tokens = context.tokens;
  const size_t prefix = static_cast<size_t>(context.params->no_repeat_ngram_size) - 1;
  if (tokens.size() < prefix + 1) return;
  const std::span<const TokenId> tail = tokens.last(prefix);
  for (size_t at = 0; at + prefix < tokens.size(); ++at) {
    if (!std::equal(tail.begin(), tail.end(), tokens.begin() + static_cast<std::ptrdiff_t>(at))) continue;
    const TokenId next = tokens[at + prefix];
    if (next >= 0 && next < vocabulary_) edited_[static_cast<size_t>(next)] = kMasked;
  }
}

void Sampler::Penalise(const SamplingContext& context) {
  const SamplerParams& params = *context.params;
  if (!params.UsesCounts() || context.counts == nullptr) return;
  const float repetition = static_cast<float>(params.repetition_penalty);
  const float frequency = static_cast<float>(params.frequency_penalty);
  const float presence = static_cast<float>(params.presence_penalty);
  for (const auto& [token, entry] : context.counts->entries()) {
    if (token < 0 || token >= vocabulary_) continue;
    float& score = edited_[static_cast<size_t>(token)];
    score = score > 0 ? score / repetition : score * repetition;
    if (entry.output > 0) {
      score -= frequency * static_cast<float>(entry.output);
      score -= presence;
    }
  }
}

float Sampler::Largest(std::span<const float> logits) {
  return kernels_.group_max(logits.data(), vocabulary_, group_max_.data());
}

int Sampler::RankOf(std::span<const float> logits, TokenId token) const {
  const float value = logits[static_cast<size_t>(token)];
  int above = 0;
  for (size_t g = 0; g < group_max_.size(); ++g) {
    if (!(group_max_[g] >= value)) continue;
    const size_t begin = g * kernels::kLogitGroup;
    const size_t end = std::min(logits.size(), begin + kernels::kLogitGroup);
    for (size_t i = begin; i < end; ++i) above += logits[i] > value || (logits[i] == value && i < static_cast<size_t>(token));
  }
  return above + 1;
}

TokenId Sampler::ArgMax(std::span<const float> logits) {
  const int64_t found = kernels_.find(logits.data(), vocabulary_, Largest(logits));
  return found < vocabulary_ ? static_cast<TokenId>(found) : 0;  // 0: all are NaN
}

bool Sampler::Better(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}

}  // namespace pagoda::worker
