// Model bytes between processes over real gRPC on port 0.
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_interceptor.h>
#include <sys/stat.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "common/limits.h"
#include "gtest/gtest.h"
#include "pagoda/internal/v1/blob.grpc.pb.h"
#include "worker/blob/blob_service.h"
#include "worker/blob/peer_source.h"

namespace pagoda::worker {
namespace {

namespace v1 = ::pagoda::internal::v1;

constexpr char kDigest[] = "sha256-of-a-model";
constexpr size_t kSize = (5u << 20) + 12345;

// Counts what is read, and can be told to fail.
class Watch final : public grpc::experimental::Interceptor,
                    public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Watch(std::atomic<int>* calls) : calls_(calls) {}
  Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo*) override {
    ++*calls_;
    return new Watch(calls_);
  }
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    methods->Proceed();
  }

 private:
  std::atomic<int>* const calls_;
};

struct Server {
  explicit Server(std::shared_ptr<BlobCatalog> catalog)
      : service(MakeBlobService(std::move(catalog))) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service.get());
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> watches;
    watches.push_back(std::make_unique<Watch>(&calls));
    builder.experimental().SetInterceptorCreators(std::move(watches));
    server = builder.BuildAndStart();
    address = absl::StrCat("127.0.0.1:", port);
  }
  std::atomic<int> calls = 0;
  std::unique_ptr<grpc::Service> service;
  std::unique_ptr<grpc::Server> server;
  std::string address;
};

class BlobTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/pagoda_blob_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    std::filesystem::create_directories(folder_ / "model" / "inner");
    std::mt19937_64 random(7);
    content_.resize(kSize);
    for (char& byte : content_) byte = static_cast<char>(random());
    std::ofstream(folder_ / "model" / "weights.gguf", std::ios::binary) << content_;
    std::ofstream(folder_ / "model" / "config.json") << "{}";
    std::ofstream(folder_ / "model" / ".hidden") << "no";
    std::ofstream(folder_ / "secret") << "secret";
    ASSERT_TRUE(catalog_->Add(kDigest, (folder_ / "model").string()).ok());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  PeerSourceOptions Options(std::vector<std::string> addresses) const {
    PeerSourceOptions options;
    options.addresses = std::move(addresses);
    options.model_digest = kDigest;
    options.timeout = absl::Seconds(5);
    return options;
  }
  std::shared_ptr<checkpoint::ByteSource> Open(const PeerSourceOptions& options) {
    auto source = OpenPeerFile(options, {.name = "weights.gguf", .size = kSize});
    EXPECT_TRUE(source.ok()) << source.status();
    return source.ok() ? *source : nullptr;
  }
  void ExpectRange(const checkpoint::ByteSource& source, uint64_t offset, size_t length) {
    std::string got(length, '\0');
    const auto status = source.Read(offset, std::as_writable_bytes(std::span(got)));
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(got == content_.substr(offset, length)) << offset << ' ' << length;
  }

  std::filesystem::path folder_;
  std::string content_;
  std::shared_ptr<BlobCatalog> catalog_ = std::make_shared<BlobCatalog>();
};

TEST_F(BlobTest, ListsThePlainFilesOfAModel) {
  Server server(catalog_);
  const auto files = ListPeerFiles(Options({server.address}));
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->size(), 2u);
  EXPECT_EQ((*files)[0].name, "config.json");
  EXPECT_EQ((*files)[1].name, "weights.gguf");
  EXPECT_EQ((*files)[1].size, kSize);

  ASSERT_TRUE(catalog_->Add("one", (folder_ / "model" / "weights.gguf").string()).ok());
  PeerSourceOptions options = Options({server.address});
  options.model_digest = "one";
  EXPECT_EQ(ListPeerFiles(options)->size(), 1u);
  catalog_->Remove("one");
  EXPECT_EQ(ListPeerFiles(options).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(catalog_->Add("two", (folder_ / "nowhere").string()).code(),
            absl::StatusCode::kNotFound);
}

