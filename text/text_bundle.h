// Opens the text side of a model from its bundle (see checkpoint::Checkpoint::TextBundle): tokenizer, chat template,
// generation defaults.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace pagoda::text {

// What generation_config.json sets; absent fields mean "the server's default".
struct GenerationDefaults {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int> top_k;
  std::optional<double> repetition_penalty;
};

struct TextModel {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: the model has none
  std::string bos_text;                         // for the template
  std::string eos_text;
  GenerationDefaults defaults;
};

absl::StatusOr<std::unique_ptr<TextModel>> OpenTextBundle(
    const std::vector<checkpoint::Checkpoint::BundleEntry>& bundle);

}  // namespace pagoda::text
