#include "router/stream_position.h"

#include <algorithm>
#include <charconv>

#include "common/block_hash.h"
#include "common/limits.h"

namespace pagoda::router {
namespace {

// Takes a number off the front of `text`.
template <typename Int>
bool TakeNumber(std::string_view& text, Int most, Int& value, int base = 10) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end == text.data() || value < 0 || value > most) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

bool Take(std::string_view& text, char c) {
  if (text.empty() || text.front() != c) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

uint32_t MarkOf(std::string_view model_digest, std::string_view numerics) {
  const BlockHash hash = ChainStart(absl::StrCat("mark of ", AsAbsl(model_digest), " ", AsAbsl(numerics)));
  return static_cast<uint32_t>(hash.low) | 1;
}

bool MarkFits(uint32_t mark, std::string_view model_digest, std::string_view numerics) {
  return mark == MarkOf(model_digest, numerics) || mark == MarkOf(model_digest, numerics.substr(0, numerics.find(' ')));
}

std::string StreamPosition::ToString() const {
  std::string text = absl::StrCat(created_unix_s);
  if (mark != 0 && HasTokens()) absl::StrAppend(&text, "-", absl::Hex(mark));
  text += ':';
  for (size_t i = 0; i < choices.size(); ++i) {
    const Choice& choice = choices[i];
    if (i > 0) text += '.';
    if (!choice.begun) {
      text += 'n';
      continue;
    }
    absl::StrAppend(&text, choice.tokens);
    if (choice.finished) {
      text += 'f';
    } else if (choice.text_ended) {
      text += 'e';
    }
  }
  if (usage_sent) text += ".u";
  return text;
}

bool StreamPosition::HasTokens() const {
  return std::ranges::any_of(choices, [](const Choice& choice) { return choice.tokens > 0; });
}

absl::StatusOr<StreamPosition> StreamPosition::Parse(std::string_view text) {
  const absl::Status bad = absl::InvalidArgumentError(
      "Last-Event-ID is not the id of an event of this server; send the last `id:` that came, as it is");
  StreamPosition position;
  if (!TakeNumber(text, int64_t{1} << 53, position.created_unix_s)) return bad;
  if (Take(text, '-') && (!TakeNumber(text, ~uint32_t{0}, position.mark, 16) || position.mark == 0)) return bad;
  if (!Take(text, ':')) return bad;
  while (true) {
    if (Take(text, 'u')) {
      position.usage_sent = true;
      break;
    }
    if (position.choices.size() == static_cast<size_t>(limits::kMaxChoices)) return bad;
    Choice& choice = position.choices.emplace_back();
    if (!Take(text, 'n')) {
      choice.begun = true;
      if (!TakeNumber(text, static_cast<int>(limits::kMaxTotalNewTokens), choice.tokens)) return bad;
      choice.finished = Take(text, 'f');
      choice.text_ended = choice.finished || Take(text, 'e');
    }
    if (!Take(text, '.')) break;
  }
  if (!text.empty() || position.choices.empty()) return bad;
  if (!position.HasTokens()) position.mark = 0;
  return position;
}

}  // namespace pagoda::router