TEST_F(BlobTest, ReadsRanges) {
  Server server(catalog_);
  const auto source = Open(Options({server.address}));
  ExpectRange(*source, 0, 0);
  ExpectRange(*source, kSize, 0);
  ExpectRange(*source, 0, 1);
  ExpectRange(*source, kSize - 1, 1);
  ExpectRange(*source, 1234567, 3000001);
  ExpectRange(*source, 0, kSize);
  EXPECT_EQ(source->Map(0, 1), nullptr);
  std::byte byte;
  EXPECT_EQ(source->Read(kSize, {&byte, 1}).code(), absl::StatusCode::kOutOfRange);
}

TEST_F(BlobTest, RefusesWhatIsHostile) {
  Server server(catalog_);
  const auto stub =
      v1::Blob::NewStub(grpc::CreateChannel(server.address, grpc::InsecureChannelCredentials()));
  struct Case {
    std::string digest, file;
    uint64_t offset, length;
    grpc::StatusCode code;
  };
  const std::vector<Case> cases = {
      {kDigest, "../secret", 0, 1, grpc::StatusCode::NOT_FOUND},
      {kDigest, (folder_ / "secret").string(), 0, 1, grpc::StatusCode::NOT_FOUND},
      {kDigest, ".hidden", 0, 1, grpc::StatusCode::NOT_FOUND},
      {kDigest, "inner", 0, 1, grpc::StatusCode::NOT_FOUND},
      {kDigest, "", 0, 1, grpc::StatusCode::NOT_FOUND},
      {"..", "secret", 0, 1, grpc::StatusCode::NOT_FOUND},
      {kDigest, "weights.gguf", kSize + 1, 0, grpc::StatusCode::OUT_OF_RANGE},
      {kDigest, "weights.gguf", 0, kSize + 1, grpc::StatusCode::OUT_OF_RANGE},
      {kDigest, "weights.gguf", 10, ~uint64_t{0}, grpc::StatusCode::OUT_OF_RANGE},
      {kDigest, "weights.gguf", ~uint64_t{0}, 10, grpc::StatusCode::OUT_OF_RANGE},
  };
  for (const Case& one : cases) {
    v1::ReadRangeRequest request;
    request.set_model_digest(one.digest);
    request.set_file(one.file);
    request.set_offset(one.offset);
    request.set_length(one.length);
    grpc::ClientContext context;
    const auto reader = stub->ReadRange(&context, request);
    v1::ReadRangeChunk chunk;
    EXPECT_FALSE(reader->Read(&chunk)) << one.file;
    EXPECT_EQ(reader->Finish().error_code(), one.code) << one.file << ' ' << one.offset;
  }
}

