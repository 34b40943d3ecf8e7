#include "tests/sim/sim_router.h"

#include "pagoda/internal/v1/pipeline.pb.h"
#include "tests/sim/cluster.h"

namespace pagoda::sim {
namespace {

namespace wire = internal::v1;

constexpr int64_t kTickEvery = 100 * kMs;
constexpr int64_t kGrace = 30 * kSecond;  // as router/main.cc

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

}  // namespace pagoda::sim
