// Text that comes token by token: whole characters, stop strings across borders, invalid bytes.
#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "text/unicode.h"

namespace pagoda::text {
namespace {

// Token i stands for pieces[i]; the last one is special.
class PieceTokenizer : public Tokenizer {
 public:
  explicit PieceTokenizer(std::vector<std::string> pieces, bool strips = false)
      : pieces_(std::move(pieces)), strips_(strips) {}
  std::vector<TokenId> Encode(std::string_view, EncodeOptions) const override { return {}; }
  std::string_view TokenBytes(TokenId token) const override { return pieces_.at(token); }
  std::string_view TokenText(TokenId token) const override { return pieces_.at(token); }
  bool IsSpecial(TokenId token) const override { return pieces_.at(token).starts_with("<|"); }
  bool StripsLeadingSpace(TokenId) const override { return strips_; }
  int vocabulary_size() const override { return static_cast<int>(pieces_.size()); }
  TokenId bos() const override { return -1; }
  const std::vector<TokenId>& end_of_generation() const override { return ends_; }

 private:
  std::vector<std::string> pieces_;
  bool strips_;
  std::vector<TokenId> ends_;
};

struct Fed {
  std::vector<std::string> pieces;
  std::optional<std::string> stop;
  std::string shown;
};

Fed Feed(const std::vector<std::string>& pieces, DetokenizerOptions options, bool strips = false) {
  const PieceTokenizer tokenizer(pieces, strips);
  Detokenizer detokenizer(tokenizer, std::move(options));
  Fed run;
  for (size_t i = 0; i < pieces.size() && !run.stop.has_value(); ++i) {
    auto output = detokenizer.Add(static_cast<TokenId>(i));
    run.pieces.push_back(output.text);
    run.stop = output.stop_string;
  }
  if (!run.stop.has_value()) run.pieces.push_back(detokenizer.Finish());
  run.shown = detokenizer.shown();
  return run;
}

TEST(Detokenizer, ShowsOnlyWholeCharacters) {
  const Fed run = Feed({"a\xF0\x9F", "\x99", "\x82z"}, {});
  EXPECT_EQ(run.pieces, (std::vector<std::string>{"a", "", "\xF0\x9F\x99\x82z", ""}));
}

TEST(Detokenizer, RepairsWhatCannotBecomeWhole) {
  EXPECT_EQ(Feed({"\xE2\x82", "a"}, {}).shown, "\xEF\xBF\xBD" "a");
  EXPECT_EQ(Feed({"a\xE2", "\x82"}, {}).shown, "a\xEF\xBF\xBD");           // one for a truncated end
  EXPECT_EQ(Feed({"\xED\xA0\x80"}, {}).shown, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // a surrogate
  EXPECT_EQ(Feed({"\xFF", "\xC0\x80"}, {}).shown, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(Detokenizer, FindsStopsAcrossTokens) {
  DetokenizerOptions options;
  options.stop = {"###", "END"};
  const Fed run = Feed({"text #", "#", "# more"}, options);
  EXPECT_EQ(run.pieces, (std::vector<std::string>{"text ", "", ""}));
  EXPECT_EQ(run.stop, "###");
  EXPECT_EQ(run.shown, "text ");
  options.include_stop_in_output = true;
  EXPECT_EQ(Feed({"text #", "#", "# more"}, options).shown, "text ###");
}

TEST(Detokenizer, GivesBackHeldTextThatIsNoStop) {
  DetokenizerOptions options;
  options.stop = {"abcd"};
  const Fed run = Feed({"xab", "c", "x"}, options);
  EXPECT_EQ(run.pieces, (std::vector<std::string>{"x", "", "abcx", ""}));
  EXPECT_EQ(Feed({"xabc"}, options).shown, "xabc");  // held until the end
}

TEST(Detokenizer, TakesTheEarliestStop) {
  DetokenizerOptions options;
  options.stop = {"late", "b"};
  const Fed run = Feed({"a b late"}, options);
  EXPECT_EQ(run.stop, "b");
  EXPECT_EQ(run.shown, "a ");
}

TEST(Detokenizer, IgnoresStopsBeforeMinTokens) {
  DetokenizerOptions options;
  options.stop = {"x"};
  options.min_tokens = 3;
  const Fed run = Feed({"x", "a", "bx", "c"}, options);
  EXPECT_EQ(run.stop, "x");
  EXPECT_EQ(run.shown, "xab");
}

TEST(Detokenizer, SkipsSpecialTokensAndTheFirstSpace) {
  EXPECT_EQ(Feed({"<|s|>", " a", " b"}, {}, true).shown, "a b");
  DetokenizerOptions options;
  options.skip_special_tokens = false;
  EXPECT_EQ(Feed({"<|s|>", " a"}, options, true).shown, "<|s|>a");
}

TEST(Detokenizer, AnyCutOfAnyBytesGivesTheWholeTextsRepair) {
  const uint32_t seed = 20261121;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const std::string alphabet = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82\xED\xA0\xFF\x80";
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> pieces;
    std::string whole;
    for (size_t i = 0; i < 1 + random() % 6; ++i) {
      std::string piece;
      for (size_t j = 0; j < 1 + random() % 3; ++j) piece += alphabet[random() % alphabet.size()];
      whole += piece;
      pieces.push_back(std::move(piece));
    }
    const Fed run = Feed(pieces, {});
    ASSERT_EQ(run.shown, ReplaceInvalidUtf8(whole)) << "round " << round;
    for (const std::string& piece : run.pieces) ASSERT_TRUE(IsValidUtf8(piece));
  }
}

}  // namespace
}  // namespace pagoda::text
