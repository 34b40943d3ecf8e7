// How quick the engine is by itself: prompts and decoding of some streams, no HTTP, no other process. One JSON object per
// repetition on standard output; the first repetition is a warm-up and is not printed.
//   engine_bench --model M.gguf --prompt 512 --outputs 1                 prefill
//   engine_bench --model M.gguf --prompt 64 --outputs 64 --streams 32    decoding
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>

#include "bench/engine/engine_driver.h"
#include "common/log.h"

namespace pagoda::bench {
namespace {

int64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

struct Options {
  DriverOptions driver;
  std::string isa = "auto";
  int prompt = 512;
  int outputs = 1;
  int repeat = 3;
  bool load_only = false;
};

absl::Status Run(Options options) {
  PAGODA_ASSIGN_OR_RETURN(options.driver.isa, kernels::ParseIsa(options.isa));
  options.driver.max_context = options.prompt + options.outputs;
  PAGODA_ASSIGN_OR_RETURN(const std::unique_ptr<EngineDriver> driver, EngineDriver::Start(options.driver));
  if (options.load_only) {
    std::printf("{\"weights_bytes\": %lld, \"peak_resident_bytes\": %lld}\n", static_cast<long long>(driver->weights_bytes()),
                static_cast<long long>(PeakResidentBytes()));
    return absl::OkStatus();
  }
  for (int i = 0; i <= options.repeat; ++i) {
    PAGODA_ASSIGN_OR_RETURN(const EngineDriver::Timing timing, driver->Run(options.prompt, options.outputs, 1));
    if (i == 0) continue;
    const double prompt_tokens = static_cast<double>(options.prompt) * options.driver.streams;
    std::printf("{\"implementation\": \"%s\", \"prefill_tokens_per_s\": %.1f, \"decode_tokens_per_s\": %.1f, "
                "\"weights_bytes\": %lld, \"peak_resident_bytes\": %lld, \"checksum\": \"%016llx\"}\n",
                std::string(driver->implementation()).c_str(), prompt_tokens / (static_cast<double>(timing.prompt_ns) * 1e-9),
                timing.decoded == 0 ? 0 : static_cast<double>(timing.decoded) / (static_cast<double>(timing.decode_ns) * 1e-9),
                static_cast<long long>(driver->weights_bytes()), static_cast<long long>(PeakResidentBytes()),
                static_cast<unsigned long long>(timing.checksum));
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("The worker's engine by itself");
  app.add_option("--model", options.driver.model, "a GGUF file or a folder")->required();
  app.add_option("--prompt", options.prompt, "tokens of each stream's prompt")->capture_default_str();
  app.add_option("--outputs", options.outputs, "tokens that each stream generates")->capture_default_str();
  app.add_option("--streams", options.driver.streams, "")->capture_default_str();
  app.add_option("--threads", options.driver.threads, "")->capture_default_str();
  app.add_option("--isa", options.isa, "auto|scalar|avx2|avx512|amx")->capture_default_str();
  app.add_option("--kv-cache-dtype", options.driver.kv_cache_type, "f32|f16|bf16|int8")->capture_default_str();
  app.add_option("--activation-bits", options.driver.activation_bits, "8|12")->capture_default_str();
  app.add_option("--max-rows", options.driver.max_rows, "of one step")->capture_default_str();
  app.add_option("--repeat", options.repeat, "besides one to warm up")->capture_default_str();
  app.add_flag("--load-only", options.load_only, "load, say how much memory that took, end");
  CLI11_PARSE(app, argc, argv);
  InitLog("engine-bench", *ParseLogLevel("error"), true);
  const absl::Status status = Run(options);
  if (status.ok()) return 0;
  std::cerr << "engine_bench: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace pagoda::bench

int main(int argc, char** argv) { return pagoda::bench::Main(argc, argv); }
