#include "text/hf_parts.h"

#include <algorithm>

#include "text/gguf_pretokenizers.h"

namespace pagoda::text {
namespace {

using nlohmann::json;

constexpr int kMaxParts = 64;  // of one sequence, nested ones included

absl::Status Unsupported(std::string_view part, const std::string& type) {
  return absl::UnimplementedError(absl::StrCat("tokenizer.json: ", AsAbsl(part), " of type \"", type,
                                               "\" is not supported"));
}

// A pattern is {"String": literal} or {"Regex": pattern}.
absl::StatusOr<std::shared_ptr<const Regex>> ReadPattern(const json& pattern) {
  if (const std::string regex = JsonText(pattern, "Regex"); !regex.empty()) return Regex::Compile(regex);
  const std::string literal = JsonText(pattern, "String");
  if (literal.empty()) {
    return absl::InvalidArgumentError("tokenizer.json: a pattern is neither a Regex nor a String");
  }
  return Regex::Compile(EscapeRegex(literal));
}

absl::StatusOr<SplitBehavior> ReadBehavior(const std::string& name) {
  if (name == "Isolated" || name.empty()) return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer.json: a split's behavior is \"", name, "\", which is not known"));
}

absl::Status NormalizerStepOf(const json& item, TokenizerParts* parts) {
  const std::string type = JsonText(item, "type");
  if (type == "NFC") {
    parts->normalizer.push_back(NfcStep{});
  } else if (type == "Lowercase") {
    parts->normalizer.push_back(LowercaseStep{});
  } else if (type == "Prepend") {
    parts->normalizer.push_back(PrependStep{JsonText(item, "prepend")});
  } else if (type == "Replace") {
    ReplaceStep step;
    step.to = JsonText(item, "content");
    step.from = JsonText(JsonField(item, "pattern"), "String");
    if (step.from.empty()) {
      PAGODA_ASSIGN_OR_RETURN(step.pattern, ReadPattern(JsonField(item, "pattern")));
    }
    parts->normalizer.push_back(std::move(step));
  } else {
    return Unsupported("a normalizer", type);
  }
  return absl::OkStatus();
}

absl::Status AddSplit(std::string_view pattern, TokenizerParts* parts) {
  PAGODA_ASSIGN_OR_RETURN(auto compiled, Regex::Compile(pattern));
  parts->pretokenizer.push_back(SplitStep{std::move(compiled)});
  return absl::OkStatus();
}

absl::Status AddMetaspace(const json& item, TokenizerParts* parts) {
  MetaspaceStep step;
  if (const std::string mark = JsonText(item, "replacement"); !mark.empty()) step.replacement = mark;
  const std::string scheme = JsonText(item, "prepend_scheme");
  if (scheme == "first") step.prepend = MetaspaceStep::Prepend::kFirst;
  if (scheme == "never" || (scheme.empty() && !JsonFlag(item, "add_prefix_space", true))) {
    step.prepend = MetaspaceStep::Prepend::kNever;
  }
  step.split = JsonFlag(item, "split", true);
  parts->pretokenizer.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status PretokenizerStepOf(const json& item, bool last, TokenizerParts* parts,
                                PretokenizerFacts* facts) {
  const std::string type = JsonText(item, "type");
  if (type == "ByteLevel") {
    if (facts->byte_level) return Unsupported("a second pre_tokenizer", type);
    facts->byte_level = true;
    if (JsonFlag(item, "add_prefix_space", true)) parts->pretokenizer.push_back(PrefixSpaceStep{});
    if (JsonFlag(item, "use_regex", true)) PAGODA_RETURN_IF_ERROR(AddSplit(kGpt2Pattern, parts));
    if (!last) {
      parts->pretokenizer.push_back(AlphabetStep{});
      parts->pieces_in_alphabet = true;
    }
    return absl::OkStatus();
  }
  if (type == "Split") {
    SplitStep step;
    PAGODA_ASSIGN_OR_RETURN(step.pattern, ReadPattern(JsonField(item, "pattern")));
    PAGODA_ASSIGN_OR_RETURN(step.behavior, ReadBehavior(JsonText(item, "behavior")));
    step.invert = JsonFlag(item, "invert", false);
    parts->pretokenizer.push_back(std::move(step));
    return absl::OkStatus();
  }
  if (type == "Digits") {
    parts->pretokenizer.push_back(DigitsStep{JsonFlag(item, "individual_digits", false)});
    return absl::OkStatus();
  }
  if (type == "Punctuation") {
    PAGODA_ASSIGN_OR_RETURN(const SplitBehavior behavior, ReadBehavior(JsonText(item, "behavior")));
    parts->pretokenizer.push_back(PunctuationStep{behavior});
    return absl::OkStatus();
  }
  if (type == "Metaspace") return AddMetaspace(item, parts);
  if (type == "WhitespaceSplit" || type == "Whitespace") {
    SplitStep step;
    PAGODA_ASSIGN_OR_RETURN(step.pattern,
                            Regex::Compile(type == "Whitespace" ? R"(\w+|[^\w\s]+)" : R"(\S+)"));
    step.behavior = SplitBehavior::kRemoved;
    step.invert = true;
    parts->pretokenizer.push_back(std::move(step));
    return absl::OkStatus();
  }
  return Unsupported("a pre_tokenizer", type);
}

// The items of a part that may be null, one item or a "Sequence" of them (its list is `key`).
absl::Status Flatten(const json& part, const char* key, int depth, std::vector<const json*>* out) {
  if (part.is_null()) return absl::OkStatus();
  if (!part.is_object() || depth > 8 || out->size() > kMaxParts) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.json: the part that holds \"", key, "\" is malformed or too large"));
  }
  if (JsonText(part, "type") != "Sequence") {
    out->push_back(&part);
    return absl::OkStatus();
  }
  const json& list = JsonField(part, key);
  if (!list.is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: \"", key, "\" is not a list"));
  }
  for (const json& item : list) PAGODA_RETURN_IF_ERROR(Flatten(item, key, depth + 1, out));
  return absl::OkStatus();
}

