#include "tests/sim/sim_router.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "tests/sim/cluster.h"
#include "text/tokenizer.h"

namespace pagoda::sim {
namespace {

namespace wire = internal::v1;

constexpr int64_t kTickEvery = 100 * kMs;
constexpr int64_t kGrace = 30 * kSecond;  // as router/main.cc
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

std::shared_ptr<const text::TextModel> ToyText() {
  auto model = std::make_shared<text::TextModel>();
  model->tokenizer = std::make_unique<ToyTokenizer>();
  return model;
}

}  // namespace

SimRouter::SimRouter(Cluster& cluster, Life life) : cluster_(cluster), world_(cluster.world()), life_(life) {
  registry_ = std::make_unique<router::ModelRegistry>(router::ModelRegistry::Edges{
      .fetch = [](int, const std::string&, router::ModelRegistry::BundleCallback) {},
      .post = [](std::function<void()>) {},
      .pool = nullptr});
  router::Dispatcher::Edges edges;
  edges.send = [this](int link, std::unique_ptr<wire::RouterMessage> message) {
    const auto found = links_.find(link);
    if (found == links_.end() || !found->second.stream->open()) return false;
    SimCoordinator* coordinator = cluster_.CoordinatorOf(found->second.coordinator);
    const std::shared_ptr<Stream>& stream = found->second.stream;
    const std::shared_ptr<wire::RouterMessage> held = std::move(message);
    if (coordinator != nullptr) stream->Send(life_.process, [coordinator, stream, held] { coordinator->OnRouterMessage(stream.get(), *held); });
    return true;
  };
  edges.add_coordinator = [](const std::string&) {};  // all are known already
  edges.now = [this] { return world_.LocalNow(life_.process); };
  dispatcher_ = std::make_unique<router::Dispatcher>(
      router::Dispatcher::Options{.max_requests_in_flight = 4096, .prefix_index_bytes = 1 << 20, .policy = {}}, edges,
      registry_.get(), &metrics_);
  for (int i = 0; i < cluster_.coordinators(); ++i) Connect(i);
  Tick();
}

void SimRouter::Connect(int index) {
  SimCoordinator* coordinator = cluster_.Reach(life_.process, index);
  if (coordinator == nullptr) {
    world_.After(life_, world_.Uniform(50 * kMs, 500 * kMs), [this, index] { Connect(index); });
    return;
  }
  const int link = next_link_++;
  const auto handle = std::make_shared<std::weak_ptr<Stream>>();
  auto stream = cluster_.network().Connect(
      {life_, [this, link, index] {
         OnLost(link);
         world_.After(life_, world_.Uniform(50 * kMs, 500 * kMs), [this, index] { Connect(index); });
       }},
      {coordinator->life(), [coordinator, handle] { coordinator->OnRouterLost(handle->lock()); }});
  *handle = stream;
  links_[link] = {stream, coordinator->life(), world_.LocalNow(life_.process)};
  cluster_.NameLink(life_, stream.get(), link);
  stream->Send(life_.process, [coordinator, stream, life = life_] { coordinator->OnRouterAttached(stream, life); });
}

void SimRouter::OnMessage(int link, const wire::CoordinatorMessage& message) {
  const auto found = links_.find(link);
  if (found == links_.end()) return;
  found->second.last_word_ns = world_.LocalNow(life_.process);
  dispatcher_->OnMessage(link, message);
}

void SimRouter::OnLost(int link) {
  if (links_.erase(link) > 0) dispatcher_->OnLinkLost(link);
}

void SimRouter::Tick() {
  dispatcher_->Tick();
  if (leaving()) CheckShutdown();
  world_.After(life_, kTickEvery, [this] { Tick(); });
}

void SimRouter::Leave() {
  dispatcher_->HandOver(absl::UnavailableError("this router is shutting down; come back to another"));
  leave_by_ns_ = world_.now_ns() + kGrace;
}

// As router/router.cc.
void SimRouter::CheckShutdown() {
  if (dispatcher_->in_flight() > 0 && world_.now_ns() < leave_by_ns_) return;
  if (dispatcher_->in_flight() > 0 && !cut_the_rest_) {
    cut_the_rest_ = true;
    return dispatcher_->FailAll(absl::UnavailableError("this router was shut down before the request was finished"));
  }
  cluster_.Exit(life_);
}

SimClient::SimClient(Cluster& cluster, int number, Plan plan)
    : cluster_(cluster), world_(cluster.world()), number_(number), plan_(std::move(plan)) {
  for (int c = 0; c < plan_.choices; ++c) expected_.push_back(ToyAnswer(plan_.request, c));
  world_.After(plan_.arrives_ns, [this] { Ask(); });
  if (plan_.cancels_after_ns >= 0) world_.After(plan_.arrives_ns + plan_.cancels_after_ns, [this] { Leave(); });
}

void SimClient::Ask() {
  if (ended_) return;
  ++attempts_;
  asked_ = false;
  got_.assign(static_cast<size_t>(plan_.choices), {});
  finished_.assign(static_cast<size_t>(plan_.choices), false);
  SimRouter* router = cluster_.RouterOf(plan_.router + attempts_ - 1);
  if (router != nullptr && !router->leaving()) {
    router::GenerationRequest request;
    id_ = RequestId{world_.Bits(), world_.Bits()};
    request.id = id_;
    request.client_request_id = absl::StrCat("client-", number_);
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
    request.received_ns = world_.LocalNow(router->life().process);
    request.deadline_ns = request.received_ns + kPatience;
    router_ = router->life();
    asked_ = true;
    const absl::Status status = router->dispatcher().Start(
        std::move(request), std::shared_ptr<router::GenerationSink>(std::shared_ptr<void>(), this));
    if (status.ok()) {
      // A client of a router that dies asks again, as a new request: nothing was promised to it.
      const auto watch = std::make_shared<std::function<void()>>();
      *watch = [this, watch, life = router_] {
        if (ended_ || !asked_ || life != router_) return;
        if (!world_.Lives(life)) return Ask();
        world_.After(100 * kMs, *watch);
      };
      world_.After(100 * kMs, *watch);
      return;
    }
    asked_ = false;
    ++refusals_;
  }
  world_.After(world_.Uniform(100 * kMs, 500 * kMs), [this] { Ask(); });
}

void SimClient::Leave() {
  if (ended_) return;
  left_ = true;
  if (asked_ && world_.Lives(router_)) {
    const RequestId id = id_;
    SimRouter* router = cluster_.RouterOfLife(router_);
    world_.After(router_, 0, [router, id] { router->dispatcher().Cancel(id); });
  }
  End("left");
}

void SimClient::End(const char* how) {
  ended_ = true;
  world_.Note(absl::StrCat("client-", number_, " ", how));
}

void SimClient::OnDelta(const router::Session&, router::ChoiceDelta delta) {
  if (ended_) {
    if (!left_) world_.Violate(absl::StrCat("client-", number_, " gets news after its end"));
    return;
  }
  const auto choice = static_cast<size_t>(delta.choice);
  if (choice >= got_.size()) return world_.Violate(absl::StrCat("client-", number_, " gets choice ", delta.choice));
  if (finished_[choice]) return world_.Violate(absl::StrCat("client-", number_, " gets news of a choice that ended"));
  for (const TokenId token : delta.tokens) {
    const size_t index = got_[choice].size();
    if (index >= expected_[choice].size() || expected_[choice][index] != token) {
      return world_.Violate(absl::StrCat("client-", number_, " choice ", choice, " output ", index, ": ", token, " where ",
                                         index < expected_[choice].size() ? expected_[choice][index] : -1, " was due"));
    }
    got_[choice].push_back(token);
  }
  if (delta.finish == router::FinishReason::kNone) return;
  finished_[choice] = true;
  if (got_[choice].size() != expected_[choice].size()) {
    world_.Violate(absl::StrCat("client-", number_, " choice ", choice, " ends after ", got_[choice].size(), " of ",
                                expected_[choice].size(), " tokens"));
  }
}

void SimClient::OnDone(const router::Session&) {
  if (ended_ && !left_) return world_.Violate(absl::StrCat("client-", number_, " ends twice"));
  if (ended_) return;
  if (std::ranges::count(finished_, false) > 0) world_.Violate(absl::StrCat("client-", number_, " is done before its choices are"));
  End("has its answer");
}

void SimClient::OnError(const absl::Status& status) {
  if (left_) return;
  if (ended_) return world_.Violate(absl::StrCat("client-", number_, " ends twice"));
  const bool any = std::ranges::any_of(got_, [](const auto& tokens) { return !tokens.empty(); });
  const bool grace_over = world_.Lives(router_) && cluster_.RouterOfLife(router_)->cut_the_rest();
  if (grace_over) cluster_.Count("cut");
  if ((!any || grace_over) && (absl::IsUnavailable(status) || absl::IsResourceExhausted(status))) {  // turned away: it comes again
    ++refusals_;
    asked_ = false;
    world_.After(world_.Uniform(100 * kMs, 500 * kMs), [this] { Ask(); });
    return;
  }
  error_ = status.ToString();
  world_.Violate(absl::StrCat("client-", number_, " gets an error: ", error_));
  End("failed");
}

}  // namespace pagoda::sim
