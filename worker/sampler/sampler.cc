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
constexpr double kGreedyBelow = 1e-5;  // temperature
constexpr int kGroup = 64;             // values whose largest CollectTop looks at first

TokenId ArgMax(std::span<const float> logits) {
  const float top = MaxOf(logits);
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == top) return static_cast<TokenId>(i);
  }
  return 0;  // all NaN
}

struct LogSumExp {
  float top = 0;
  double log_sum = 0;
  float Of(float logit) const { return static_cast<float>((static_cast<double>(logit) - top) - log_sum); }
};

LogSumExp LogSumExpOf(std::span<const float> logits) {
  LogSumExp result{.top = MaxOf(logits)};
  result.log_sum = FixedLog(ExpSum(logits, result.top, 1.0f, {}));
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

Sampler::Sampler(int vocabulary) : vocabulary_(vocabulary) {}

Sampled Sampler::Sample(std::span<const float> logits, const SamplingContext& context) {
  PAGODA_CHECK(static_cast<int>(logits.size()) == vocabulary_);
  const SamplerParams& params = *context.params;
  std::span<const float> scores = logits;
  if (NeedsEditing(context)) {
    edited_.assign(logits.begin(), logits.end());
    Mask(context);
    Penalise(context);
    scores = edited_;
    if (MaxOf(scores) == kMasked) scores = logits;
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
  CollectTop(logits, std::min(top, vocabulary_));
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

bool Sampler::NeedsEditing(const SamplingContext& context) const {
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
    weights_.assign(static_cast<size_t>(vocabulary_), kMasked);
    for (const TokenId token : params.allowed_token_ids) {
      if (in_range(token)) weights_[static_cast<size_t>(token)] = edited_[static_cast<size_t>(token)];
    }
    edited_.swap(weights_);
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

TokenId Sampler::ChooseAtRandom(std::span<const float> logits, const SamplingContext& context) {
  const SamplerParams& params = *context.params;
  const float top = MaxOf(logits);
  const float factor = static_cast<float>(1.0 / params.temperature);
  weights_.resize(static_cast<size_t>(vocabulary_));
  const double total = ExpSum(logits, top, factor, weights_);
  if (!(total > 0) || !std::isfinite(total)) return ArgMax(logits);
  const double uniform = UniformOf(params.seed, static_cast<uint32_t>(context.choice),
                                   static_cast<uint32_t>(context.output_index));
  const bool cuts_k = params.top_k > 0 && params.top_k < vocabulary_;
  const bool cuts_p = params.top_p < 1;
  const bool cuts_typical = params.typical_p < 1;
  const bool cuts_min = params.min_p > 0;
  if (!cuts_k && !cuts_p && !cuts_typical && !cuts_min) return PickFromAll(uniform * total);

  // The largest weight is 1, so min_p is a bound on the weight itself; it keeps a prefix of the order, as top_k does.
  const auto apply_min_p = [&] {
    if (!cuts_min) return;
    const float bound = static_cast<float>(params.min_p);
    while (candidates_.size() > 1 && candidates_.back().weight < bound) candidates_.pop_back();
  };
  if (cuts_k) {
    CollectTop(logits, params.top_k);
    apply_min_p();
  } else if (cuts_min) {
    CollectFrom(logits, static_cast<float>(params.min_p));
    apply_min_p();
  } else if (!cuts_p) {
    CollectTop(logits, vocabulary_);
  }
  if (cuts_p) {
    const bool collected = cuts_k || cuts_min;
    double mass = 0;
    if (collected) {
      for (const Candidate& candidate : candidates_) mass += static_cast<double>(candidate.weight);
    } else {
      mass = total;
    }
    KeepTopP(logits, params.top_p, mass, collected);
  }
  if (cuts_typical) KeepTypical(params.typical_p);
  double rest = 0;
  for (const Candidate& candidate : candidates_) rest += static_cast<double>(candidate.weight);
  const double target = uniform * rest;
  double sum = 0;
  for (const Candidate& candidate : candidates_) {
    sum += static_cast<double>(candidate.weight);
    if (sum > target) return candidate.token;
  }
  return candidates_.empty() ? ArgMax(logits) : candidates_.back().token;
}

TokenId Sampler::PickFromAll(double target) const {
  const std::span<const float> all = weights_;
  double before = 0;
  TokenId last = 0;  // the last token that can be chosen, should rounding carry the target past the end
  for (size_t begin = 0; begin < all.size(); begin += kSumChunk) {
    const std::span<const float> chunk = all.subspan(begin, std::min<size_t>(kSumChunk, all.size() - begin));
    const double sum = ChunkSum(chunk);
    if (before + sum <= target && begin + kSumChunk < all.size()) {
      before += sum;
      continue;
    }
    for (size_t i = 0; i < chunk.size(); ++i) {
      if (chunk[i] <= 0) continue;
      last = static_cast<TokenId>(begin + i);
      before += static_cast<double>(chunk[i]);
      if (before > target) return last;
    }
  }
  return last;
}

void Sampler::CollectFrom(std::span<const float> logits, float weight) {
  candidates_.clear();
  for (size_t i = 0; i < weights_.size(); ++i) {
    // The likeliest have weight 1, or next to it: they stay even when `weight` is 1.
    if (weights_[i] >= std::min(weight, 0.999f)) candidates_.push_back({static_cast<TokenId>(i), logits[i], weights_[i]});
  }
  std::sort(candidates_.begin(), candidates_.end(), Better);
}

bool Sampler::Better(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}

void Sampler::CollectTop(std::span<const float> logits, int count) {
  const bool weighted = weights_.size() == logits.size();
  const auto add = [&](size_t i) {
    if (logits[i] > kMasked) {
      candidates_.push_back({static_cast<TokenId>(i), logits[i], weighted ? weights_[i] : 0.0f});
    }
  };
  candidates_.clear();
  const size_t groups = (logits.size() + kGroup - 1) / kGroup;
  if (static_cast<size_t>(count) * 2 >= groups) {
    for (size_t i = 0; i < logits.size(); ++i) add(i);
  } else {
    // The count-th largest of the groups' maxima is a lower bound of the count-th largest value.
    group_max_.resize(groups);
    for (size_t g = 0; g < groups; ++g) {
      group_max_[g] = MaxOf(logits.subspan(g * kGroup, std::min<size_t>(kGroup, logits.size() - g * kGroup)));
    }
    group_order_ = group_max_;
    std::nth_element(group_order_.begin(), group_order_.begin() + (count - 1), group_order_.end(), std::greater<>());
    const float bound = group_order_[static_cast<size_t>(count - 1)];
    for (size_t g = 0; g < groups; ++g) {
      if (group_max_[g] < bound) continue;
      const size_t end = std::min(logits.size(), (g + 1) * kGroup);
      for (size_t i = g * kGroup; i < end; ++i) {
        if (logits[i] >= bound) add(i);
      }
    }
  }
  const size_t keep = std::min(candidates_.size(), static_cast<size_t>(count));
  if (keep < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(keep),
                     candidates_.end(), Better);
    candidates_.resize(keep);
  }
  std::sort(candidates_.begin(), candidates_.end(), Better);
}

void Sampler::KeepTopP(std::span<const float> logits, double top_p, double total, bool all_collected) {
  const double target = top_p * total;
  for (int count = all_collected ? vocabulary_ : kGroup;; count *= 4) {
    const bool everything = all_collected || count >= vocabulary_;
    if (!all_collected) CollectTop(logits, std::min(count, vocabulary_));
    double sum = 0;
    size_t keep = 0;
    while (keep < candidates_.size() && (sum < target || keep == 0)) {
      sum += static_cast<double>(candidates_[keep++].weight);
    }
    if (sum < target && !everything) continue;
    candidates_.resize(keep);
    return;
  }
}

void Sampler::KeepTypical(double typical_p) {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += static_cast<double>(candidate.weight);
  if (!(total > 0)) return;
  std::erase_if(candidates_, [](const Candidate& candidate) { return candidate.weight < 1e-37f; });
  const double log_total = FixedLog(total);
  // Surprise of a token is log_total - log(weight); the typical ones are nearest to the mean surprise.
  double entropy = 0;
  std::vector<std::pair<double, size_t>> order;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    const double surprise = log_total - FixedLog(static_cast<double>(candidates_[i].weight));
    entropy += static_cast<double>(candidates_[i].weight) / total * surprise;
    order.emplace_back(surprise, i);
  }
  for (auto& [distance, index] : order) distance = std::abs(distance - entropy);
  std::sort(order.begin(), order.end());
  double sum = 0;
  std::vector<size_t> kept;
  for (const auto& [distance, index] : order) {
    kept.push_back(index);
    sum += static_cast<double>(candidates_[index].weight);
    if (sum >= typical_p * total) break;
  }
  std::sort(kept.begin(), kept.end());  // back to likeliest first
  std::vector<Candidate> rest;
  for (const size_t index : kept) rest.push_back(candidates_[index]);
  candidates_ = std::move(rest);
}

}  // namespace pagoda::worker
