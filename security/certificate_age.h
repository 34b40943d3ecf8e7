// From when to when a process's certificates are good: two metrics (0 where there is none), and a warning in the log once a day
// from two weeks before the end on, or in the last quarter of the life of one that is shorter-lived (renewals come before that). Thread rule: any thread.
#pragma once

#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace pagoda::security {

class CertificateAge {
 public:
  struct File {
    std::string use;   // the label: "cluster" (mutual TLS inside) or "clients" (what routers show)
    std::string path;  // PEM; empty: none
  };
  // The registry outlives it.
  CertificateAge(prometheus::Registry& registry, const std::vector<File>& files);

  // Reads the files anew: certificates are renewed under a running process. Before each exposition, and at the start.
  void Refresh(int64_t now_unix_s);

 private:
  struct Watched {
    File file;
    prometheus::Gauge* begin = nullptr;
    prometheus::Gauge* end = nullptr;
    int64_t warned_unix_s = 0;
  };
  Mutex mutex_;
  std::vector<Watched> watched_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace pagoda::security
