// The pre-tokenizers that GGUF files name by tokenizer.ggml.pre. The patterns are the models' own, from their
// tokenizer.json; the names are llama.cpp's.
#pragma once

#include <string_view>
#include <vector>

#include "common/status.h"

namespace pagoda::text {

struct GgufPretokenizer {
  std::vector<std::string_view> patterns;  // applied one after another; text between matches is a piece too
  bool single_digits = false;  // before the patterns: each number character is a piece
  bool ignore_merges = false;
  bool add_bos = false;  // unless tokenizer.ggml.add_bos_token says otherwise
  bool nfc = false;      // the model's own normaliser, which the file does not carry
};
// kUnimplemented lists what is known.
absl::StatusOr<GgufPretokenizer> FindGgufPretokenizer(std::string_view name);

// GPT-2's pattern, also what ByteLevel of a tokenizer.json uses.
extern const std::string_view kGpt2Pattern;

}  // namespace pagoda::text
