// A stream cut at every token and gone on with by another router: what its client has in the end is what it would have had
// undisturbed. Text with characters of several tokens, stop strings across the cut, log-probabilities, several choices,
// tokens in batches of any size, with a log and without one. And the position that a client brings back.
#include <gtest/gtest.h>

#include "router/session.h"
#include "router/stream_position.h"
#include "tests/router/byte_tokenizer.h"

namespace pagoda::router {
namespace {

struct Scene {
  std::string name;
  std::vector<std::string> outputs;  // the bytes that the model says, of each choice
  std::vector<std::string> stop = {};
  bool include_stop = false;
  int min_tokens = 0;
  int max_tokens = 60;
  bool logprobs = false;
  FinishReason end = FinishReason::kStop;  // by the end token; kLength: by max_tokens
  bool end_comes_late = false;             // in a message of its own
};

std::vector<Scene> Scenes() {
  return {
      {.name = "plain", .outputs = {"The quick brown fox"}},
      {.name = "characters of several tokens", .outputs = {"Ol\xC3\xA9, \xE4\xB8\x96\xE7\x95\x8C! \xF0\x9F\xA6\x8A ok"}},
      {.name = "half a character at the end", .outputs = {"ab\xE4\xB8"}},
      {.name = "a stop string", .outputs = {"Then it stops. STOP and more that nobody sees"}, .stop = {"STOP"}},
      {.name = "a stop string that is shown", .outputs = {"x END y"}, .stop = {"END"}, .include_stop = true},
      {.name = "the beginning of a stop string, held back until the end", .outputs = {"almost STO"}, .stop = {"STOP"}},
      {.name = "a stop string before min_tokens does not count",
       .outputs = {"STOP early, STOP late"},
       .stop = {"STOP"},
       .min_tokens = 10},
      {.name = "logprobs", .outputs = {"with logprobs \xC3\xA9"}, .logprobs = true},
      {.name = "choices", .outputs = {"one", "two \xE7\x95\x8C longer", "three STOP"}, .stop = {"STOP"}, .logprobs = true},
      {.name = "length", .outputs = {"0123456789"}, .max_tokens = 10, .end = FinishReason::kLength},
      {.name = "an end that comes late", .outputs = {"late \xE4\xB8"}, .end_comes_late = true},
  };
}

GenerationRequest RequestOf(const Scene& scene) {
  GenerationRequest request;
  request.text = ByteTextModel();
  request.prompt = {1, 2, 3};
  request.choices = static_cast<int>(scene.outputs.size());
  request.sampling.max_tokens = scene.max_tokens;
  request.sampling.min_tokens = scene.min_tokens;
  request.sampling.logprobs = scene.logprobs ? 0 : -1;
  request.sampling.stop_token_ids = {ByteTokenizer::kEnd};
  request.stop = scene.stop;
  request.include_stop_in_output = scene.include_stop;
  return request;
}

// What a client has gathered of one choice.
struct Gathered {
  std::string text;
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  int ends = 0;
  FinishReason finish = FinishReason::kNone;
  std::string stop_string;
  bool operator==(const Gathered&) const = default;
};

struct Client {
  std::vector<Gathered> choices;
  StreamPosition position;

