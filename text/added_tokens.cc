#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode.h"

namespace pagoda::text {
namespace {

constexpr size_t kMaxAddedTokenBytes = 512;

// Where the last character before `position` begins.
size_t PreviousCharacter(std::string_view text, size_t position) {
  size_t begin = position - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

bool WordEndsAt(std::string_view text, size_t position) {
  return position > 0 &&
         IsWordCharacter(DecodeUtf8(text, PreviousCharacter(text, position)).code_point);
}

bool WordBeginsAt(std::string_view text, size_t position) {
  return position < text.size() && IsWordCharacter(DecodeUtf8(text, position).code_point);
}

size_t SpaceBegin(std::string_view text, size_t position) {
  while (position > 0) {
    const size_t begin = PreviousCharacter(text, position);
    if (!IsWhiteSpace(DecodeUtf8(text, begin).code_point)) break;
    position = begin;
  }
  return position;
}

size_t SpaceEnd(std::string_view text, size_t position) {
  while (position < text.size()) {
    const Utf8Step step = DecodeUtf8(text, position);
    if (!IsWhiteSpace(step.code_point)) break;
    position += step.length;
  }
  return position;
}

}  // namespace

absl::StatusOr<AddedTokenMatcher> AddedTokenMatcher::Build(std::vector<AddedToken> tokens) {
  AddedTokenMatcher matcher;
  for (size_t index = 0; index < tokens.size(); ++index) {
    const std::string& content = tokens[index].content;
    if (content.empty() || content.size() > kMaxAddedTokenBytes) {
      return absl::InvalidArgumentError(absl::StrCat("added token ", tokens[index].id, " has ",
                                                     content.size(), " bytes; 1 to ",
                                                     kMaxAddedTokenBytes, " are supported"));
    }
    int32_t node = 0;
    for (const char c : content) {
      const auto byte = static_cast<unsigned char>(c);
      auto& children = matcher.nodes_[node].children;
      auto place = std::lower_bound(children.begin(), children.end(), std::pair(byte, INT32_MIN));
      if (place == children.end() || place->first != byte) {
        const auto fresh = static_cast<int32_t>(matcher.nodes_.size());
        children.insert(place, {byte, fresh});
        matcher.nodes_.emplace_back();
        node = fresh;
      } else {
        node = place->second;
      }
    }
    matcher.nodes_[node].token = static_cast<int32_t>(index);
    matcher.starts_[static_cast<unsigned char>(content[0])] = true;
  }
  matcher.tokens_ = std::move(tokens);
  return matcher;
}

int32_t AddedTokenMatcher::LongestAt(std::string_view text, size_t position, size_t* end) const {
  int32_t found = -1;
  int32_t node = 0;
  for (size_t i = position; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto& children = nodes_[node].children;
    const auto place = std::lower_bound(children.begin(), children.end(), std::pair(byte, INT32_MIN));
    if (place == children.end() || place->first != byte) break;
    node = place->second;
    if (nodes_[node].token >= 0) {
      found = nodes_[node].token;
      *end = i + 1;
    }
  }
  return found;
}

void AddedTokenMatcher::Split(std::string_view text, bool with_special,
                              std::vector<Segment>* out) const {
  size_t done = 0;
  size_t position = 0;
  while (position < text.size()) {
    size_t end = 0;
    int32_t index = -1;
    if (starts_[static_cast<unsigned char>(text[position])]) {
      index = LongestAt(text, position, &end);
    }
    if (index < 0) {
      ++position;
      continue;
    }
    const AddedToken& token = tokens_[index];
    size_t begin = position;
    position = end;
    if (token.special && !with_special) continue;
    if (token.single_word && (WordEndsAt(text, begin) || WordBeginsAt(text, end))) continue;
    if (token.lstrip) begin = std::max(SpaceBegin(text, begin), done);
    if (token.rstrip) end = SpaceEnd(text, end);
    if (done < begin) out->push_back({done, begin, -1});
    out->push_back({begin, end, token.id});
    done = end;  // the next match may lie in the space that this one took, as in the reference
  }
  if (done < text.size()) out->push_back({done, text.size(), -1});
}

}  // namespace pagoda::text
