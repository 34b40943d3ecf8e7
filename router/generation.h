// The plain data of a generation inside the router: what a front end read (GenerationFields), what
// is sent on once everything is settled (GenerationRequest), what comes back (TokenBatch from a
// coordinator, ChoiceDelta to a front end). No proto, no JSON.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/ids.h"
#include "common/status.h"
#include "common/trace.h"
#include "text/text_bundle.h"

namespace pagoda::router {

enum class FinishReason { kNone, kStop, kLength, kCancelled, kError };

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
  int rank = 0;  // 1: the likeliest
};
using PositionLogprobs =
    std::vector<TokenLogprob>;  // the chosen (or given) token first, then the likeliest

// As the client gave them; unset means the model's or the server's default. Any value may be
// hostile.
struct GenerationFields {
  std::optional<double> temperature, top_p, min_p, typical_p;
  std::optional<double> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k, no_repeat_ngram_size, seed, n, max_tokens, min_tokens, priority;
  std::string_view max_tokens_name = "max_tokens", logprobs_name = "logprobs";  // as the client calls them
  std::vector<std::pair<int64_t, double>> logit_bias;
  std::vector<std::string> bad_words;
  std::vector<std::vector<TokenId>> bad_word_tokens;
  std::vector<int64_t> allowed_token_ids;
  std::vector<std::string> stop;
  std::vector<int64_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop_in_output = false;
  bool skip_special_tokens = true;
  std::optional<int64_t> logprobs, prompt_logprobs;
  std::optional<int64_t> num_speculative_tokens;
  std::string cache_salt;
  bool bypass_prefix_cache = false;
};

// Everything settled; values are in range.
struct SettledSampling {
  double temperature = 1;
  double top_p = 1;
  int top_k = 0;  // 0: all
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
  int max_tokens = 0;  // per choice
  int min_tokens = 0;
  std::vector<TokenId> stop_token_ids;  // with the model's own unless ignore_eos
  int logprobs = -1;                    // -1: none
  int prompt_logprobs = -1;
  int speculative_tokens = 0;  // guessed at a time; 0: as many as pay, -1: none
};

// What is known of a choice of a stream that another router began.
struct KnownChoice {
  std::vector<TokenId> tokens;  // its output so far, as far as the client has it
  int delivered = 0;            // tokens that the client has: no news of these
  bool text_ended = false;      // the client has the text that the end let go of
  bool finished = false;        // the client has its end
};

struct GenerationRequest {
  RequestId id;
  std::string client_request_id;
  std::string model;
  std::string model_digest;
  std::shared_ptr<const text::TextModel> text;
  std::vector<TokenId> prompt;
  int choices = 1;
  SettledSampling sampling;
  std::vector<TokenId> client_stop_token_ids;  // those of stop_token_ids that the client asked for
  std::vector<std::string> stop;
  bool include_stop_in_output = false;
  bool skip_special_tokens = true;
  bool detokenize = true;
  int priority = 0;
  std::string tenant;
  double tenant_weight = 1;  // of its share of the queue
  std::string cache_salt;
  bool bypass_prefix_cache = false;
  MonotonicNs received_ns = 0;
  MonotonicNs deadline_ns = 0;
  TraceContext trace;  // of its server span
  // Of a stream that may outlive this router: the name its client comes back with, and what another router needs to go on.
  std::string resume_id;  // empty: it does not
  int resume_part = 0;
  std::string router_state;
  int64_t created_unix_s = 0;
  // It was begun elsewhere.
  std::vector<KnownChoice> known;  // one per choice; empty: it begins here
  uint32_t attempts_before = 0;
  int cached_tokens = 0;
  std::string known_digest;  // of the model that its tokens are of; empty: not known
  std::string numerics;      // by which they were made (ClusterView)
  uint32_t mark = 0;         // nobody knows them but its client, whose position says so; 0: they are known, or there are none
};

// Tokens of one choice out of one step. Spans are valid during the call only.
struct TokenBatch {
  RequestId request;
  uint32_t attempt = 0;
  int choice = 0;
  int first_index = 0;  // output index of tokens[0]
  std::span<const TokenId> tokens;
  std::vector<PositionLogprobs> logprobs;  // one per token, or empty
  std::vector<PositionLogprobs> prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
  std::optional<TokenId> stop_token;
  int cached_tokens = 0;
  std::string error;
};

// News of one choice for its client.
struct ChoiceDelta {
  int choice = 0;
  std::string text;  // whole characters
  std::vector<TokenId> tokens;
  std::vector<PositionLogprobs> logprobs;  // one per token, when asked for
  std::vector<TokenId> skipped;            // tokens before these, which the client has
  FinishReason finish = FinishReason::kNone;
  std::optional<TokenId> stop_token;  // why it stopped, when the client's stop_token_ids say so
  std::optional<std::string> stop_string;
};

}  // namespace pagoda::router
