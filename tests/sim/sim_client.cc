#include "tests/sim/sim_client.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "router/resumed_request.h"
#include "tests/sim/cluster.h"
#include "text/tokenizer.h"

namespace pagoda::sim {
namespace {

constexpr int64_t kPatience = 200 * kSecond;

// The session asks it for the size of the vocabulary; no text is made.
class ToyTokenizer final : public text::Tokenizer {
 public:
  std::vector<TokenId> Encode(std::string_view, EncodeOptions) const override { return {}; }
  std::string_view TokenBytes(TokenId) const override { return "x"; }
  std::string_view TokenText(TokenId) const override { return "x"; }
  bool IsSpecial(TokenId) const override { return false; }
  bool StripsLeadingSpace(TokenId) const override { return false; }
  int vocabulary_size() const override { return kToyVocabulary; }
  TokenId bos() const override { return -1; }
  const std::vector<TokenId>& end_of_generation() const override { return none_; }

 private:
  std::vector<TokenId> none_;
};

bool SaysThatItsModelIsGone(const absl::Status& status) { return absl::StrContains(status.message(), "another one was deployed as"); }

std::shared_ptr<const text::TextModel> ToyText() {
  auto model = std::make_shared<text::TextModel>();
  model->tokenizer = std::make_unique<ToyTokenizer>();
  return model;
}

}  // namespace

// To one router. What is said on it once it is broken, or once the client has gone, reaches nobody.
class SimClient::Connection : public router::GenerationSink {
 public:
  Connection(SimClient& client, Life router) : client_(client), router_(router) {}

  void OnDelta(const router::Session& session, router::ChoiceDelta delta) override {
    if (open_) client_.Hear(session);
    if (open_) client_.OnDelta(std::move(delta));
  }
  void OnStepEnd() override {}
  void OnDone(const router::Session&) override {
    over_ = true;
    if (open_) client_.OnDone();
  }
  void OnError(const absl::Status& status) override {
    over_ = true;
    if (open_) client_.OnError(status);
  }
  void OnHandOver(const absl::Status&) override {
    over_ = true;
    if (!open_) return;
    client_.cluster_.Count("handed_over");
    open_ = false;
    if (client_.connection_.get() == this) client_.connection_ = nullptr;
    client_.AskLater();
  }

