// `pagoda deploy ACTION`: deployments of a running cluster, through pagoda.v1.Admin.
#include <iostream>

#include "cli/admin_client.h"
#include "cli/cluster_options.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "common/config.h"
#include "common/limits.h"

namespace pagoda::cli {
namespace {

struct Arguments {
  std::string tls;
  std::string coordinators = kDefaultCoordinator;
  std::string name;
  std::string model;
  int stages = 1;
  std::vector<int> tensor_parallel;
  std::vector<int> layers_per_stage;
  int replicas = 1;
  int64_t max_model_len = 0;
  int activation_bits = 8;
  std::string kv_cache_dtype = "f16";
  std::string kv_cache_memory;
  int max_num_batched_tokens = 0;
  int max_num_seqs = 0;
  int timeout_ms = 0;
};

std::string Layout(const v1::DeploymentSpec& spec) {
  std::string text = absl::StrCat(std::max(spec.pipeline_parallel_size(), 1), " x ");
  if (spec.tensor_parallel_size().empty()) return text + "1";
  for (int i = 0; i < spec.tensor_parallel_size_size(); ++i) {
    absl::StrAppend(&text, i > 0 ? "," : "", spec.tensor_parallel_size(i));
  }
  return text;
}

void Print(const std::vector<v1::Deployment>& deployments) {
  std::vector<std::vector<std::string>> rows = {
      {"NAME", "STATE", "READY", "STAGES x TP", "MAX LEN", "MODEL", "MESSAGE"}};
  for (const v1::Deployment& deployment : deployments) {
    rows.push_back({deployment.spec().name(), NameOf(deployment.state()),
                    absl::StrCat(deployment.replicas_ready(), "/", deployment.spec().replicas()),
                    Layout(deployment.spec()), std::to_string(deployment.max_model_len()), deployment.spec().model(),
                    deployment.message()});
  }
  std::cout << RenderTable(rows);
}

int PrintOne(const absl::StatusOr<v1::Deployment>& deployment) {
  if (!deployment.ok()) return Fail(deployment.status());
  Print({*deployment});
  return kExitOk;
}

int Apply(const Arguments& arguments) {
  v1::DeploymentSpec spec;
  spec.set_name(arguments.name);
  spec.set_model(arguments.model);
  spec.set_pipeline_parallel_size(
      arguments.tensor_parallel.size() > 1 ? static_cast<int>(arguments.tensor_parallel.size()) : arguments.stages);
  for (const int size : arguments.tensor_parallel) spec.add_tensor_parallel_size(size);
  for (const int layers : arguments.layers_per_stage) spec.add_layers_per_stage(layers);
  spec.set_replicas(arguments.replicas);
  spec.set_max_model_len(arguments.max_model_len);
  spec.set_activation_bits(arguments.activation_bits);
  spec.set_kv_cache_type(arguments.kv_cache_dtype);
  if (!arguments.kv_cache_memory.empty()) {
    const auto bytes = ParseBytes(arguments.kv_cache_memory);
    if (!bytes.ok()) return Fail(bytes.status());
    spec.set_kv_cache_bytes(*bytes);
  }
  spec.set_max_num_batched_tokens(arguments.max_num_batched_tokens);
  spec.set_max_num_seqs(arguments.max_num_seqs);
  return PrintOne(AdminClient(arguments.coordinators, arguments.tls).Apply(spec));
}

int List(const Arguments& arguments) {
  const auto listed = AdminClient(arguments.coordinators, arguments.tls).List();
  if (!listed.ok()) return Fail(listed.status());
  Print({listed->deployments().begin(), listed->deployments().end()});
  return kExitOk;
}

int Scale(const Arguments& arguments) {
  return PrintOne(AdminClient(arguments.coordinators, arguments.tls).Scale(arguments.name, arguments.replicas));
}

int Drain(const Arguments& arguments) {
  return PrintOne(AdminClient(arguments.coordinators, arguments.tls).Drain(arguments.name, arguments.timeout_ms));
}

int Delete(const Arguments& arguments) {
  const absl::Status status = AdminClient(arguments.coordinators, arguments.tls).Delete(arguments.name);
  if (!status.ok()) return Fail(status);
  std::cout << "deleted " << arguments.name << std::endl;
  return kExitOk;
}

void AddSpecFlags(CLI::App& app, Arguments& arguments) {
  app.add_option("--model", arguments.model, "path, hf://org/name[@revision] or pypi://name, as all hosts can open it")
      ->required();
  app.add_option("--pipeline-parallel-size", arguments.stages, "stages");
  app.add_option("--tensor-parallel-size", arguments.tensor_parallel, "one number, or one per stage: 3,1")
      ->delimiter(',');
  app.add_option("--layers-per-stage", arguments.layers_per_stage, "16,14; default: balanced")->check(CLI::Range(1, limits::kMaxLayers))->delimiter(',');
  app.add_option("--data-parallel-size", arguments.replicas, "pipelines");
  app.add_option("--max-model-len", arguments.max_model_len, "longest context; default: the model's own");
  app.add_option("--activation-bits", arguments.activation_bits, "8 or 12")->check(CLI::IsMember({8, 12}));
  app.add_option("--kv-cache-dtype", arguments.kv_cache_dtype, "f16, f32, bf16 or int8")
      ->check(IsKvType());
  app.add_option("--kv-cache-memory-bytes", arguments.kv_cache_memory, "of each worker: 1G; default: what it offers")
      ->check(IsByteSize());
  app.add_option("--max-num-batched-tokens", arguments.max_num_batched_tokens, "token rows of one step");
  app.add_option("--max-num-seqs", arguments.max_num_seqs, "sequences that run at the same time");
}

struct Action {
  const char* name;
  const char* summary;
  int (*run)(const Arguments&);
};
constexpr Action kActions[] = {
    {"apply", "create or change a deployment: apply NAME --model MODEL", Apply},
    {"list", "all deployments and how they are", List},
    {"scale", "change the number of pipelines: scale NAME --data-parallel-size N", Scale},
    {"drain", "take no new work, let running work end: drain NAME [--timeout-ms N]", Drain},
    {"delete", "delete NAME", Delete},
};

}  // namespace

int RunDeploy(int argc, const char* const* argv) {
  const std::string_view wanted = argc > 1 ? argv[1] : "";
  for (const Action& action : kActions) {
    if (wanted != action.name) continue;
    CLI::App app(action.summary, absl::StrCat("pagoda deploy ", action.name));
    Arguments arguments;
    app.add_option("--coordinators", arguments.coordinators, "host:port[,host:port]");
    app.add_option("--tls", arguments.tls, kTlsHelp);
    if (action.run != List) app.add_option("name", arguments.name, "the deployment")->required();
    if (action.run == Apply) AddSpecFlags(app, arguments);
    if (action.run == Scale) app.add_option("--data-parallel-size", arguments.replicas, "pipelines")->required();
    if (action.run == Drain) app.add_option("--timeout-ms", arguments.timeout_ms, "0: until the last request ends");
    AddConfigFile(app);
    int exit_status = 0;
    if (!ParseOrExit(app, argc - 1, argv + 1, exit_status)) return exit_status;
    return action.run(arguments);
  }
  const bool help = wanted == "--help" || wanted == "-h";
  std::ostream& out = help ? std::cout : std::cerr;
  out << "usage: pagoda deploy ACTION [options]\n\n";
  for (const Action& action : kActions) {
    out << "  " << action.name << std::string(8 - std::string_view(action.name).size(), ' ') << action.summary << "\n";
  }
  return help ? kExitOk : kExitUsage;
}

}  // namespace pagoda::cli
