// The parts of tokenizer.json that become steps: normalizer, pre_tokenizer, post_processor, decoder.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "text/pipeline_tokenizer.h"

namespace pagoda::text {

// Fields of objects that may be something else: the fallback stands in for a wrong type too.
bool JsonFlag(const nlohmann::json& object, const char* key, bool fallback);
std::string JsonText(const nlohmann::json& object, const char* key);
const nlohmann::json& JsonField(const nlohmann::json& object, const char* key);  // null when absent

absl::Status ReadNormalizer(const nlohmann::json& json, TokenizerParts* parts);

struct PretokenizerFacts {
  bool byte_level = false;
};
absl::Status ReadPretokenizer(const nlohmann::json& json, TokenizerParts* parts,
                              PretokenizerFacts* facts);
absl::Status ReadPostProcessor(const nlohmann::json& json, TokenizerParts* parts);

struct DecoderFacts {
  bool byte_level = false;
  bool byte_fallback = false;
  bool strips_leading_space = false;
  std::string space_mark;  // what stands for a space; empty: nothing does
};
absl::Status ReadDecoder(const nlohmann::json& json, DecoderFacts* facts);

}  // namespace pagoda::text
