// Streams that outlive their router: found again at the coordinators when a client comes back, and cut so that their clients
// go elsewhere when this router leaves.
#include <algorithm>

#include "common/stream_errors.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "router/dispatcher.h"
#include "router/dispatcher_wire.h"
#include "router/request_status.h"

namespace pagoda::router {

namespace wire = pagoda::internal::v1;

// A stream that another router began: first what its log tells by itself, then the rest from a pipeline.
void Dispatcher::OpenResumed(RequestId id) {
  Running& running = sessions_.find(id)->second;
  std::vector<ChoiceDelta> news = running.session->Opening();
  metrics_->Retried("resumed");
  if (!running.session->finished() && !Place(running)) {
    running.unplaced_ns = edges_.now();
    running.retry_at_ns = edges_.now() + kRetryDelayMs * kNsPerMs;
  }
  const std::shared_ptr<GenerationSink> sink = running.sink;
  for (ChoiceDelta& delta : news) {
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) return;  // cancelled by its own sink
    sink->OnDelta(*found->second.session, std::move(delta));
  }
  CloseStep(id);
}

void Dispatcher::FindStream(const std::string& tenant, const std::string& resume_id,
                            std::function<void(FoundStream)> done) {
  // The client left this very router's stream for a new one.
  const auto is_it = [&](const Running& running) {
    const GenerationRequest& request = running.session->request();
    return request.resume_id == resume_id && request.tenant == tenant;
  };
  for (const RequestId id : Oldest(is_it)) {
    const auto place = sessions_.find(id);
    if (place == sessions_.end()) continue;  // went with another part of its request
    SendCancel(place->second);
    Fail(id, absl::AbortedError("the client came back for this stream by another connection"));
  }
  Query query;
  query.done = std::move(done);
  query.until_ns = edges_.now() + limits::kResumeQueryMs * kNsPerMs;
  const uint64_t number = next_query_++;
  for (const auto& [link, entry] : links_) {
    if (entry.protocol < 2) continue;
    auto message = std::make_unique<wire::RouterMessage>();
    message->mutable_resume_query()->set_query(number);
    message->mutable_resume_query()->set_tenant(tenant);
    message->mutable_resume_query()->set_resume_id(resume_id);
    if (edges_.send(link, std::move(message))) query.links.insert(link);
  }
  query.found.asked = !query.links.empty();
  if (query.links.empty()) return query.done(std::move(query.found));
  queries_.emplace(number, std::move(query));
}

void Dispatcher::OnResumeAnswer(int link, const wire::ResumeAnswer& answer) {
  const auto place = queries_.find(answer.query());
  if (place == queries_.end()) return;
  Query& query = place->second;
  query.links.erase(link);
  for (FoundPart& part : PartsOf(answer)) {
    const auto same = std::ranges::find_if(query.found.parts, [&](const FoundPart& p) { return p.part == part.part; });
    if (same == query.found.parts.end()) {
      query.found.parts.push_back(std::move(part));
    } else if (part.attempt > same->attempt) {
      *same = std::move(part);
    }
  }
  EndQueries([](const Query& q) { return q.links.empty(); });
}

void Dispatcher::EndQueries(const std::function<bool(const Query&)>& which) {
  std::vector<Query> over;
  for (auto place = queries_.begin(); place != queries_.end();) {
    if (which(place->second)) {
      over.push_back(std::move(place->second));
      place = queries_.erase(place);
    } else {
      ++place;
    }
  }
  for (Query& query : over) query.done(std::move(query.found));
}

// Also while it waits for a pipeline: it must not submit again what has another owner.
bool Dispatcher::IsTakenOver(int link, const Running& running, const wire::ChoiceTokens& tokens) const {
  const int of_its_attempt = running.pipeline.link >= 0 ? running.pipeline.link : running.copy.link;
  return link == of_its_attempt && tokens.attempt() == running.session->attempt() &&
         tokens.finish() == pagoda::v1::FINISH_REASON_ERROR && tokens.error() == kTakenOverError;
}

// Without a cancel: what runs under its name by now is the other's. Should the client be here all the same (the other asked in
// vain, and late), it comes back.
void Dispatcher::LetGo(RequestId id) {
  const std::shared_ptr<GenerationSink> sink = sessions_.find(id)->second.sink;
  End(id);
  sink->OnHandOver(WithRetryAfter(absl::UnavailableError("another router goes on with this stream; come back for it"), 100));
}

void Dispatcher::HandOver(const absl::Status& status) {
  for (const RequestId id : Oldest([](const Running& running) { return !running.session->request().resume_id.empty(); })) {
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) continue;  // went with another part of its request
    SendCancel(found->second);
    const std::shared_ptr<GenerationSink> sink = found->second.sink;
    End(id);
    sink->OnHandOver(status);
  }
}

}  // namespace pagoda::router
