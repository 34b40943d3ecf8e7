#include "text/detokenizer.h"

#include <algorithm>

#include "text/unicode.h"

namespace pagoda::text {
namespace {

// Appends `bytes` to `out`, which is valid UTF-8 but for a possible truncated last character, and repairs what can
// no longer become valid. Returns where the truncated last character begins (out->size() when there is none).
// `each_byte`: one U+FFFD for each byte, not for each beginning of a character.
size_t Repair(std::string* out, bool each_byte) {
  size_t i = 0;
  while (i < out->size()) {
    const Utf8Step step = DecodeUtf8(*out, i);
    if (step.valid) {
      i += step.length;
    } else if (step.truncated) {
      return i;
    } else {
      out->replace(i, each_byte ? 1 : step.length, kReplacement);
      i += kReplacement.size();
    }
  }
  return i;
}

// The longest suffix of text[0, end) that begins `stop`, in bytes; less than the whole of `stop`.
size_t PartialStop(std::string_view text, std::string_view stop) {
  const size_t most = std::min(text.size(), stop.size() - 1);
  for (size_t size = most; size > 0; --size) {
    if (text.ends_with(stop.substr(0, size))) return size;
  }
  return 0;
}

}  // namespace

Detokenizer::Detokenizer(const Tokenizer& tokenizer, DetokenizerOptions options)
    : tokenizer_(tokenizer), options_(std::move(options)) {
  for (const std::string& stop : options_.stop) longest_stop_ = std::max(longest_stop_, stop.size());
}

Detokenizer::Output Detokenizer::Add(TokenId token) {
  ++tokens_;
  const bool special = tokenizer_.IsSpecial(token);
  if (special && options_.skip_special_tokens) return {};
  std::string_view bytes = tokenizer_.TokenBytes(token);
  if (first_ && !special) {
    if (tokenizer_.StripsLeadingSpace(token) && bytes.starts_with(' ')) bytes.remove_prefix(1);
    first_ = false;
  }
  pending_ += bytes;
  return Release(false);
}

std::string Detokenizer::Finish() { return Release(true).text; }

Detokenizer::Output Detokenizer::Release(bool flush) {
  Output output;
  if (pending_.empty()) return output;
  const bool each_byte = tokenizer_.ReplacesEachByte();
  size_t whole = Repair(&pending_, each_byte);
  if (flush && whole < pending_.size()) {
    const std::string rest = ReplaceInvalidUtf8(std::string_view(pending_).substr(whole), each_byte);
    pending_.replace(whole, std::string::npos, rest);
    whole = pending_.size();
  }
  const std::string_view text(pending_.data(), whole);
  if (longest_stop_ == 0) {
    output.text.assign(text);
    pending_.erase(0, whole);
    shown_ += output.text;
    return output;
  }
  if (!flush && tokens_ >= options_.min_tokens) {
    size_t at = std::string_view::npos;
    const std::string* which = nullptr;
    for (const std::string& stop : options_.stop) {
      if (stop.empty()) continue;
      const size_t found = text.find(stop);
      if (found < at) at = found, which = &stop;
    }
    if (which != nullptr) {
      const size_t end = at + (options_.include_stop_in_output ? which->size() : 0);
      output.text.assign(text.substr(0, end));
      output.stop_string = *which;
      pending_.clear();
      shown_ += output.text;
      return output;
    }
  }
  size_t held = 0;
  if (!flush) {
    for (const std::string& stop : options_.stop) {
      if (!stop.empty()) held = std::max(held, PartialStop(text, stop));
    }
  }
  output.text.assign(text.substr(0, whole - held));
  pending_.erase(0, whole - held);
  shown_ += output.text;
  return output;
}

}  // namespace pagoda::text
