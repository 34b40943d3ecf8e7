#include "coordinator/leadership.h"

#include "common/log.h"

namespace pagoda::coordinator {
Leadership::Leadership(Store& store, Candidate self, Events events)
    : store_(store), self_(std::move(self)), events_(std::move(events)) {}

void Leadership::Begin() {
  Step();
  thread_ = std::thread([this] { Run(); });
}

void Leadership::Stop() {
  if (stopping_.exchange(true)) return;
  store_.Cancel();
  if (thread_.joinable()) thread_.join();
  if (leads_) (void)store_.Resign();
}

void Leadership::Run() {
  while (!stopping_.load()) {
    store_.WaitForChange(leads_ ? store_.RenewEvery() : store_.LookEvery());
    if (!stopping_.load()) Step();
  }
}

void Leadership::Step() {
  absl::Status status;
  if (leads_) {
    status = store_.Renew();
    if (absl::IsFailedPrecondition(status)) {
      leads_ = false;
      followed_ = "?";
      events_.lost(std::string(AsStd(status.message())));
      return;
    }
  } else {
    absl::StatusOr<Leader> leader = store_.Campaign(self_);
    if (leader.ok() && !leader->self && leader->who.address == self_.address && store_.CanDepose()) {
      // Two cannot have one address: that is this process in its last life, whose lease need not run out.
      LogWarning("leader_gone", {{"leader", self_.address}, {"why", "this process has its address now"}});
      if (store_.Depose(self_.address).ok()) leader = store_.Campaign(self_);
    }
    status = leader.status();
    if (leader.ok() && leader->self) {
      leads_ = true;
      events_.lead(*leader);
    } else if (leader.ok() && leader->who.address != followed_) {
      followed_ = leader->who.address;
      events_.follow(followed_);
    }
  }
  if (status.ok() == unreachable_) {  // it changed
    unreachable_ = !status.ok();
    if (unreachable_) {
      LogWarning("store_unreachable", {{"leads", leads_}, {"error", AsStd(status.message())}});
    } else {
      LogInfo("store_reachable_again", {{"leads", leads_}});
    }
  }
}

}  // namespace pagoda::coordinator
