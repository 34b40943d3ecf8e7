// From what a client asked for to what is sent: ranges checked, defaults of the model put in, the
// context length kept. Pure; any thread. Every error names the field and the limit.
#pragma once

#include "router/generation.h"
#include "router/model_registry.h"

namespace pagoda::router {

// What needs no model: ranges, counts, finite numbers. Call before anything is allocated for the
// request.
absl::Status CheckFields(const GenerationFields& fields);

struct SettleInput {
  const GenerationFields& fields;  // passed CheckFields
  const ServedModel& model;        // text is not null
  std::vector<TokenId> prompt;
  int64_t default_max_tokens = 0;  // when the client named none; 0: what fits
  int prompts = 1;                 // of the same HTTP request: they share the limit on new tokens
};
// The ids, the client's name of the request and the times are the caller's to fill in.
absl::StatusOr<GenerationRequest> Settle(SettleInput input);

}  // namespace pagoda::router
