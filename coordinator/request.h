// What a router asks of a pipeline and what it gets back, as plain values (the wire's types stop at services/).
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/ids.h"
#include "common/trace.h"

namespace pagoda::coordinator {

using RouterId = StrongId<struct RouterTag, uint64_t>;  // one Attach stream of a router

// As SettledSampling on the wire: everything is decided.
struct Sampling {
  double temperature = 1;
  double top_p = 1;
  int top_k = 0;
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
  std::vector<TokenId> stop_token_ids;
  int logprobs = -1;         // -1: none
  int prompt_logprobs = -1;  // -1: none
  // Tokens drafted from the sequence's own (prompt lookup) and verified in one step: at most so many wherever there is a
  // guess; 0: as many as pay, measured; -1: none.
  int speculative_tokens = 0;
};

struct ChoiceProgress {
  std::vector<TokenId> tokens;  // emitted so far
  bool finished = false;
};

struct Request {
  RequestId id;
  RouterId router;
  uint32_t attempt = 0;
  std::vector<TokenId> prompt;
  std::vector<ChoiceProgress> choices;  // n of them
  Sampling sampling;
  int priority = 0;  // lower first
  std::string tenant;           // whose share of the pipeline it takes
  double tenant_weight = 1;
  int deaths = 0;               // pipelines that were lost while it ran there; two make it a suspect
  int deaths_alone = 0;         // of them: while it ran alone; two end it
  bool accepted = false;        // was accepted before, here or elsewhere: it is not turned away for load
  bool resumable = false;       // its log is kept, see resume_table.h
  std::string cache_salt;
  bool bypass_prefix_cache = false;
  int64_t deadline_ns = 0;  // absolute, of the caller's clock; 0: none
  std::string client_request_id;
  TraceContext trace;         // empty: not sampled. Its span is the parent of what the workers make
  uint64_t trace_parent = 0;  // the router's span
  bool canary = false;  // the engine's own, to see that an idle pipeline still works: not counted as traffic

  // Here or elsewhere, as the router or its tokens say: it is not turned away.
  bool WasAccepted() const {
    return accepted || std::ranges::any_of(choices, [](const ChoiceProgress& choice) { return !choice.tokens.empty(); });
  }
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
  int rank = 0;
  bool operator==(const TokenLogprob&) const = default;
};
using PositionLogprobs = std::vector<TokenLogprob>;

enum class FinishReason : uint8_t { kNone, kStop, kLength, kCancelled, kError };

// New tokens of one choice, its end, or both.
struct ChoiceOutput {
  RouterId router;
  RequestId request;
  bool resumable = false;
  uint32_t attempt = 0;
  int choice = 0;
  int first_index = 0;
  std::vector<TokenId> tokens;
  std::vector<PositionLogprobs> logprobs;         // one per token, when asked for
  std::vector<PositionLogprobs> prompt_logprobs;  // [prompt_length], entry 0 empty; with the first token of choice 0
  FinishReason finish = FinishReason::kNone;
  std::optional<TokenId> stop_token;
  int cached_tokens = 0;  // with the first token, as are the two times
  int64_t queue_ns = 0;
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;   // with the end: since the first token
  int output_tokens = 0;   // with the end: all of this choice
  std::string error;       // with kError
};

enum class RefusalCode : uint8_t {
  kInvalidArgument, kNotFound, kResourceExhausted, kUnavailable, kDeadlineExceeded, kAborted,
};

// What the router has to know of a request that ran while its pipeline was lost, for its next submission: absolute counts.
// Zeros: it was a suspect and is cleared.
struct DeathNotice {
  RouterId router;
  RequestId request;
  int deaths = 0;
  int deaths_alone = 0;
};

// The request did not start and leaves no trace.
struct Refusal {
  RouterId router;
  RequestId request;
  uint32_t attempt = 0;
  RefusalCode code = RefusalCode::kInvalidArgument;
  std::string message;
  int retry_after_ms = 0;
};

}  // namespace pagoda::coordinator
