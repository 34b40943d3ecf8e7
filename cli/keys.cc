// `pagoda keys create|list|revoke`: the file of API keys that routers, coordinators and workers read.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iostream>

#include "absl/strings/str_join.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "common/config.h"
#include "security/certificate_files.h"
#include "security/key_ring.h"

namespace pagoda::cli {
namespace {

using security::ApiKey;
using security::KeyRing;
using security::Scope;

struct Arguments {
  std::string file;
  std::string id;
  std::string tenant;
  std::vector<std::string> scopes = {"inference"};
  std::vector<std::string> models;
  int64_t requests_per_minute = 0;
  int64_t tokens_per_minute = 0;
  double weight = 1;
};

// One `pagoda keys` at a time changes a file. The lock lies beside it, since the file itself is replaced.
class FileLock {
 public:
  explicit FileLock(const std::string& path)
      : path_(path + ".lock"), fd_(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    if (fd_ >= 0) flock(fd_, LOCK_EX);
  }
  ~FileLock() {
    if (fd_ < 0) return;
    unlink(path_.c_str());
    close(fd_);
  }

 private:
  const std::string path_;
  const int fd_;
};

absl::StatusOr<std::vector<ApiKey>> ReadKeys(const std::string& path, bool may_be_missing) {
  std::vector<ApiKey> keys;
  if (may_be_missing && !std::filesystem::exists(path)) return keys;
  PAGODA_ASSIGN_OR_RETURN(const KeyRing ring, KeyRing::Load(path));
  for (const auto& key : ring.keys()) keys.push_back(*key);
  return keys;
}

int Create(const Arguments& arguments) {
  security::NewKey made = security::MakeKey();
  made.key.tenant = arguments.tenant;
  made.key.models = arguments.models;
  made.key.requests_per_minute = arguments.requests_per_minute;
  made.key.tokens_per_minute = arguments.tokens_per_minute;
  made.key.weight = arguments.weight;
  for (const Scope scope : {Scope::kInference, Scope::kMetrics, Scope::kAdmin}) {
    if (std::ranges::find(arguments.scopes, security::NameOf(scope)) != arguments.scopes.end()) made.key.scopes.push_back(scope);
  }
  const FileLock lock(arguments.file);
  auto keys = ReadKeys(arguments.file, /*may_be_missing=*/true);
  if (!keys.ok()) return Fail(keys.status());
  keys->push_back(made.key);
  const std::string text = KeyRing::ToText(*keys);
  if (const auto check = KeyRing::Parse(text, "the new key"); !check.ok()) return Fail(check.status());
  if (const absl::Status written = security::WriteTextFile(arguments.file, text, /*secret=*/true); !written.ok()) {
    return Fail(written);
  }
  std::cout << made.secret << std::endl;
  std::cerr << "pagoda: key " << made.key.id << " of tenant " << arguments.tenant
            << " added. The line above is the key itself: it is shown once and stored nowhere." << std::endl;
  return kExitOk;
}

int List(const Arguments& arguments) {
  const auto keys = ReadKeys(arguments.file, /*may_be_missing=*/false);
  if (!keys.ok()) return Fail(keys.status());
  const auto quota = [](int64_t value) { return value == 0 ? std::string("-") : std::to_string(value); };
  std::vector<std::vector<std::string>> rows = {{"ID", "TENANT", "SCOPES", "MODELS", "REQUESTS/MIN", "TOKENS/MIN", "WEIGHT"}};
  for (const ApiKey& key : *keys) {
    std::vector<std::string> scopes;
    for (const Scope scope : key.scopes) scopes.emplace_back(security::NameOf(scope));
    rows.push_back({key.id, key.tenant, absl::StrJoin(scopes, ","), key.models.empty() ? "all" : absl::StrJoin(key.models, ","),
                    quota(key.requests_per_minute), quota(key.tokens_per_minute), absl::StrCat(key.weight)});
  }
  std::cout << RenderTable(rows);
  return kExitOk;
}

int Revoke(const Arguments& arguments) {
  const FileLock lock(arguments.file);
  auto keys = ReadKeys(arguments.file, /*may_be_missing=*/false);
  if (!keys.ok()) return Fail(keys.status());
  if (std::erase_if(*keys, [&](const ApiKey& key) { return key.id == arguments.id; }) == 0) {
    return Fail(absl::NotFoundError(absl::StrCat(arguments.file, " has no key with the id '", arguments.id, "'; pagoda keys list")));
  }
  const absl::Status written = security::WriteTextFile(arguments.file, KeyRing::ToText(*keys), /*secret=*/true);
  if (!written.ok()) return Fail(written);
  std::cout << "revoked " << arguments.id << "; running processes notice within some seconds, or at once on SIGHUP" << std::endl;
  return kExitOk;
}

struct Action {
  const char* name;
  const char* summary;
  int (*run)(const Arguments&);
};
constexpr Action kActions[] = {
    {"create", "make a key, add its hash to the file, print the key once", Create},
    {"list", "all keys of the file: names, tenants, quotas; never the keys", List},
    {"revoke", "take a key out of the file: revoke ID", Revoke},
};

}  // namespace

int RunKeys(int argc, const char* const* argv) {
  const std::string_view wanted = argc > 1 ? argv[1] : "";
  for (const Action& action : kActions) {
    if (wanted != action.name) continue;
    CLI::App app(action.summary, absl::StrCat("pagoda keys ", action.name));
    Arguments arguments;
    app.add_option("--file", arguments.file, "the key file: what --api-key-file takes")->required();
    if (action.run == Revoke) app.add_option("id", arguments.id, "as `pagoda keys list` shows it")->required();
    if (action.run == Create) {
      app.add_option("--tenant", arguments.tenant, "whose it is: its prefix cache is its own")->required();
      app.add_option("--scopes", arguments.scopes, "of inference, metrics, admin")
          ->delimiter(',')
          ->check(CLI::IsMember({"inference", "metrics", "admin"}))
          ->capture_default_str();
      app.add_option("--models", arguments.models, "models it may use; default: all")->delimiter(',');
      app.add_option("--requests-per-minute", arguments.requests_per_minute, "0: no quota")->check(CLI::NonNegativeNumber);
      app.add_option("--tokens-per-minute", arguments.tokens_per_minute, "of prompts and answers together; 0: no quota")
          ->check(CLI::NonNegativeNumber);
      app.add_option("--weight", arguments.weight, "of its share while requests queue: 2 gets twice what 1 gets")
          ->check(CLI::Range(security::kLeastWeight, security::kMostWeight))
          ->capture_default_str();
    }
    AddConfigFile(app);
    int exit_status = 0;
    if (!ParseOrExit(app, argc - 1, argv + 1, exit_status)) return exit_status;
    return action.run(arguments);
  }
  const bool help = wanted == "--help" || wanted == "-h";
  std::ostream& out = help ? std::cout : std::cerr;
  out << "usage: pagoda keys ACTION --file FILE [options]\n\n";
  for (const Action& action : kActions) {
    out << "  " << action.name << std::string(8 - std::string_view(action.name).size(), ' ') << action.summary << "\n";
  }
  return help ? kExitOk : kExitUsage;
}

}  // namespace pagoda::cli
