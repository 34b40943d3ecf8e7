// Between the dispatcher's plain data and the messages of Pipeline.Attach. Internal to this folder;
// free functions.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "router/cluster_view.h"
#include "router/found_stream.h"
#include "router/session.h"

namespace pagoda::router {

internal::v1::RequestKey KeyOf(RequestId id);
// What the block hashes of a request start from: its tenant and its own salt.
std::string CacheSalt(const GenerationRequest& request);
std::unique_ptr<internal::v1::RouterMessage> SubmitMessage(const Session& session,
                                                           const Session::Submission& submission,
                                                           PipelineKey pipeline, MonotonicNs now);
// Of a resumed stream's log, out of one coordinator's answer.
std::vector<FoundPart> PartsOf(const internal::v1::ResumeAnswer& answer);
// The spans of the batch point into `tokens`.
TokenBatch BatchOf(const internal::v1::ChoiceTokens& tokens, RequestId id);
std::vector<PipelineView> PipelinesOf(int link, const internal::v1::Snapshot& snapshot);

}  // namespace pagoda::router
