// What a coordinator keeps of streams whose clients may come back: the router's opaque state and the tokens of each choice,
// from the submission until some time after the end, or after the router or the client has gone. Bounded in streams and
// bytes: a stream for which there is no room is served and cannot be resumed. Nothing here is ever written to a disk.
// ResumeTable is a plain state machine; SharedResumeTable is the same behind a lock, for gRPC's threads and the engines.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/ids.h"
#include "common/limits.h"
#include "common/mutex.h"
#include "coordinator/request.h"

namespace pagoda::coordinator {

class ResumeTable {
 public:
  struct Limits {
    size_t bytes = limits::kMaxResumableBytes;
    int streams = limits::kMaxResumableStreams;
    int64_t keep_ns = limits::kResumeMs * 1'000'000;  // after the router or the client has gone
  };
  ResumeTable() : ResumeTable(Limits()) {}
  explicit ResumeTable(Limits limits) : limits_(limits) {}

  struct Label {
    std::string tenant;
    std::string resume_id;
    int part = 0;
    std::string router_state;
    std::string model_digest = {};  // of the pipeline that it goes to
    std::string numerics = {};
  };
  struct Part {
    int part = 0;
    RequestId request;
    uint32_t attempt = 0;
    PipelineId pipeline;
    bool attached = false;  // a router still generates for it
    std::string router_state;
    std::vector<ChoiceProgress> choices;
    int cached_tokens = 0;
    std::string model_digest;
    std::string numerics;
  };

  // A submission of a resumable stream, first or again; it takes the place of what had its name. False: no room.
  bool Begin(Label label, const Request& request, PipelineId pipeline, int64_t now_ns);
  void Append(const ChoiceOutput& output, int64_t now_ns);
  void Drop(RequestId request, uint32_t attempt = 0);  // this attempt was refused (0: any); a newer one is another's
  // Its client has gone, says whoever submitted this attempt (0: any): a newer one is another router's.
  void Detach(RequestId request, uint32_t attempt, int64_t now_ns);
  void DetachRouter(RouterId router, int64_t now_ns);
  // For whoever goes on from here: its attempts outrank those of everybody before it, whose tokens are not kept any more.
  std::vector<Part> Find(const std::string& tenant, const std::string& resume_id, int64_t now_ns);
  void Expire(int64_t now_ns);
  // A stream of that pipeline has ended, or has lost its client, since then, or runs: its client may still need the pipeline.
  bool HasLately(PipelineId pipeline, int64_t since_ns) const;

  struct Sizes {
    int64_t streams = 0;
    size_t bytes = 0;
  };
  Sizes sizes() const { return {static_cast<int64_t>(by_request_.size()), bytes_}; }

 private:
  using Name = std::pair<std::string, std::string>;  // tenant, the client's id
  struct Entry {
    Name name;
    RouterId router;
    Part part;
    int64_t expires_ns = 0;  // 0: a router generates for it
    size_t bytes = 0;
    std::list<RequestId>::iterator detached;  // in detached_, when expires_ns > 0
  };
  void Detach(Entry& entry, int64_t now_ns);
  bool MakeRoom(size_t bytes);

  const Limits limits_;
  std::unordered_map<RequestId, Entry> by_request_;
  std::map<Name, std::map<int, RequestId>> by_name_;
  std::list<RequestId> detached_;  // the next to expire first
  size_t bytes_ = 0;
};

class SharedResumeTable {
 public:
  bool Begin(ResumeTable::Label label, const Request& request, PipelineId pipeline, int64_t now_ns) {
    MutexLock lock(&mutex_);
    return table_.Begin(std::move(label), request, pipeline, now_ns);
  }
  void Append(std::span<const ChoiceOutput> outputs, int64_t now_ns) {
    for (const ChoiceOutput& output : outputs) {
      if (!output.resumable) continue;
      MutexLock lock(&mutex_);
      table_.Append(output, now_ns);
    }
  }
  void Drop(RequestId request, uint32_t attempt) {
    MutexLock lock(&mutex_);
    table_.Drop(request, attempt);
  }
  void Detach(RequestId request, uint32_t attempt, int64_t now_ns) {
    MutexLock lock(&mutex_);
    table_.Detach(request, attempt, now_ns);
  }
  void DetachRouter(RouterId router, int64_t now_ns) {
    MutexLock lock(&mutex_);
    table_.DetachRouter(router, now_ns);
  }
  std::vector<ResumeTable::Part> Find(const std::string& tenant, const std::string& resume_id, int64_t now_ns) {
    MutexLock lock(&mutex_);
    return table_.Find(tenant, resume_id, now_ns);
  }
  bool HasLately(PipelineId pipeline, int64_t since_ns) {
    MutexLock lock(&mutex_);
    return table_.HasLately(pipeline, since_ns);
  }
  ResumeTable::Sizes Expire(int64_t now_ns) {
    MutexLock lock(&mutex_);
    table_.Expire(now_ns);
    return table_.sizes();
  }

 private:
  Mutex mutex_;
  ResumeTable table_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace pagoda::coordinator