TEST_F(BlobTest, ChunksKeepTheirLimit) {
  Server server(catalog_);
  const auto stub =
      v1::Blob::NewStub(grpc::CreateChannel(server.address, grpc::InsecureChannelCredentials()));
  v1::ReadRangeRequest request;
  request.set_model_digest(kDigest);
  request.set_file("weights.gguf");
  request.set_length(kSize);
  grpc::ClientContext context;
  const auto reader = stub->ReadRange(&context, request);
  v1::ReadRangeChunk chunk;
  std::string all;
  while (reader->Read(&chunk)) {
    EXPECT_LE(chunk.data().size(), limits::kBlobChunkBytes);
    all += chunk.data();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(all == content_);
}

TEST_F(BlobTest, GoesOnWithTheNextPeer) {
  auto first = std::make_unique<Server>(catalog_);
  Server without(std::make_shared<BlobCatalog>());  // answers, but lacks the model
  Server second(catalog_);
  const auto source = Open(Options({first->address, without.address, second.address}));
  ExpectRange(*source, 0, 100);
  EXPECT_EQ(second.calls, 0);
  first->server->Shutdown();
  first = nullptr;
  ExpectRange(*source, 100, 100);
  EXPECT_GT(second.calls, 0);
  const int asked = without.calls;
  ExpectRange(*source, 200, 100);  // the one that answered last is asked first
  EXPECT_EQ(without.calls, asked);
}

TEST_F(BlobTest, SaysWhoFailed) {
  Server without(std::make_shared<BlobCatalog>());
  PeerSourceOptions options = Options({"127.0.0.1:1", without.address});
  const auto source = Open(options);
  std::byte byte;
  const auto status = source->Read(0, {&byte, 1});
  EXPECT_FALSE(status.ok());
  EXPECT_NE(std::string(status.message()).find("127.0.0.1:1"), std::string::npos) << status;
  EXPECT_NE(std::string(status.message()).find(without.address), std::string::npos) << status;
  EXPECT_EQ(ListPeerFiles(Options({})).status().code(), absl::StatusCode::kUnavailable);
}

// A peer that takes calls and never answers.
class Mute final : public v1::Blob::Service {
  grpc::Status ReadRange(grpc::ServerContext* context, const v1::ReadRangeRequest*,
                         grpc::ServerWriter<v1::ReadRangeChunk>*) override {
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return grpc::Status::CANCELLED;
  }
};
// A peer that sends another number of bytes than was asked for.
class Liar final : public v1::Blob::Service {
 public:
  explicit Liar(size_t bytes) : bytes_(bytes) {}
  grpc::Status ReadRange(grpc::ServerContext*, const v1::ReadRangeRequest*,
                         grpc::ServerWriter<v1::ReadRangeChunk>* writer) override {
    v1::ReadRangeChunk chunk;
    chunk.set_data(std::string(bytes_, 'x'));
    writer->Write(chunk);
    return grpc::Status::OK;
  }

 private:
  const size_t bytes_;
};

TEST_F(BlobTest, ASilentOrLyingPeerIsPassedOver) {
  Server good(catalog_);
  Mute mute;
  Liar more(200), less(50);
  for (v1::Blob::Service* bad : std::vector<v1::Blob::Service*>{&mute, &more, &less}) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(bad);
    const auto server = builder.BuildAndStart();
    PeerSourceOptions options = Options({absl::StrCat("127.0.0.1:", port), good.address});
    options.timeout = absl::Milliseconds(bad == &mute ? 200 : 5000);
    ExpectRange(*Open(options), 4096, 100);
    server->Shutdown(std::chrono::system_clock::now());
  }
}

TEST_F(BlobTest, TheCacheFetchesOnceAndOutlivesTheProcess) {
  auto server = std::make_unique<Server>(catalog_);
  PeerSourceOptions options = Options({server->address});
  options.cache_folder = (folder_ / "cache").string();
  {
    const auto source = Open(options);
    // Several threads, overlapping ranges: each chunk comes over the wire once.
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back(
          [&, i] { ExpectRange(*source, (1u << 20) + static_cast<size_t>(i) * 1000, 1u << 20); });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_LE(server->calls, 2);
    const std::byte* mapped = source->Map(1u << 20, 5000);
    ASSERT_NE(mapped, nullptr);
    EXPECT_EQ(std::memcmp(mapped, content_.data() + (1u << 20), 5000), 0);
    EXPECT_LE(server->calls, 2);
  }
  // Only what was asked for is there.
  EXPECT_LE(std::filesystem::file_size(folder_ / "cache" / "weights.gguf"), kSize);
  struct stat blocks = {};
  ASSERT_EQ(stat((folder_ / "cache" / "weights.gguf").c_str(), &blocks), 0);
  EXPECT_LT(blocks.st_blocks * 512, 4 << 20);

  server = nullptr;
  const auto again = Open(options);
  ExpectRange(*again, 1u << 20, 1u << 20);
  std::byte byte;
  EXPECT_EQ(again->Read(kSize - 1, {&byte, 1}).code(), absl::StatusCode::kUnavailable);

  // Of another model: begun anew.
  Server other(catalog_);
  ASSERT_TRUE(catalog_->Add("another", (folder_ / "model").string()).ok());
  options.model_digest = "another";
  options.addresses = {other.address};
  ExpectRange(*Open(options), 0, kSize);
  EXPECT_GT(other.calls, 0);
}

TEST_F(BlobTest, AListedNameMustBePlain) {
  for (const std::string name : {"", "../x", "a/b", ".x"}) {
    EXPECT_EQ(OpenPeerFile(Options({}), {.name = name, .size = 1}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace pagoda::worker
