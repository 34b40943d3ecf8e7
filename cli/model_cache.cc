#include "cli/model_cache.h"

#include <cstdlib>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "checkpoint/pull.h"
#include "cli/machine.h"
#include "cli/terminal.h"

namespace pagoda::cli {
namespace {

// Where the hub's own command line leaves the token of a login.
std::string HubToken() {
  const char* home = std::getenv("HOME");
  if (home == nullptr) return "";
  return std::string(absl::StripAsciiWhitespace(ReadTextFile(absl::StrCat(home, "/.cache/huggingface/token"))));
}

std::string Line(const checkpoint::PullProgress& progress) {
  std::string text = absl::StrCat("getting ", progress.file);
  if (progress.files > 1) absl::StrAppend(&text, " (", progress.file_number, " of ", progress.files, ")");
  absl::StrAppend(&text, "  ", HumanBytes(static_cast<double>(progress.bytes_done)));
  if (progress.bytes_total > 0) {
    absl::StrAppend(&text, " of ", HumanBytes(static_cast<double>(progress.bytes_total)), "  ",
                    100 * progress.bytes_done / progress.bytes_total, "%");
  }
  return text;
}

}  // namespace

absl::StatusOr<std::string> GetModel(const std::string& reference, const std::string& cache_dir) {
  Progress progress;
  checkpoint::PullOptions options;
  options.cache_dir = cache_dir;
  options.token = HubToken();
  options.progress = [&](const checkpoint::PullProgress& now) { progress.Update(Line(now)); };
  PAGODA_ASSIGN_OR_RETURN(const std::string path, checkpoint::Pull(reference, options));
  // Children and other hosts' messages name it: it must not depend on a working folder.
  return std::filesystem::absolute(path).lexically_normal().string();
}

}  // namespace pagoda::cli
