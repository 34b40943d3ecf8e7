#include "router/session.h"

#include "router/stream_position.h"

#include <algorithm>

namespace pagoda::router {

Session::Session(GenerationRequest request)
    : request_(std::move(request)),
      choices_(request_.choices),
      unfinished_(request_.choices),
      attempt_(request_.attempts_before),
      cached_tokens_(request_.cached_tokens) {
  for (size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = choices_[i];
    if (request_.detokenize) MakeDetokenizer(choice);
    if (i < request_.known.size()) Prime(request_.known[i], choice);
  }
}

void Session::Prime(const KnownChoice& known, Choice& choice) {
  choice.delivered = known.delivered;
  choice.text_ended = known.text_ended;
  for (TokenId token : known.tokens) {
    choice.tokens.push_back(token);
    any_token_ = true;
    if (!choice.detokenizer || known.finished) continue;
    choice.stop_string = choice.detokenizer->Add(token).stop_string;
    if (choice.stop_string) break;
  }
  if (!known.finished) return;
  choice.finished = true;
  --unfinished_;
}

std::vector<ChoiceDelta> Session::Opening() {
  std::vector<ChoiceDelta> news;
  for (size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = choices_[i];
    if (choice.finished || !choice.stop_string) continue;
    ChoiceDelta delta;
    delta.choice = static_cast<int>(i);
    delta.stop_string = std::move(choice.stop_string);
    Finish(choice, FinishReason::kStop, TokenBatch(), delta);
    news.push_back(std::move(delta));
  }
  return news;
}

void Session::MakeDetokenizer(Choice& choice) const {
  choice.detokenizer = std::make_unique<text::Detokenizer>(
      *request_.text->tokenizer,
      text::DetokenizerOptions{.skip_special_tokens = request_.skip_special_tokens,
                               .stop = request_.stop,
                               .include_stop_in_output = request_.include_stop_in_output,
                               .min_tokens = request_.sampling.min_tokens});
}

void Session::MadeBy(const std::string& numerics) {
  numerics_ = numerics;
  mark_ = numerics.empty() || request_.resume_id.empty() ? 0 : MarkOf(request_.model_digest, numerics);
}

Session::Submission Session::NextSubmission() {
  Submission submission;
  submission.attempt = ++attempt_;
  submission.want_prompt_logprobs =
      request_.sampling.prompt_logprobs >= 0 && prompt_logprobs_.empty();
  for (const Choice& choice : choices_)
    submission.choices.push_back({choice.tokens, choice.finished});
  return submission;
}

int64_t Session::output_tokens() const {
  int64_t sum = 0;
  for (const Choice& choice : choices_) sum += static_cast<int64_t>(choice.tokens.size());
  return sum;
}

namespace {
// What a coordinator's text says after its code.
std::string WithoutCode(std::string_view text) { return std::string(text.substr(text.find(": ") + 2)); }
}  // namespace

Session::Update Session::OnTokens(const TokenBatch& batch) {
  Update update;
  if (batch.attempt != attempt_ || batch.choice < 0 || batch.choice >= request_.choices)
    return update;
  Choice& choice = choices_[batch.choice];
  if (choice.finished) return update;
  if (batch.finish == FinishReason::kError) {
    // A coordinator begins its text with the code when it is one of these.
    const std::string_view text = batch.error;
    update.kind = text.starts_with("UNAVAILABLE:") ? Update::Kind::kLost : Update::Kind::kFailed;
    if (text.starts_with("DEADLINE_EXCEEDED: ")) {
      update.error = absl::DeadlineExceededError(WithoutCode(text));
    } else if (text.starts_with("NOT_FOUND: ")) {
      update.error = absl::NotFoundError(WithoutCode(text));
    } else if (text.starts_with("ABORTED: ")) {
      update.error = absl::AbortedError(WithoutCode(text));
    } else {
      update.error =
          absl::InternalError(text.empty() ? "the pipeline failed this request" : batch.error);
    }
    return update;
  }
  if (batch.finish == FinishReason::kCancelled) {
    update.kind = Update::Kind::kLost;
    return update;
  }
  const int known = static_cast<int>(choice.tokens.size());
  if (batch.first_index > known || batch.first_index < 0) {
    update.kind = Update::Kind::kGap;
    return update;
  }
  const size_t skip = static_cast<size_t>(known - batch.first_index);
  if (skip > batch.tokens.size()) return update;  // all of it is known, and more
  if (skip == batch.tokens.size() && batch.finish == FinishReason::kNone) return update;

  const int vocabulary = request_.text->tokenizer->vocabulary_size();
  for (TokenId token : batch.tokens) {
    if (token >= 0 && token < vocabulary) continue;
    update.kind = Update::Kind::kFailed;
    update.error = absl::InternalError(
        absl::StrCat("the pipeline returned token ", token, " of a vocabulary of ", vocabulary));
    return update;
  }
  update.kind = Update::Kind::kDelta;
  update.delta.choice = batch.choice;
  if (!any_token_ && skip < batch.tokens.size()) {
    any_token_ = update.first_token = true;
    cached_tokens_ = batch.cached_tokens;
  }
  if (prompt_logprobs_.empty()) prompt_logprobs_ = batch.prompt_logprobs;

  const bool stopped = Append(batch, skip, update);
  if (stopped) {
    update.stop = StopAt{batch.choice, static_cast<int>(choice.tokens.size())};
    Finish(choice, FinishReason::kStop, batch, update.delta);
  } else if (batch.finish != FinishReason::kNone) {
    Finish(choice, batch.finish, batch, update.delta);
  } else if (static_cast<int>(choice.tokens.size()) >= request_.sampling.max_tokens) {
    // The coordinator says so itself; should it not, the log stays bounded all the same.
    update.stop = StopAt{batch.choice, static_cast<int>(choice.tokens.size())};
    Finish(choice, FinishReason::kLength, batch, update.delta);
  }
  return update;
}

bool Session::Append(const TokenBatch& batch, size_t skip, Update& update) {
  Choice& choice = choices_[batch.choice];
  ChoiceDelta& delta = update.delta;
  for (size_t i = skip; i < batch.tokens.size(); ++i) {
    if (static_cast<int>(choice.tokens.size()) >= request_.sampling.max_tokens) break;
    const TokenId token = batch.tokens[i];
    choice.tokens.push_back(token);
    const bool skipped = static_cast<int>(choice.tokens.size()) <= choice.delivered;
    (skipped ? delta.skipped : delta.tokens).push_back(token);
    if (i < batch.logprobs.size() && !skipped) delta.logprobs.push_back(batch.logprobs[i]);
    if (!choice.detokenizer) continue;
    // The token that stopped the choice is counted and listed, but its text is shown only when
    // asked for.
    const bool ending = batch.stop_token.has_value() && i + 1 == batch.tokens.size();
    if (ending && !request_.include_stop_in_output) continue;
    text::Detokenizer::Output output = choice.detokenizer->Add(token);
    if (!skipped) delta.text += output.text;
    if (output.stop_string) {
      delta.stop_string = std::move(output.stop_string);
      return true;
    }
  }
  return false;
}

void Session::Finish(Choice& choice, FinishReason reason, const TokenBatch& batch,
                     ChoiceDelta& delta) {
  choice.finished = true;
  --unfinished_;
  delta.finish = reason;
  if (delta.stop_string) return;  // the detokenizer has let go of everything before the stop string
  if (choice.detokenizer && !choice.text_ended) delta.text += choice.detokenizer->Finish();
  if (batch.stop_token &&
      std::ranges::count(request_.client_stop_token_ids, *batch.stop_token) > 0) {
    delta.stop_token = batch.stop_token;
  }
}

}  // namespace pagoda::router
