// Chooses a token from one row of raw logits. Pure: the same row, parameters, history, seed, choice and output index give the
// same token on every machine, alone or in a batch, replayed or not. Ties go to the lowest id everywhere.
//
// Order, as vLLM's V1 sampler has it (what it lacks is marked *):
//   1. log-probabilities, of the raw logits
//   2. allowed_token_ids, bad_words (matched against the output), no_repeat_ngram_size* (prompt and output): -inf
//   3. min_tokens: stop ids are -inf before that many output tokens; logit_bias is added
//   4. repetition penalty (prompt and output: divided when positive, else multiplied), frequency and presence (output only)
//   5. temperature below 1e-5: the largest. Else divide by temperature, then min_p, top_k, top_p, typical_p*, each over what
//      the one before left, renormalised; then one uniform number of Philox(seed, choice, output index) picks by inverse CDF
//      in id order. Weights are integers (2^-30 of the likeliest token's; less counts as nothing), so their sums have one value
//      whatever the order: a cut is a threshold, and nothing is sorted.
// If everything is masked the raw logits' largest is taken, of allowed_token_ids when there are any: nothing else ever comes
// out of that list. NaN never wins.
// Thread rule: one thread per Sampler (it owns scratch).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "common/ids.h"
#include "kernels/cpu/logit_kernels.h"
#include "worker/sampler/token_counts.h"

namespace pagoda::worker {

struct SamplerParams {
  double temperature = 1;
  double top_p = 1;
  int top_k = 0;  // 0 or below: all
  double min_p = 0;
  double typical_p = 1;
  double repetition_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  int no_repeat_ngram_size = 0;
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::vector<std::vector<TokenId>> bad_words;
  std::vector<TokenId> allowed_token_ids;
  uint64_t seed = 0;
  int min_tokens = 0;
  std::vector<TokenId> stop_token_ids;
  int logprobs = -1;         // -1: none
  int prompt_logprobs = -1;  // -1: none

  bool UsesCounts() const {
    return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0;
  }
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
  int rank = 0;  // 1 is the likeliest
  bool operator==(const TokenLogprob&) const = default;
};
// The chosen (or given) token first, then the likeliest in order. Empty: not asked for.
using Logprobs = std::vector<TokenLogprob>;

struct SamplingContext {
  const SamplerParams* params = nullptr;
  std::span<const TokenId> tokens;      // prompt and output so far
  int prompt_length = 0;
  const TokenCounts* counts = nullptr;  // of `tokens`; may be null when params->UsesCounts() is false
  int choice = 0;
  int output_index = 0;
};

struct Sampled {
  TokenId token = 0;
  Logprobs logprobs;
};

class Sampler {
 public:
  explicit Sampler(int vocabulary, kernels::Isa isa = kernels::Isa::kAuto);

  // True when Sample would give the largest logit's token and nothing else: then the logits need not be written down.
  static bool TakesLargest(const SamplingContext& context);

  // Requires logits.size() == vocabulary. Ids outside the vocabulary in the parameters are ignored.
  Sampled Sample(std::span<const float> logits, const SamplingContext& context);
  // What a device needs to choose as Sample would, or nothing: when log-probabilities are wanted, or a rule that it does not have.
  // A token has at most one edit.
  struct TokenEdit {
    TokenId token = 0;
    bool forbid = false;
    bool seen = false;
    int output = 0;
    float bias = 0;
  };
  struct DeviceChoice {
    std::vector<TokenEdit> edits;
    float factor = 0;    // 1 / temperature; 0: the largest
    uint32_t least = 0;  // weight, of min_p
    double uniform = 0;
  };
  std::optional<DeviceChoice> ForDevice(const SamplingContext& context) const;
  // log-softmax of `token` and of the `top` likeliest.
  Logprobs LogprobsOf(std::span<const float> logits, TokenId token, int top);

 private:
  static constexpr size_t kSlack = 16;  // that kernels may write beyond

  struct Candidate {
    TokenId token = 0;
    float value = 0;      // logit
    uint32_t weight = 0;  // exp((value - largest) / temperature)
  };

  static bool NeedsEditing(const SamplingContext& context);
  void KeepAllowed(const SamplerParams& params);
  void Mask(const SamplingContext& context);
  void MaskRepeatedNgrams(const SamplingContext& context);
  void Penalise(const SamplingContext& context);
  float Largest(std::span<const float> logits);  // fills group_max_
  TokenId ArgMax(std::span<const float> logits);
  int RankOf(std::span<const float> logits, TokenId token) const;  // 1: the largest. Of group_max_'s logits
  TokenId ChooseAtRandom(std::span<const float> logits, const SamplingContext& context);

  // Fills weights_ and chunk_sums_; returns the sum.
  uint64_t WeighAll(std::span<const float> logits, float top, float factor);
  TokenId PickFromAll(uint64_t target) const;
  // Of group_max_'s logits: the ids of those not below `bound`; of the `count` largest above -inf (ties: lowest id), ascending, into ids_.
  void FindAtLeast(std::span<const float> logits, float bound);
  void FindTop(std::span<const float> logits, int count);
  // Candidates of ids_, ascending by id, weighed here. Returns their sum.
  uint64_t WeighTop(std::span<const float> logits, float top, float factor);
  // Candidates as WeighAll weighed them: those nearest to the top that weigh at least `need` together (false: they are too many
  // for this way); those heavier than `bound`; those of ids_.
  bool CollectNearTop(std::span<const float> logits, float top, float factor, uint64_t need);
  void CollectHeavier(std::span<const float> logits, uint64_t bound);
  void TakeCandidates(std::span<const float> logits);
  // Keep the smallest set of the likeliest candidates that weighs at least `need`.
  void KeepHeaviest(uint64_t need, float top, float factor);
  void KeepTypical(const SamplerParams& params, float top);
  static bool Better(const Candidate& a, const Candidate& b);

  const int vocabulary_;
  const kernels::LogitKernels& kernels_;
  std::vector<float> edited_;
  std::vector<float> group_max_;
  std::vector<float> scratch_;
  std::vector<uint32_t> weights_;
  std::vector<uint64_t> chunk_sums_;
  std::vector<int32_t> ids_;  // room for 16 more than the vocabulary
  std::vector<Candidate> candidates_;
  std::vector<Candidate> candidate_scratch_;
  std::vector<std::pair<double, size_t>> order_;  // distance from the mean surprise, candidate
  std::vector<std::pair<double, size_t>> order_scratch_;
};

}  // namespace pagoda::worker
