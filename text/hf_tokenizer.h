// A tokenizer from the files of a Hugging Face folder: tokenizer.json (BPE models), tokenizer_config.json.
// Source: tokenizers, the `serialization` of its parts; transformers, what add_bos_token and add_eos_token change.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace pagoda::text {

struct HfTokenizerFiles {
  const nlohmann::json& tokenizer;  // tokenizer.json
  const nlohmann::json& config;     // tokenizer_config.json; an empty object when there is none
  std::string bos_text;             // empty: none
  std::string eos_text;
  std::vector<TokenId> ends;        // of generation_config.json and config.json
};

// kInvalidArgument names the field that is wrong; kUnimplemented the part that is not supported.
absl::StatusOr<std::unique_ptr<Tokenizer>> OpenHfTokenizer(const HfTokenizerFiles& files);

}  // namespace pagoda::text
