#include "router/settle.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_format.h"
#include "common/limits.h"
#include "common/sampling.h"
#include "router/request_status.h"

namespace pagoda::router {
namespace {

struct RealRange {
  const char* name;
  const std::optional<double>& value;
  double low;
  double high;
  bool low_open = false;
};

absl::Status CheckReal(const RealRange& range) {
  if (!range.value) return absl::OkStatus();
  const double value = *range.value;
  const bool inside = std::isfinite(value) && value <= range.high &&
                      (range.low_open ? value > range.low : value >= range.low);  // false for NaN
  if (inside) return absl::OkStatus();
  return InvalidField(range.name,
                      absl::StrFormat("must be a number in %s%g, %g], and is %g",
                                      range.low_open ? "(" : "[", range.low, range.high, value));
}

struct IntegerRange {
  std::string_view name;
  const std::optional<int64_t>& value;
  int64_t low;
  int64_t high;
};

absl::Status CheckInteger(const IntegerRange& range) {
  if (!range.value || (*range.value >= range.low && *range.value <= range.high))
    return absl::OkStatus();
  return InvalidField(range.name, absl::StrCat("must be from ", range.low, " to ", range.high,
                                               ", and is ", *range.value));
}

absl::Status CheckCount(const char* name, size_t count, int limit) {
  if (count <= static_cast<size_t>(limit)) return absl::OkStatus();
  return InvalidField(name, absl::StrCat("has ", count, " entries; the limit is ", limit));
}

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();

absl::Status CheckNumbers(const GenerationFields& f) {
  for (const RealRange& range : {
           RealRange{"temperature", f.temperature, 0, 2},
           RealRange{"top_p", f.top_p, 0, 1, true},
           RealRange{"min_p", f.min_p, 0, 1},
           RealRange{"typical_p", f.typical_p, 0, 1, true},
           RealRange{"repetition_penalty", f.repetition_penalty, 1e-6, 1e6},
           RealRange{"presence_penalty", f.presence_penalty, -2, 2},
           RealRange{"frequency_penalty", f.frequency_penalty, -2, 2},
       }) {
    if (absl::Status status = CheckReal(range); !status.ok()) return status;
  }
  for (const IntegerRange& range : {
           IntegerRange{"n", f.n, 1, limits::kMaxChoices},
           IntegerRange{f.max_tokens_name, f.max_tokens, 1, kInt32Max},
           IntegerRange{"min_tokens", f.min_tokens, 0, kInt32Max},
           IntegerRange{"top_k", f.top_k, -1, kInt32Max},
           IntegerRange{"no_repeat_ngram_size", f.no_repeat_ngram_size, 0, limits::kMaxPromptTokens},
           IntegerRange{f.logprobs_name, f.logprobs, 0, limits::kMaxTopLogprobs},
           IntegerRange{"prompt_logprobs", f.prompt_logprobs, 0, limits::kMaxPromptLogprobs},
           IntegerRange{"num_speculative_tokens", f.num_speculative_tokens, 0, limits::kMaxDraftTokens},
           IntegerRange{"priority", f.priority, -kInt32Max, kInt32Max},
       }) {
    if (absl::Status status = CheckInteger(range); !status.ok()) return status;
  }
  if (f.min_tokens && f.max_tokens && *f.min_tokens > *f.max_tokens) {
    return InvalidField("min_tokens", "is above max_tokens");
  }
  return absl::OkStatus();
}

absl::Status CheckLists(const GenerationFields& f) {
  for (const absl::Status& status :
       {CheckCount("stop", f.stop.size(), limits::kMaxStopStrings),
        CheckCount("stop_token_ids", f.stop_token_ids.size(), limits::kMaxStopTokenIds),
        CheckCount("logit_bias", f.logit_bias.size(), limits::kMaxLogitBias),
        CheckCount("bad_words", f.bad_words.size() + f.bad_word_tokens.size(),
                   limits::kMaxBadWords),
        CheckCount("allowed_token_ids", f.allowed_token_ids.size(), limits::kMaxVocabulary)}) {
    if (!status.ok()) return status;
  }
  for (const std::string& stop : f.stop) {
    if (stop.empty()) return InvalidField("stop", "has an empty string");
    if (stop.size() > limits::kMaxStopStringBytes) {
      return InvalidField("stop",
                          absl::StrCat("has a string of ", stop.size(), " bytes; the limit is ",
                                       limits::kMaxStopStringBytes));
    }
  }
  for (const std::string& word : f.bad_words) {
    if (word.empty() || word.size() > limits::kMaxStopStringBytes) {
      return InvalidField("bad_words", absl::StrCat("must hold strings of 1 to ",
                                                    limits::kMaxStopStringBytes, " bytes"));
    }
  }
  for (const auto& word : f.bad_word_tokens) {
    if (word.empty() || word.size() > limits::kMaxStopStringBytes) {
      return InvalidField("bad_words", absl::StrCat("must hold sequences of 1 to ",
                                                    limits::kMaxStopStringBytes, " tokens"));
    }
  }
  for (const auto& [token, bias] : f.logit_bias) {
    if (!(bias >= -100 && bias <= 100)) {  // false for NaN too
      return InvalidField(
          "logit_bias",
          absl::StrFormat("of token %d must be from -100 to 100, and is %g", token, bias));
    }
  }
  if (f.cache_salt.size() > limits::kMaxStopStringBytes) {
    return InvalidField("cache_salt",
                        absl::StrCat("is longer than ", limits::kMaxStopStringBytes, " bytes"));
  }
  return absl::OkStatus();
}

// The ids as TokenIds; an error for one that the vocabulary does not have.
absl::StatusOr<std::vector<TokenId>> TokenIdsOf(const char* name, const std::vector<int64_t>& ids,
                                                int vocabulary) {
  std::vector<TokenId> tokens;
  tokens.reserve(ids.size());
  for (int64_t id : ids) {
    if (id < 0 || id >= vocabulary) {
      return InvalidField(
          name, absl::StrCat("has token id ", id, ", which is not in 0..", vocabulary - 1));
    }
    tokens.push_back(static_cast<TokenId>(id));
  }
  return tokens;
}

// A word may follow a space or not; both spellings are banned when the second one is a token
// sequence of its own.
void AppendBadWord(const text::Tokenizer& tokenizer, const std::string& word,
                   std::vector<std::vector<TokenId>>& out) {
  const text::Tokenizer::EncodeOptions plain{.add_special_tokens = false,
                                             .parse_special_tokens = false};
  const size_t begin = std::min(word.find_first_not_of(' '), word.size());
  std::vector<TokenId> bare = tokenizer.Encode(std::string_view(word).substr(begin), plain);
  std::vector<TokenId> spaced = tokenizer.Encode(absl::StrCat(" ", word.substr(begin)), plain);
  if (!spaced.empty() && !bare.empty() && spaced[0] != bare[0] && spaced.size() == bare.size()) {
    out.push_back(std::move(spaced));
  }
  if (!bare.empty()) out.push_back(std::move(bare));
}

absl::Status SettleLists(const GenerationFields& f, const ServedModel& model,
                         GenerationRequest& request) {
  SettledSampling& s = request.sampling;
  const text::Tokenizer& tokenizer = *model.text->tokenizer;
  const int vocabulary = tokenizer.vocabulary_size();
  PAGODA_ASSIGN_OR_RETURN(s.allowed_token_ids,
                          TokenIdsOf("allowed_token_ids", f.allowed_token_ids, vocabulary));
  PAGODA_ASSIGN_OR_RETURN(request.client_stop_token_ids,
                          TokenIdsOf("stop_token_ids", f.stop_token_ids, vocabulary));
  s.stop_token_ids = request.client_stop_token_ids;
  if (!f.ignore_eos) {
    const auto& ends = tokenizer.end_of_generation();
    s.stop_token_ids.insert(s.stop_token_ids.end(), ends.begin(), ends.end());
  }
  std::ranges::sort(s.stop_token_ids);
  s.stop_token_ids.erase(std::ranges::unique(s.stop_token_ids).begin(), s.stop_token_ids.end());
  for (const auto& [token, bias] : f.logit_bias) {
    if (token < 0 || token >= vocabulary) {
      return InvalidField("logit_bias", absl::StrCat("has token id ", token,
                                                     ", which is not in 0..", vocabulary - 1));
    }
    s.logit_bias.emplace_back(static_cast<TokenId>(token), static_cast<float>(bias));
  }
  for (const std::string& word : f.bad_words) AppendBadWord(tokenizer, word, s.bad_words);
  for (const auto& word : f.bad_word_tokens) {
    const std::vector<int64_t> wide(word.begin(), word.end());
    PAGODA_ASSIGN_OR_RETURN(std::vector<TokenId> checked,
                            TokenIdsOf("bad_words", wide, vocabulary));
    s.bad_words.push_back(std::move(checked));
  }
  return absl::OkStatus();
}

absl::Status SettleLength(const SettleInput& input, GenerationRequest& request) {
  const GenerationFields& f = input.fields;
  const int64_t context = input.model.max_model_len;
  const auto length = static_cast<int64_t>(request.prompt.size());
  if (length == 0) return InvalidField("prompt", "has no tokens");
  if (length > limits::kMaxPromptTokens) {
    return InvalidField(
        "prompt", absl::StrCat("has ", length, " tokens; the limit is ", limits::kMaxPromptTokens));
  }
  int64_t wanted = f.max_tokens.value_or(input.default_max_tokens);
  if (wanted == 0) wanted = context - length;
  if (!f.max_tokens && f.min_tokens) wanted = std::max(wanted, *f.min_tokens);
  if (length >= context) {
    return WithCode(
        InvalidField("prompt", absl::StrCat("is too long: this model's maximum context length is ",
                                            context, " tokens, and the prompt has ", length,
                                            ", which leaves none for the completion")),
        "context_length_exceeded");
  }
  if (wanted > context - length) {
    return WithCode(
        InvalidField(f.max_tokens_name,
                     absl::StrCat("is too large: this model's maximum context length is ", context,
                                  " tokens, the prompt has ", length, ", which leaves ",
                                  context - length, " for the completion, and ", wanted,
                                  f.max_tokens ? " are asked for" : " are the default here")),
        "context_length_exceeded");
  }
  if (wanted * request.choices * input.prompts > limits::kMaxTotalNewTokens) {
    return InvalidField(f.max_tokens_name,
                        absl::StrCat("x n x prompts is ", wanted * request.choices * input.prompts,
                                     "; the limit is ", limits::kMaxTotalNewTokens));
  }
  if (f.min_tokens.value_or(0) > wanted) {
    return InvalidField("min_tokens",
                        absl::StrCat("is above the ", wanted, " tokens that may be generated"));
  }
  request.sampling.max_tokens = static_cast<int>(wanted);
  request.sampling.min_tokens = static_cast<int>(f.min_tokens.value_or(0));
  return absl::OkStatus();
}

double InRangeOr(std::optional<double> value, double low, double high, double fallback) {
  return value && *value >= low && *value <= high ? *value : fallback;
}

}  // namespace

absl::Status CheckFields(const GenerationFields& fields) {
  if (absl::Status status = CheckNumbers(fields); !status.ok()) return status;
  return CheckLists(fields);
}

absl::StatusOr<GenerationRequest> Settle(SettleInput input) {
  const GenerationFields& f = input.fields;
  const text::GenerationDefaults& defaults =
      input.model.text->defaults;  // of a model file, so checked like a client's
  GenerationRequest request;
  request.model = input.model.name;
  request.model_digest = input.model.digest;
  request.text = input.model.text;
  request.prompt = std::move(input.prompt);
  request.choices = static_cast<int>(f.n.value_or(1));

  SettledSampling& s = request.sampling;
  s.temperature = f.temperature.value_or(InRangeOr(defaults.temperature, 0, 2, 1));
  s.top_p = f.top_p.value_or(InRangeOr(defaults.top_p, 1e-9, 1, 1));
  s.top_k = static_cast<int>(f.top_k.value_or(std::max(0, defaults.top_k.value_or(0))));
  if (s.top_k < 0 || s.top_k > limits::kMaxVocabulary) s.top_k = 0;  // all
  s.min_p = f.min_p.value_or(0);
  s.typical_p = f.typical_p.value_or(1);
  s.repetition_penalty =
      f.repetition_penalty.value_or(InRangeOr(defaults.repetition_penalty, 1e-6, 1e6, 1));
  s.presence_penalty = f.presence_penalty.value_or(0);
  s.frequency_penalty = f.frequency_penalty.value_or(0);
  s.no_repeat_ngram_size = static_cast<int>(f.no_repeat_ngram_size.value_or(0));
  s.seed = f.seed ? static_cast<uint64_t>(*f.seed) : RequestId::Random().low >> 1;
  s.logprobs = static_cast<int>(f.logprobs.value_or(-1));
  s.prompt_logprobs = static_cast<int>(f.prompt_logprobs.value_or(-1));
  // The coordinator's 0 means "as many as pay"; a client's 0 means none.
  if (f.num_speculative_tokens) {
    s.speculative_tokens = *f.num_speculative_tokens == 0 ? -1 : static_cast<int>(*f.num_speculative_tokens);
  }
  if (request.choices > 1 && s.temperature < kGreedyBelow) {
    return InvalidField("n", "must be 1 with temperature 0: all choices would be the same");
  }
  request.stop = f.stop;
  request.include_stop_in_output = f.include_stop_in_output;
  request.skip_special_tokens = f.skip_special_tokens;
  request.priority = static_cast<int>(f.priority.value_or(0));
  request.cache_salt = f.cache_salt;
  request.bypass_prefix_cache = f.bypass_prefix_cache;

  const int vocabulary = input.model.text->tokenizer->vocabulary_size();
  for (TokenId token : request.prompt) {
    if (token < 0 || token >= vocabulary) {
      return InvalidField(
          "prompt", absl::StrCat("has token id ", token, ", which is not in 0..", vocabulary - 1));
    }
  }
  if (absl::Status status = SettleLength(input, request); !status.ok()) return status;
  if (absl::Status status = SettleLists(f, input.model, request); !status.ok()) return status;
  return request;
}

}  // namespace pagoda::router
