// What a key's list of models means for a request. Pure functions.
#pragma once

#include <algorithm>
#include <memory>

#include "router/access/gate.h"
#include "router/generation.h"
#include "router/model_registry.h"
#include "router/request_status.h"

namespace pagoda::router {

// Those that the caller may use; the same object when that is all.
inline std::shared_ptr<const ServedModels> FilterModels(std::shared_ptr<const ServedModels> all, const Caller& caller) {
  if (caller.sees_all_models()) return all;
  auto some = std::make_shared<ServedModels>();
  some->nothing_served = all->nothing_served;
  for (const ServedModel& model : all->models) {
    if (caller.MayUse(model.name)) some->models.push_back(model);
  }
  for (const ServedModel& model : all->others) {
    if (caller.MayUse(model.name)) some->others.push_back(model);
  }
  return some;
}

// A key with a list of models is told the same of a model that it may not use and of one that there is not.
inline absl::Status HideModels(const absl::Status& status, const Caller& caller) {
  if (!absl::IsNotFound(status) || caller.sees_all_models()) return status;
  return WithParam(WithCode(absl::PermissionDeniedError(absl::StrCat("key ", caller.key_id(),
                                                                     " may not use this model, or it is not served here")),
                            "model_not_allowed"),
                   "model");
}

// What a request may come to: its prompt, and all that it may generate.
inline int64_t MostTokens(const GenerationRequest& request) {
  return static_cast<int64_t>(request.prompt.size()) +
         static_cast<int64_t>(request.choices) * std::max(request.sampling.max_tokens, 0);
}

}  // namespace pagoda::router
