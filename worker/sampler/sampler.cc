#include "worker/sampler/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/status.h"
#include "worker/sampler/fixed_math.h"
#include "worker/sampler/philox.h"

namespace pagoda::worker {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();
constexpr float kLowestLogit = std::numeric_limits<float>::lowest();
constexpr double kGreedyBelow = 1e-5;  // temperature
constexpr size_t kChunk = 1024;        // weights that are summed apart
constexpr size_t kSlack = 16;          // that kernels may write beyond

struct LogSumExp {
  float top = 0;
  double log_sum = 0;
  float Of(float logit) const { return static_cast<float>((static_cast<double>(logit) - top) - log_sum); }
};

LogSumExp LogSumExpOf(std::span<const float> logits) {
  LogSumExp result{.top = MaxOf(logits)};
  result.log_sum = FixedLog(ExpSum(logits, result.top, 1.0f));
  return result;
}

int RankOf(std::span<const float> logits, TokenId token) {
  const float value = logits[static_cast<size_t>(token)];
  int above = 0;
  for (const float other : logits) above += other > value;
  for (TokenId i = 0; i < token; ++i) above += logits[static_cast<size_t>(i)] == value;
  return above + 1;
}

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
    if (Largest(scores) == kMasked) scores = logits;
  }
  Sampled sampled;
  sampled.token = params.temperature < kGreedyBelow ? ArgMax(scores) : ChooseAtRandom(scores, context);
  if (params.logprobs >= 0) sampled.logprobs = LogprobsOf(logits, sampled.token, params.logprobs);
  return sampled;
}

