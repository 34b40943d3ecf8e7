#include "text/gguf_tokenizer.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include "common/limits.h"
#include "text/byte_alphabet.h"
#include "text/gguf_pretokenizers.h"
#include "text/pipeline_tokenizer.h"

namespace pagoda::text {
namespace {

using checkpoint::GgufHeader;

constexpr char kTokens[] = "tokenizer.ggml.tokens";
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

// Values of tokenizer.ggml.token_type.
enum TokenType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct RawVocabulary {
  const std::vector<std::string>* tokens = nullptr;
  std::vector<int> types;
};

absl::StatusOr<RawVocabulary> ReadVocabulary(const GgufHeader& header) {
  RawVocabulary out;
  out.tokens = header.FindStrings(kTokens);
  if (out.tokens == nullptr || out.tokens->empty()) {
    return absl::InvalidArgumentError("the file has no tokenizer.ggml.tokens");
  }
  const size_t count = out.tokens->size();
  if (count > static_cast<size_t>(limits::kMaxVocabulary)) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.tokens has ", count,
                                                   " tokens; at most ", limits::kMaxVocabulary,
                                                   " are supported"));
  }
  out.types.assign(count, kNormal);
  if (const auto types = header.FindNumbers("tokenizer.ggml.token_type"); types.has_value()) {
    if (types->size() != count) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.token_type has ", types->size(),
                                                     " entries for ", count, " tokens"));
    }
    for (size_t i = 0; i < count; ++i) {
      const double type = (*types)[i];
      out.types[i] = type >= 1 && type <= 6 ? static_cast<int>(type) : kNormal;
    }
  }
  return out;
}

// The id in `key`, nothing when absent; kInvalidArgument outside the vocabulary.
absl::StatusOr<std::optional<TokenId>> ReadId(const GgufHeader& header, const std::string& key,
                                              size_t vocabulary) {
  const auto value = header.FindUint(key);
  if (!value.has_value()) return std::nullopt;
  if (*value == std::numeric_limits<uint32_t>::max()) return std::nullopt;  // how writers say "none"
  if (*value >= vocabulary) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, " is ", *value, ", outside the vocabulary of ", vocabulary));
  }
  return static_cast<TokenId>(*value);
}

absl::Status ReadSpecialIds(const GgufHeader& header, bool default_bos, bool default_eos,
                            std::optional<TokenId> fallback_bos, std::optional<TokenId> fallback_eos,
                            TokenizerParts* parts) {
  const size_t count = parts->tokens.size();
  PAGODA_ASSIGN_OR_RETURN(auto bos, ReadId(header, "tokenizer.ggml.bos_token_id", count));
  PAGODA_ASSIGN_OR_RETURN(auto eos, ReadId(header, "tokenizer.ggml.eos_token_id", count));
  if (!bos.has_value()) bos = fallback_bos;
  if (!eos.has_value()) eos = fallback_eos;
  parts->bos = bos.value_or(-1);
  const auto add_end = [&](std::optional<TokenId> id) {
    if (!id.has_value()) return;
    parts->tokens[*id].special = true;
    auto& ends = parts->end_of_generation;
    if (std::find(ends.begin(), ends.end(), *id) == ends.end()) ends.push_back(*id);
  };
  add_end(eos);
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    PAGODA_ASSIGN_OR_RETURN(auto id, ReadId(header, key, count));
    add_end(id);
  }
  if (header.FindBool("tokenizer.ggml.add_bos_token").value_or(default_bos) && parts->bos >= 0) {
    parts->prefix.push_back(parts->bos);
  }
  if (header.FindBool("tokenizer.ggml.add_eos_token").value_or(default_eos) && eos.has_value()) {
    parts->suffix.push_back(*eos);
  }
  AddWellKnownEnds(&parts->tokens, &parts->end_of_generation);
  return absl::OkStatus();
}

