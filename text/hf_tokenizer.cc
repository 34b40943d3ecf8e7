#include "text/hf_tokenizer.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "common/limits.h"
#include "text/byte_alphabet.h"
#include "text/hf_parts.h"
#include "text/pipeline_tokenizer.h"
#include "text/unicode.h"

namespace pagoda::text {
namespace {

using nlohmann::json;

absl::Status Malformed(std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", AsAbsl(what)));
}

// The id in `json`, checked against what a vocabulary may hold.
absl::StatusOr<TokenId> ReadId(const json& id, std::string_view what) {
  if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
      id.get<int64_t>() >= limits::kMaxVocabulary) {
    return Malformed(absl::StrCat(AsAbsl(what), " has no id between 0 and ", limits::kMaxVocabulary));
  }
  return static_cast<TokenId>(id.get<int64_t>());
}

void Place(TokenId id, const std::string& text, std::vector<Token>* tokens) {
  if (tokens->size() <= static_cast<size_t>(id)) tokens->resize(static_cast<size_t>(id) + 1);
  (*tokens)[id].text = text;
}

absl::Status ReadVocabulary(const json& tokenizer, TokenizerParts* parts, std::vector<TokenId>* model_ids) {
  const json& vocabulary = JsonField(JsonField(tokenizer, "model"), "vocab");
  if (!vocabulary.is_object() || vocabulary.empty()) return Malformed("model.vocab is not an object of ids");
  for (const auto& [text, id] : vocabulary.items()) {
    PAGODA_ASSIGN_OR_RETURN(const TokenId token, ReadId(id, "a token of model.vocab"));
    Place(token, text, &parts->tokens);
    model_ids->push_back(token);
  }
  for (const json& item : JsonField(tokenizer, "added_tokens")) {
    AddedToken added;
    added.content = JsonText(item, "content");
    PAGODA_ASSIGN_OR_RETURN(added.id, ReadId(JsonField(item, "id"), "an added token"));
    added.special = JsonFlag(item, "special", false);
    added.lstrip = JsonFlag(item, "lstrip", false);
    added.rstrip = JsonFlag(item, "rstrip", false);
    added.single_word = JsonFlag(item, "single_word", false);
    added.normalized = JsonFlag(item, "normalized", !added.special);
    if (added.content.empty()) continue;
    Place(added.id, added.content, &parts->tokens);
    parts->tokens[added.id].special = added.special;
    parts->added.push_back(std::move(added));
  }
  return absl::OkStatus();
}

int ByteOfSpelling(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int value = -1;
  const auto [end, error] = std::from_chars(text.data() + 3, text.data() + 5, value, 16);
  return error == std::errc() && end == text.data() + 5 ? value : -1;
}

std::string BytesOf(const std::string& text, const DecoderFacts& decoder) {
  if (decoder.byte_level) return BytesOfAlphabet(text).value_or(text);
  if (decoder.byte_fallback) {
    if (const int byte = ByteOfSpelling(text); byte >= 0) return std::string(1, static_cast<char>(byte));
  }
  if (decoder.space_mark.empty()) return text;
  std::string out;
  size_t done = 0;
  for (size_t found; (found = text.find(decoder.space_mark, done)) != std::string::npos;
       done = found + decoder.space_mark.size()) {
    out.append(text, done, found - done).append(" ");
  }
  return out.append(text, done);
}

absl::StatusOr<MergeTable> ReadMerges(const json& model, const TextIndex& by_text) {
  const json& list = JsonField(model, "merges");
  if (!list.is_array()) return Malformed("model.merges is not a list");
  MergeTable merges;
  merges.Reserve(list.size());
  std::string joined;
  uint32_t rank = 0;
  for (const json& item : list) {
    std::string_view left, right;
    if (item.is_string()) {
      const std::string_view line = item.get_ref<const std::string&>();
      const size_t space = line.find(' ', 1);
      if (space == std::string_view::npos) return Malformed("a merge is not two tokens");
      left = line.substr(0, space), right = line.substr(space + 1);
    } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      left = item[0].get_ref<const std::string&>(), right = item[1].get_ref<const std::string&>();
    } else {
      return Malformed("a merge is not two tokens");
    }
    joined.assign(left).append(right);
    const auto a = by_text.find(left), b = by_text.find(right), both = by_text.find(joined);
    if (a == by_text.end() || b == by_text.end() || both == by_text.end()) {
      return Malformed(absl::StrCat("merge ", rank, " is over tokens that are not in the vocabulary"));
    }
    merges.Add(a->second, b->second, rank++, both->second);
  }
  return merges;
}

