// `pagoda serve`: a whole cluster on this machine, from a model's name to an answer.
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/cluster_options.h"
#include "cli/command.h"
#include "cli/http_client.h"
#include "cli/json_text.h"
#include "cli/local_cluster.h"
#include "cli/machine.h"
#include "cli/model_cache.h"
#include "cli/terminal.h"

namespace pagoda::cli {
namespace {

constexpr const char* kQuestion = "What is a pagoda?";

std::string QuestionBody(const std::string& model) {
  nlohmann::json body = {{"model", model},
                         {"messages", {{{"role", "user"}, {"content", kQuestion}}}},
                         {"max_tokens", 48},
                         {"temperature", 0}};
  return body.dump();
}

std::string ShellQuote(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

void PrintAddresses(const LocalCluster& cluster, const std::string& name, const std::string& tls, bool keys) {
  const std::string key = keys ? " -H \"Authorization: Bearer $PAGODA_API_KEY\"" : "";
  const std::string scheme = tls.empty() ? "http://" : "https://";
  const std::string trust = tls.empty() ? "" : absl::StrCat(" --cacert ", ShellQuote(cluster.authority()));
  const std::string admin = tls.empty() ? "" : absl::StrCat(" --tls ", tls, "/admin");
  for (const LocalCluster::RouterAddress& router : cluster.routers()) {
    std::cout << "\n  HTTP (OpenAI)  " << scheme << router.http.ToString() << "/v1\n"
              << "  gRPC           " << router.grpc.ToString() << "\n"
              << "  metrics        " << scheme << router.http.ToString() << "/metrics\n";
  }
  std::cout << "  coordinator    " << cluster.coordinators() << "  (pagoda top --coordinators " << cluster.coordinators() << admin
            << ")\n";
  for (const HostPort& metrics : cluster.coordinator_metrics()) {
    if (tls.empty()) {
      std::cout << "                 " << scheme << metrics.ToString() << "/metrics\n";
    } else {  // its certificate is for its role, not for an address
      const std::string named = absl::StrCat("pagoda-coordinator:", metrics.port);
      std::cout << "                 " << metrics.ToString() << "  (curl --cacert " << ShellQuote(cluster.authority()) << " --connect-to "
                << named << ":" << metrics.ToString() << " https://" << named << "/metrics" << key << ")\n";
    }
  }
  std::cout << "\n  curl" << trust << " " << scheme << cluster.routers()[0].http.ToString()
            << "/v1/chat/completions -H 'Content-Type: application/json'" << key << " -d " << ShellQuote(QuestionBody(name))
            << "\n"
            << std::endl;
}

// One answer of the model: that it works is worth more than that it started.
absl::Status PrintExample(const LocalCluster& cluster, const std::string& name) {
  const auto answer = HttpCall({.server = cluster.routers()[0].http,
                                .method = "POST",
                                .target = "/v1/chat/completions",
                                .body = QuestionBody(name),
                                .timeout_ms = 120'000,
                                .authority = cluster.authority()});
  PAGODA_RETURN_IF_ERROR(answer.status());
  const nlohmann::json body = nlohmann::json::parse(answer->body, nullptr, false);
  if (answer->status != 200 || body.is_discarded()) {
    return absl::InternalError(absl::StrCat("the example request was answered with ", answer->status, ": ", answer->body));
  }
  std::cout << "  " << kQuestion << "\n  " << TextAt(body, "/choices/0/message/content") << "\n" << std::endl;
  return absl::OkStatus();
}

int Serve(ClusterOptions options) {
  if (const absl::Status settled = Settle(options, MeasureMachine()); !settled.ok()) {
    std::cerr << "pagoda: error: " << settled.message() << "\nSee pagoda serve --help.\n";
    return kExitUsage;
  }
  const auto model_path = GetModel(options.model, options.cache_dir);
  if (!model_path.ok()) return Fail(model_path.status());
  const std::string name = options.served_model_name.empty() ? DefaultServedName(options.model, *model_path)
                                                             : options.served_model_name;
  const std::string tls = options.tls;
  const bool keys = !options.api_key_file.empty();
  // With keys, one would have to be put on the command line to ask.
  const bool no_example = options.no_example || keys;
  auto created = LocalCluster::Create(options, name, *model_path);
  if (!created.ok()) return Fail(created.status());
  LocalCluster& cluster = **created;

  std::cout << "starting " << name << ": " << options.data_parallel_size << " pipeline"
            << (options.data_parallel_size > 1 ? "s" : "") << " of " << options.stages.size() << " stage"
            << (options.stages.size() > 1 ? "s" : "") << ", " << options.workers << " worker"
            << (options.workers > 1 ? "s" : "") << " with " << options.worker_threads << " thread"
            << (options.worker_threads > 1 ? "s" : "") << " each"
            << (options.spares > 0 ? absl::StrCat(", of them ", options.spares, " to spare") : "") << std::endl;
  absl::Status status = cluster.Start();
  if (status.ok()) {
    std::cout << "ready: " << name << std::endl;
    if (!cluster.note().empty()) std::cerr << "pagoda: warning: " << cluster.note() << std::endl;
    PrintAddresses(cluster, name, tls, keys);
    if (!no_example) {
      if (const absl::Status example = PrintExample(cluster, name); !example.ok()) {
        std::cerr << "pagoda: warning: " << example.message() << std::endl;
      }
    }
    std::cout << "Ctrl-C stops it." << std::endl;
    cluster.SuperviseUntilStopped();
  }
  if (cluster.signals() > 0) std::cout << "stopping: running requests may end; Ctrl-C again to stop at once" << std::endl;
  const bool clean = cluster.Stop();
  if (!status.ok() && !absl::IsCancelled(status)) return Fail(status);
  if (cluster.signals() > 1) return kExitInterrupted;
  if (!clean) return Fail(absl::DeadlineExceededError("some processes did not end in time and were killed"));
  std::cout << "stopped" << std::endl;
  return kExitOk;
}

}  // namespace

int RunServe(int argc, const char* const* argv) {
  CLI::App app("Starts a router, a coordinator and workers on this machine and serves a model.", "pagoda serve");
  ClusterOptions options;
  AddClusterFlags(app, options);
  AddConfigFile(app);
  bool check_config = false;
  app.add_flag("--check-config", check_config, "read and check the options, start nothing");
  int exit_status = 0;
  if (!ParseOrExit(app, argc, argv, exit_status)) return exit_status;
  if (check_config) {
    const absl::Status settled = Settle(options, MeasureMachine());
    return settled.ok() ? kExitOk : Fail(settled);
  }
  return Serve(std::move(options));
}

}  // namespace pagoda::cli