// Fills tokens and added tokens; `bytes_of(text)` is what a normal token stands for. `user_defined_normalized`: the user's
// own tokens are looked for in normalised text (SentencePiece), not in the text as it came.
template <typename BytesOf>
void FillTokens(const RawVocabulary& raw, bool user_defined_normalized, BytesOf bytes_of, TokenizerParts* parts) {
  parts->tokens.resize(raw.tokens->size());
  for (size_t i = 0; i < raw.tokens->size(); ++i) {
    Token& token = parts->tokens[i];
    const int type = raw.types[i];
    token.text = (*raw.tokens)[i];
    token.special = type == kControl || type == kUnknown;
    const bool added = token.special || type == kUserDefined;
    token.bytes = added ? token.text : bytes_of(token.text, type);
    if (added && !token.text.empty() && token.text.size() <= 512) {
      AddedToken entry;
      entry.content = token.text;
      entry.id = static_cast<TokenId>(i);
      entry.special = token.special;
      entry.normalized = user_defined_normalized && !token.special;
      parts->added.push_back(std::move(entry));
    }
  }
}

absl::StatusOr<MergeTable> ReadMerges(const GgufHeader& header, const TextIndex& by_text) {
  const auto* lines = header.FindStrings("tokenizer.ggml.merges");
  if (lines == nullptr) {
    return absl::InvalidArgumentError("the file has no tokenizer.ggml.merges");
  }
  MergeTable merges;
  merges.Reserve(lines->size());
  std::string joined;
  for (size_t rank = 0; rank < lines->size(); ++rank) {
    const std::string_view line = (*lines)[rank];
    const size_t space = line.size() < 3 ? std::string::npos : line.find(' ', 1);
    if (space == std::string::npos || space + 1 >= line.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.ggml.merges[", rank, "] is not two tokens with a space between"));
    }
    const std::string_view left = line.substr(0, space), right = line.substr(space + 1);
    joined.assign(left).append(right);
    const auto a = by_text.find(left), b = by_text.find(right), both = by_text.find(joined);
    // A merge of what is not in the vocabulary can never apply.
    if (a == by_text.end() || b == by_text.end() || both == by_text.end()) continue;
    merges.Add(a->second, b->second, static_cast<uint32_t>(rank), both->second);
  }
  return merges;
}

absl::StatusOr<TokenizerParts> ByteLevelParts(const GgufHeader& header, const RawVocabulary& raw) {
  const std::string* pre = header.FindString("tokenizer.ggml.pre");
  PAGODA_ASSIGN_OR_RETURN(const GgufPretokenizer family,
                          FindGgufPretokenizer(pre != nullptr ? *pre : "default"));
  TokenizerParts parts;
  FillTokens(
      raw, false, [](const std::string& text, int) { return BytesOfAlphabet(text).value_or(text); }, &parts);
  TextIndex by_text;
  parts.index = std::make_unique<TextIndex>();
  for (size_t i = 0; i < parts.tokens.size(); ++i) {
    const Token& token = parts.tokens[i];
    const auto id = static_cast<TokenId>(i);
    by_text.emplace(token.text, id);
    if (raw.types[i] == kNormal) parts.index->emplace(token.bytes, id);
  }
  std::array<TokenId, 256> byte_tokens;
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = by_text.find(ByteCharacter(static_cast<unsigned char>(byte)));
    byte_tokens[byte] = found == by_text.end() ? -1 : found->second;
  }
  PAGODA_ASSIGN_OR_RETURN(MergeTable merges, ReadMerges(header, by_text));
  BpeModelOptions options;
  options.ignore_merges = family.ignore_merges;
  parts.model =
      std::make_unique<BpeModel>(options, parts.index.get(), byte_tokens, std::move(merges));
  if (family.nfc) parts.normalizer.push_back(NfcStep{});
  if (family.single_digits) parts.pretokenizer.push_back(DigitsStep{true});
  for (std::string_view pattern : family.patterns) {
    PAGODA_ASSIGN_OR_RETURN(auto compiled, Regex::Compile(pattern));
    parts.pretokenizer.push_back(SplitStep{std::move(compiled)});
  }
  PAGODA_RETURN_IF_ERROR(
      ReadSpecialIds(header, family.add_bos, false, std::nullopt, std::nullopt, &parts));
  return parts;
}