  SimClient& client_;
  const Life router_;
  RequestId id_;
  bool known_ = false;     // a coordinator knew the stream: it was accepted before
  bool heard_ = false;     // something new came
  bool started_ = false;   // the router generates for it
  bool over_ = false;      // it does not any more
  bool open_ = true;       // what the router says arrives
  bool noticed_ = false;   // the router knows that the client has gone
};

std::string SimClient::NameOf(int number) { return absl::StrCat("client-", number); }

SimClient::SimClient(Cluster& cluster, int number, Plan plan)
    : cluster_(cluster), world_(cluster.world()), number_(number), name_(NameOf(number)), plan_(std::move(plan)) {
  for (const int bits : {8, 12}) {
    Answer& answer = all_.emplace_back();
    answer.activation_bits = bits;
    for (int c = 0; c < plan_.choices; ++c) answer.choices.push_back(ToyAnswer(plan_.request, c, bits));
  }
  Forget();
  world_.After(plan_.arrives_ns, [this] { Ask(); });
  if (plan_.cancels_after_ns >= 0) world_.After(plan_.arrives_ns + plan_.cancels_after_ns, [this] { Leave(); });
}

void SimClient::Forget() {
  got_.assign(static_cast<size_t>(plan_.choices), {});
  finished_.assign(got_.size(), false);
  possible_ = all_;
  changed_ = may_change_ = false;
  numerics_.clear();
  mark_ = 0;
}

void SimClient::AskLater() {
  world_.After(world_.Uniform(100 * kMs, 500 * kMs), [this] { Ask(); });
}

void SimClient::Ask() {
  if (ended_ || connection_ != nullptr) return;
  SimRouter* router = cluster_.RouterOf(plan_.router + attempts_++);
  if (router == nullptr || router->leaving()) return AskLater();
  const bool has_news = std::ranges::any_of(got_, [](const auto& tokens) { return !tokens.empty(); }) ||
                        std::ranges::count(finished_, true) > 0;
  connection_ = std::make_shared<Connection>(*this, router->life());
  Watch(connection_);
  if (plan_.resumable && has_news) return ComeBack(*router);
  // A client that cannot go on asks again, as a new request: nothing was promised to it.
  Forget();
  Begin(*router, RequestFor(*router), false);
}

router::GenerationRequest SimClient::RequestFor(SimRouter& router) const {
  router::GenerationRequest request;
  request.id = RequestId{world_.Bits(), world_.Bits()};
  request.client_request_id = name_;
  request.model = cluster_.spec().name;
  request.model_digest = cluster_.model().digest;
  request.prompt = plan_.request.prompt;
  request.choices = plan_.choices;
  request.sampling.seed = plan_.request.seed;
  request.sampling.max_tokens = plan_.request.max_tokens;
  request.sampling.min_tokens = plan_.request.min_tokens;
  request.sampling.stop_token_ids = plan_.request.stop_token_ids;
  request.sampling.top_k = plan_.request.period;  // no sampler of the toy has another use for it
  request.sampling.speculative_tokens = plan_.speculative_tokens;
  request.detokenize = false;
  request.text = ToyText();
  request.priority = plan_.priority;
  request.received_ns = world_.LocalNow(router.life().process);
  request.deadline_ns = request.received_ns + kPatience;
  if (plan_.resumable) {
    request.resume_id = name_;
    request.router_state = absl::StrCat("the request of ", name_);
  }
  return request;
}

void SimClient::Begin(SimRouter& router, router::GenerationRequest request, bool known) {
  const std::shared_ptr<Connection> connection = connection_;
  connection->id_ = request.id;
  connection->known_ = known;
  connection->started_ = true;
  const absl::Status status = router.dispatcher().Start(std::move(request), connection);
  if (status.ok()) return;
  connection->over_ = true;
  connection_ = nullptr;
  if (SaysThatItsModelIsGone(status)) return GiveUp();
  AskLater();
}

// Its tokens were of another spec, and of those that know them none is left: the client is told, and gets no others'.
void SimClient::GiveUp() {
  cluster_.Count("model_changed");
  if (cluster_.Counts()["applied"] == 0) world_.Violate(absl::StrCat(name_, " is told that its model is gone, and nothing was applied"));
  End("is told that its model is gone");
}

router::StreamPosition SimClient::Position() const {
  router::StreamPosition position;
  position.mark = mark_;
  for (size_t c = 0; c < got_.size(); ++c) {
    position.choices.push_back({.begun = finished_[c] || !got_[c].empty(),
                                .tokens = static_cast<int>(got_[c].size()),
                                .text_ended = finished_[c],
                                .finished = finished_[c]});
  }
  if (!position.HasTokens()) position.mark = 0;
  // As it travels.
  const absl::StatusOr<router::StreamPosition> read = router::StreamPosition::Parse(position.ToString());
  if (!read.ok() || *read != position) world_.Violate(absl::StrCat("a position is not read as it was written: ", position.ToString()));
  return position;
}

void SimClient::ComeBack(SimRouter& router) {
  router.dispatcher().FindStream("", name_, [this, connection = connection_](const router::FoundStream& found) {
    if (!connection->noticed_) GoOn(connection, found);
  });
}

// As router/openai/service.cc, for a connection that the client may have left meanwhile.
void SimClient::GoOn(const std::shared_ptr<Connection>& connection, const router::FoundStream& found) {
  SimRouter* router = cluster_.RouterOfLife(connection->router_);
  const bool current = connection == connection_;
  const bool without_request = plan_.asks_without_its_request && !turned_away_without_request_;
  if (router->leaving() || (found.parts.empty() && without_request)) {
    turned_away_without_request_ = turned_away_without_request_ || !router->leaving();
    connection->over_ = true;
    if (!current) return;
    connection_ = nullptr;
    return AskLater();
  }
  if (!current) return;  // the router writes to a closed connection: it is cancelled before anything else happens
  const router::FoundPart* part = found.parts.empty() ? nullptr : &found.parts.front();
  router::GenerationRequest request = RequestFor(*router);
  if (part != nullptr) {
    if (part->router_state != request.router_state) world_.Violate(absl::StrCat(name_, " finds the state '", part->router_state, "'"));
  }
  const router::StreamPosition position = Position();
  for (size_t c = 0; c < position.choices.size(); ++c) {
    request.known.push_back(KnownOf(position.choices[c], part != nullptr && c < part->choices.size() ? &part->choices[c] : nullptr));
  }
  TakeUp(part, &position, request);
  cluster_.Count(part != nullptr ? "resumed_by_log" : "resumed_by_request");
  world_.Note(absl::StrCat(name_, " goes on at ", world_.NameOf(connection->router_.process), " from ", position.ToString(),
                           part != nullptr ? "" : ", which nobody knows"));
  Begin(*router, std::move(request), part != nullptr);
}

// A router that dies takes its connections along.
void SimClient::Watch(const std::shared_ptr<Connection>& connection) {
  world_.After(100 * kMs, [this, connection] {
    if (ended_ || connection != connection_) return;
    if (world_.Lives(connection->router_)) return Watch(connection);
    connection->open_ = false;
    connection_ = nullptr;
    Ask();
  });
}

// The router hears of it later; until then it goes on for nobody.
void SimClient::LetGo(int64_t noticed_after_ns) {
  const std::shared_ptr<Connection> connection = std::move(connection_);
  connection_ = nullptr;
  if (connection == nullptr) return;
  connection->open_ = false;
  world_.After(connection->router_, noticed_after_ns, [this, connection] {
    connection->noticed_ = true;
    SimRouter* router = cluster_.RouterOfLife(connection->router_);
    if (connection->started_ && !connection->over_) router->dispatcher().Cancel(connection->id_);
  });
}

void SimClient::Break() {
  if (ended_ || connection_ == nullptr) return;
  world_.Note(absl::StrCat("the connection of ", name_, " breaks"));
  cluster_.Count("broken");
  // What was on its way is lost before the client knows.
  connection_->open_ = false;
  world_.After(world_.Uniform(0, 200 * kMs), [this, connection = connection_] {
    if (ended_ || connection != connection_) return;
    LetGo(world_.Uniform(0, 3 * kSecond));
    Ask();
  });
}

void SimClient::Leave() {
  if (ended_) return;
  left_ = true;
  LetGo(0);
  End("left");
}

void SimClient::End(const char* how) {
  ended_ = true;
  connection_ = nullptr;
  world_.Note(absl::StrCat(name_, " ", how));
}

void SimClient::Hear(const router::Session& session) {
  router::StreamPosition position;
  position.mark = mark_;
  position.Mark(session.mark());
  mark_ = position.mark;
  may_change_ = may_change_ || mark_ == router::kMixedMark || (!numerics_.empty() && numerics_ != session.numerics());
  numerics_ = session.numerics();
}

void SimClient::OnDelta(router::ChoiceDelta delta) {
  if (world_.TakeSpoil("swallowed")) return;
  if (ended_) return world_.Violate(absl::StrCat(name_, " gets news after its end"));
  const auto choice = static_cast<size_t>(delta.choice);
  if (choice >= got_.size()) return world_.Violate(absl::StrCat(name_, " gets choice ", delta.choice));
  if (finished_[choice]) return world_.Violate(absl::StrCat(name_, " gets news of a choice that ended"));
  connection_->heard_ = true;
  for (const TokenId token : delta.tokens) {
    const size_t index = got_[choice].size();
    got_[choice].push_back(token);
    if (changed_) continue;
    const std::vector<TokenId> due = possible_.front().choices[choice];
    std::erase_if(possible_, [&](const Answer& answer) {
      return index >= answer.choices[choice].size() || answer.choices[choice][index] != token;
    });
    if (possible_.empty() && may_change_) {
      changed_ = true;
      cluster_.Count("numerics_changed");
      continue;
    }
    if (possible_.empty()) {
      return world_.Violate(absl::StrCat(name_, " choice ", choice, " output ", index, ": ", token, " where ",
                                         index < due.size() ? due[index] : -1, " was due"));
    }
  }
  size_t total = 0;
  for (const auto& tokens : got_) total += tokens.size();
  if (breaks_ < plan_.breaks_at.size() && total >= static_cast<size_t>(plan_.breaks_at[breaks_])) {
    ++breaks_;
    Break();
  }
  if (delta.finish == router::FinishReason::kNone) return;
  finished_[choice] = true;
  if (changed_) return;
  const size_t due = possible_.front().choices[choice].size();
  std::erase_if(possible_, [&](const Answer& answer) { return answer.choices[choice].size() != got_[choice].size(); });
  if (possible_.empty()) {
    world_.Violate(absl::StrCat(name_, " choice ", choice, " ends after ", got_[choice].size(), " of ", due, " tokens"));
  }
}

void SimClient::OnDone() {
  if (world_.TakeSpoil("unanswered")) return;
  if (ended_) return world_.Violate(absl::StrCat(name_, " ends twice"));
  if (std::ranges::count(finished_, false) > 0) world_.Violate(absl::StrCat(name_, " is done before its choices are"));
  if (possible_.size() == 1) cluster_.Count(absl::StrCat("answers_of_", possible_.front().activation_bits, "_bits"));
  End("has its answer");
}

void SimClient::OnError(const absl::Status& status) {
  if (ended_) return world_.Violate(absl::StrCat(name_, " ends twice"));
  if (SaysThatItsModelIsGone(status)) return GiveUp();
  const Connection& connection = *connection_;
  const bool grace_over = !plan_.resumable && world_.Lives(connection.router_) &&
                          cluster_.RouterOfLife(connection.router_)->cut_the_rest();
  if (grace_over) cluster_.Count("cut");
  const bool turned_away = grace_over || (!connection.heard_ && !connection.known_);
  if (turned_away && (absl::IsUnavailable(status) || absl::IsResourceExhausted(status))) {  // it comes again
    connection_ = nullptr;
    return AskLater();
  }
  if (absl::IsAborted(status) && cluster_.MayBeQuarantined(plan_.request.prompt, kSecond + plan_.arrives_ns)) {
    cluster_.Count("quarantined");
    return End("is quarantined");
  }
  world_.Violate(absl::StrCat(name_, " gets an error: ", status.ToString()));
  End("failed");
}

}  // namespace pagoda::sim
