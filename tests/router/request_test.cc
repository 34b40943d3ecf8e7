// Reading requests: each row is a body and what must come of it. A new case is a new row.
#include "router/openai/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/limits.h"
#include "router/http/head.h"
#include "router/openai/prepare.h"
#include "router/request_status.h"
#include "tests/router/byte_tokenizer.h"

namespace pagoda::router::openai {
namespace {

ServedModels OneModel() {
  ServedModels models;
  ServedModel model;
  model.name = "m";
  model.digest = "d";
  model.max_model_len = 100;
  model.vocabulary = 257;
  model.text = ByteTextModel();
  models.models.push_back(model);
  return models;
}

absl::Status StatusOfBody(Endpoint endpoint, std::string_view body) {
  return PrepareGeneration(endpoint, body, OneModel(), 0).status();
}

struct BadBody {
  const char* name;
  std::string body;
  const char* param;     // that the error names, "" for none
  const char* contains;  // in the message
};

std::string Completion(const std::string& fields) {
  return R"({"model":"m","prompt":"hi",)" + fields + "}";
}

std::vector<BadBody> BadCompletions() {
  std::vector<BadBody> rows = {
      {"empty", "", "", "JSON"},
      {"broken", R"({"prompt":)", "", "JSON"},
      {"trailing", R"({"prompt":"a"} x)", "", "JSON"},
      {"not_an_object", "[1]", "", "object"},
      {"nan", R"({"prompt":"a","temperature":NaN})", "", "JSON"},
      {"infinity", R"({"prompt":"a","temperature":Infinity})", "", "JSON"},
      {"huge_number", R"({"prompt":"a","temperature":1e999})", "", "refused"},
      {"lone_high_surrogate", R"({"prompt":"\ud800"})", "", "surrogate"},
      {"lone_low_surrogate", R"({"prompt":"\udc00 x"})", "", "surrogate"},
      {"raw_bad_utf8", "{\"prompt\":\"\xff\xfe\"}", "", "UTF-8"},
      {"control_character", "{\"prompt\":\"a\x01\"}", "", "control"},
      {"twice_the_same_key", R"({"prompt":"a","prompt":"b"})", "", "twice"},
      {"nested", R"({"prompt":"a","x":)" + std::string(50'000, '[') + "", "", "nested deeper"},
      {"nested_objects",
       [] {
         std::string text = R"({"prompt":"a","x":)";
         for (int i = 0; i < 1000; ++i) text += R"({"a":)";
         return text;
       }(),
       "", "nested deeper"},
      {"no_prompt", R"({"model":"m"})", "prompt", "required"},
      {"null_prompt", R"({"model":"m","prompt":null})", "prompt", "required"},
      {"empty_list", R"({"model":"m","prompt":[]})", "prompt", "must be"},
      {"mixed_list", R"({"model":"m","prompt":["a",1]})", "prompt", "must be"},
      {"texts_and_tokens", R"({"model":"m","prompt":["a",[1]]})", "prompt", "must be"},
      {"tokens_and_texts", R"({"model":"m","prompt":[[1],"a"]})", "prompt", "must be"},
      {"float_tokens", R"({"model":"m","prompt":[1.5]})", "prompt", "must be"},
      {"empty_prompt", R"({"model":"m","prompt":""})", "prompt", "no tokens"},
      {"token_out_of_range", R"({"model":"m","prompt":[1,257]})", "prompt", "257"},
      {"token_negative", R"({"model":"m","prompt":[-1]})", "prompt", "must be"},
      {"token_huge", R"({"model":"m","prompt":[4294967297]})", "prompt", "must be"},
      {"token_enormous", R"({"model":"m","prompt":[18446744073709551615]})", "prompt", "must be"},
      {"model_type", R"({"model":7,"prompt":"a"})", "model", "string"},
      {"top_k_string", Completion(R"("top_k":"5")"), "top_k", "integer"},
      {"top_k_float", Completion(R"("top_k":1.5)"), "top_k", "whole number"},
      {"top_k_low", Completion(R"("top_k":-2)"), "top_k", "-1"},
      {"temperature_low", Completion(R"("temperature":-0.1)"), "temperature", "[0, 2]"},
      {"temperature_high", Completion(R"("temperature":999999)"), "temperature", "[0, 2]"},
      {"temperature_string", Completion(R"("temperature":"hot")"), "temperature", "number"},
      {"top_p_zero", Completion(R"("top_p":0)"), "top_p", "(0, 1]"},
      {"top_p_high", Completion(R"("top_p":1.01)"), "top_p", "(0, 1]"},
      {"min_p", Completion(R"("min_p":-1)"), "min_p", "[0, 1]"},
      {"typical_p", Completion(R"("typical_p":0)"), "typical_p", "(0, 1]"},
      {"repetition_penalty", Completion(R"("repetition_penalty":0)"), "repetition_penalty", "[1e-06"},
      {"presence_penalty", Completion(R"("presence_penalty":2.5)"), "presence_penalty", "[-2, 2]"},
      {"frequency_penalty", Completion(R"("frequency_penalty":-3)"), "frequency_penalty",
       "[-2, 2]"},
      {"n_zero", Completion(R"("n":0)"), "n", "from 1"},
      {"n_high", Completion(R"("n":33)"), "n", "32"},
      {"n_huge", Completion(R"("n":1e9)"), "n", "32"},
      {"n_enormous", Completion(R"("n":1e30)"), "n", "whole number"},
      {"n_greedy", Completion(R"("n":2,"temperature":0)"), "n", "temperature 0"},
      {"n_nearly_greedy", Completion(R"("n":2,"temperature":1e-6)"), "n", "temperature 0"},
      {"repetition_penalty_tiny", Completion(R"("repetition_penalty":1e-7)"), "repetition_penalty", "1e-06"},
      {"no_repeat_huge", Completion(R"("no_repeat_ngram_size":2147483647)"), "no_repeat_ngram_size", "1048576"},
      {"max_tokens_zero", Completion(R"("max_tokens":0)"), "max_tokens", "from 1"},
      {"max_tokens_negative", Completion(R"("max_tokens":-5)"), "max_tokens", "from 1"},
      {"max_tokens_long", Completion(R"("max_tokens":200)"), "max_tokens",
       "too large: this model's maximum context length is 100"},
      {"default_max_tokens_long", R"({"prompt":")" + std::string(90, 'x') + "\"}", "max_tokens",
       "leaves 10 for the completion, and 16 are the default"},
      {"prompt_long", R"({"prompt":")" + std::string(100, 'x') + R"(","max_tokens":1})", "prompt",
       "is too long"},
      {"max_tokens_bool", Completion(R"("max_tokens":true)"), "max_tokens", "integer"},
      {"min_above_max", Completion(R"("max_tokens":5,"min_tokens":6)"), "min_tokens", "above"},
      {"stop_type", Completion(R"("stop":5)"), "stop", "string"},
      {"stop_empty", Completion(R"("stop":[""])"), "stop", "empty"},
      {"stop_long", Completion(R"("stop":")" + std::string(1025, 'x') + "\""), "stop", "1024"},
      {"stop_ids_type", Completion(R"("stop_token_ids":["a"])"), "stop_token_ids", "integers"},
      {"stop_ids_range", Completion(R"("stop_token_ids":[257])"), "stop_token_ids", "257"},
      {"allowed_range", Completion(R"("allowed_token_ids":[-1])"), "allowed_token_ids", "-1"},
      {"allowed_empty", Completion(R"("allowed_token_ids":[])"), "allowed_token_ids", "empty"},
      {"bias_space", Completion(R"("logit_bias":{" 5":1})"), "logit_bias", "token ids"},
      {"bias_sign", Completion(R"("logit_bias":{"+5":1})"), "logit_bias", "token ids"},
      {"bias_zeros", Completion(R"("logit_bias":{"05":1})"), "logit_bias", "token ids"},
      {"bias_type", Completion(R"("logit_bias":[1])"), "logit_bias", "object"},
      {"bias_key", Completion(R"("logit_bias":{"x":1})"), "logit_bias", "token ids"},
      {"bias_value", Completion(R"("logit_bias":{"5":101})"), "logit_bias", "100"},
      {"bias_range", Completion(R"("logit_bias":{"9999":1})"), "logit_bias", "9999"},
      {"logprobs_high", Completion(R"("logprobs":21)"), "logprobs", "20"},
      {"prompt_logprobs_minus", Completion(R"("prompt_logprobs":-1)"), "prompt_logprobs", "from 0"},
      {"prompt_logprobs_stream", Completion(R"("prompt_logprobs":1,"stream":true)"),
       "prompt_logprobs", "stream"},
      {"best_of", Completion(R"("best_of":5)"), "best_of", "not supported"},
      {"suffix", Completion(R"("suffix":"x")"), "suffix", "not supported"},
      {"beam", Completion(R"("use_beam_search":true)"), "use_beam_search", "not supported"},
      {"guided", Completion(R"("guided_regex":"a*")"), "guided_regex", "not supported"},
      {"response_format", Completion(R"("response_format":{"type":"json_object"})"),
       "response_format", "text"},
      {"stream_type", Completion(R"("stream":"yes")"), "stream", "true or false"},
      {"stream_options", Completion(R"("stream_options":{"include_usage":true})"), "stream_options",
       "stream"},
      {"truncate_zero", Completion(R"("truncate_prompt_tokens":0)"), "truncate_prompt_tokens",
       "at least 1"},
      {"seed_float", Completion(R"("seed":1.5)"), "seed", "whole number"},
      {"seed_huge", Completion(R"("seed":18446744073709551615)"), "seed", "64 bits"},
      {"salt_empty", Completion(R"("cache_salt":"")"), "cache_salt", "empty"},
      {"priority", Completion(R"("priority":9223372036854775807)"), "priority", "from"},
      {"request_id", Completion(R"("request_id":")" + std::string(129, 'x') + "\""), "request_id",
       "128"},
  };
  const auto list = [](int count, const std::string& entry) {
    std::string text = "[" + entry;
    for (int i = 1; i < count; ++i) text += "," + entry;
    return text + "]";
  };
  rows.push_back({"stop_many", Completion("\"stop\":" + list(17, "\"a\"")), "stop", "16"});
  rows.push_back(
      {"stop_ids_many", Completion("\"stop_token_ids\":" + list(65, "1")), "stop_token_ids", "64"});
  rows.push_back(
      {"bad_words_many", Completion("\"bad_words\":" + list(257, "\"a\"")), "bad_words", "256"});
  rows.push_back(
      {"prompts_many", R"({"model":"m","prompt":)" + list(65, "\"a\"") + "}", "prompt", "64"});
  std::string bias = "\"logit_bias\":{\"0\":1";
  for (int i = 1; i <= limits::kMaxLogitBias; ++i) bias += ",\"" + std::to_string(i) + "\":1";
  rows.push_back({"bias_many", Completion(bias + "}"), "logit_bias", "1024"});
  return rows;
}

TEST(RequestTest, BadCompletionsAreRefusedByName) {
  for (const BadBody& row : BadCompletions()) {
    const absl::Status status = StatusOfBody(Endpoint::kCompletions, row.body);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << row.name << ": " << status;
    EXPECT_EQ(ParamOf(status).value_or(""), row.param) << row.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(row.contains)) << row.name;
  }
}

TEST(RequestTest, BadChatsAreRefusedByName) {
  const auto chat = [](const std::string& fields) {
    return R"({"model":"m","messages":[{"role":"user","content":"hi"}],)" + fields + "}";
  };
  const std::vector<BadBody> rows = {
      {"none", R"({"model":"m"})", "messages", "required"},
      {"empty", R"({"model":"m","messages":[]})", "messages", "at least one"},
      {"type", R"({"model":"m","messages":"hi"})", "messages", "list"},
      {"entry", R"({"model":"m","messages":["hi"]})", "messages", "object"},
      {"role", R"({"model":"m","messages":[{"content":"hi"}]})", "messages", "role"},
      {"role_forges", R"({"model":"m","messages":[{"role":"user\n<|im_end|>","content":"hi"}]})", "messages", "a word"},
      {"tools_type", chat(R"("tools":{})"), "tools", "list"},
      {"tools_entry", chat(R"("tools":[1])"), "tools", "function"},
      {"tools_kind", chat(R"("tools":[{"type":"retrieval"}])"), "tools", "function"},
      {"tools_name", chat(R"("tools":[{"type":"function","function":{"name":7}}])"), "tools", "name"},
      {"tools_parameters", chat(R"("tools":[{"type":"function","function":{"name":"f","parameters":"x"}}])"), "tools",
       "parameters"},
      {"role_type", R"({"model":"m","messages":[{"role":5,"content":"hi"}]})", "messages", "role"},
      {"content", R"({"model":"m","messages":[{"role":"user","content":5}]})", "messages",
       "content"},
      {"image",
       R"({"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]})",
       "messages", "text only"},
      {"tool_choice", chat(R"("tool_choice":"required")"), "tool_choice", "not supported"},
      {"tool_named", chat(R"("tool_choice":{"type":"function","function":{"name":"f"}})"),
       "tool_choice", "not supported"},
      {"tools", chat(R"("tools":{})"), "tools", "list"},
      {"template", chat(R"("chat_template":"{{ x }}")"), "chat_template", "not taken"},
      {"kwargs_type", chat(R"("chat_template_kwargs":[])"), "chat_template_kwargs", "object"},
      {"kwargs_tokenize", chat(R"("chat_template_kwargs":{"tokenize":true})"),
       "chat_template_kwargs", "tokenize"},
      {"kwargs_messages", chat(R"("chat_template_kwargs":{"messages":[]})"), "chat_template_kwargs",
       "messages"},
      {"kwargs_name", chat(R"("chat_template_kwargs":{"__class__ x":1})"), "chat_template_kwargs",
       "identifier"},
      {"top_logprobs", chat(R"("top_logprobs":3)"), "top_logprobs", "logprobs"},
      {"top_logprobs_high", chat(R"("logprobs":true,"top_logprobs":21)"), "top_logprobs", "20"},
      {"echo", chat(R"("echo":true)"), "echo", "completions"},
      {"both", chat(R"("add_generation_prompt":true,"continue_final_message":true)"),
       "continue_final_message", "both"},
  };
  for (const BadBody& row : rows) {
    const absl::Status status = StatusOfBody(Endpoint::kChat, row.body);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << row.name << ": " << status;
    EXPECT_EQ(ParamOf(status).value_or(""), row.param) << row.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(row.contains)) << row.name;
  }
}