absl::Status BuildModel(const json& model, bool byte_level, const std::vector<TokenId>& model_ids,
                        TokenizerParts* parts) {
  const std::string type = JsonText(model, "type");
  if (!(type == "BPE" || (type.empty() && model.contains("merges")))) {
    return absl::UnimplementedError(
        absl::StrCat("tokenizer.json: a model of type \"", type, "\" is not supported; BPE is"));
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!JsonText(model, key).empty()) {
      return absl::UnimplementedError(absl::StrCat("tokenizer.json: model.", key, " is not supported"));
    }
  }
  TextIndex by_text;
  parts->index = std::make_unique<TextIndex>();
  std::array<TokenId, 256> bytes;
  bytes.fill(-1);
  for (const TokenId id : model_ids) {
    const Token& token = parts->tokens[id];
    by_text.emplace(token.text, id);
    if (!byte_level) {
      parts->index->emplace(token.text, id);
      if (const int byte = ByteOfSpelling(token.text); byte >= 0) bytes[byte] = id;
    } else if (auto raw = BytesOfAlphabet(token.text); raw.has_value() && *raw == token.bytes) {
      parts->index->emplace(token.bytes, id);
    }
  }
  if (byte_level) {
    for (int byte = 0; byte < 256; ++byte) {
      const auto found = by_text.find(ByteCharacter(static_cast<unsigned char>(byte)));
      if (found != by_text.end()) bytes[byte] = found->second;
    }
  }
  BpeModelOptions options;
  options.byte_level = byte_level;
  options.ignore_merges = JsonFlag(model, "ignore_merges", false);
  options.byte_fallback = JsonFlag(model, "byte_fallback", false);
  options.fuse_unknown = JsonFlag(model, "fuse_unk", false);
  if (const auto found = by_text.find(JsonText(model, "unk_token")); found != by_text.end()) {
    options.unknown = found->second;
  }
  PAGODA_ASSIGN_OR_RETURN(MergeTable merges, ReadMerges(model, by_text));
  parts->model = std::make_unique<BpeModel>(options, parts->index.get(), bytes, std::move(merges));
  return absl::OkStatus();
}

TokenId FindToken(const TokenizerParts& parts, const std::string& text) {
  if (text.empty()) return -1;
  for (const AddedToken& added : parts.added) {
    if (added.content == text) return added.id;
  }
  const auto found = std::find_if(parts.tokens.begin(), parts.tokens.end(),
                                  [&](const Token& token) { return token.text == text; });
  return found == parts.tokens.end() ? -1 : static_cast<TokenId>(found - parts.tokens.begin());
}

// add_bos_token and add_eos_token, where the config says either, win over the post_processor.
void ApplyConfig(const json& config, TokenId bos, TokenId eos, TokenizerParts* parts) {
  const auto apply = [&](const char* key, TokenId token, std::vector<TokenId>* place) {
    const json& flag = JsonField(config, key);
    if (!flag.is_boolean() || token < 0) return;
    const bool present = std::find(place->begin(), place->end(), token) != place->end();
    if (flag.get<bool>() && !present) place->insert(place->begin(), token);
    if (!flag.get<bool>() && present) std::erase(*place, token);
  };
  apply("add_bos_token", bos, &parts->prefix);
  apply("add_eos_token", eos, &parts->suffix);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenHfTokenizer(const HfTokenizerFiles& files) {
  if (!files.tokenizer.is_object()) return Malformed("it is not a JSON object");
  TokenizerParts parts;
  std::vector<TokenId> model_ids;
  PAGODA_RETURN_IF_ERROR(ReadVocabulary(files.tokenizer, &parts, &model_ids));
  DecoderFacts decoder;
  PAGODA_RETURN_IF_ERROR(ReadDecoder(JsonField(files.tokenizer, "decoder"), &decoder));
  for (Token& token : parts.tokens) token.bytes = BytesOf(token.text, decoder);
  parts.strips_leading_space = decoder.strips_leading_space;
  PAGODA_RETURN_IF_ERROR(ReadNormalizer(JsonField(files.tokenizer, "normalizer"), &parts));
  PretokenizerFacts facts;
  PAGODA_RETURN_IF_ERROR(ReadPretokenizer(JsonField(files.tokenizer, "pre_tokenizer"), &parts, &facts));
  PAGODA_RETURN_IF_ERROR(
      BuildModel(JsonField(files.tokenizer, "model"), facts.byte_level, model_ids, &parts));
  PAGODA_RETURN_IF_ERROR(ReadPostProcessor(JsonField(files.tokenizer, "post_processor"), &parts));
  parts.bos = FindToken(parts, files.bos_text);
  const TokenId eos = FindToken(parts, files.eos_text);
  ApplyConfig(files.config, parts.bos, eos, &parts);
  parts.end_of_generation = files.ends;
  if (eos >= 0) parts.end_of_generation.push_back(eos);
  std::erase_if(parts.end_of_generation,
                [&](TokenId id) { return id < 0 || static_cast<size_t>(id) >= parts.tokens.size(); });
  auto& ends = parts.end_of_generation;
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  AddWellKnownEnds(&parts.tokens, &ends);
  return PipelineTokenizer::Build(std::move(parts));
}

}  // namespace pagoda::text
