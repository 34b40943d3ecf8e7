#include "text/pipeline_tokenizer.h"

#include <algorithm>

#include "text/byte_alphabet.h"
#include "text/unicode.h"

namespace pagoda::text {
namespace {

void ReplaceLiteral(const std::string& from, const std::string& to, std::string* text) {
  if (from.empty()) return;
  std::string out;
  out.reserve(text->size());
  size_t done = 0;
  for (size_t found; (found = text->find(from, done)) != std::string::npos;
       done = found + from.size()) {
    out.append(*text, done, found - done);
    out.append(to);
  }
  out.append(*text, done);
  *text = std::move(out);
}

void ReplacePattern(const Regex& pattern, const std::string& to, std::string* text) {
  RegexMatcher matcher(pattern);
  std::string out;
  size_t done = 0, search = 0;
  while (search <= text->size()) {
    const RegexMatcher::Match match = matcher.Find(*text, search);
    if (!match.found) break;
    out.append(*text, done, match.begin - done);
    out.append(to);
    done = search = match.end;
    if (match.end > match.begin) continue;
    if (search >= text->size()) break;
    search += DecodeUtf8(*text, search).length;
  }
  out.append(*text, done);
  *text = std::move(out);
}

std::string Normalize(const std::vector<NormalizerStep>& steps, std::string_view text, bool prepend) {
  std::string out(text);
  for (const NormalizerStep& any : steps) {
    if (std::holds_alternative<NfcStep>(any)) {
      out = ToNfc(out);
    } else if (const auto* step = std::get_if<PrependStep>(&any)) {
      if (prepend && !out.empty()) out.insert(0, step->text);
    } else if (const auto* replace = std::get_if<ReplaceStep>(&any)) {
      if (replace->pattern != nullptr) {
        ReplacePattern(*replace->pattern, replace->to, &out);
      } else {
        ReplaceLiteral(replace->from, replace->to, &out);
      }
    } else {
      out = ToLower(out);
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> PipelineTokenizer::Build(TokenizerParts parts) {
  std::vector<AddedToken> raw, normalized;
  for (AddedToken token : parts.added) {
    if (token.normalized) {  // is looked for in normalised text
      token.content = Normalize(parts.normalizer, token.content, !parts.prefix_after_special_only);
      if (!token.content.empty()) normalized.push_back(std::move(token));
    } else {
      raw.push_back(std::move(token));
    }
  }
  PAGODA_ASSIGN_OR_RETURN(AddedTokenMatcher raw_matcher, AddedTokenMatcher::Build(std::move(raw)));
  PAGODA_ASSIGN_OR_RETURN(AddedTokenMatcher normalized_matcher,
                          AddedTokenMatcher::Build(std::move(normalized)));
  return std::unique_ptr<Tokenizer>(new PipelineTokenizer(
      std::move(parts), std::move(raw_matcher), std::move(normalized_matcher)));
}

PipelineTokenizer::PipelineTokenizer(TokenizerParts parts, AddedTokenMatcher raw,
                                     AddedTokenMatcher normalized)
    : parts_(std::move(parts)),
      raw_(std::move(raw)),
      normalized_(std::move(normalized)),
      pretokenizer_(parts_.pretokenizer) {}

std::vector<TokenId> PipelineTokenizer::Encode(std::string_view text, EncodeOptions options) const {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    repaired = ReplaceInvalidUtf8(text);
    text = repaired;
  }
  std::vector<TokenId> out;
  out.reserve(text.size() / 3 + 4);
  if (options.add_special_tokens) out = parts_.prefix;
  std::vector<AddedTokenMatcher::Segment> segments;
  raw_.Split(text, options.parse_special_tokens, &segments);
  bool after_special = true;  // the beginning counts as such
  for (const auto& segment : segments) {
    if (segment.id >= 0) {
      out.push_back(segment.id);
      after_special = true;
      continue;
    }
    EncodeText(text.substr(segment.begin, segment.end - segment.begin), segment.begin == 0,
               after_special, options.parse_special_tokens, &out);
    after_special = false;
  }
  if (options.add_special_tokens) {
    out.insert(out.end(), parts_.suffix.begin(), parts_.suffix.end());
  }
  return out;
}

void PipelineTokenizer::EncodeText(std::string_view text, bool at_start, bool after_special,
                                   bool with_special, std::vector<TokenId>* out) const {
  std::string clean = 
      Normalize(parts_.normalizer, text, after_special || !parts_.prefix_after_special_only);
  if (normalized_.empty()) {
    EncodeWords(std::move(clean), at_start, out);
    return;
  }
  std::vector<AddedTokenMatcher::Segment> segments;
  normalized_.Split(clean, with_special, &segments);
  for (const auto& segment : segments) {
    if (segment.id >= 0) {
      out->push_back(segment.id);
    } else {
      EncodeWords(clean.substr(segment.begin, segment.end - segment.begin),
                  at_start && segment.begin == 0, out);
    }
  }
}

void PipelineTokenizer::EncodeWords(std::string text, bool at_start,
                                    std::vector<TokenId>* out) const {
  const Pieces pieces = pretokenizer_.Run(std::move(text), at_start);
  for (const auto& [begin, end] : pieces.ranges) {
    const std::string_view piece(pieces.text.data() + begin, end - begin);
    if (!parts_.pieces_in_alphabet) {
      parts_.model->Encode(piece, out);
    } else if (const auto bytes = BytesOfAlphabet(piece); bytes.has_value()) {
      parts_.model->Encode(*bytes, out);
    }
  }
}

std::string_view PipelineTokenizer::TokenBytes(TokenId token) const {
  return Known(token) ? std::string_view(parts_.tokens[token].bytes) : std::string_view();
}

std::string_view PipelineTokenizer::TokenText(TokenId token) const {
  return Known(token) ? std::string_view(parts_.tokens[token].text) : std::string_view();
}

bool PipelineTokenizer::StripsLeadingSpace(TokenId first) const {
  return parts_.strips_leading_space && !(parts_.sentencepiece_bytes && TokenText(first).starts_with("<0x"));
}

bool PipelineTokenizer::IsSpecial(TokenId token) const {
  return Known(token) && parts_.tokens[token].special;
}

void AddWellKnownEnds(std::vector<Token>* tokens, std::vector<TokenId>* ends) {
  static constexpr std::string_view kEnds[] = {
      "<|eot_id|>",     "<|im_end|>",      "<|end|>",        "<|return|>",
      "<|call|>",       "<|flush|>",       "<|calls|>",      "<end_of_turn>",
      "<|endoftext|>",  "<|eom_id|>",      "<EOT>",          "_<EOT>",
      "[EOT]",          "[EOS]",           "<|end_of_text|>", "<end_of_utterance>",
      "<eos>",          "<｜end▁of▁sentence｜>", "<turn|>",   "<|end_of_turn|>"};
  TokenId harmony_end = -1;
  bool has_return = false, has_call = false;
  for (size_t i = 0; i < tokens->size(); ++i) {
    Token& token = (*tokens)[i];
    if (token.text.empty() || (token.text[0] != '<' && token.text[0] != '[' && token.text[0] != '_')) {
      continue;
    }
    if (std::find(std::begin(kEnds), std::end(kEnds), token.text) == std::end(kEnds)) continue;
    const auto id = static_cast<TokenId>(i);
    token.special = true;
    if (token.text == "<|end|>") harmony_end = id;
    has_return |= token.text == "<|return|>";
    has_call |= token.text == "<|call|>";
    if (std::find(ends->begin(), ends->end(), id) == ends->end()) ends->push_back(id);
  }
  // In the Harmony format <|end|> closes a message, not the answer.
  if (has_return && has_call && harmony_end >= 0) std::erase(*ends, harmony_end);
  std::sort(ends->begin(), ends->end());
}

}  // namespace pagoda::text
