// A tokenizer from a GGUF file's keys: `gpt2` (byte-level BPE) and `llama` (SentencePiece by scores).
// Source: llama.cpp, llama-vocab.cpp (names of tokenizer.ggml.pre, defaults of the add_* keys).
#pragma once

#include <memory>

#include "checkpoint/gguf_metadata.h"
#include "text/tokenizer.h"

namespace pagoda::text {

// kInvalidArgument names the key that is missing or wrong; kUnimplemented a kind of tokenizer that is not supported.
absl::StatusOr<std::unique_ptr<Tokenizer>> OpenGgufTokenizer(const checkpoint::GgufHeader& header);

}  // namespace pagoda::text
