// Files that lie. Every one has to give a clean error or a model whose tensors can all be read;
// under the asan preset nothing may be read or allocated that the file does not have.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <random>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_metadata.h"
#include "tests/checkpoint/memory_source.h"
#include "tests/fakes/gguf_writer.h"
#include "tests/fakes/model_writer.h"

namespace pagoda::checkpoint {
namespace {

using pagoda::testing::BuildSafetensorsRaw;
using pagoda::testing::GgufWriter;
using pagoda::testing::Raw;
using pagoda::testing::RawString;
using pagoda::testing::TinyModelOptions;
using Folder = std::vector<std::pair<std::string, std::string>>;

TinyModelOptions SmallOptions() {
  TinyModelOptions options;
  options.type = TensorType::kQ4_1;
  options.embedding_type = TensorType::kQ8_0;
  options.layers = 1;
  options.hidden = 32;
  options.heads = 2;
  options.kv_heads = 1;
  options.ffn = 32;
  return options;
}

// True when the model opened. Then all it promises must be there.
bool OpenAndReadAll(std::vector<Checkpoint::RemoteFile> files) {
  const auto model = Checkpoint::Open(std::move(files));
  if (!model.ok()) {
    EXPECT_FALSE(model.status().message().empty());
    return false;
  }
  uint8_t sum = 0;
  for (const TensorInfo& tensor : (*model)->tensors()) {
    const auto bytes = (*model)->ReadRows(tensor, 0, tensor.rows);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    for (uint64_t i = 0; bytes.ok() && i < bytes->size; ++i)
      sum ^= static_cast<uint8_t>(bytes->data[i]);
  }
  EXPECT_TRUE((*model)->TextBundle().ok());
  RopeFrequencies((*model)->spec().rope);
  volatile uint8_t keep = sum;
  (void)keep;
  return true;
}

bool OpenGguf(const std::string& bytes, bool can_map = true) {
  return OpenAndReadAll({{"model.gguf", std::make_shared<MemorySource>(bytes, can_map)}});
}

bool OpenFolder(const Folder& folder) {
  std::vector<Checkpoint::RemoteFile> files;
  for (const auto& [name, bytes] : folder)
    files.push_back({name, std::make_shared<MemorySource>(bytes)});
  return OpenAndReadAll(std::move(files));
}

// One to four changes: bits, bytes, numbers of 4 or 8 bytes set to nasty values, a stretch cut out
// or doubled.
std::string Mutate(std::string bytes, size_t reach, std::mt19937_64& random) {
  constexpr uint64_t kNasty[] = {0,
                                 1,
                                 0x7f,
                                 0xff,
                                 0xffff,
                                 0x7fffffff,
                                 0x80000000,
                                 0xffffffff,
                                 0x7fffffffffffffff,
                                 0x8000000000000000,
                                 0xffffffffffffffff,
                                 0xfffffffffffffff0,
                                 uint64_t{1} << 40};
  const auto below = [&](size_t limit) {
    return limit == 0 ? 0 : static_cast<size_t>(random() % limit);
  };
  const size_t changes = 1 + below(4);
  for (size_t i = 0; i < changes && bytes.size() > 16; ++i) {
    const size_t at = below(std::min(reach, bytes.size() - 8));
    const uint64_t nasty = kNasty[below(std::size(kNasty))];
    switch (random() % 6) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:
        bytes[at] = static_cast<char>(random());
        break;
      case 2:
        std::memcpy(bytes.data() + at, &nasty, 4);
        break;
      case 3:
        std::memcpy(bytes.data() + at, &nasty, 8);
        break;
      case 4:
        bytes.erase(at, 1 + below(16));
        break;
      default:
        bytes.insert(at, bytes.substr(at, 1 + below(32)));
        break;
    }
  }
  return bytes;
}

TEST(HostileGgufTest, CutAnywhere) {
  const std::string good = pagoda::testing::TinyGguf(SmallOptions());
  ASSERT_TRUE(OpenGguf(good));
  const auto header = GgufHeader::Parse(std::as_bytes(std::span(good)), good.size());
  ASSERT_TRUE(header.ok());
  for (size_t length = 0; length < header->data_begin; length += 37)
    EXPECT_FALSE(OpenGguf(good.substr(0, length))) << length;
  for (size_t length = header->data_begin; length + 32 < good.size(); length += 997) {
    EXPECT_FALSE(OpenGguf(good.substr(0, length))) << length;
  }
}

TEST(HostileGgufTest, SeededMutations) {
  const std::string good = pagoda::testing::TinyGguf(SmallOptions());
  const auto header = GgufHeader::Parse(std::as_bytes(std::span(good)), good.size());
  ASSERT_TRUE(header.ok());
  int opened = 0;
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    // Half of them near the start and the tensor list, where the numbers are.
    const size_t reach = seed % 2 == 0 ? header->data_begin : 1200;
    opened += OpenGguf(Mutate(good, reach, random), seed % 3 != 0) ? 1 : 0;
  }
  EXPECT_GT(opened, 0);  // a changed letter of the template does no harm
  EXPECT_LT(opened, 350);
}

