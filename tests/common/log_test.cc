#include "common/log.h"

#include <gtest/gtest.h>

namespace pagoda {
namespace {

TEST(JsonEscapeTest, NothingCanEndTheString) {
  EXPECT_EQ(JsonEscape("plain"), "plain");
  EXPECT_EQ(JsonEscape("a\"b\\c"), "a\\\"b\\\\c");
  EXPECT_EQ(JsonEscape("line\nnext\r\t"), "line\\nnext\\u000d\\u0009");
  EXPECT_EQ(JsonEscape(std::string_view("\0\x01\x1f", 3)), "\\u0000\\u0001\\u001f");
  EXPECT_EQ(JsonEscape("Größe 語 🙂"), "Größe 語 🙂");
}

TEST(JsonEscapeTest, WrongUtf8BecomesTheReplacementCharacter) {
  const std::string replacement = "\xEF\xBF\xBD";
  for (const char* wrong : {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"}) {
    const std::string escaped = JsonEscape(wrong);
    EXPECT_NE(escaped.find(replacement), std::string::npos) << wrong;
    for (const char c : std::string(wrong)) {
      // No byte of the wrong sequence is left outside of replacement characters.
      std::string rest = escaped;
      for (size_t at; (at = rest.find(replacement)) != std::string::npos;) rest.erase(at, replacement.size());
      EXPECT_EQ(rest.find(c), std::string::npos);
    }
  }
}

class LogTest : public ::testing::Test {
 protected:
  std::string Captured(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
    testing::internal::CaptureStderr();
    Log(level, event, fields);
    return testing::internal::GetCapturedStderr();
  }
};

TEST_F(LogTest, OneLineOfJsonWithTypedFields) {
  InitLog("test", LogLevel::kInfo, /*plain=*/false);
  const std::string line = Captured(LogLevel::kWarning, "request_failed",
                                    {{"request", "a\"b\n{}"}, {"tokens", 12}, {"seconds", 0.5}, {"retry", true}});
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  EXPECT_EQ(line.front(), '{');
  for (const char* part : {"\"level\":\"warning\"", "\"process\":\"test\"", "\"event\":\"request_failed\"",
                           "\"request\":\"a\\\"b\\n{}\"", "\"tokens\":12", "\"retry\":true", "\"seconds\":0.5"}) {
    EXPECT_NE(line.find(part), std::string::npos) << part << " in " << line;
  }
}

TEST_F(LogTest, BelowTheLevelNothingIsPrinted) {
  InitLog("test", LogLevel::kWarning, /*plain=*/true);
  EXPECT_EQ(Captured(LogLevel::kInfo, "quiet", {}), "");
  SetLogLevel(LogLevel::kDebug);
  EXPECT_NE(Captured(LogLevel::kDebug, "loud", {}), "");
}

TEST(LogLevelTest, Parses) {
  EXPECT_EQ(*ParseLogLevel("debug"), LogLevel::kDebug);
  EXPECT_EQ(*ParseLogLevel("error"), LogLevel::kError);
  EXPECT_FALSE(ParseLogLevel("loud").ok());
}

}  // namespace
}  // namespace pagoda