  void Take(const ChoiceDelta& delta) {
    Gathered& to = choices[static_cast<size_t>(delta.choice)];
    StreamPosition::Choice& at = position.choices[static_cast<size_t>(delta.choice)];
    to.text += delta.text;
    to.tokens.insert(to.tokens.end(), delta.tokens.begin(), delta.tokens.end());
    for (const PositionLogprobs& entry : delta.logprobs) to.logprobs.push_back(entry.front().logprob);
    at.begun = true;
    at.tokens += static_cast<int>(delta.tokens.size());
    if (delta.finish == FinishReason::kNone) return;
    ++to.ends;
    to.finish = delta.finish;
    to.stop_string = delta.stop_string.value_or("");
    at.text_ended = at.finished = true;
  }
};

std::vector<TokenId> TokensOf(const Scene& scene, size_t choice) {
  std::vector<TokenId> tokens;
  for (unsigned char byte : scene.outputs[choice]) tokens.push_back(byte);
  if (scene.end == FinishReason::kStop) tokens.push_back(ByteTokenizer::kEnd);
  return tokens;
}

// Plays the pipeline's part from what the session submits, `batch` tokens a message, until all is told or `most` tokens of all
// choices went out.
void Play(const Scene& scene, Session& session, Client& client, size_t batch, size_t most) {
  for (const ChoiceDelta& delta : session.Opening()) client.Take(delta);
  if (session.finished()) return;
  const Session::Submission submission = session.NextSubmission();
  std::vector<size_t> next;
  std::vector<bool> over;
  for (const auto& choice : submission.choices) {
    next.push_back(choice.tokens.size());
    over.push_back(choice.finished);
  }
  size_t sent = 0;
  while (!session.finished() && sent < most) {
    bool moved = false;
    for (size_t c = 0; c < next.size() && sent < most; ++c) {
      if (over[c]) continue;
      const std::vector<TokenId> all = TokensOf(scene, c);
      const size_t count = std::min({batch, all.size() - next[c], most - sent});
      TokenBatch message;
      message.attempt = submission.attempt;
      message.choice = static_cast<int>(c);
      message.first_index = static_cast<int>(next[c]);
      message.tokens = std::span(all).subspan(next[c], count);
      if (scene.logprobs) {
        for (size_t i = 0; i < count; ++i) {
          message.logprobs.push_back({{all[next[c] + i], -0.25f * static_cast<float>(next[c] + i), 1}});
        }
      }
      const bool last = next[c] + count == all.size();
      if (last && (!scene.end_comes_late || count == 0)) {
        message.finish = scene.end;
        if (scene.end == FinishReason::kStop && count > 0) message.stop_token = ByteTokenizer::kEnd;
        over[c] = true;
      }
      next[c] += count;
      sent += count;
      moved = true;
      Session::Update update = session.OnTokens(message);
      ASSERT_TRUE(update.kind == Session::Update::Kind::kDelta || update.kind == Session::Update::Kind::kIgnored)
          << scene.name << ": " << update.error;
      if (update.kind == Session::Update::Kind::kDelta) client.Take(update.delta);
      if (update.stop) over[c] = true;
    }
    if (!moved) break;
  }
}

Client Fresh(const Scene& scene) {
  Client client;
  client.choices.resize(scene.outputs.size());
  client.position.choices.resize(scene.outputs.size());
  return client;
}

TEST(ResumeSessionTest, EveryCutGoesOnAsIfItHadNotBeen) {
  int cuts = 0;
  for (const Scene& scene : Scenes()) {
    Client undisturbed = Fresh(scene);
    Session whole(RequestOf(scene));
    Play(scene, whole, undisturbed, 1, 10'000);
    size_t total = 0;
    for (size_t c = 0; c < scene.outputs.size(); ++c) {
      EXPECT_EQ(undisturbed.choices[c].ends, 1) << scene.name;
      total += TokensOf(scene, c).size();
    }
    for (size_t cut = 0; cut <= total; ++cut) {
      for (size_t batch : {size_t{1}, size_t{2}, size_t{5}}) {
        for (bool log : {true, false}) {
          Client client = Fresh(scene);
          Session first(RequestOf(scene));
          Play(scene, first, client, batch, cut);
          const auto back = StreamPosition::Parse(client.position.ToString());
          ASSERT_TRUE(back.ok()) << back.status();
          ASSERT_EQ(*back, client.position);
          GenerationRequest request = RequestOf(scene);
          request.attempts_before = 3;
          for (size_t c = 0; c < scene.outputs.size(); ++c) {
            const StreamPosition::Choice& at = back->choices[c];
            KnownChoice known{.tokens = {}, .delivered = at.tokens, .text_ended = at.text_ended, .finished = at.finished};
            const std::vector<TokenId> all = TokensOf(scene, c);
            if (log) known.tokens.assign(all.begin(), all.begin() + at.tokens);
            request.known.push_back(std::move(known));
          }
          Session second(std::move(request));
          for (size_t again : {size_t{1}, size_t{3}}) {
            if (again == 3 && batch != 2) continue;
            Client copy = client;
            GenerationRequest once = second.request();
            Session rest(std::move(once));
            Play(scene, rest, copy, again, 10'000);
            EXPECT_EQ(copy.choices, undisturbed.choices)
                << scene.name << " cut at " << cut << " of " << total << ", batches of " << batch << " then " << again
                << (log ? ", with the log" : ", without a log") << ": \"" << copy.choices[0].text << "\" instead of \""
                << undisturbed.choices[0].text << "\"";
            ++cuts;
          }
        }
      }
    }
  }
  EXPECT_GT(cuts, 1000);
}

// The first router's coordinator dies: the same session, submitted again with its log, at every token.
TEST(ResumeSessionTest, EveryReplayOfOneSessionGoesOnAsIfItHadNotBeen) {
  for (const Scene& scene : Scenes()) {
    Client undisturbed = Fresh(scene);
    Session whole(RequestOf(scene));
    Play(scene, whole, undisturbed, 1, 10'000);
    Client client = Fresh(scene);
    Session session(RequestOf(scene));
    for (int i = 0; i < 200 && !session.finished(); ++i) {
      Play(scene, session, client, 1, scene.outputs.size());
    }
    // One that only learns of its end from a message of its own needs a longer life.
    if (!session.finished()) Play(scene, session, client, 1, 10'000);
    EXPECT_EQ(client.choices, undisturbed.choices) << scene.name;
  }
}

TEST(StreamPositionTest, TextIsReadBackAndNothingElseIs) {
  StreamPosition position;
  position.created_unix_s = 1764165000;
  position.choices = {{.begun = true, .tokens = 12, .text_ended = true, .finished = true},
                      {.begun = false},
                      {.begun = true, .tokens = 0},
                      {.begun = true, .tokens = 7, .text_ended = true}};
  EXPECT_EQ(position.ToString(), "1764165000:12f.n.0.7e");
  EXPECT_EQ(*StreamPosition::Parse("1764165000:12f.n.0.7e"), position);
  position.usage_sent = true;
  EXPECT_EQ(*StreamPosition::Parse(position.ToString()), position);
  position.mark = 0xbeef;
  EXPECT_EQ(position.ToString(), "1764165000-beef:12f.n.0.7e.u");
  EXPECT_EQ(*StreamPosition::Parse(position.ToString()), position);
  std::string many = "1:";
  for (int i = 0; i < 33; ++i) many += i == 0 ? "n" : ".n";
  for (const std::string bad :
       {"", "5", ":", "1:", "1:x", "1:n.", "1:5ff", "1:5fe", "-1:5", "1:-5", "1:99999999999", "1:u", "1:5.u.n", "1: 5", "x:1",
        "1:5\n", "1:nn", "1:n5", "1-:5", "1-0:5", "1-x:5", "1--1:5", "1-100000000:5", "1-0x5:5"}) {
    EXPECT_FALSE(StreamPosition::Parse(bad).ok()) << bad;
  }
  EXPECT_FALSE(StreamPosition::Parse(many).ok());
}

TEST(StreamPositionTest, AMarkIsOfModelAndNumericsAndOfTwoNeither) {
  const uint32_t f16 = MarkOf("digest", "cpu-1 kv=f16 activations=8");
  EXPECT_EQ(f16, MarkOf("digest", "cpu-1 kv=f16 activations=8"));
  EXPECT_NE(f16, MarkOf("digest", "cpu-1 kv=int8 activations=8"));
  EXPECT_NE(f16, MarkOf("another", "cpu-1 kv=f16 activations=8"));
  StreamPosition position;
  position.Mark(0);
  EXPECT_EQ(position.mark, 0u);
  position.Mark(f16);
  position.Mark(f16);
  EXPECT_EQ(position.mark, f16);
  position.Mark(MarkOf("another", ""));
  EXPECT_EQ(position.mark, kMixedMark);
}

}  // namespace
}  // namespace pagoda::router
