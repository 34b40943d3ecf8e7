#include "router/openai/logprobs.h"

#include <algorithm>

#include "router/openai/json_output.h"
#include "text/unicode.h"

namespace pagoda::router::openai {
namespace {

std::string_view BytesOf(const LogprobStyle& style, TokenId token) {
  if (token < 0 || token >= style.tokenizer.vocabulary_size()) return {};
  const std::string_view bytes = style.tokenizer.TokenBytes(token);
  return bytes.empty() ? style.tokenizer.TokenText(token) : bytes;
}

void AppendChatEntry(std::string& out, const LogprobStyle& style, const TokenLogprob& entry) {
  out += "{\"token\":";
  AppendString(out, TokenLabel(style, entry.token));
  out += ",\"logprob\":";
  AppendLogprob(out, entry.logprob);
  out += ",\"bytes\":";
  AppendList(out, BytesOf(style, entry.token), [&](char byte) {
    absl::StrAppend(&out, static_cast<int>(static_cast<unsigned char>(byte)));
  });
}

// The chosen token and `top` likeliest, each token once.
std::vector<TokenLogprob> Distinct(const PositionLogprobs& position, int top) {
  std::vector<TokenLogprob> entries;
  for (size_t i = 0; i < position.size() && i <= static_cast<size_t>(top); ++i) {
    const bool seen =
        std::ranges::any_of(entries, [&](const auto& e) { return e.token == position[i].token; });
    if (!seen) entries.push_back(position[i]);
  }
  return entries;
}

}  // namespace

std::string TokenLabel(const LogprobStyle& style, TokenId token) {
  if (style.as_token_ids) return absl::StrCat("token_id:", token);
  return text::ReplaceInvalidUtf8(BytesOf(style, token));
}

void AppendChatLogprobs(std::string& out, const LogprobStyle& style,
                        std::span<const PositionLogprobs> positions) {
  out += "{\"content\":";
  AppendList(out, positions, [&](const PositionLogprobs& position) {
    if (position.empty()) {
      out += "{\"token\":\"\",\"logprob\":-9999.0,\"bytes\":[],\"top_logprobs\":[]}";
      return;
    }
    AppendChatEntry(out, style, position.front());
    out += ",\"top_logprobs\":";
    const size_t top = std::min(position.size() - 1, static_cast<size_t>(style.top));
    AppendList(out, std::span(position).subspan(1, top), [&](const TokenLogprob& entry) {
      AppendChatEntry(out, style, entry);
      out += '}';
    });
    out += '}';
  });
  out += ",\"refusal\":null}";
}

int64_t CodePointsOf(const LogprobStyle& style, std::span<const TokenId> tokens) {
  int64_t count = 0;
  for (TokenId token : tokens)
    count += static_cast<int64_t>(
        text::CountCodePoints(text::ReplaceInvalidUtf8(BytesOf(style, token))));
  return count;
}

void AppendCompletionLogprobs(std::string& out, const LogprobStyle& style,
                              std::span<const TokenId> tokens,
                              std::span<const PositionLogprobs> positions, int64_t& text_offset) {
  const size_t count = std::min(tokens.size(), positions.size());
  std::string offsets = "[", values = "[", names = "[", tops = "[";
  for (size_t i = 0; i < count; ++i) {
    const char* comma = i == 0 ? "" : ",";
    absl::StrAppend(&offsets, comma, text_offset);
    text_offset += CodePointsOf(style, tokens.subspan(i, 1));
    names += comma;
    AppendString(names, TokenLabel(style, tokens[i]));
    values += comma;
    tops += comma;
    if (positions[i].empty()) {
      values += "null";
      tops += "null";
      continue;
    }
    AppendLogprob(values, positions[i].front().logprob);
    tops += '{';
    bool first = true;
    std::vector<std::string> labels;  // two tokens may have one label; keys are not repeated
    for (const TokenLogprob& entry : Distinct(positions[i], style.top)) {
      std::string label = TokenLabel(style, entry.token);
      if (std::ranges::count(labels, label) > 0) continue;
      if (!first) tops += ',';
      first = false;
      AppendString(tops, label);
      tops += ':';
      AppendLogprob(tops, entry.logprob);
      labels.push_back(std::move(label));
    }
    tops += '}';
  }
  absl::StrAppend(&out, "{\"text_offset\":", offsets, "],\"token_logprobs\":", values,
                  "],\"tokens\":", names, "],\"top_logprobs\":", tops, "]}");
}

void AppendPromptLogprobs(std::string& out, const LogprobStyle& style,
                          std::span<const PositionLogprobs> positions) {
  AppendList(out, positions, [&](const PositionLogprobs& position) {
    if (position.empty()) {
      out += "null";
      return;
    }
    out += '{';
    bool first = true;
    for (const TokenLogprob& entry : Distinct(position, style.top)) {
      if (!first) out += ',';
      first = false;
      absl::StrAppend(&out, "\"", entry.token, "\":{\"logprob\":");
      AppendLogprob(out, entry.logprob);
      absl::StrAppend(&out, ",\"rank\":", entry.rank, ",\"decoded_token\":");
      AppendString(out, TokenLabel({style.tokenizer, false, 0}, entry.token));
      out += '}';
    }
    out += '}';
  });
}

}  // namespace pagoda::router::openai
