// The same bits whatever the layout, the company, the chunks, the instruction set: tokens and log-probabilities of engines that
// run real kernels on a tiny random model.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "tests/worker/engine_rig.h"

namespace pagoda::worker::testing {
namespace {

constexpr uint32_t kSeed = 20261121;

std::vector<TokenId> RandomTokens(std::mt19937& random, int count) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < count; ++i) {
    tokens.push_back(static_cast<TokenId>(pagoda::testing::kTinySpecialTokens + random() % 256));
  }
  return tokens;
}

// A mix of greedy and sampled sequences of several lengths.
std::vector<SequenceTask> MixedTasks() {
  std::mt19937 random(kSeed);
  std::vector<SequenceTask> tasks;
  for (const int length : {1, 5, 16, 33, 50}) {
    SequenceTask task{.tokens = RandomTokens(random, length), .prompt_length = length, .outputs = 10};
    auto params = std::make_shared<SamplerParams>();
    params->logprobs = 2;
    params->temperature = length % 2 == 0 ? 0.0 : 1.0;
    params->seed = static_cast<uint64_t>(length);
    if (length == 33) {
      params->top_k = 40;
      params->top_p = 0.9;
      params->repetition_penalty = 1.2;
      params->frequency_penalty = 0.3;
      params->prompt_logprobs = 1;
      task.prompt_logprobs = true;
    }
    task.params = params;
    tasks.push_back(std::move(task));
  }
  return tasks;
}

std::vector<StageAssignment> Stages(int layers, const std::vector<int>& tensor_parallel) {
  std::vector<StageAssignment> stages;
  const int count = static_cast<int>(tensor_parallel.size());
  for (int s = 0; s < count; ++s) {
    stages.push_back({.layer_begin = layers * s / count, .layer_end = layers * (s + 1) / count,
                      .tensor_parallel = tensor_parallel[static_cast<size_t>(s)]});
  }
  return stages;
}

std::vector<SequenceOutcome> RunLayout(const std::string& model, int layers, const std::vector<int>& tensor_parallel,
                                       int chunk, const RigOptions& base = {}) {
  RigOptions options = base;
  options.model = model;
  options.stages = Stages(layers, tensor_parallel);
  EngineRig rig(options);
  return RunTogether(rig, Epoch(1), MixedTasks(), chunk);
}

std::string NameOf(const std::vector<int>& layout) {
  std::string name;
  for (const int size : layout) absl::StrAppend(&name, name.empty() ? "" : ",", size);
  return name;
}

TEST(DecoderLayoutTest, StagesAndTensorParallelDoNotMatter) {
  const pagoda::testing::TinyModelOptions options = SmallLikeDefault();
  const TempModel model(options);
  const std::vector<SequenceOutcome> reference = RunLayout(model.path(), options.layers, {1}, 12);
  ASSERT_EQ(reference.size(), MixedTasks().size());
  EXPECT_EQ(reference[3].prompt_logprobs.size(), 32u);
  std::set<TokenId> seen;
  for (const SequenceOutcome& outcome : reference) seen.insert(outcome.tokens.begin(), outcome.tokens.end());
  EXPECT_GT(seen.size(), 10u);  // else equality would say little
  for (const std::vector<int>& layout : std::vector<std::vector<int>>{
           {1, 1}, {1, 1, 1, 1}, {2}, {3}, {3, 3}, {3, 1}, {1, 3}, {4}, {5}, {6}, {7}, {8}, {9}, {2, 5}}) {
    EXPECT_TRUE(RunLayout(model.path(), options.layers, layout, 12) == reference) << "layout " << NameOf(layout);
  }
}

