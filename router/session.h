// One request's life, as a plain state machine: the token log of every choice, its detokenizers and
// stop strings, the attempt that is current, what is finished. An event goes in, what to tell the
// client and the coordinator comes out. No clock, thread, socket or proto in it. Owner: the
// dispatcher (or a simulation). Invariants: a token index is reported to the client once; after
// `finished` of a choice nothing of it is reported.
#pragma once

#include <memory>
#include <vector>

#include "router/generation.h"
#include "text/detokenizer.h"

namespace pagoda::router {

class Session {
 public:
  explicit Session(GenerationRequest request);

  // What to submit now: the next attempt, with the tokens emitted so far. Tokens of older attempts
  // are ignored from here.
  struct Submission {
    uint32_t attempt = 0;
    struct Choice {
      std::span<const TokenId> tokens;
      bool finished = false;
    };
    std::vector<Choice> choices;
    bool want_prompt_logprobs = false;
  };
  Submission NextSubmission();
  // News that a resumed request has before any token: ends that its client does not know of. Once, before the first submission.
  std::vector<ChoiceDelta> Opening();

  struct StopAt {
    int choice = 0;
    int count = 0;  // output tokens
  };
  struct Update {
    enum class Kind {
      kIgnored,  // old attempt, duplicate, or of a choice that is finished
      kDelta,    // `delta` holds something new
      kGap,      // tokens are missing: submit again
      kFailed,   // `error`: the request is over
      kLost,     // the coordinator gave the request up without our asking: submit again
    };
    Kind kind = Kind::kIgnored;
    ChoiceDelta delta;
    std::optional<StopAt> stop;  // tell the coordinator
    bool first_token = false;    // of the request
    absl::Status error;
  };
  Update OnTokens(const TokenBatch& batch);

  bool finished() const { return unfinished_ == 0; }
  const GenerationRequest& request() const { return request_; }
  uint32_t attempt() const { return attempt_; }
  int cached_tokens() const { return cached_tokens_; }
  const std::vector<PositionLogprobs>& prompt_logprobs() const { return prompt_logprobs_; }
  int64_t output_tokens() const;  // of all choices
  int output_tokens(int choice) const { return static_cast<int>(choices_[choice].tokens.size()); }
  bool any_token() const { return any_token_; }
  // What its tokens are made by (ClusterView), as its pipelines say; empty: it has none yet. `mark`: of it and the model, of a stream that
  // its client may come back for.
  void MadeBy(const std::string& numerics);
  const std::string& numerics() const { return numerics_; }
  uint32_t mark() const { return mark_; }

 private:
  struct Choice {
    std::vector<TokenId> tokens;
    std::unique_ptr<text::Detokenizer> detokenizer;  // null: no text wanted
    bool finished = false;
    int delivered = 0;                       // output tokens that the client had from another router
    bool text_ended = false;                 // and the text behind them
    std::optional<std::string> stop_string;  // found in what was known
  };
  void MakeDetokenizer(Choice& choice) const;
  void Prime(const KnownChoice& known, Choice& choice);
  // Appends the new tokens of `batch` from `skip` on; true when a stop string ended the choice.
  bool Append(const TokenBatch& batch, size_t skip, Update& update);
  void Finish(Choice& choice, FinishReason reason, const TokenBatch& batch, ChoiceDelta& delta);

  const GenerationRequest request_;
  std::vector<Choice> choices_;
  int unfinished_;
  uint32_t attempt_ = 0;
  int cached_tokens_ = 0;
  bool any_token_ = false;
  std::string numerics_;
  uint32_t mark_ = 0;
  std::vector<PositionLogprobs> prompt_logprobs_;
};

}  // namespace pagoda::router
