#include "router/resumed_request.h"

#include "common/block_hash.h"
#include "common/status.h"

namespace pagoda::router {

uint64_t SeedOfResumable(std::string_view resume_id, int part) {
  return ChainStart(absl::StrCat("seed of ", part, " of ", AsAbsl(resume_id))).low >> 1;
}

void TakeUp(const FoundPart* found, const StreamPosition* at, GenerationRequest& request) {
  if (found != nullptr) {
    request.id = found->request;
    request.attempts_before = found->attempt;
    request.cached_tokens = found->cached_tokens;
  }
  // A client that has no tokens may get anybody's.
  if (at == nullptr || !at->HasTokens()) return;
  if (found != nullptr) {
    request.known_digest = found->model_digest;
    request.numerics = found->numerics;
  }
  const bool agrees = at->mark == 0 || at->mark == kMixedMark || (found != nullptr && MarkFits(at->mark, found->model_digest, found->numerics));
  if (!agrees) request.mark = at->mark;
}

KnownChoice KnownOf(const StreamPosition::Choice& at, const std::vector<TokenId>* log) {
  KnownChoice known{.tokens = {}, .delivered = at.tokens, .text_ended = at.text_ended, .finished = at.finished};
  if (log != nullptr) known.tokens = *log;
  if (known.tokens.size() > static_cast<size_t>(at.tokens)) known.tokens.resize(static_cast<size_t>(at.tokens));
  return known;
}

}  // namespace pagoda::router
