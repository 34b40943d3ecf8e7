#include "coordinator/store/process_identity.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace pagoda::coordinator {
namespace {

std::string Namespace() {
  struct stat status {};
  return stat("/proc/self/ns/pid", &status) == 0 ? absl::StrCat(status.st_ino) : "";
}

// Field 22 of /proc/PID/stat; the second, in parentheses, may hold anything. Empty: there is no such process.
std::string StartOf(const std::string& pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::stringstream all;
  all << file.rdbuf();
  const std::string text = all.str();
  const size_t end = text.rfind(')');
  if (end == std::string::npos) return "";
  const std::vector<std::string> fields = absl::StrSplit(text.substr(end + 2), ' ');
  const bool dead = !fields.empty() && (fields[0] == "Z" || fields[0] == "X");
  return dead || fields.size() < 20 ? "" : fields[19];
}

}  // namespace

std::string ThisBoot() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  return id;
}

std::string ThisProcess() {
  const std::string pid = absl::StrCat(getpid());
  return absl::StrCat(ThisBoot(), " ", Namespace(), " ", pid, " ", StartOf(pid));
}

bool IsCertainlyDead(const std::string& process) {
  const std::vector<std::string> parts = absl::StrSplit(process, ' ');
  if (parts.size() != 4 || parts[0] != ThisBoot() || parts[0].empty() || parts[1] != Namespace() || parts[1].empty()) return false;
  return StartOf(parts[2]) != parts[3];
}

}  // namespace pagoda::coordinator
