#include "text/pretokenizer.h"

#include <algorithm>

#include "text/byte_alphabet.h"
#include "text/unicode.h"

namespace pagoda::text {
namespace {

using Range = std::pair<size_t, size_t>;

// Collects the matches and gaps of one piece in order, and makes pieces of them as the behaviour says.
class Cutter {
 public:
  Cutter(SplitBehavior behavior, std::vector<Range>* out) : behavior_(behavior), out_(out) {}

  void Add(size_t begin, size_t end, bool match) {
    if (begin == end) return;
    switch (behavior_) {
      case SplitBehavior::kIsolated:
        out_->push_back({begin, end});
        break;
      case SplitBehavior::kRemoved:
        if (!match) out_->push_back({begin, end});
        break;
      case SplitBehavior::kContiguous:
        if (has_last_ && last_match_ == match) {
          out_->back().second = end;
        } else {
          out_->push_back({begin, end});
        }
        break;
      case SplitBehavior::kMergedWithPrevious:
        if (match && has_last_ && !last_match_) {
          out_->back().second = end;
        } else {
          out_->push_back({begin, end});
        }
        break;
      case SplitBehavior::kMergedWithNext:
        if (!match && has_last_ && last_match_) {
          out_->back().second = end;
        } else {
          out_->push_back({begin, end});
        }
        break;
    }
    has_last_ = true;
    last_match_ = match;
  }

 private:
  const SplitBehavior behavior_;
  std::vector<Range>* out_;
  bool has_last_ = false;
  bool last_match_ = false;
};

// Cuts each piece at the matches of `step.pattern`.
void Split(const SplitStep& step, Pieces* pieces) {
  RegexMatcher matcher(*step.pattern);
  std::vector<Range> out;
  out.reserve(pieces->ranges.size() + pieces->text.size() / 4);
  for (const auto& [begin, end] : pieces->ranges) {
    const std::string_view piece(pieces->text.data() + begin, end - begin);
    Cutter cutter(step.behavior, &out);
    size_t done = 0, search = 0;
    while (search <= piece.size()) {
      const RegexMatcher::Match match = matcher.Find(piece, search);
      if (!match.found) break;
      if (match.end == match.begin) {  // an empty match cuts nothing
        if (match.end >= piece.size()) break;
        search = match.end + DecodeUtf8(piece, match.end).length;
        continue;
      }
      cutter.Add(begin + done, begin + match.begin, step.invert);
      cutter.Add(begin + match.begin, begin + match.end, !step.invert);
      done = search = match.end;
    }
    cutter.Add(begin + done, end, step.invert);
  }
  pieces->ranges = std::move(out);
}

// Cuts at characters that `is_match` picks, each a match of its own.
template <typename Predicate>
void SplitCharacters(SplitBehavior behavior, Predicate is_match, Pieces* pieces) {
  std::vector<Range> out;
  out.reserve(pieces->ranges.size());
  for (const auto& [begin, end] : pieces->ranges) {
    Cutter cutter(behavior, &out);
    size_t done = begin;
    for (size_t i = begin; i < end;) {
      const Utf8Step step = DecodeUtf8(pieces->text, i);
      if (is_match(step.code_point)) {
        cutter.Add(done, i, false);
        cutter.Add(i, i + step.length, true);
        done = i + step.length;
      }
      i += step.length;
    }
    cutter.Add(done, end, false);
  }
  pieces->ranges = std::move(out);
}

// Rewrites each piece by `rewrite(piece, index, &text)`, which appends to the text.
template <typename Rewrite>
void RewritePieces(Rewrite rewrite, Pieces* pieces) {
  std::string text;
  text.reserve(pieces->text.size() + pieces->text.size() / 2 + 8);
  std::vector<Range> ranges;
  ranges.reserve(pieces->ranges.size());
  for (const auto& [begin, end] : pieces->ranges) {
    const size_t start = text.size();
    rewrite(std::string_view(pieces->text).substr(begin, end - begin), ranges.size(), &text);
    if (text.size() > start) ranges.push_back({start, text.size()});
  }
  pieces->text = std::move(text);
  pieces->ranges = std::move(ranges);
}

void Metaspace(const MetaspaceStep& step, bool at_start, Pieces* pieces) {
  const std::string& mark = step.replacement;
  RewritePieces(
      [&](std::string_view piece, size_t index, std::string* text) {
        const bool wanted = step.prepend == MetaspaceStep::Prepend::kAlways ||
                            (step.prepend == MetaspaceStep::Prepend::kFirst && at_start && index == 0);
        if (wanted && piece[0] != ' ' && !piece.starts_with(mark)) text->append(mark);
        for (char c : piece) {
          if (c == ' ') {
            text->append(mark);
          } else {
            text->push_back(c);
          }
        }
      },
      pieces);
  if (!step.split) return;
  std::vector<Range> out;
  for (const auto& [begin, end] : pieces->ranges) {
    Cutter cutter(SplitBehavior::kMergedWithNext, &out);
    size_t done = begin;
    while (done < end) {
      const size_t found = std::min(pieces->text.find(mark, done), end);
      cutter.Add(done, found, false);
      if (found >= end) break;
      cutter.Add(found, found + mark.size(), true);
      done = found + mark.size();
    }
  }
  pieces->ranges = std::move(out);
}

}  // namespace

Pieces Pretokenizer::Run(std::string text, bool at_start) const {
  Pieces pieces;
  pieces.text = std::move(text);
  if (pieces.text.empty()) return pieces;
  pieces.ranges.push_back({0, pieces.text.size()});
  for (const PretokenizerStep& any : steps_) {
    if (const auto* split = std::get_if<SplitStep>(&any)) {
      Split(*split, &pieces);
    } else if (const auto* digits = std::get_if<DigitsStep>(&any)) {
      SplitCharacters(
          digits->individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous,
          [](char32_t c) { return IsNumeric(c); }, &pieces);
    } else if (const auto* punctuation = std::get_if<PunctuationStep>(&any)) {
      SplitCharacters(
          punctuation->behavior, [](char32_t c) { return IsPunctuation(c); }, &pieces);
    } else if (std::holds_alternative<PrefixSpaceStep>(any)) {
      RewritePieces(
          [](std::string_view piece, size_t, std::string* out) {
            if (piece[0] != ' ') out->push_back(' ');
            out->append(piece);
          },
          &pieces);
    } else if (std::holds_alternative<AlphabetStep>(any)) {
      RewritePieces(
          [](std::string_view piece, size_t, std::string* out) { out->append(ToAlphabet(piece)); },
          &pieces);
    } else {
      Metaspace(std::get<MetaspaceStep>(any), at_start, &pieces);
    }
  }
  return pieces;
}

}  // namespace pagoda::text
