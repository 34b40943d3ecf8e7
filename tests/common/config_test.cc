#include "common/config.h"

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
  for (const char* wrong : {"", "host", "host:", "host:x", "host:-1", "host:65536", "host:80x", "[::1:80", "[]:80"}) {
    EXPECT_FALSE(ParseHostPort(wrong).ok()) << wrong;
  }
}

}  // namespace
}  // namespace pagoda
