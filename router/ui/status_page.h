// The status page under /ui: its files (compiled in from router/ui/page), and a stream of server-sent events that tells the
// page what the cluster looks like. Events, each one line of JSON:
//   hello    {"version","router","history":[sample...]}             once, first
//   sample   one second of this router (FigureSample)               each second
//   cluster  {"link","cluster":pagoda.v1.ClusterState without events}  at each change and at least each second
//   events   {"link","coordinator","events":[ClusterEvent...]}      what is new of them
//   lost     {"link"}                                               a coordinator's stream ended
// Coordinators are asked for the cluster only while somebody looks. Thread rule: all on the event loop's thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "router/http/server.h"
#include "router/metrics.h"

namespace pagoda::internal::v1 {
class CoordinatorMessage;
class RouterMessage;
}  // namespace pagoda::internal::v1

namespace pagoda::router::ui {

class StatusPage {
 public:
  struct Options {
    std::string version;
    std::string router_name;
  };
  struct Edges {
    std::function<bool(int link, std::unique_ptr<internal::v1::RouterMessage>)> send;
    // Whether the cluster may be seen with that Authorization header; asked again each second while somebody looks. The page itself (no
    // data in it) and the playground's API are not asked about here.
    std::function<absl::Status(std::string_view authorization)> may_see_cluster;
  };
  StatusPage(Options options, Edges edges, Metrics* metrics);
  ~StatusPage();

  // Whether the path is the page's.
  static bool Owns(std::string_view path);
  void Handle(const http::Request& request, std::shared_ptr<http::Response> response);

  void OnMessage(int link, const internal::v1::CoordinatorMessage& message);
  void OnLinkLost(int link);
  void EverySecond();
  // Ends all streams and takes no new one.
  void Drain();

 private:
  struct Viewer {
    std::shared_ptr<http::Response> response;
    std::string authorization;
    std::map<int, uint64_t> told;  // by link: the last event's number
    bool gone = false;
  };
  struct Link {
    bool attached = false;
    std::string coordinator;
    std::string cluster;                                     // the data of the last `cluster` event
    std::vector<std::pair<uint64_t, std::string>> events;  // number, JSON; oldest first
  };

  void Stream(std::string authorization, std::shared_ptr<http::Response> response);
  void End(Viewer& viewer);
  void Watch(int link, bool on);
  void TellEvents(int link, Viewer& viewer);
  void Write(Viewer& viewer, std::string_view event, std::string_view data);
  void Sweep();  // forgets viewers that have gone
  void Answer(http::Response& response, int status, std::string_view type, std::string body);

  const Options options_;
  const Edges edges_;
  Metrics* const metrics_;
  std::map<int, Link> links_;
  std::vector<std::shared_ptr<Viewer>> viewers_;
  bool draining_ = false;
};

}  // namespace pagoda::router::ui