// "<0x0A>" to its byte; -1 when it is spelled otherwise.
int ByteOfSpelling(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int value = -1;
  const auto [end, error] = std::from_chars(text.data() + 3, text.data() + 5, value, 16);
  return error == std::errc() && end == text.data() + 5 ? value : -1;
}

std::string SpacesForMarks(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text.substr(i).starts_with(kSpaceMark)) {
      out += ' ';
      i += kSpaceMark.size();
    } else {
      out += text[i++];
    }
  }
  return out;
}

absl::StatusOr<TokenizerParts> ScoreParts(const GgufHeader& header, const RawVocabulary& raw) {
  const auto numbers = header.FindNumbers("tokenizer.ggml.scores");
  if (!numbers.has_value() || numbers->size() != raw.tokens->size()) {
    return absl::InvalidArgumentError(
        "a tokenizer of model \"llama\" needs one entry of tokenizer.ggml.scores for each token");
  }
  TokenizerParts parts;
  std::array<TokenId, 256> byte_tokens;
  byte_tokens.fill(-1);
  FillTokens(
      raw, true,
      [](const std::string& text, int type) {
        const int byte = type == kByte ? ByteOfSpelling(text) : -1;
        return byte >= 0 ? std::string(1, static_cast<char>(byte)) : SpacesForMarks(text);
      },
      &parts);
  parts.index = std::make_unique<TextIndex>();
  TokenId unknown = -1;
  for (size_t i = 0; i < parts.tokens.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    if (const int byte = ByteOfSpelling(parts.tokens[i].text); raw.types[i] == kByte && byte >= 0) {
      byte_tokens[byte] = id;
    }
    if (raw.types[i] == kUnknown && unknown < 0) unknown = id;
    if (raw.types[i] == kNormal || raw.types[i] == kUserDefined) {
      parts.index->emplace(parts.tokens[i].text, id);
    }
  }
  std::vector<float> scores(numbers->begin(), numbers->end());
  parts.model =
      std::make_unique<ScoreModel>(parts.index.get(), std::move(scores), byte_tokens, unknown);
  const bool prefix = header.FindBool("tokenizer.ggml.add_space_prefix").value_or(true);
  parts.normalizer.push_back(ReplaceStep{" ", nullptr, std::string(kSpaceMark)});
  if (prefix) parts.normalizer.push_back(PrependStep{std::string(kSpaceMark)});
  parts.prefix_after_special_only = true;
  parts.strips_leading_space = prefix;
  parts.sentencepiece_bytes = true;
  const auto has = [&](TokenId id) {
    return static_cast<size_t>(id) < parts.tokens.size() ? std::optional(id) : std::nullopt;
  };
  PAGODA_RETURN_IF_ERROR(ReadSpecialIds(header, true, false, has(1), has(2), &parts));
  return parts;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenGgufTokenizer(const GgufHeader& header) {
  const std::string* model = header.FindString("tokenizer.ggml.model");
  if (model == nullptr) {
    return absl::InvalidArgumentError("the file has no tokenizer.ggml.model: it carries no tokenizer");
  }
  PAGODA_ASSIGN_OR_RETURN(const RawVocabulary raw, ReadVocabulary(header));
  TokenizerParts parts;
  if (*model == "gpt2") {
    PAGODA_ASSIGN_OR_RETURN(parts, ByteLevelParts(header, raw));
  } else if (*model == "llama") {
    PAGODA_ASSIGN_OR_RETURN(parts, ScoreParts(header, raw));
  } else {
    return absl::UnimplementedError(absl::StrCat("tokenizer.ggml.model is \"", *model,
                                                 "\"; \"gpt2\" and \"llama\" are supported"));
  }
  return PipelineTokenizer::Build(std::move(parts));
}

}  // namespace pagoda::text