absl::StatusOr<TokenId> IdOf(const json& json, const TokenizerParts& parts) {
  if (!json.is_number_integer() || json.get<int64_t>() < 0 ||
      json.get<int64_t>() >= static_cast<int64_t>(parts.tokens.size())) {
    return absl::InvalidArgumentError("tokenizer.json: the post_processor names an id outside the vocabulary");
  }
  return static_cast<TokenId>(json.get<int64_t>());
}

absl::Status TemplateOf(const json& item, TokenizerParts* parts) {
  const json& special = JsonField(item, "special_tokens");
  bool after_text = false;
  for (const json& piece : JsonField(item, "single")) {
    if (piece.contains("Sequence")) {
      after_text = true;
      continue;
    }
    const std::string name = JsonText(JsonField(piece, "SpecialToken"), "id");
    for (const json& id : JsonField(JsonField(special, name.c_str()), "ids")) {
      PAGODA_ASSIGN_OR_RETURN(const TokenId token, IdOf(id, *parts));
      (after_text ? parts->suffix : parts->prefix).push_back(token);
    }
  }
  return absl::OkStatus();
}

}  // namespace

const json& JsonField(const json& object, const char* key) {
  static const json null;
  if (!object.is_object()) return null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

bool JsonFlag(const json& object, const char* key, bool fallback) {
  const json& field = JsonField(object, key);
  return field.is_boolean() ? field.get<bool>() : fallback;
}

std::string JsonText(const json& object, const char* key) {
  const json& field = JsonField(object, key);
  return field.is_string() ? field.get<std::string>() : std::string();
}

absl::Status ReadNormalizer(const json& part, TokenizerParts* parts) {
  std::vector<const json*> items;
  PAGODA_RETURN_IF_ERROR(Flatten(part, "normalizers", 0, &items));
  for (const json* item : items) PAGODA_RETURN_IF_ERROR(NormalizerStepOf(*item, parts));
  return absl::OkStatus();
}

absl::Status ReadPretokenizer(const json& part, TokenizerParts* parts, PretokenizerFacts* facts) {
  std::vector<const json*> items;
  PAGODA_RETURN_IF_ERROR(Flatten(part, "pretokenizers", 0, &items));
  for (const json* item : items) {
    PAGODA_RETURN_IF_ERROR(PretokenizerStepOf(*item, item == items.back(), parts, facts));
  }
  return absl::OkStatus();
}

absl::Status ReadPostProcessor(const json& part, TokenizerParts* parts) {
  std::vector<const json*> items;
  PAGODA_RETURN_IF_ERROR(Flatten(part, "processors", 0, &items));
  for (const json* item : items) {
    const std::string type = JsonText(*item, "type");
    if (type == "ByteLevel") continue;  // changes offsets only
    if (type == "TemplateProcessing") {
      PAGODA_RETURN_IF_ERROR(TemplateOf(*item, parts));
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
      for (const char* key : {"cls", "sep"}) {
        const json& pair = JsonField(*item, key);
        if (!pair.is_array() || pair.size() != 2) {
          return absl::InvalidArgumentError("tokenizer.json: cls or sep of the post_processor is malformed");
        }
        PAGODA_ASSIGN_OR_RETURN(const TokenId token, IdOf(pair[1], *parts));
        (*key == 'c' ? parts->prefix : parts->suffix).push_back(token);
      }
    } else {
      return Unsupported("a post_processor", type);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadDecoder(const json& part, DecoderFacts* facts) {
  std::vector<const json*> items;
  PAGODA_RETURN_IF_ERROR(Flatten(part, "decoders", 0, &items));
  for (const json* item : items) {
    const std::string type = JsonText(*item, "type");
    if (type == "ByteLevel") {
      facts->byte_level = true;
    } else if (type == "ByteFallback") {
      facts->byte_fallback = true;
    } else if (type == "Replace") {
      if (JsonText(*item, "content") != " ") return Unsupported("a decoder's replacement", type);
      facts->space_mark = JsonText(JsonField(*item, "pattern"), "String");
    } else if (type == "Strip") {
      const json& start = JsonField(*item, "start");
      facts->strips_leading_space |= start.is_number_integer() && start.get<int64_t>() > 0;
    } else if (type == "Metaspace") {
      facts->space_mark = JsonText(*item, "replacement");
      const std::string scheme = JsonText(*item, "prepend_scheme");
      facts->strips_leading_space |=
          scheme.empty() ? JsonFlag(*item, "add_prefix_space", true) : scheme != "never";
    } else if (type != "Fuse") {
      return Unsupported("a decoder", type);
    }
  }
  return absl::OkStatus();
}

}  // namespace pagoda::text
