#include "text/text_bundle.h"

#include <span>

#include "checkpoint/gguf_metadata.h"
#include "text/gguf_tokenizer.h"

namespace pagoda::text {
namespace {

using BundleEntry = checkpoint::Checkpoint::BundleEntry;

const BundleEntry* Find(const std::vector<BundleEntry>& bundle, std::string_view name) {
  for (const BundleEntry& entry : bundle) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
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
    auto parsed = ChatTemplate::Parse(*source);
    if (!parsed.ok()) return Annotate(parsed.status(), "tokenizer.chat_template");
    model->chat_template = std::move(parsed).value();
  }
  return model;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TextModel>> OpenTextBundle(const std::vector<BundleEntry>& bundle) {
  if (const BundleEntry* header = Find(bundle, "model.gguf.header")) return OpenGguf(header->bytes);
  return absl::InvalidArgumentError("the model's text bundle has no \"model.gguf.header\"");
}

}  // namespace pagoda::text
