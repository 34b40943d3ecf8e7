#include "text/text_bundle.h"

#include <nlohmann/json.hpp>
#include <span>

#include "checkpoint/gguf_metadata.h"
#include "text/gguf_tokenizer.h"
#include "text/hf_parts.h"
#include "text/hf_tokenizer.h"

namespace pagoda::text {
namespace {

using BundleEntry = checkpoint::Checkpoint::BundleEntry;
using nlohmann::json;

const BundleEntry* Find(const std::vector<BundleEntry>& bundle, std::string_view name) {
  for (const BundleEntry& entry : bundle) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

absl::Status ParseTemplate(std::string_view source, std::string_view where, TextModel* model) {
  auto parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return Annotate(parsed.status(), where);
  model->chat_template = std::move(parsed).value();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TextModel>> OpenGguf(const std::string& bytes) {
  const std::span<const std::byte> span(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size());
  PAGODA_ASSIGN_OR_RETURN(const checkpoint::GgufHeader header,
                          checkpoint::GgufHeader::Parse(span, bytes.size()));
  auto model = std::make_unique<TextModel>();
  PAGODA_ASSIGN_OR_RETURN(model->tokenizer, OpenGgufTokenizer(header));
  const auto text_of = [&](const char* key) -> std::string {
    const auto id = header.FindUint(key);
    if (!id.has_value() || *id >= static_cast<uint64_t>(model->tokenizer->vocabulary_size())) return "";
    return std::string(model->tokenizer->TokenText(static_cast<TokenId>(*id)));
  };
  model->bos_text = text_of("tokenizer.ggml.bos_token_id");
  model->eos_text = text_of("tokenizer.ggml.eos_token_id");
  if (const std::string* source = header.FindString("tokenizer.chat_template")) {
    PAGODA_RETURN_IF_ERROR(ParseTemplate(*source, "tokenizer.chat_template", model.get()));
  }
  return model;
}

// The file as JSON; an empty object when the bundle lacks it.
absl::StatusOr<json> ParseFile(const std::vector<BundleEntry>& bundle, const std::string& name) {
  const BundleEntry* entry = Find(bundle, name);
  if (entry == nullptr) return json::object();
  json parsed = json::parse(entry->bytes, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded() || !parsed.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is not a JSON object"));
  }
  return parsed;
}

// "bos_token" is a string or an object with "content".
std::string SpecialText(const json& config, const json& map, const char* key) {
  for (const json* source : {&config, &map}) {
    if (std::string text = JsonText(*source, key); !text.empty()) return text;
    if (std::string text = JsonText(JsonField(*source, key), "content"); !text.empty()) return text;
  }
  return "";
}

void AppendIds(const json& ids, std::vector<TokenId>* out) {
  const auto append = [&](const json& id) {
    if (!id.is_number_integer()) return;
    const auto value = id.get<int64_t>();
    if (value >= 0 && value <= INT32_MAX) out->push_back(static_cast<TokenId>(value));
  };
  append(ids);
  if (ids.is_array()) {
    for (const json& id : ids) append(id);
  }
}

GenerationDefaults ReadDefaults(const json& generation) {
  GenerationDefaults out;
  const auto number = [&](const char* key) -> std::optional<double> {
    const json& field = JsonField(generation, key);
    return field.is_number() ? std::optional(field.get<double>()) : std::nullopt;
  };
  out.temperature = number("temperature");
  out.top_p = number("top_p");
  if (const auto top_k = number("top_k"); top_k.has_value() && *top_k >= 0 && *top_k <= 1e9) {
    out.top_k = static_cast<int>(*top_k);
  }
  out.repetition_penalty = number("repetition_penalty");
  return out;
}

// chat_template is a string, or a list of {"name", "template"} of which "default" is ours.
std::string TemplateSource(const std::vector<BundleEntry>& bundle, const json& config) {
  if (const BundleEntry* file = Find(bundle, "chat_template.jinja")) return file->bytes;
  const json& field = JsonField(config, "chat_template");
  if (field.is_string()) return field.get<std::string>();
  if (!field.is_array()) return "";
  for (const json& item : field) {
    if (JsonText(item, "name") == "default") return JsonText(item, "template");
  }
  return "";
}

absl::StatusOr<std::unique_ptr<TextModel>> OpenFolder(const std::vector<BundleEntry>& bundle) {
  PAGODA_ASSIGN_OR_RETURN(const json tokenizer, ParseFile(bundle, "tokenizer.json"));
  PAGODA_ASSIGN_OR_RETURN(const json config, ParseFile(bundle, "tokenizer_config.json"));
  PAGODA_ASSIGN_OR_RETURN(const json map, ParseFile(bundle, "special_tokens_map.json"));
  PAGODA_ASSIGN_OR_RETURN(const json generation, ParseFile(bundle, "generation_config.json"));
  PAGODA_ASSIGN_OR_RETURN(const json model_config, ParseFile(bundle, "config.json"));
  auto model = std::make_unique<TextModel>();
  model->bos_text = SpecialText(config, map, "bos_token");
  model->eos_text = SpecialText(config, map, "eos_token");
  model->defaults = ReadDefaults(generation);
  HfTokenizerFiles files{tokenizer, config, model->bos_text, model->eos_text, {}};
  AppendIds(JsonField(generation, "eos_token_id"), &files.ends);
  AppendIds(JsonField(model_config, "eos_token_id"), &files.ends);
  PAGODA_ASSIGN_OR_RETURN(model->tokenizer, OpenHfTokenizer(files));
  if (const std::string source = TemplateSource(bundle, config); !source.empty()) {
    PAGODA_RETURN_IF_ERROR(ParseTemplate(source, "chat_template", model.get()));
  }
  return model;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TextModel>> OpenTextBundle(const std::vector<BundleEntry>& bundle) {
  if (const BundleEntry* header = Find(bundle, "model.gguf.header")) return OpenGguf(header->bytes);
  if (Find(bundle, "tokenizer.json") != nullptr) return OpenFolder(bundle);
  return absl::InvalidArgumentError(
      "the model has no tokenizer: its bundle holds neither \"model.gguf.header\" nor \"tokenizer.json\"");
}

}  // namespace pagoda::text
