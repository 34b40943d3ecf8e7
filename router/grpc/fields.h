// From pagoda.v1 messages to the router's plain data. Pure. Internal to grpc/.
#pragma once

#include "pagoda/v1/inference.pb.h"
#include "router/generation.h"
#include "router/model_registry.h"

namespace pagoda::router {

GenerationFields FieldsOf(const v1::GenerateRequest& request);
// The prompt as tokens: text with special tokens, ids as they are, a chat through the template.
absl::StatusOr<std::vector<TokenId>> PromptOf(const v1::GenerateRequest& request,
                                              const ServedModel& model, int64_t now_unix);
absl::StatusOr<std::string> RenderChat(const v1::ChatPrompt& chat, const ServedModel& model,
                                       int64_t now_unix);
void FillModelInfo(const ServedModel& model, v1::ModelInfo* info);
v1::FinishReason ToProto(FinishReason reason);
void FillLogprobs(const PositionLogprobs& from, v1::PositionLogprobs* to);

}  // namespace pagoda::router
