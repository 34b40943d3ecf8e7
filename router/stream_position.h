// How much of a stream its client has: what an SSE event's `id:` says, and `Last-Event-ID` brings back. It counts tokens and
// not events, so that any router can go on behind it, however the tokens came in batches. Value type; hostile text is refused.
//
// As text: "<created>:<choice>.<choice>..." or, with tokens, "<created>-<mark in hex>:<choice>.<choice>..." with, for each choice, "n"
// (nothing was sent), or the number of its output tokens
// whose text was sent as far as it could be, then "e" when the rest of its text was sent too, "f" when its end was told;
// ".u" at the end: the usage was sent. <created> is the Unix time of the request (chunks carry it, templates may print it).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace pagoda::router {

// Never 0 and never kMixedMark.
uint32_t MarkOf(std::string_view model_digest, std::string_view numerics);
inline constexpr uint32_t kMixedMark = 2;
// Of these, or of their profile alone, as a coordinator of protocol 1 tells it.
bool MarkFits(uint32_t mark, std::string_view model_digest, std::string_view numerics);

struct StreamPosition {
  struct Choice {
    bool begun = false;
    int tokens = 0;
    bool text_ended = false;
    bool finished = false;  // then text_ended too
    bool operator==(const Choice&) const = default;
  };
  int64_t created_unix_s = 0;
  // Of the model and numerics that its tokens are of: without them it cannot be made again. 0: it has no tokens.
  uint32_t mark = 0;
  std::vector<Choice> choices;
  bool usage_sent = false;

  // It has tokens of these now.
  void Mark(uint32_t with) {
    if (with != 0) mark = mark == 0 || mark == with ? with : kMixedMark;
  }

  bool HasTokens() const;
  std::string ToString() const;
  // kInvalidArgument.
  static absl::StatusOr<StreamPosition> Parse(std::string_view text);
  bool operator==(const StreamPosition&) const = default;
};

}  // namespace pagoda::router
