#include "common/config.h"
#include "common/reload.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <vector>

namespace pagoda {
namespace {

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() : path_(testing::TempDir() + "config_test_" + std::to_string(getpid()) + ".yaml") {
    app_.add_option("--max-model-len", length_);
    app_.add_option("--tensor-parallel-size", sizes_)->delimiter(',');
    app_.add_option("--name", name_);
    app_.add_flag("--pin-threads", pin_);
    AddConfigFile(app_);
  }
  ~ConfigTest() override { std::remove(path_.c_str()); }

  absl::Status Parse(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "test");
    return ParseCommandLine(app_, static_cast<int>(arguments.size()), arguments.data());
  }
  absl::Status ParseFile(const std::string& yaml, std::vector<const char*> arguments = {}) {
    std::ofstream(path_) << yaml;
    arguments.insert(arguments.end(), {"--config", path_.c_str()});
    return Parse(arguments);
  }

  const std::string path_;
  CLI::App app_;
  int length_ = 1;
  std::vector<int> sizes_;
  std::string name_;
  bool pin_ = false;
};

TEST_F(ConfigTest, TheFileHasTheNamesOfTheFlags) {
  const absl::Status status =
      ParseFile("max-model-len: 4096\ntensor-parallel-size: [3, 1]\nname: a model\npin-threads: true\n");
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(length_, 4096);
  EXPECT_EQ(sizes_, (std::vector<int>{3, 1}));
  EXPECT_EQ(name_, "a model");
  EXPECT_TRUE(pin_);
}

TEST_F(ConfigTest, AFlagWinsOverTheFile) {
  ASSERT_TRUE(ParseFile("max-model-len: 4096\nname: file\n", {"--max-model-len", "7"}).ok());
  EXPECT_EQ(length_, 7);
  EXPECT_EQ(name_, "file");
}

TEST_F(ConfigTest, AnEmptyFileChangesNothing) {
  ASSERT_TRUE(ParseFile("").ok());
  EXPECT_EQ(length_, 1);
}

TEST_F(ConfigTest, ErrorsNameTheKey) {
  const auto message = [](const absl::Status& status) { return std::string(status.message()); };
  const absl::Status unknown = ParseFile("max-model-length: 4096\n");
  EXPECT_TRUE(absl::IsInvalidArgument(unknown));
  EXPECT_NE(message(unknown).find("max-model-length"), std::string::npos) << unknown;
  const absl::Status wrong = ParseFile("max-model-len: many\n");
  EXPECT_TRUE(absl::IsInvalidArgument(wrong));
  EXPECT_NE(message(wrong).find("max-model-len"), std::string::npos) << wrong;
  const absl::Status nested = ParseFile("name: {a: 1}\n");
  EXPECT_TRUE(absl::IsInvalidArgument(nested));
  EXPECT_NE(message(nested).find("'name'"), std::string::npos) << nested;
}

TEST_F(ConfigTest, ErrorsNameFileAndLineAndWhatMayBeMeant) {
  const auto message = [&](const std::string& yaml, std::vector<const char*> arguments = {}) {
    return std::string(ParseFile(yaml, std::move(arguments)).message());
  };
  const auto at = [&](int line) { return path_ + ":" + std::to_string(line) + ": "; };
  EXPECT_EQ(message("name: x\n\nmax-model-length: 4096\n"),
            at(3) + "there is no option 'max-model-length' here; is 'max-model-len' meant?");
  EXPECT_EQ(message("colour: red\n"), at(1) + "there is no option 'colour' here");
  EXPECT_EQ(message("config: other.yaml\n"), at(1) + "there is no option 'config' here");
  EXPECT_EQ(message("name: x\nname: y\n"), at(2) + "'name' stands in line 1 already");
  EXPECT_EQ(message("name:\n"), at(1) + "'name' needs a value or a list");
  EXPECT_EQ(message("router: 3\n"), at(1) + "section 'router' is not a map of names to values");
  EXPECT_EQ(message("name: x\nmax-model-len: many\n").substr(0, at(2).size()), at(2)) << message("max-model-len: many\n");
  EXPECT_EQ(message("name: x\n  y: [\n").substr(0, at(2).size()), at(2));
  const std::string of_the_flag = message("max-model-len: 1\n", {"--max-model-len=many"});
  EXPECT_EQ(of_the_flag.find(path_), std::string::npos) << "the flag is wrong, not the file: " << of_the_flag;
}