Logprobs Sampler::LogprobsOf(std::span<const float> logits, TokenId token, int top) {
  const LogSumExp sum = LogSumExpOf(logits);
  Logprobs result;
  result.reserve(static_cast<size_t>(top) + 1);
  result.push_back({token, sum.Of(logits[static_cast<size_t>(token)]), RankOf(logits, token)});
  if (top <= 0) return result;
  Largest(logits);
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

void Sampler::Mask(const SamplingContext& context) {
  const SamplerParams& params = *context.params;
  const auto in_range = [&](TokenId token) { return token >= 0 && token < vocabulary_; };
  const auto forbid = [&](TokenId token) {
    if (in_range(token)) edited_[static_cast<size_t>(token)] = kMasked;
  };
  if (!params.allowed_token_ids.empty()) {
    scratch_.assign(static_cast<size_t>(vocabulary_), kMasked);
    for (const TokenId token : params.allowed_token_ids) {
      if (in_range(token)) scratch_[static_cast<size_t>(token)] = edited_[static_cast<size_t>(token)];
    }
    edited_.swap(scratch_);
  }
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

TokenId Sampler::ArgMax(std::span<const float> logits) {
  const int64_t found = kernels_.find(logits.data(), vocabulary_, Largest(logits));
  return found < vocabulary_ ? static_cast<TokenId>(found) : 0;  // 0: all are NaN
}

bool Sampler::Better(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}

TokenId Sampler::ChooseAtRandom(std::span<const float> logits, const SamplingContext& context) {
  const SamplerParams& params = *context.params;
  const float top = Largest(logits);
  const float factor = static_cast<float>(1.0 / params.temperature);
  if (!std::isfinite(top)) return ArgMax(logits);
  const double uniform = UniformOf(params.seed, static_cast<uint32_t>(context.choice),
                                   static_cast<uint32_t>(context.output_index));
  const auto target_of = [uniform](uint64_t mass) {
    return std::min(static_cast<uint64_t>(uniform * static_cast<double>(mass)), mass - 1);
  };
  const bool cuts_k = params.top_k > 0 && params.top_k < vocabulary_;
  const bool cuts_p = params.top_p < 1;
  const uint32_t least = static_cast<uint32_t>(std::ceil(std::clamp(params.min_p, 0.0, 1.0) * kernels::kWeightOne));

  // The likeliest weighs kWeightOne: no mass is ever 0.
  uint64_t mass = 0;
  if (cuts_k) {
    FindTop(logits, params.top_k);
    mass = WeighTop(logits, top, factor);
  } else {
    mass = WeighAll(logits, top, factor);
    if (least == 0 && !cuts_p && params.typical_p >= 1) return PickFromAll(target_of(mass));
    uint64_t bound = least > 0 ? least - 1 : 0;
    if (least == 0 && cuts_p) {
      // However many weigh no more than this, together they are within what top_p leaves out.
      const uint64_t left_out = mass - std::min(mass, static_cast<uint64_t>(std::ceil(params.top_p * static_cast<double>(mass))));
      bound = left_out / static_cast<uint64_t>(vocabulary_);
    }
    const uint64_t collected = CollectHeavier(logits, bound);
    if (least > 0) mass = collected;
  }
  if (cuts_k && least > 0) {
    std::erase_if(candidates_, [&](const Candidate& candidate) {
      if (candidate.weight < least) mass -= candidate.weight;
      return candidate.weight < least;
    });
  }
  if (cuts_p) KeepHeaviest(static_cast<uint64_t>(std::ceil(params.top_p * static_cast<double>(mass))));
  if (params.typical_p < 1) KeepTypical(params, top);
  mass = 0;
  for (const Candidate& candidate : candidates_) mass += candidate.weight;
  const uint64_t target = target_of(mass);
  uint64_t sum = 0;
  for (const Candidate& candidate : candidates_) {
    sum += candidate.weight;
    if (sum > target) return candidate.token;
  }
  return candidates_.back().token;
}

uint64_t Sampler::WeighAll(std::span<const float> logits, float top, float factor) {
  weights_.resize(logits.size() + kSlack);
  chunk_sums_.clear();
  uint64_t total = 0;
  for (size_t at = 0; at < logits.size(); at += kChunk) {
    const int64_t count = static_cast<int64_t>(std::min(kChunk, logits.size() - at));
    chunk_sums_.push_back(kernels_.weigh(logits.data() + at, count, top, factor, weights_.data() + at));
    total += chunk_sums_.back();
  }
  return total;
}

TokenId Sampler::PickFromAll(uint64_t target) const {
  size_t chunk = 0;
  while (target >= chunk_sums_[chunk]) target -= chunk_sums_[chunk++];
  size_t i = chunk * kChunk;
  while (target >= weights_[i]) target -= weights_[i++];
  return static_cast<TokenId>(i);
}

void Sampler::FindTop(std::span<const float> logits, int count) {
  ids_.resize(static_cast<size_t>(vocabulary_) + kSlack);
  const size_t wanted = static_cast<size_t>(count);
  int64_t found = 0;
  if (wanted * 2 < group_max_.size()) {
    // The wanted-th largest of the groups' maxima is a lower bound of the wanted-th largest value.
    scratch_ = group_max_;
    std::nth_element(scratch_.begin(), scratch_.begin() + count - 1, scratch_.end(), std::greater<>());
    const float bound = std::max(scratch_[wanted - 1], kLowestLogit);
    for (size_t g = 0; g < group_max_.size(); ++g) {
      if (!(group_max_[g] >= bound)) continue;
      const int64_t begin = static_cast<int64_t>(g) * kernels::kLogitGroup;
      found += kernels_.at_least(logits.data() + begin, std::min<int64_t>(kernels::kLogitGroup, vocabulary_ - begin), bound,
                                 static_cast<int32_t>(begin), ids_.data() + found);
    }
  } else {
    found = kernels_.at_least(logits.data(), vocabulary_, kLowestLogit, 0, ids_.data());
  }
  ids_.resize(static_cast<size_t>(found));
  if (ids_.size() <= wanted) return;
  scratch_.clear();
  for (const int32_t id : ids_) scratch_.push_back(logits[static_cast<size_t>(id)]);
  std::nth_element(scratch_.begin(), scratch_.begin() + count - 1, scratch_.end(), std::greater<>());
  const float last = scratch_[wanted - 1];
  int ties = count;
  for (const int32_t id : ids_) ties -= logits[static_cast<size_t>(id)] > last;
  std::erase_if(ids_, [&](int32_t id) {
    const float value = logits[static_cast<size_t>(id)];
    return !(value > last || (value == last && ties-- > 0));
  });
}

uint64_t Sampler::WeighTop(std::span<const float> logits, float top, float factor) {
  scratch_.clear();
  for (const int32_t id : ids_) scratch_.push_back(logits[static_cast<size_t>(id)]);
  weights_.resize(std::max(weights_.size(), ids_.size() + kSlack));
  const uint64_t sum = kernels_.weigh(scratch_.data(), static_cast<int64_t>(ids_.size()), top, factor, weights_.data());
  candidates_.clear();
  for (size_t i = 0; i < ids_.size(); ++i) candidates_.push_back({ids_[i], scratch_[i], weights_[i]});
  return sum;
}

uint64_t Sampler::CollectHeavier(std::span<const float> logits, uint64_t bound) {
  ids_.resize(static_cast<size_t>(vocabulary_) + kSlack);
  // At least the likeliest is kept.
  const uint32_t capped = static_cast<uint32_t>(std::min<uint64_t>(bound, kernels::kWeightOne - 1));
  ids_.resize(static_cast<size_t>(kernels_.heavier(weights_.data(), vocabulary_, capped, ids_.data())));
  candidates_.clear();
  uint64_t sum = 0;
  for (const int32_t id : ids_) {
    const size_t i = static_cast<size_t>(id);
    candidates_.push_back({id, logits[i], weights_[i]});
    sum += weights_[i];
  }
  return sum;
}

void Sampler::KeepHeaviest(uint64_t need) {
  need = std::max<uint64_t>(need, 1);
  candidate_scratch_ = candidates_;
  auto begin = candidate_scratch_.begin();
  auto end = candidate_scratch_.end();
  // Halves until one is left: the last that is needed.
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, Better);
    uint64_t better = 0;
    for (auto at = begin; at != middle; ++at) better += at->weight;
    if (better >= need) {
      end = middle;
    } else {
      need -= better;
      begin = middle;
    }
  }
  const Candidate last = *begin;
  std::erase_if(candidates_, [&last](const Candidate& candidate) { return Better(last, candidate); });
}

