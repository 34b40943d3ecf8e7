#include "coordinator/resume_table.h"

#include <algorithm>
#include <utility>

namespace pagoda::coordinator {
namespace {

// More attempts than one router makes. Each who asks begins beyond what those before it can reach: where two generate for one
// stream for a while, the last who asked wins, in whichever order their submissions come.
constexpr uint32_t kAttemptsOfARouter = 1 << 16;
constexpr size_t kEntryBytes = 512;  // of the entry itself and its places in the maps

}  // namespace

bool ResumeTable::Begin(Label label, const Request& request, PipelineId pipeline, int64_t now_ns) {
  Expire(now_ns);
  int cached_tokens = 0;
  if (const auto known = by_request_.find(request.id); known != by_request_.end()) {
    if (known->second.part.attempt > request.attempt) return true;  // an older attempt is dropped by the scheduler too
    cached_tokens = known->second.part.cached_tokens;
    if (label.router_state.empty()) label.router_state = std::move(known->second.part.router_state);
    Drop(request.id);
  }
  const Name name(std::move(label.tenant), std::move(label.resume_id));
  if (const auto named = by_name_.find(name); named != by_name_.end()) {
    if (const auto old = named->second.find(label.part); old != named->second.end()) Drop(RequestId(old->second));
  }
  Entry entry;
  entry.bytes = kEntryBytes + name.first.size() + name.second.size() + label.router_state.size() + label.model_digest.size() + label.numerics.size();
  for (const ChoiceProgress& choice : request.choices) entry.bytes += sizeof(ChoiceProgress) + choice.tokens.size() * sizeof(TokenId);
  if (!MakeRoom(entry.bytes)) return false;
  entry.name = name;
  entry.router = request.router;
  entry.part = {.part = label.part,
                .request = request.id,
                .attempt = request.attempt,
                .pipeline = pipeline,
                .attached = true,
                .router_state = std::move(label.router_state),
                .choices = request.choices,
                .cached_tokens = cached_tokens,
                .model_digest = std::move(label.model_digest),
                .numerics = std::move(label.numerics)};
  bytes_ += entry.bytes;
  by_name_[name][entry.part.part] = request.id;
  by_request_.emplace(request.id, std::move(entry));
  return true;
}

// Those that nobody has come back for go first, the oldest before the others.
bool ResumeTable::MakeRoom(size_t bytes) {
  while (bytes_ + bytes > limits_.bytes || static_cast<int>(by_request_.size()) >= limits_.streams) {
    if (detached_.empty()) return false;
    Drop(RequestId(detached_.front()));
  }
  return true;
}

void ResumeTable::Append(const ChoiceOutput& output, int64_t now_ns) {
  const auto found = by_request_.find(output.request);
  if (found == by_request_.end() || found->second.part.attempt != output.attempt) return;
  Entry& entry = found->second;
  if (output.choice < 0 || output.choice >= static_cast<int>(entry.part.choices.size())) return;
  ChoiceProgress& choice = entry.part.choices[static_cast<size_t>(output.choice)];
  const size_t known = choice.tokens.size();
  const size_t first = static_cast<size_t>(std::max(0, output.first_index));
  if (first <= known && first + output.tokens.size() > known) {
    choice.tokens.insert(choice.tokens.end(), output.tokens.begin() + static_cast<std::ptrdiff_t>(known - first),
                         output.tokens.end());
    const size_t added = (choice.tokens.size() - known) * sizeof(TokenId);
    entry.bytes += added;
    bytes_ += added;
  }
  if (output.cached_tokens > 0 && known == 0) entry.part.cached_tokens = output.cached_tokens;
  if (output.finish == FinishReason::kNone) return;
  if (output.finish == FinishReason::kStop || output.finish == FinishReason::kLength) choice.finished = true;
  const bool over = output.finish == FinishReason::kError || output.finish == FinishReason::kCancelled ||
                    std::all_of(entry.part.choices.begin(), entry.part.choices.end(),
                                [](const ChoiceProgress& c) { return c.finished; });
  if (over) Detach(entry, now_ns);
}

void ResumeTable::Drop(RequestId request, uint32_t attempt) {
  const auto found = by_request_.find(request);
  if (found == by_request_.end() || (attempt > 0 && found->second.part.attempt > attempt)) return;
  Entry& entry = found->second;
  bytes_ -= entry.bytes;
  if (entry.expires_ns > 0) detached_.erase(entry.detached);
  const auto named = by_name_.find(entry.name);
  if (named != by_name_.end()) {
    const auto part = named->second.find(entry.part.part);
    if (part != named->second.end() && part->second == request) named->second.erase(part);
    if (named->second.empty()) by_name_.erase(named);
  }
  by_request_.erase(found);
}

void ResumeTable::Detach(Entry& entry, int64_t now_ns) {
  if (entry.expires_ns > 0) return;
  entry.part.attached = false;
  entry.expires_ns = now_ns + limits_.keep_ns;
  entry.detached = detached_.insert(detached_.end(), entry.part.request);
}

void ResumeTable::Detach(RequestId request, uint32_t attempt, int64_t now_ns) {
  const auto found = by_request_.find(request);
  if (found == by_request_.end() || (attempt > 0 && found->second.part.attempt > attempt)) return;
  Detach(found->second, now_ns);
}

bool ResumeTable::HasLately(PipelineId pipeline, int64_t since_ns) const {
  return std::ranges::any_of(by_request_, [&](const auto& entry) {
    const Entry& stream = entry.second;
    return stream.part.pipeline == pipeline && (stream.expires_ns == 0 || stream.expires_ns - limits_.keep_ns >= since_ns);
  });
}

void ResumeTable::DetachRouter(RouterId router, int64_t now_ns) {
  for (auto& [id, entry] : by_request_) {
    if (entry.router == router) Detach(entry, now_ns);
  }
}

std::vector<ResumeTable::Part> ResumeTable::Find(const std::string& tenant, const std::string& resume_id, int64_t now_ns) {
  Expire(now_ns);
  std::vector<Part> parts;
  const auto named = by_name_.find(Name(tenant, resume_id));
  if (named == by_name_.end()) return parts;
  for (const auto& [number, request] : named->second) {
    Entry& entry = by_request_.at(request);
    entry.part.attempt += kAttemptsOfARouter;
    parts.push_back(entry.part);
    // Whoever generates for it is stopped: until the one who asks submits, nobody does.
    if (entry.expires_ns > 0) detached_.erase(entry.detached);
    entry.expires_ns = 0;
    Detach(entry, now_ns);
  }
  return parts;
}

void ResumeTable::Expire(int64_t now_ns) {
  while (!detached_.empty()) {
    const RequestId oldest = detached_.front();
    if (by_request_.at(oldest).expires_ns > now_ns) return;
    Drop(oldest);
  }
}

}  // namespace pagoda::coordinator
