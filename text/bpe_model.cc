#include "text/bpe_model.h"

#include <algorithm>
#include <queue>

#include "text/unicode.h"

namespace pagoda::text {

BpeModel::BpeModel(BpeModelOptions options, const TextIndex* index,
                   std::array<TokenId, 256> byte_tokens, MergeTable merges)
    : options_(options), index_(index), byte_tokens_(byte_tokens), merges_(std::move(merges)) {
  std::vector<TokenId> symbols;
  for (const auto& [text, id] : *index_) {
    if (text.empty()) continue;
    if (!options_.ignore_merges) {
      symbols.clear();
      Merge(text, &symbols);
      if (symbols.size() != 1 || symbols[0] != id) continue;
    }
    whole_words_.emplace(text, id);
    longest_ = std::max(longest_, text.size());
  }
}

void BpeModel::Encode(std::string_view piece, std::vector<TokenId>* out) const {
  if (piece.size() <= longest_) {
    if (const auto found = whole_words_.find(piece); found != whole_words_.end()) {
      out->push_back(found->second);
      return;
    }
  }
  std::vector<TokenId> symbols;
  Merge(piece, &symbols);
  out->insert(out->end(), symbols.begin(), symbols.end());
}

void BpeModel::Merge(std::string_view piece, std::vector<TokenId>* symbols) const {
  symbols->reserve(piece.size());
  if (options_.byte_level) {
    for (char c : piece) {
      TokenId id = byte_tokens_[static_cast<unsigned char>(c)];
      if (id < 0) id = options_.unknown;
      if (id >= 0) symbols->push_back(id);
    }
  } else {
    FirstCharacters(piece, symbols);
  }
  merges_.Apply(symbols);
}

void BpeModel::FirstCharacters(std::string_view piece, std::vector<TokenId>* symbols) const {
  bool unknown_open = false;  // the last symbol is an unknown that may swallow the next
  for (size_t i = 0; i < piece.size();) {
    const int length = DecodeUtf8(piece, i).length;
    const std::string_view character = piece.substr(i, length);
    i += length;
    if (const auto found = index_->find(character); found != index_->end()) {
      symbols->push_back(found->second);
      unknown_open = false;
      continue;
    }
    if (options_.byte_fallback) {
      const bool all = std::all_of(character.begin(), character.end(), [&](char c) {
        return byte_tokens_[static_cast<unsigned char>(c)] >= 0;
      });
      if (all) {
        for (char c : character) symbols->push_back(byte_tokens_[static_cast<unsigned char>(c)]);
        unknown_open = false;
        continue;
      }
    }
    if (options_.unknown < 0) continue;
    if (!(unknown_open && options_.fuse_unknown)) symbols->push_back(options_.unknown);
    unknown_open = true;
  }
}

ScoreModel::ScoreModel(const TextIndex* index, std::vector<float> scores,
                       std::array<TokenId, 256> byte_tokens, TokenId unknown)
    : index_(index), scores_(std::move(scores)), byte_tokens_(byte_tokens), unknown_(unknown) {
  for (const auto& [text, id] : *index_) longest_ = std::max(longest_, text.size());
}

TokenId ScoreModel::Find(std::string_view text) const {
  if (text.size() > longest_) return -1;
  const auto found = index_->find(text);
  return found == index_->end() ? -1 : found->second;
}

void ScoreModel::Encode(std::string_view piece, std::vector<TokenId>* out) const {
  struct Symbol {
    size_t begin;
    size_t size;  // 0: joined to its left neighbour
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    float score;
    int32_t left;
    int32_t right;
    size_t size;
    bool operator<(const Candidate& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  std::vector<Symbol> symbols;
  for (size_t i = 0; i < piece.size();) {
    const auto length = static_cast<size_t>(DecodeUtf8(piece, i).length);
    const auto here = static_cast<int32_t>(symbols.size());
    symbols.push_back({i, length, here - 1, here + 1});
    i += length;
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  std::priority_queue<Candidate> queue;
  const auto push = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const size_t size = symbols[left].size + symbols[right].size;
    const TokenId id = Find(piece.substr(symbols[left].begin, size));
    if (id >= 0) queue.push({scores_[id], left, right, size});
  };
  for (size_t i = 1; i < symbols.size(); ++i) {
    push(static_cast<int32_t>(i) - 1, static_cast<int32_t>(i));
  }
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    Symbol& right = symbols[best.right];
    if (left.size == 0 || right.size == 0 || left.size + right.size != best.size) continue;
    left.size += right.size;
    right.size = 0;
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].previous = best.left;
    push(left.previous, best.left);
    push(best.left, left.next);
  }
  bool unknown_open = false;  // a run of unknown characters is one token, as in SentencePiece
  for (int32_t i = 0; i >= 0; i = symbols[i].next) {
    const std::string_view text = piece.substr(symbols[i].begin, symbols[i].size);
    const TokenId id = Find(text);
    const bool bytes = id < 0 && std::all_of(text.begin(), text.end(), [&](char c) {
      return byte_tokens_[static_cast<unsigned char>(c)] >= 0;
    });
    if (id >= 0) {
      out->push_back(id);
    } else if (bytes) {
      for (char c : text) out->push_back(byte_tokens_[static_cast<unsigned char>(c)]);
    } else if (unknown_ >= 0 && !unknown_open) {
      out->push_back(unknown_);
    }
    unknown_open = id < 0 && !bytes;
  }
}

}  // namespace pagoda::text
