#include "security/grpc_log.h"

#include <grpc/support/log.h>

#include <string>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mutex.h"

namespace pagoda::security {
namespace {

constexpr int kMostLines = 10;
constexpr MonotonicNs kWindowNs = 10 * kNsPerSecond;

struct Window {
  Mutex mutex;
  MonotonicNs began_ns ABSL_GUARDED_BY(mutex) = 0;
  int lines ABSL_GUARDED_BY(mutex) = 0;
  int left_out ABSL_GUARDED_BY(mutex) = 0;
};

void Take(gpr_log_func_args* line) {
  static Window& window = *new Window;
  int left_out = 0;
  {
    MutexLock lock(&window.mutex);
    const MonotonicNs now = NowNs();
    if (now - window.began_ns > kWindowNs) {
      window.began_ns = now;
      window.lines = 0;
      left_out = window.left_out;
      window.left_out = 0;
    }
    if (++window.lines > kMostLines) {
      ++window.left_out;
      return;
    }
  }
  std::string file = line->file;
  file.erase(0, file.find_last_of('/') + 1);
  const LogLevel level = line->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarning : LogLevel::kDebug;
  Log(level, "grpc", {{"message", line->message}, {"from", file}, {"line", line->line}, {"left_out_before", left_out}});
}

}  // namespace

void TakeGrpcLog() { gpr_set_log_function(Take); }
void SilenceGrpcLog() {
  gpr_set_log_function([](gpr_log_func_args*) {});
}

}  // namespace pagoda::security