// The typical ones are those whose surprise is nearest to the mean surprise.
void Sampler::KeepTypical(const SamplerParams& params, float top) {
  uint64_t mass = 0;
  std::erase_if(candidates_, [](const Candidate& candidate) { return candidate.weight == 0; });
  for (const Candidate& candidate : candidates_) mass += candidate.weight;
  const double log_mass = FixedLog(static_cast<double>(mass) / kernels::kWeightOne);
  const auto surprise = [&](const Candidate& candidate) {
    return (static_cast<double>(top) - static_cast<double>(candidate.value)) / params.temperature + log_mass;
  };
  double entropy = 0;
  for (const Candidate& candidate : candidates_) {
    entropy += static_cast<double>(candidate.weight) / static_cast<double>(mass) * surprise(candidate);
  }
  std::vector<std::pair<double, size_t>> order;
  for (size_t i = 0; i < candidates_.size(); ++i) order.emplace_back(std::abs(surprise(candidates_[i]) - entropy), i);
  std::sort(order.begin(), order.end());
  const uint64_t need = static_cast<uint64_t>(std::ceil(params.typical_p * static_cast<double>(mass)));
  uint64_t sum = 0;
  size_t kept = 0;
  while (kept < order.size() && (sum < need || kept == 0)) sum += candidates_[order[kept++].second].weight;
  candidate_scratch_.clear();
  for (size_t i = 0; i < kept; ++i) candidate_scratch_.push_back(candidates_[order[i].second]);
  std::sort(candidate_scratch_.begin(), candidate_scratch_.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  candidates_.swap(candidate_scratch_);
}

}  // namespace pagoda::worker