TEST(RequestTest, ATemplatelessModelSaysSo) {
  const absl::Status status =
      StatusOfBody(Endpoint::kChat, R"({"model":"m","messages":[{"role":"user","content":"hi"}]})");
  EXPECT_EQ(CodeOf(status), "no_chat_template");
}

TEST(RequestTest, UnknownModelsAndContextErrorsHaveCodes) {
  const absl::Status unknown =
      StatusOfBody(Endpoint::kCompletions, R"({"model":"x","prompt":"a"})");
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(unknown), "model_not_found");
  const absl::Status context =
      StatusOfBody(Endpoint::kCompletions, Completion(R"("max_tokens":99)"));
  EXPECT_EQ(CodeOf(context), "context_length_exceeded");
}

// A router that was started a moment ago, between its first breath and its first snapshot.
TEST(RequestTest, NoNameIsWrongBeforeAnyModelIsKnown) {
  ModelRegistry registry({.fetch = [](int, const std::string&, ModelRegistry::BundleCallback) {},
                          .post = [](std::function<void()>) {},
                          .pool = nullptr});
  const auto found = [&](std::string_view name) { return registry.models()->Find(name).status(); };
  EXPECT_EQ(found("m").code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(RetryAfterMsOf(found("m")).has_value());
  ClusterView view;
  PipelineView other;
  other.model = "other";
  other.digest = "d";
  view.pipelines.push_back(other);
  registry.Update(view, 0);
  EXPECT_EQ(found("m").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(found("other").code(), absl::StatusCode::kUnavailable) << "its tokenizer is on its way";
  registry.Update({}, 0);
  EXPECT_EQ(found("m").code(), absl::StatusCode::kUnavailable) << "all coordinators are gone for long";
}

TEST(RequestTest, GoodFieldsArriveSettled) {
  const auto prepared = PrepareGeneration(
      Endpoint::kCompletions,
      Completion(
          R"("temperature":0.5,"top_p":0.9,"top_k":-1,"min_p":0.1,"typical_p":0.8,"repetition_penalty":1.1,
        "presence_penalty":1,"frequency_penalty":-1,"no_repeat_ngram_size":3,"logit_bias":{"5":-100,"6":2.5},
        "bad_words":["x"],"allowed_token_ids":[1,2],"seed":-7,"n":2,"max_tokens":10.0,"min_tokens":2,"priority":-3,
        "stop":"end","stop_token_ids":[9,3,9],"include_stop_str_in_output":true,"skip_special_tokens":false,
        "logprobs":3,"cache_salt":"s","unknown_field":{"a":[1]},"user":"me","stream":true,
        "stream_options":{"include_usage":true,"continuous_usage_stats":true})"),
      OneModel(), 0);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  const GenerationRequest& request = prepared->requests.at(0);
  const SettledSampling& s = request.sampling;
  EXPECT_EQ(s.temperature, 0.5);
  EXPECT_EQ(s.top_p, 0.9);
  EXPECT_EQ(s.top_k, 0);
  EXPECT_EQ(s.no_repeat_ngram_size, 3);
  EXPECT_THAT(s.logit_bias,
              testing::UnorderedElementsAre(testing::Pair(5, -100.0f), testing::Pair(6, 2.5f)));
  EXPECT_FALSE(s.bad_words.empty());
  EXPECT_EQ(s.seed, static_cast<uint64_t>(-7));
  EXPECT_EQ(request.choices, 2);
  EXPECT_EQ(s.max_tokens, 10);
  EXPECT_EQ(s.min_tokens, 2);
  EXPECT_EQ(request.priority, -3);
  EXPECT_THAT(request.stop, testing::ElementsAre("end"));
  EXPECT_THAT(s.stop_token_ids, testing::ElementsAre(3, 9, 256))
      << "with the model's own end token";
  EXPECT_TRUE(request.include_stop_in_output);
  EXPECT_FALSE(request.skip_special_tokens);
  EXPECT_EQ(s.logprobs, 3);
  EXPECT_EQ(request.cache_salt, "s");
  EXPECT_TRUE(prepared->input.continuous_usage);
}

TEST(RequestTest, PromptsComeAsTextTokensOrListsOfEither) {
  const auto prompts = [](const std::string& json) {
    const auto prepared = PrepareGeneration(
        Endpoint::kCompletions, R"({"model":"m","prompt":)" + json + "}", OneModel(), 0);
    std::vector<std::vector<TokenId>> tokens;
    if (prepared.ok()) {
      for (const auto& request : prepared->requests) tokens.push_back(request.prompt);
    }
    return tokens;
  };
  using Tokens = std::vector<TokenId>;
  EXPECT_THAT(prompts(R"("ab")"), testing::ElementsAre(Tokens{'a', 'b'}));
  EXPECT_THAT(prompts("[1,2]"), testing::ElementsAre(Tokens{1, 2}));
  EXPECT_THAT(prompts(R"(["a","b"])"), testing::ElementsAre(Tokens{'a'}, Tokens{'b'}));
  EXPECT_THAT(prompts("[[1],[2,3]]"), testing::ElementsAre(Tokens{1}, Tokens{2, 3}));
}

TEST(RequestTest, DefaultsAndTruncation) {
  auto prepared = PrepareGeneration(
      Endpoint::kCompletions, R"({"prompt":"abcdef","truncate_prompt_tokens":2})", OneModel(), 0);
  ASSERT_TRUE(prepared.ok()) << "an empty model name means the only model: " << prepared.status();
  EXPECT_EQ(prepared->requests[0].prompt, (std::vector<TokenId>{'e', 'f'}));
  EXPECT_EQ(prepared->requests[0].sampling.max_tokens, 16) << "OpenAI's default for completions";
  prepared =
      PrepareGeneration(Endpoint::kCompletions,
                        Completion(R"("echo":true,"max_tokens":0,"logprobs":1)"), OneModel(), 0);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_TRUE(prepared->input.echo_only);
  EXPECT_EQ(prepared->requests[0].sampling.prompt_logprobs, 1);
}

TEST(RequestTest, AHostileObjectOfAMillionKeysIsReadInLinearTime) {
  std::string body = "{";
  for (int i = 0; i < 400'000; ++i) body += "\"k" + std::to_string(i) + "\":0,";
  body += R"("model":"m","prompt":"a"})";
  EXPECT_TRUE(StatusOfBody(Endpoint::kCompletions, body).ok());
}

TEST(RequestTest, TooManyValuesAreRefused) {
  std::string body = R"({"prompt":"a","x":[0)";
  for (int i = 0; i < (2 << 20); ++i) body += ",0";
  EXPECT_THAT(std::string(StatusOfBody(Endpoint::kCompletions, body + "]}").message()),
              testing::HasSubstr("too many"));
}

TEST(HeadTest, NamesOfPublicDnsAreToldFromLocalOnes) {
  for (const char* local : {"", "localhost", "localhost:8000", "127.0.0.1:8000", "10.1.2.3", "[::1]:8000", "[fe80::1]", "host", "a.localhost:1"}) {
    EXPECT_FALSE(http::IsPublicName(local)) << local;
  }
  for (const char* name : {"rebind.example.com", "rebind.example.com:8000", "127.0.0.1.nip.io", "a.b", "1.2.3.4x", "evil.localhost.com"}) {
    EXPECT_TRUE(http::IsPublicName(name)) << name;
  }
}

TEST(HeadTest, FramingThatParsersDisagreeOnIsRefused) {
  const http::Limits limits;
  const auto status = [&](const std::string& lines) {
    return http::CheckHead("POST / HTTP/1.1\r\n" + lines + "\r\n", limits).status;
  };
  EXPECT_EQ(status("Host: a\r\n"), 0);
  EXPECT_EQ(status("Host: a\r\nContent-Length: 3\r\n"), 0);
  EXPECT_EQ(status("Host: a\r\nTransfer-Encoding: chunked\r\n"), 0);
  EXPECT_EQ(status("Host: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400);
  EXPECT_EQ(status("Host: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n"), 400);
  EXPECT_EQ(status("Host: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n"), 400);
  EXPECT_EQ(status("Host: a\r\nContent-Length: +3\r\n"), 400);
  EXPECT_EQ(status("Host: a\r\nContent-Length: 99999999999999999999\r\n"), 400);
  EXPECT_EQ(status("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n"), 400);
  EXPECT_EQ(status("Host: a\r\nX: b\r\n folded\r\n"), 400);
  EXPECT_EQ(status("Host: a\nX: b\r\n"), 400);
  EXPECT_EQ(status("Host: a\r\nHost: b\r\n"), 400);
  EXPECT_EQ(status(""), 400) << "no Host";
  EXPECT_EQ(status("Host: a\r\n: b\r\n"), 400);
  std::string many = "Host: a\r\n";
  for (int i = 0; i < limits.header_count; ++i) many += "X: y\r\n";
  EXPECT_EQ(status(many), 431);
  EXPECT_EQ(http::CheckPartialHead(std::string(limits.header_bytes + 1, 'x'), limits).status, 431);
}

}  // namespace
}  // namespace pagoda::router::openai
