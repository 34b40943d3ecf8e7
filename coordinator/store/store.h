// What coordinators must not forget: deployments, pipelines with their places, the last epoch, and who leads. Nothing of a
// request is here. One method is one durable transaction. Every write but Campaign is fenced: it holds only while this store
// object's leadership does (kFailedPrecondition otherwise), so a coordinator that was stopped for a while and lost it meanwhile
// can start no epoch. Implementations: embedded (sqlite_store.h: one host) and etcd (etcd_store.h: several).
// Thread rule: any thread; calls may block for as long as their implementation's timeout.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/ids.h"
#include "common/status.h"
#include "coordinator/cluster_records.h"
#include "coordinator/deployment.h"

namespace pagoda::coordinator {

struct StoredState {
  std::vector<DeploymentSpec> deployments;  // by name
  std::vector<RestoredPipeline> pipelines;  // by id
  uint64_t last_epoch = 0;
  uint64_t last_pipeline = 0;
};

// Who leads, or would.
struct Candidate {
  std::string name;
  std::string address;  // host:port where workers, routers and operators reach it
};
struct Leader {
  Candidate who;
  uint64_t term = 0;    // of the leadership: rises with every change
  bool self = false;    // it is the one that campaigned here
};

class Store {
 public:
  virtual ~Store() = default;

  // Takes the leadership when nobody holds it; tells who does now. kUnavailable: the store cannot be reached.
  virtual absl::StatusOr<Leader> Campaign(const Candidate& candidate) = 0;
  // Keeps it. kFailedPrecondition: it is another's. kUnavailable: unknown, and so not lost by this.
  virtual absl::Status Renew() = 0;
  // Lets go of it, so that a standby need not wait.
  virtual absl::Status Resign() = 0;
  // Ends the leadership of whoever was last seen to lead at `address`, since its process is known to be gone; another's is left
  // alone, and so is one's own. Stores that see dead leaders themselves need it not.
  virtual bool CanDepose() const { return false; }
  virtual absl::Status Depose(const std::string& /*address*/) { return absl::OkStatus(); }
  // How often to renew, and how often a standby looks (a change may wake it earlier).
  virtual absl::Duration RenewEvery() const = 0;
  virtual absl::Duration LookEvery() const = 0;
  // Sleeps until the leadership may have changed, at most `timeout`. Cancel ends it.
  virtual void WaitForChange(absl::Duration timeout) = 0;
  virtual void Cancel() = 0;

  virtual absl::StatusOr<StoredState> Load() = 0;
  virtual absl::Status PutDeployment(const DeploymentSpec& spec) = 0;
  virtual absl::Status DeleteDeployment(const std::string& name) = 0;
  virtual absl::Status PutPipeline(const RestoredPipeline& pipeline) = 0;
  virtual absl::Status DeletePipeline(PipelineId pipeline) = 0;
  // The last epoch only rises. kFailedPrecondition when this one or a later one was used, or the leadership is another's.
  virtual absl::Status AdvanceEpoch(Epoch epoch) = 0;
};

}  // namespace pagoda::coordinator
