// `pagoda`: the operator's command line. Finds the subcommand; everything else is in the subcommand's own file.
#include <cstring>
#include <iostream>
#include <string_view>

#include "cli/command.h"
#include "security/grpc_log.h"

namespace pagoda::cli {
namespace {

struct Command {
  std::string_view name;
  std::string_view summary;
  int (*run)(int argc, const char* const* argv);
};

constexpr Command kCommands[] = {
    {"serve", "start a whole cluster on this machine and serve a model", RunServe},
    {"chat", "talk to a served model, line by line", RunChat},
    {"deploy", "apply, list, scale, drain and delete deployments of a cluster", RunDeploy},
    {"top", "watch a cluster: pipelines, workers, queues, tokens per second", RunTop},
    {"bench", "send load and report latencies and throughput", RunBench},
    {"plan", "show how a model would be cut over workers, with exact bytes", RunPlan},
    {"certs", "make a private authority and the certificates of a cluster", RunCerts},
    {"keys", "make, list and revoke the API keys of clients", RunKeys},
    {"pull", "get a model into the cache of this machine", RunPull},
    {"config", "check a configuration file", RunConfig},
    {"health", "ask whether a process answers", RunHealth},
    {"doctor", "find what is wrong with this machine or cluster", RunDoctor},
};

void PrintUsage(std::ostream& out) {
  out << "pagoda " << PAGODA_VERSION << ": one language model across many machines\n\nusage: pagoda COMMAND [options]\n\n";
  for (const Command& command : kCommands) {
    out << "  " << command.name << std::string(10 - command.name.size(), ' ') << command.summary << "\n";
  }
  out << "\n  pagoda COMMAND --help tells a command's options; pagoda --version the version.\n";
}

}  // namespace

int Main(int argc, const char* const* argv) {
  security::SilenceGrpcLog();
  const std::string_view first = argc > 1 ? argv[1] : "";
  if (first == "--version" || first == "-V") {
    std::cout << "pagoda " << PAGODA_VERSION << "\n";
    return kExitOk;
  }
  if (first == "--help" || first == "-h" || first == "help") {
    PrintUsage(std::cout);
    return kExitOk;
  }
  for (const Command& command : kCommands) {
    if (command.name == first) return command.run(argc - 1, argv + 1);
  }
  if (!first.empty()) std::cerr << "pagoda: error: unknown command '" << first << "'\n\n";
  PrintUsage(std::cerr);
  return kExitUsage;
}

}  // namespace pagoda::cli

int main(int argc, char** argv) { return pagoda::cli::Main(argc, argv); }
