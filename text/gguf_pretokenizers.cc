#include "text/gguf_pretokenizers.h"

#include <algorithm>
#include <span>

namespace pagoda::text {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kThreeDigits = R"(\p{N}{1,3})";
constexpr std::string_view kDeepSeek3Han = "[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+";
constexpr std::string_view kDeepSeek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kFalconPunctuation = R"([\p{P}\$\+<=>\^~\|`]+)";
constexpr std::string_view kFalconDigits = R"([0-9][0-9][0-9])";

constexpr std::string_view kGpt2List[] = {kGpt2Pattern};
// "" stands for the single-digit step.
constexpr std::string_view kStarcoderList[] = {"", kGpt2Pattern};
constexpr std::string_view kLlama3List[] = {kLlama3};
constexpr std::string_view kQwen2List[] = {kQwen2};
constexpr std::string_view kQwen35List[] = {kQwen35};
constexpr std::string_view kTekkenList[] = {kTekken};
constexpr std::string_view kGpt4oList[] = {kGpt4o};
constexpr std::string_view kDeepSeek3List[] = {kThreeDigits, kDeepSeek3Han, kDeepSeek3};
constexpr std::string_view kFalconList[] = {kFalconPunctuation, kGpt2Pattern, kFalconDigits};

struct Family {
  std::string_view name;
  std::span<const std::string_view> patterns;
  bool ignore_merges = false;
  bool add_bos = false;
  bool nfc = false;
};

constexpr Family kFamilies[] = {
    {"default", kGpt2List},
    {"gpt-2", kGpt2List},
    {"gpt2", kGpt2List},
    {"phi-2", kGpt2List},
    {"mpt", kGpt2List},
    {"olmo", kGpt2List, false, false, true},
    {"jais", kGpt2List},
    {"roberta-bpe", kGpt2List},
    {"trillion", kGpt2List},
    {"gigachat", kGpt2List},
    {"jina-es", kGpt2List},
    {"jina-de", kGpt2List},
    {"jina-v2-code", kGpt2List},
    {"a.x-4.0", kGpt2List},
    {"mellum", kGpt2List},
    {"smollm", kStarcoderList},
    {"starcoder", kStarcoderList},
    {"refact", kStarcoderList},
    {"command-r", kStarcoderList, false, false, true},
    {"codeshell", kStarcoderList},
    {"exaone", kStarcoderList},
    {"minerva-7b", kStarcoderList},
    {"llama3", kLlama3List, true, true},
    {"llama-v3", kLlama3List, true, true},
    {"llama-bpe", kLlama3List, true, true},
    {"falcon3", kLlama3List, true, true},
    {"falcon-h1", kLlama3List, true, true},
    {"pixtral", kLlama3List, true, true},
    {"lfm2", kLlama3List, true, true},
    {"dbrx", kLlama3List},
    {"smaug-bpe", kLlama3List},
    {"chatglm-bpe", kLlama3List},
    {"glm4", kLlama3List},
    {"qwen2", kQwen2List, false, false, true},
    {"deepseek-r1-qwen", kQwen2List, false, false, true},
    {"stablelm2", kQwen2List},
    {"hunyuan", kQwen2List},
    {"megrez", kQwen2List},
    {"qwen35", kQwen35List, false, false, true},
    {"tekken", kTekkenList, true, true},
    {"gpt-4o", kGpt4oList},
    {"llama4", kGpt4oList},
    {"deepseek-v3", kDeepSeek3List},
    {"deepseek-r1", kDeepSeek3List},
    {"falcon", kFalconList},
};

}  // namespace

absl::StatusOr<GgufPretokenizer> FindGgufPretokenizer(std::string_view name) {
  const auto* family = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                    [&](const Family& item) { return item.name == name; });
  if (family != std::end(kFamilies)) {
    GgufPretokenizer out;
    for (std::string_view pattern : family->patterns) {
      if (pattern.empty()) {
        out.single_digits = true;
      } else {
        out.patterns.push_back(pattern);
      }
    }
    out.ignore_merges = family->ignore_merges;
    out.add_bos = family->add_bos;
    out.nfc = family->nfc;
    return out;
  }
  std::string known;
  for (const Family& item : kFamilies) absl::StrAppend(&known, " ", AsAbsl(item.name));
  return absl::UnimplementedError(absl::StrCat("tokenizer.ggml.pre is \"", AsAbsl(name),
                                               "\", which this version does not know; it knows:",
                                               known));
}

}  // namespace pagoda::text
