// How the request of a client that came back goes on here. Pure; used by both front ends and by the simulation (tests/sim).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "router/found_stream.h"
#include "router/generation.h"
#include "router/stream_position.h"

namespace pagoda::router {

// Of a resumable request that brought none: the same at every router, so that its stream can be made again without its log.
uint64_t SeedOfResumable(std::string_view resume_id, int part);

// It goes on as the request that the coordinators know, by its next attempt (null: none knows it), and as the client's position says
// (null: it has nothing of this one): what made the client's part makes the rest, whatever others know of it.
void TakeUp(const FoundPart* found, const StreamPosition* at, GenerationRequest& request);

// Of a choice whose client is `at`: the log, cut to what the client has. Without one (null) the choice is made again from the
// beginning, and what the client has is left out.
KnownChoice KnownOf(const StreamPosition::Choice& at, const std::vector<TokenId>* log);

}  // namespace pagoda::router
