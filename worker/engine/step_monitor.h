// What the engine is doing right now and how its time went, for heartbeats: written by the engine's thread, read by any.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/mutex.h"

namespace pagoda::worker {

struct StepTimes {
  int64_t wait_in_ns = 0;  // for the input: hidden states or sampled tokens
  int64_t compute_ns = 0;
  int64_t group_wait_ns = 0;  // within the layers, for the other ranks of the group
  int64_t send_ns = 0;
  int rows = 0;
  // Parts of compute_ns.
  int64_t head_ns = 0;    // final norm and output head
  int64_t sample_ns = 0;
  bool decodes = false;   // several rows, none of a prompt
};

class StepMonitor {
 public:
  struct Snapshot {
    uint64_t epoch = 0;
    uint64_t last_step = 0;
    uint64_t current_step = 0;
    std::string waiting_for;  // empty: not waiting on a peer
    int64_t waiting_us = 0;
    int64_t compute_us = 0;
    int64_t wait_in_us = 0;
    int64_t send_us = 0;
    int64_t steps = 0;
    int64_t bytes_sent = 0;
    // Of steps that decode alone.
    int64_t layers_us = 0;
    int64_t head_us = 0;
    int64_t decode_rows = 0;
    std::string operation;    // empty: waits for a plan
  };

  void BeginEpoch(uint64_t epoch) {
    MutexLock lock(&mutex_);
    snapshot_ = {};
    snapshot_.epoch = epoch;
  }
  void BeginStep(uint64_t step) {
    MutexLock lock(&mutex_);
    snapshot_.current_step = step;
  }
  void BeginOperation(const std::string& what) {
    MutexLock lock(&mutex_);
    snapshot_.operation = what;
  }
  void EndStep(const StepTimes& times, int64_t bytes_sent) {
    MutexLock lock(&mutex_);
    snapshot_.last_step = snapshot_.current_step;
    snapshot_.current_step = 0;
    snapshot_.operation.clear();
    snapshot_.compute_us += times.compute_ns / 1000;
    snapshot_.wait_in_us += (times.wait_in_ns + times.group_wait_ns) / 1000;
    snapshot_.send_us += times.send_ns / 1000;
    ++snapshot_.steps;
    snapshot_.bytes_sent = bytes_sent;
    if (!times.decodes) return;
    const int64_t head_ns = times.head_ns + times.sample_ns;
    snapshot_.layers_us += (times.compute_ns - head_ns) / 1000;
    snapshot_.head_us += head_ns / 1000;
    snapshot_.decode_rows += times.rows;
  }
  void BeginWait(std::string what) {
    MutexLock lock(&mutex_);
    snapshot_.waiting_for = std::move(what);
    waiting_since_ns_ = NowNs();
  }
  void EndWait() {
    MutexLock lock(&mutex_);
    snapshot_.waiting_for.clear();
  }
  Snapshot Read() const {
    MutexLock lock(&mutex_);
    Snapshot copy = snapshot_;
    if (!copy.waiting_for.empty()) copy.waiting_us = (NowNs() - waiting_since_ns_) / 1000;
    return copy;
  }

 private:
  mutable Mutex mutex_;
  Snapshot snapshot_ ABSL_GUARDED_BY(mutex_);
  MonotonicNs waiting_since_ns_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace pagoda::worker
