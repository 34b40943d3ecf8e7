// How a token is drawn at random: what top_k, min_p, top_p and typical_p leave, found by thresholds.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>

#include "worker/sampler/fixed_math.h"
#include "worker/sampler/philox.h"
#include "worker/sampler/sampler.h"

namespace pagoda::worker {
namespace {

constexpr float kLowestLogit = std::numeric_limits<float>::lowest();
constexpr size_t kChunk = 1024;  // weights that are summed apart

// Leaves the shortest beginning of `entries`, in the order `before`, that weighs at least `need` (at least one entry), unordered.
// `place` must not fall along that order: entries are first counted by it, and only those of the place in which the last one
// lies are compared.
template <typename Entry, typename Before, typename WeightOf, typename Place>
void KeepFirst(std::vector<Entry>& entries, uint64_t need, Before before, WeightOf weight_of, Place place) {
  constexpr int kPlaces = 256;
  const auto place_of = [&](const Entry& entry) { return static_cast<int>(std::clamp(place(entry), 0.0, kPlaces - 1.0)); };
  need = std::max<uint64_t>(need, 1);
  std::array<uint64_t, kPlaces> weights{};
  for (const Entry& entry : entries) weights[static_cast<size_t>(place_of(entry))] += weight_of(entry);
  int crossing = 0;
  for (; crossing < kPlaces - 1 && weights[static_cast<size_t>(crossing)] < need; ++crossing) need -= weights[static_cast<size_t>(crossing)];
  std::erase_if(entries, [&](const Entry& entry) { return place_of(entry) > crossing; });
  auto begin = std::partition(entries.begin(), entries.end(), [&](const Entry& entry) { return place_of(entry) < crossing; });
  auto end = entries.end();
  // Halves until one is left: the last that is needed.
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, before);
    uint64_t first_half = 0;
    for (auto at = begin; at != middle; ++at) first_half += weight_of(*at);
    if (first_half >= need) {
      end = middle;
    } else {
      need -= first_half;
      begin = middle;
    }
  }
  entries.erase(end, entries.end());
}

}  // namespace

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
  } else if (least > 0) {
    // A little below where a weight of `least` begins: the weights themselves decide.
    const double bits = 30 - std::log2(static_cast<double>(least)) + 0.01;
    FindAtLeast(logits, static_cast<float>(top - bits / (static_cast<double>(factor) * std::numbers::log2e)));
    mass = WeighTop(logits, top, factor);
  } else {
    mass = WeighAll(logits, top, factor);
    if (!cuts_p && params.typical_p >= 1) return PickFromAll(target_of(mass));
    if (!cuts_p) {
      CollectHeavier(logits, 0);
    } else if (const uint64_t need = static_cast<uint64_t>(std::ceil(params.top_p * static_cast<double>(mass)));
               !CollectNearTop(logits, top, factor, need)) {
      // However many weigh no more than this, together they are within what top_p leaves out.
      CollectHeavier(logits, (mass - std::min(mass, need)) / static_cast<uint64_t>(vocabulary_));
    }
  }
  if (least > 0) {
    std::erase_if(candidates_, [&](const Candidate& candidate) {
      if (candidate.weight < least) mass -= candidate.weight;
      return candidate.weight < least;
    });
  }
  if (cuts_p) KeepHeaviest(static_cast<uint64_t>(std::ceil(params.top_p * static_cast<double>(mass))), top, factor);
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

void Sampler::FindAtLeast(std::span<const float> logits, float bound) {
  ids_.resize(static_cast<size_t>(vocabulary_) + kSlack);
  bound = std::max(bound, kLowestLogit);
  int64_t found = 0;
  for (size_t g = 0; g < group_max_.size(); ++g) {
    if (!(group_max_[g] >= bound)) continue;
    const int64_t begin = static_cast<int64_t>(g) * kernels::kLogitGroup;
    found += kernels_.at_least(logits.data() + begin, std::min<int64_t>(kernels::kLogitGroup, vocabulary_ - begin), bound,
                               static_cast<int32_t>(begin), ids_.data() + found);
  }
  ids_.resize(static_cast<size_t>(found));
}

void Sampler::FindTop(std::span<const float> logits, int count) {
  const size_t wanted = static_cast<size_t>(count);
  if (wanted * 2 < group_max_.size()) {
    // The wanted-th largest of the groups' maxima is a lower bound of the wanted-th largest value.
    scratch_ = group_max_;
    std::nth_element(scratch_.begin(), scratch_.begin() + count - 1, scratch_.end(), std::greater<>());
    FindAtLeast(logits, scratch_[wanted - 1]);
  } else {
    FindAtLeast(logits, kLowestLogit);
  }
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

bool Sampler::CollectNearTop(std::span<const float> logits, float top, float factor, uint64_t need) {
  for (const float nats : {4.0f, 9.0f, 14.0f}) {
    FindAtLeast(logits, top - nats / factor);
    uint64_t sum = 0;
    for (const int32_t id : ids_) sum += weights_[static_cast<size_t>(id)];
    if (sum < need) continue;
    TakeCandidates(logits);
    return true;
  }
  return false;
}

void Sampler::CollectHeavier(std::span<const float> logits, uint64_t bound) {
  ids_.resize(static_cast<size_t>(vocabulary_) + kSlack);
  // At least the likeliest is kept.
  const uint32_t capped = static_cast<uint32_t>(std::min<uint64_t>(bound, kernels::kWeightOne - 1));
  ids_.resize(static_cast<size_t>(kernels_.heavier(weights_.data(), vocabulary_, capped, ids_.data())));
  TakeCandidates(logits);
}

void Sampler::TakeCandidates(std::span<const float> logits) {
  candidates_.clear();
  for (const int32_t id : ids_) candidates_.push_back({id, logits[static_cast<size_t>(id)], weights_[static_cast<size_t>(id)]});
}

void Sampler::KeepHeaviest(uint64_t need, float top, float factor) {
  const float scale = factor * 16;  // places of a sixteenth of a nat
  candidate_scratch_ = candidates_;
  KeepFirst(
      candidate_scratch_, need, Better, [](const Candidate& candidate) { return candidate.weight; },
      [=](const Candidate& candidate) { return static_cast<double>((top - candidate.value) * scale); });
  const Candidate last = *std::max_element(candidate_scratch_.begin(), candidate_scratch_.end(), Better);
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
  order_.clear();
  double entropy = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    order_.emplace_back(surprise(candidates_[i]), i);
    entropy += static_cast<double>(candidates_[i].weight) / static_cast<double>(mass) * order_.back().first;
  }
  for (auto& [distance, i] : order_) distance = std::abs(distance - entropy);
  order_scratch_ = order_;
  KeepFirst(
      order_scratch_, static_cast<uint64_t>(std::ceil(params.typical_p * static_cast<double>(mass))), std::less<>(),
      [&](const auto& entry) { return candidates_[entry.second].weight; }, [](const auto& entry) { return entry.first * 16; });
  const auto last = *std::max_element(order_scratch_.begin(), order_scratch_.end());
  candidate_scratch_.clear();
  for (const auto& entry : order_) {
    if (entry <= last) candidate_scratch_.push_back(candidates_[entry.second]);
  }
  candidates_.swap(candidate_scratch_);
}

}  // namespace pagoda::worker
