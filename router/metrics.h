// What a router shows to Prometheus. Series exist with zero from the start, labels are bounded:
// endpoints and codes are ours, model names are those served, tenants those of the key file. Owner: main. Thread rule: the methods
// may be called from any thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "router/cluster_view.h"
#include "router/live_figures.h"
#include "router/tenant_metrics.h"

namespace prometheus {
class Registry;
}

namespace pagoda::router {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  void RequestEnded(std::string_view endpoint, int code, double seconds);
  void Rejected(std::string_view reason);
  // Of a model that the last snapshot had; of another they are not counted.
  void FirstToken(std::string_view model, double seconds);
  void InterToken(std::string_view model, double seconds);
  void Tokens(int64_t prompt, int64_t cached, int64_t output);  // of a request that ended
  void PromptTokens(int64_t tokens);
  void OutputTokens(int64_t tokens);
  void StreamCut(std::string_view reason);
  void Retried(std::string_view reason);
  void ProfileChanged();
  void CircuitOpened();
  void SetInFlight(int64_t requests);
  void SetConnections(int64_t connections);
  void SetCoordinators(int64_t attached);
  // The gauges that come from snapshots, with the vllm: aliases of every served model.
  // A model that is not in the view: its series go when `whole` (a coordinator said so), else they
  // show zeros (a coordinator was lost, and may come back with the model).
  void SetCluster(const ClusterView& view, bool whole);

  // `cluster`, `clients`: PEM files of this router's certificates; empty: none. Before the first Expose.
  void WatchCertificates(const std::string& cluster, const std::string& clients);
  std::string Expose() const;
  // The last minutes, for the status page. Fed by the methods above.
  LiveFigures& live() { return live_; }
  TenantMetrics& tenants();
  std::function<void(std::string_view outcome, int64_t spans)> span_counter();

 private:
  struct State;
  std::unique_ptr<State> state_;
  LiveFigures live_;
};

}  // namespace pagoda::router