// The tensor list's numbers, one by one.
TEST(HostileGgufTest, EveryTensorFieldSetToNastyValues) {
  const std::string good = pagoda::testing::TinyGguf(SmallOptions());
  const auto header = GgufHeader::Parse(std::as_bytes(std::span(good)), good.size());
  ASSERT_TRUE(header.ok());
  for (size_t at = header->metadata_bytes; at + 8 <= header->header_bytes; at += 4) {
    for (const uint64_t value : {uint64_t{0}, uint64_t{1} << 62, ~uint64_t{0}, uint64_t{33}}) {
      std::string bytes = good;
      std::memcpy(bytes.data() + at, &value, 8);
      OpenGguf(bytes);
    }
  }
}

std::string GgufWithValue(uint32_t type, const std::string& bytes) {
  GgufWriter writer;
  writer.AddRaw("key", type, bytes);
  return writer.Finish();
}

absl::Status ParseStatus(const std::string& bytes) {
  return GgufHeader::Parse(std::as_bytes(std::span(bytes)), bytes.size()).status();
}

TEST(HostileGgufTest, HandWritten) {
  constexpr uint32_t kUint8 = 0, kString = 8, kArray = 9;
  std::string nested;
  for (int depth = 0; depth < 10000; ++depth) nested += Raw(kArray) + Raw<uint64_t>(1);
  GgufWriter duplicate;
  duplicate.AddUint32("twice", 1);
  duplicate.AddUint32("twice", 2);
  GgufWriter same_tensor;
  same_tensor.AddTensor("t", {1}, 0, std::string(4, 'x'));
  same_tensor.AddTensor("t", {1}, 0, std::string(4, 'x'));
  GgufWriter dimensions;
  dimensions.AddTensor("t", {1, 1, 1, 1, 1}, 0, std::string(4, 'x'));
  GgufWriter unaligned;
  unaligned.AddTensorAt("t", {1}, 0, 3, std::string(8, 'x'));
  GgufWriter alignment;
  alignment.AddUint32("general.alignment", 48);
  GgufWriter zero_alignment;
  zero_alignment.AddUint32("general.alignment", 0);
  const std::vector<std::pair<const char*, std::string>> files = {
      {"empty", ""},
      {"not GGUF", "GGML" + std::string(64, '\0')},
      {"version 1", GgufWriter(1).Finish()},
      {"big-endian", GgufWriter(0x03000000).Finish()},
      {"huge tensor count", GgufWriter().FinishWithCounts(~uint64_t{0}, 0)},
      {"huge value count", GgufWriter().FinishWithCounts(0, uint64_t{1} << 60)},
      {"huge string", GgufWithValue(kString, Raw(~uint64_t{0}))},
      {"string just past the end", GgufWithValue(kString, Raw<uint64_t>(1000) + "abc")},
      {"huge array", GgufWithValue(kArray, Raw(kUint8) + Raw(uint64_t{1} << 61))},
      {"array whose bytes overflow",
       GgufWithValue(kArray, Raw<uint32_t>(12) + Raw((uint64_t{1} << 61) + 1))},
      {"array of strings",
       GgufWithValue(kArray, Raw(kString) + Raw<uint64_t>(3) + RawString("a") + Raw(~uint64_t{0}))},
      {"array of unknown type", GgufWithValue(kArray, Raw<uint32_t>(77) + Raw<uint64_t>(0))},
      {"value of unknown type", GgufWithValue(99, Raw<uint64_t>(0))},
      {"bool of 2", GgufWithValue(7, Raw<uint8_t>(2))},
      {"deep arrays", GgufWithValue(kArray, nested)},
      {"duplicate key", duplicate.Finish()},
      {"duplicate tensor", same_tensor.Finish()},
      {"five dimensions", dimensions.Finish()},
      {"unaligned tensor", unaligned.Finish()},
      {"alignment of 48", alignment.Finish()},
      {"alignment of 0", zero_alignment.Finish()},
  };
  for (const auto& [name, bytes] : files) {
    const absl::Status status = ParseStatus(bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name << ": " << status;
    EXPECT_FALSE(OpenGguf(bytes)) << name;
  }
}

TEST(HostileGgufTest, TensorsThatLie) {
  const auto with_embedding = [](const std::function<void(GgufWriter&)>& add) {
    GgufWriter writer;
    writer.AddString("general.architecture", "llama");
    for (const char* key : {"block_count", "context_length", "embedding_length",
                            "feed_forward_length", "attention.head_count"}) {
      writer.AddUint32(std::string("llama.") + key, 1);
    }
    add(writer);
    return Checkpoint::Open({{"model.gguf", std::make_shared<MemorySource>(writer.Finish())}})
        .status();
  };
  constexpr uint64_t kHuge = uint64_t{1} << 40;
  const auto tensor = [&](std::vector<uint64_t> sides, uint32_t type, uint64_t offset) {
    return with_embedding([&](GgufWriter& w) {
      w.AddTensorAt("token_embd.weight", sides, type, offset, std::string(64, 'x'));
    });
  };
  EXPECT_EQ(tensor({kHuge, kHuge}, 0, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tensor({32, kHuge, kHuge, kHuge}, 2, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tensor({~uint64_t{0}}, 0, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tensor({31, 1}, 2, 0).code(), absl::StatusCode::kInvalidArgument);  // no whole block
  EXPECT_EQ(tensor({16, 1}, 0, 32).code(),
            absl::StatusCode::kInvalidArgument);  // 32 bytes past the end
  EXPECT_EQ(tensor({16, 1}, 0, ~uint64_t{31}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tensor({16, 1}, 999, 0).code(), absl::StatusCode::kUnimplemented);
  const absl::Status overlap = with_embedding([](GgufWriter& w) {
    w.AddTensorAt("token_embd.weight", {16}, 0, 0, std::string(64, 'x'));
    w.AddTensorAt("output.weight", {16}, 0, 32, std::string(64, 'x'));
  });
  EXPECT_NE(overlap.message().find("overlap"), absl::string_view::npos) << overlap;
}

TEST(HostileGgufTest, SettingsThatLie) {
  for (const char* key :
       {"block_count", "embedding_length", "attention.head_count", "attention.head_count_kv",
        "attention.key_length", "feed_forward_length", "rope.dimension_count", "context_length"}) {
    for (const uint32_t value : {0u, 3u, 0x7fffffffu, 0xffffffffu}) {
      std::string bytes = pagoda::testing::TinyGguf(SmallOptions());
      const std::string name = RawString(std::string("llama.") + key);
      const size_t at = bytes.find(name);
      ASSERT_NE(at, std::string::npos) << key;
      std::memcpy(bytes.data() + at + name.size() + 4, &value, 4);
      if (value == 3 && std::string(key) == "context_length")
        continue;  // a model may be that short
      EXPECT_FALSE(OpenGguf(bytes)) << key << " = " << value;
    }
  }
}

Folder SmallFolder(int shards) {
  TinyModelOptions options = SmallOptions();
  options.type = TensorType::kF32;
  options.embedding_type = TensorType::kBF16;
  options.shards = shards;
  return pagoda::testing::TinyFolder(options);
}

std::string& FileOf(Folder& folder, const std::string& name) {
  for (auto& [file, bytes] : folder) {
    if (file == name) return bytes;
  }
  ADD_FAILURE() << "no " << name;
  return folder.front().second;
}

TEST(HostileFolderTest, SeededMutationsOfEveryFile) {
  for (const int shards : {1, 2}) {
    const Folder good = SmallFolder(shards);
    ASSERT_TRUE(OpenFolder(good));
    for (uint64_t seed = 1; seed <= 200; ++seed) {
      SCOPED_TRACE(seed);
      std::mt19937_64 random(seed);
      Folder folder = good;
      std::string& bytes = folder[random() % folder.size()].second;
      bytes = Mutate(bytes, 3000, random);
      OpenFolder(folder);
    }
  }
}

TEST(HostileFolderTest, CutAnywhere) {
  const Folder good = SmallFolder(1);
  const size_t size = good.back().second.size();
  for (size_t length = 0; length < size; length += length < 2000 ? 53 : 2003) {
    Folder folder = good;
    folder.back().second.resize(length);
    EXPECT_FALSE(OpenFolder(folder)) << length;
  }
}

TEST(HostileFolderTest, SafetensorsHandWritten) {
  const std::string ok = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  const std::vector<std::pair<const char*, std::string>> files = {
      {"empty", ""},
      {"huge header", Raw(~uint64_t{0}) + "{}"},
      {"header past the end", Raw<uint64_t>(3) + "{}"},
      {"not JSON", BuildSafetensorsRaw("{\"a\":", "")},
      {"not an object", BuildSafetensorsRaw("[]", "")},
      {"deep", BuildSafetensorsRaw(
                   "{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}", "")},
      {"duplicate", BuildSafetensorsRaw("{\"a\":" + ok + ",\"a\":" + ok + "}", "1234")},
      {"past the end",
       BuildSafetensorsRaw(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "1234")},
      {"backwards",
       BuildSafetensorsRaw(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", "1234")},
      {"negative",
       BuildSafetensorsRaw(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "1234")},
      {"fraction",
       BuildSafetensorsRaw(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", "1234")},
      {"overflowing shape",
       BuildSafetensorsRaw(
           R"({"a":{"dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,4]}})",
           "1234")},
      {"shape and offsets differ",
       BuildSafetensorsRaw(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}})", "1234")},
      {"unknown dtype",
       BuildSafetensorsRaw(R"({"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}})", "1234")},
      {"overlap", BuildSafetensorsRaw("{\"a\":" + ok + ",\"b\":" + ok + "}", "1234")},
      {"hole", BuildSafetensorsRaw(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                                   "12345678")},
      {"data left over", BuildSafetensorsRaw("{\"a\":" + ok + "}", "12345678")},
  };
  for (const auto& [name, bytes] : files) {
    Folder folder = SmallFolder(1);
    FileOf(folder, "model.safetensors") = bytes;
    std::vector<Checkpoint::RemoteFile> sources;
    for (const auto& [file, content] : folder)
      sources.push_back({file, std::make_shared<MemorySource>(content)});
    const absl::Status status = Checkpoint::Open(std::move(sources)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name << ": " << status;
  }
}

TEST(HostileFolderTest, IndexCannotLeaveTheFolder) {
  for (const char* name : {"../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "",
                           "x\\u0000.safetensors", "config.json", "model\\n.safetensors"}) {
    Folder folder = SmallFolder(2);
    FileOf(folder, "model.safetensors.index.json") =
        std::string(R"({"weight_map":{"a":")") + name + "\"}}";
    EXPECT_FALSE(OpenFolder(folder)) << name;
    const std::string path = ::testing::TempDir() + "/hostile_index_" + std::to_string(getpid());
    for (const auto& [file, bytes] : folder) {
      std::filesystem::create_directories(path);
      ASSERT_TRUE(pagoda::testing::WriteFile(path + "/" + file, bytes).ok());
    }
    EXPECT_EQ(Checkpoint::Open(path).status().code(), absl::StatusCode::kInvalidArgument) << name;
    std::filesystem::remove_all(path);
  }
}

TEST(HostileFolderTest, ConfigHandWritten) {
  for (
      const char* config :
      {"", "null", "{}", "[1]", R"({"model_type":7})", R"({"model_type":"llama"})",
       R"({"model_type":"llama","num_hidden_layers":1e300,"hidden_size":32})",
       R"({"model_type":"llama","num_hidden_layers":-1,"hidden_size":32})",
       R"({"model_type":"llama","num_hidden_layers":"1","hidden_size":32})",
       R"({"model_type":"llama","hidden_size":32,"num_hidden_layers":1,"num_attention_heads":0,"intermediate_size":32,)"
       R"("vocab_size":259})"}) {
    Folder folder = SmallFolder(1);
    FileOf(folder, "config.json") = config;
    EXPECT_FALSE(OpenFolder(folder)) << config;
  }
}

}  // namespace
}  // namespace pagoda::checkpoint
