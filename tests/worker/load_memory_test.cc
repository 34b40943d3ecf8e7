// Loading repacks the weights tensor by tensor and lets go of what it has read: at its peak a worker holds the file's size and a
// tenth more, not twice the file.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "checkpoint/checkpoint.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/fakes/model_writer.h"
#include "worker/model/shard.h"

namespace pagoda::worker {
namespace {

// AddressSanitizer keeps an eighth of all memory again as its shadow, and what was freed for a while.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kShadowed = true;
#else
constexpr bool kShadowed = false;
#endif

int64_t PeakResidentBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word != "VmHWM:") continue;
    int64_t kilobytes = 0;
    status >> kilobytes;
    return kilobytes * 1024;
  }
  return 0;
}

// Bytes by which loading raised the peak of this process over what loading a tiny model takes (code, threads); -1 after an
// error.
int64_t LoadAndMeasure(const std::string& path, const std::string& tiny) {
  const int64_t before = tiny.empty() ? 0 : LoadAndMeasure(tiny, "") < 0 ? -1 : PeakResidentBytes();
  auto backend = kernels::MakeCpuBackend({.threads = 2});
  auto model = checkpoint::Checkpoint::Open(path);
  if (!backend.ok() || !model.ok()) return -1;
  const int layers = static_cast<int>((*model)->spec().layers);
  const auto shard = LoadShard({.model = *std::move(model), .layer_end = layers, .activation_bits = 8}, **backend, nullptr);
  if (!shard.ok() || before < 0) {
    std::fprintf(stderr, "%s\n", std::string(shard.status().message()).c_str());
    return -1;
  }
  return PeakResidentBytes() - before;
}

TEST(LoadMemory, PeakIsAtMostATenthOverTheFile) {
  pagoda::testing::TinyModelOptions options;
  options.type = checkpoint::TensorType::kQ4_1;
  options.embedding_type = checkpoint::TensorType::kQ8_0;
  options.layers = 12;
  options.hidden = 1024;
  options.heads = 16;
  options.kv_heads = 4;
  options.head_dim = 64;
  options.ffn = 3072;
  const std::string path =
      (std::filesystem::temp_directory_path() / ("pagoda-load-memory-" + std::to_string(getpid()) + ".gguf")).string();
  // Written by one child and loaded by another: neither's memory counts in the other's peak.
  const std::string tiny = path + "-tiny.gguf";  // a model file is known by its ending
  const pid_t writer = fork();
  if (writer == 0) {
    const bool written = pagoda::testing::WriteTinyGguf(path, options).ok() && pagoda::testing::WriteTinyGguf(tiny, {}).ok();
    _exit(written ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(writer, &status, 0), writer);
  ASSERT_EQ(status, 0);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    const int64_t grown = LoadAndMeasure(path, tiny);
    _exit(write(ends[1], &grown, sizeof grown) == sizeof grown ? 0 : 1);
  }
  ASSERT_EQ(waitpid(child, &status, 0), child);
  int64_t grown = -1;
  ASSERT_EQ(read(ends[0], &grown, sizeof grown), static_cast<ssize_t>(sizeof grown));
  const int64_t file = static_cast<int64_t>(std::filesystem::file_size(path));
  std::filesystem::remove(path);
  std::filesystem::remove(tiny);
  ASSERT_GT(file, int64_t{60} << 20) << "too small a model to tell weights from everything else";
  EXPECT_GT(grown, file / 2);
  EXPECT_LE(grown, file + file / 10 + (kShadowed ? file / 4 : 0)) << "a file of " << file << " bytes";
}

}  // namespace
}  // namespace pagoda::worker
