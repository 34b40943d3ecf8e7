// The checks of `pagoda doctor`. Each looks at one thing and says what is wrong by name and what to do about it.
#pragma once

#include <string>
#include <vector>

#include "cli/admin_client.h"

namespace pagoda::cli {

enum class Verdict { kGood, kNote, kWarning, kProblem };

struct Finding {
  Verdict verdict = Verdict::kGood;
  std::string subject = {};  // "cpu", "memory", "/dev/shm", ...
  std::string text = {};     // what is there
  std::string advice = {};   // what to do; empty when good
};

struct DoctorOptions {
  std::string cache_dir;
  std::string coordinators;  // empty: not asked
  std::string tls;           // folder with an admin's certificate; empty: plain
  std::string authority;     // of an https router: a file; empty: this machine's
  std::string router;        // HTTP; empty: not asked
};

// This machine.
Finding CheckProcessor();
Finding CheckProcessorQuota();
Finding CheckMemory();
Finding CheckHugePages();
Finding CheckSharedMemory();
Finding CheckFileLimit();
Finding CheckLockedMemoryLimit();
Finding CheckClock();
Finding CheckModelCache(const std::string& cache_dir);
std::vector<Finding> CheckTransports();
std::vector<Finding> CheckPorts();
// A cluster.
std::vector<Finding> CheckCluster(const std::string& coordinators, const std::string& tls);
std::vector<Finding> CheckRouter(const std::string& router, const std::string& authority);

std::vector<Finding> Diagnose(const DoctorOptions& options);

}  // namespace pagoda::cli