TEST(DecoderLayoutTest, ChunksAndCompanyDoNotMatter) {
  const pagoda::testing::TinyModelOptions options = SmallLikeDefault();
  const TempModel model(options);
  const std::vector<SequenceOutcome> whole = RunLayout(model.path(), options.layers, {1}, 50, {.max_rows = 256});
  ASSERT_EQ(whole.size(), MixedTasks().size());
  for (const int chunk : {1, 3, 16, 20}) {
    EXPECT_TRUE(RunLayout(model.path(), options.layers, {1, 2}, chunk, {.max_rows = 256}) == whole) << "chunk " << chunk;
  }
  EngineRig rig({.model = model.path(), .stages = Stages(options.layers, {1}), .max_rows = 256});
  for (size_t i = 0; i < whole.size(); ++i) {
    const std::vector<SequenceOutcome> alone = RunTogether(rig, Epoch(i + 1), {MixedTasks()[i]}, 50);
    ASSERT_EQ(alone.size(), 1u);
    EXPECT_TRUE(alone[0] == whole[i]) << "sequence " << i << " alone";
  }
}

TEST(DecoderLayoutTest, InstructionSetsAndThreadsDoNotMatter) {
  for (const int bits : {8, 12}) {
    const pagoda::testing::TinyModelOptions options = SmallLikeDefault();
    const TempModel model(options);
    const std::vector<SequenceOutcome> scalar =
        RunLayout(model.path(), options.layers, {1}, 12, {.isa = kernels::Isa::kScalar, .activation_bits = bits});
    ASSERT_EQ(scalar.size(), MixedTasks().size());
    for (const kernels::Isa isa : {kernels::Isa::kAvx2, kernels::Isa::kAvx512, kernels::Isa::kAmx}) {
      if (!kernels::IsaSupported(isa)) continue;
      EXPECT_TRUE(RunLayout(model.path(), options.layers, {1}, 12,
                            {.isa = isa, .threads = 2, .activation_bits = bits}) == scalar)
          << kernels::NameOf(isa) << " " << bits << " bits";
    }
  }
}

TEST(DecoderLayoutTest, OtherArchitecturesAndFormatsToo) {
  pagoda::testing::TinyModelOptions qwen = SmallLikeDefault();
  qwen.architecture = "qwen2";
  qwen.tied = true;
  pagoda::testing::TinyModelOptions floats = SmallLikeDefault();
  floats.type = checkpoint::TensorType::kF16;
  floats.embedding_type = checkpoint::TensorType::kF32;
  pagoda::testing::TinyModelOptions supers = SmallLikeDefault();
  supers.type = checkpoint::TensorType::kQ4_K;
  supers.hidden = 256;
  supers.heads = 8;
  supers.kv_heads = 2;
  supers.ffn = 768;
  for (const auto& options : {qwen, floats, supers}) {
    const TempModel model(options);
    const std::vector<SequenceOutcome> one = RunLayout(model.path(), options.layers, {1}, 12);
    ASSERT_EQ(one.size(), MixedTasks().size()) << options.architecture;
    EXPECT_TRUE(RunLayout(model.path(), options.layers, {2, 4}, 7) == one)
        << options.architecture << " " << NameOf(options.type);
  }
}

// A stream that died after five tokens goes on with the tokens it would have had.
TEST(DecoderLayoutTest, ReplayContinuesExactly) {
  const pagoda::testing::TinyModelOptions options = SmallLikeDefault();
  const TempModel model(options);
  const std::vector<SequenceOutcome> whole = RunLayout(model.path(), options.layers, {1}, 12);
  ASSERT_EQ(whole.size(), MixedTasks().size());
  std::vector<SequenceTask> replay = MixedTasks();
  for (size_t i = 0; i < replay.size(); ++i) {
    replay[i].tokens.insert(replay[i].tokens.end(), whole[i].tokens.begin(), whole[i].tokens.begin() + 5);
    replay[i].outputs -= 5;
  }
  EngineRig rig({.model = model.path(), .stages = Stages(options.layers, {2, 1})});
  const std::vector<SequenceOutcome> rest = RunTogether(rig, Epoch(1), replay, 12);
  ASSERT_EQ(rest.size(), whole.size());
  for (size_t i = 0; i < rest.size(); ++i) {
    EXPECT_EQ(rest[i].tokens, std::vector<TokenId>(whole[i].tokens.begin() + 5, whole[i].tokens.end())) << i;
    EXPECT_TRUE(std::equal(rest[i].logprobs.begin(), rest[i].logprobs.end(), whole[i].logprobs.begin() + 5)) << i;
  }
}

}  // namespace
}  // namespace pagoda::worker::testing
