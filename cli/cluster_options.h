// What `pagoda serve` can be told, and what follows from it: how many workers, how many threads and bytes for each.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/pulse.h"
#include "common/status.h"

namespace pagoda::cli {

struct ClusterOptions {
  std::string model;
  std::string served_model_name;  // empty: from the model's reference
  std::optional<int> pipeline_parallel_size;
  std::vector<int> tensor_parallel_size = {1};
  int data_parallel_size = 1;
  int num_coordinators = 1;
  int spares = 0;
  int num_routers = 1;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::optional<int> grpc_port;  // default: port + 1
  int64_t max_model_len = 0;
  int activation_bits = 8;
  std::string kv_cache_dtype = "f16";
  std::string kv_cache_memory_bytes;  // per worker, "1G"; empty: chosen from the memory there is
  int max_num_batched_tokens = 0;
  int max_num_seqs = 0;
  int max_queued_requests = 0;
  int block_size = 0;
  std::vector<int> layers_per_stage;
  bool no_prefix_caching = false;
  bool no_chunked_prefill = false;
  int threads_per_worker = 0;
  std::string isa = "auto";
  bool pin_threads = false;
  std::string transports;
  std::string otlp_endpoint;
  std::string tls;              // folder of `pagoda certs`; empty: plain
  std::string api_key_file;
  std::string cache_dir;
  std::string state_dir;
  std::string log_level = "info";
  int shutdown_timeout_ms = 30'000;
  int hang_timeout_ms = kHangTimeoutMs;  // 0: never
  bool no_example = false;

  // Derived by Settle.
  std::vector<int> stages;       // T of each stage
  int workers = 0;               // of the whole cluster, spares included
  int worker_threads = 0;
  int64_t worker_memory_bytes = 0;
  int64_t worker_kv_bytes = 0;   // 0: the worker's own choice
};

void AddClusterFlags(CLI::App& app, ClusterOptions& options);

struct MachineSize {
  double processors = 1;          // of the cgroup's quota
  int64_t available_bytes = 0;    // of memory
};

// Checks the options against each other and fills in what is derived. kInvalidArgument names the flag.
absl::Status Settle(ClusterOptions& options, const MachineSize& machine);

// The name that clients use, from a model's reference: the file's name without .gguf, or org/name.
std::string DefaultServedName(const std::string& model, const std::string& local_path);

// "16G", "512M", "1000": binary units.
absl::StatusOr<int64_t> ParseBytes(const std::string& text);
CLI::Validator IsKvType();    // of --kv-cache-dtype
CLI::Validator IsByteSize();  // what ParseBytes takes, for ->check(...)

}  // namespace pagoda::cli