TEST_F(ConfigTest, AWrongAddressIsNamedByItsKeyOrFlag) {
  std::string listen = "127.0.0.1:8000", peers, level;
  app_.add_option("--listen", listen, "")->check(IsHostPort());
  app_.add_option("--peers", peers, "")->check(IsHostPortList());
  app_.add_option("--log-level", level, "")->check(IsLogLevel());
  EXPECT_TRUE(ParseFile("listen: '[::1]:80'\npeers: a:1,b:2\nlog-level: debug\n").ok());
  for (const char* wrong : {"name: x\nlisten: 8000\n", "name: x\npeers: a:1,b\n", "name: x\nlog-level: loud\n"}) {
    const std::string message(ParseFile(wrong).message());
    EXPECT_EQ(message.substr(0, path_.size() + 4), path_ + ":2: ") << message;
    EXPECT_NE(message.find(std::string(wrong).substr(8, 5)), std::string::npos) << "names the key: " << message;
  }
  EXPECT_NE(ParseFile("", {"--listen=host:x"}).message().find("--listen"), std::string::npos);
}

TEST_F(ConfigTest, AProcessReadsItsOwnSectionAndTheTop) {
  const char* text = "max-model-len: 1\nname: all\nrouter:\n  max-model-len: 2\n  no-such: 1\nworker:\n  max-model-len: 3\n";
  std::ofstream(path_) << text;
  const char* worker[] = {"/usr/bin/pagoda-worker", "--config", path_.c_str()};
  ASSERT_TRUE(ParseCommandLine(app_, 3, worker).ok()) << "another's section is another's to check";
  EXPECT_EQ(length_, 3);
  EXPECT_EQ(name_, "all");
  EXPECT_EQ(*ConfiguredValue(app_, "max-model-len"), "3");
  EXPECT_EQ(*ConfiguredValue(app_, "name"), "all");
  EXPECT_TRUE(absl::IsNotFound(ConfiguredValue(app_, "pin-threads").status()));
}

TEST_F(ConfigTest, WhatIsNoYamlMapIsAnErrorAndNotACrash) {
  for (const char* text : {"- a\n- b\n", "just text", "a: [1, 2", "\tname: x\n", "{{{{", "a: b: c"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseFile(text))) << text;
  }
}

TEST_F(ConfigTest, WrongFlagsAreErrors) {
  EXPECT_TRUE(absl::IsInvalidArgument(Parse({"--no-such-flag"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Parse({"--max-model-len", "x"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Parse({"--config", "/nonexistent/file.yaml"})));
}

TEST_F(ConfigTest, HelpIsNoError) {
  testing::internal::CaptureStdout();
  EXPECT_TRUE(absl::IsCancelled(Parse({"--help"})));
  EXPECT_NE(testing::internal::GetCapturedStdout().find("--max-model-len"), std::string::npos);
}

TEST(HostPortTest, ParsesAndPrints) {
  const auto plain = ParseHostPort("example.org:8000");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->host, "example.org");
  EXPECT_EQ(plain->port, 8000);
  const auto six = ParseHostPort("[::1]:0");
  ASSERT_TRUE(six.ok());
  EXPECT_EQ(six->host, "::1");
  EXPECT_EQ(six->ToString(), "[::1]:0");
  for (const char* wrong : {"", "host", "host:", "host:x", "host:-1", "host:65536", "host:80x", "[::1:80", "[]:80", "127.0.0.1:80:80", "::1:80"}) {
    EXPECT_FALSE(ParseHostPort(wrong).ok()) << wrong;
  }
}

}  // namespace
}  // namespace pagoda
