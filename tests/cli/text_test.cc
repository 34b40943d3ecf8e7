#include <gtest/gtest.h>

#include "cli/http_client.h"
#include "cli/terminal.h"

namespace pagoda::cli {
namespace {

std::vector<std::string> EventsOf(const std::string& stream, size_t piece) {
  std::vector<std::string> events;
  SseSplitter splitter([&](std::string_view data) { events.emplace_back(data); });
  for (size_t i = 0; i < stream.size(); i += piece) splitter.Feed(std::string_view(stream).substr(i, piece));
  return events;
}

TEST(SseSplitterTest, HoweverTheBytesAreCut) {
  const std::string stream =
      "data: {\"a\":1}\n\n: comment\n\ndata:no space\r\n\r\nevent: x\ndata: one\ndata: two\n\ndata: [DONE]\n\n";
  const std::vector<std::string> expected = {"{\"a\":1}", "no space", "one\ntwo", "[DONE]"};
  for (size_t piece = 1; piece <= stream.size(); ++piece) EXPECT_EQ(EventsOf(stream, piece), expected) << piece;
}

TEST(SseSplitterTest, AnEventThatDoesNotEndIsNone) { EXPECT_TRUE(EventsOf("data: half\n", 3).empty()); }

TEST(ParseServerTest, UrlsAndAddresses) {
  EXPECT_EQ(ParseServer("http://127.0.0.1:8000/v1")->ToString(), "127.0.0.1:8000");
  EXPECT_EQ(ParseServer("localhost")->ToString(), "localhost:80");
  EXPECT_EQ(ParseServer("[::1]:9")->host, "::1");
  EXPECT_EQ(ParseServer("https://example.org/v1")->ToString(), "example.org:443");
  EXPECT_FALSE(ParseServer("host:port").ok());
}

TEST(HttpCallTest, SaysWhatDoesNotAnswer) {
  // Port 1 of this host: nothing listens there.
  HttpRequest request;
  request.target = "/x";
  request.server = {"127.0.0.1", 1};
  const auto answer = HttpCall(request);
  EXPECT_TRUE(absl::IsUnavailable(answer.status()));
  EXPECT_NE(answer.status().message().find("http://127.0.0.1:1/x"), absl::string_view::npos) << answer.status();
}

TEST(HumanTest, NumbersWithUnits) {
  EXPECT_EQ(HumanBytes(512), "512 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(3.0 * (1 << 30)), "3.0 GiB");
  EXPECT_EQ(HumanNumber(0), "0.00");
  EXPECT_EQ(HumanNumber(12345), "12.3k");
}

TEST(RenderTableTest, ColumnsLineUp) {
  EXPECT_EQ(RenderTable({{"NAME", "TOKENS"}, {"größer", "7"}, {"b", "1234"}}),
            "NAME    TOKENS\ngrößer       7\nb         1234\n");
  EXPECT_EQ(RenderTable({}), "");
}

}  // namespace
}  // namespace pagoda::cli
