// Checks of a running cluster, from this machine.
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "cli/doctor.h"
#include "cli/http_client.h"
#include "cli/json_text.h"

namespace pagoda::cli {
namespace {

constexpr double kLateHeartbeatMs = 2000;

Finding CheckDeployment(const v1::Deployment& deployment) {
  Finding finding{.subject = "deployment " + deployment.spec().name(),
                  .text = absl::StrCat(NameOf(deployment.state()), ", ", deployment.replicas_ready(), " of ",
                                       deployment.spec().replicas(), " pipelines ready")};
  if (deployment.state() == v1::DEPLOYMENT_STATE_FAILED) finding.verdict = Verdict::kProblem;
  if (deployment.state() == v1::DEPLOYMENT_STATE_PENDING || deployment.state() == v1::DEPLOYMENT_STATE_DEGRADED) {
    finding.verdict = Verdict::kWarning;
  }
  const bool rolls = deployment.state() == v1::DEPLOYMENT_STATE_ROLLING;
  if (finding.verdict != Verdict::kGood || rolls) finding.advice = deployment.message();
  return finding;
}

Finding CheckWorker(const v1::WorkerState& worker, const std::string& coordinator_version) {
  Finding finding{.subject = "worker " + worker.name(),
                  .text = absl::StrCat(worker.state(), " on ", worker.host(), ", ", worker.numerics_profile(), ", ",
                                       worker.implementation())};
  if (worker.state() == "lost") {
    finding.verdict = Verdict::kProblem;
    finding.advice = "it stopped answering; look at its log and its host";
  } else if (worker.heartbeat_age_ms() > kLateHeartbeatMs) {
    finding.verdict = Verdict::kWarning;
    finding.advice = absl::StrCat("not heard of for ", static_cast<int>(worker.heartbeat_age_ms()),
                                  " ms; is its host overloaded or the network slow?");
  } else if (!coordinator_version.empty() && absl::StrContains(worker.implementation(), "pagoda/") &&
             !absl::StrContains(worker.implementation(), coordinator_version)) {
    finding.verdict = Verdict::kWarning;
    finding.advice = "another version than the coordinator's " + coordinator_version;
  }
  return finding;
}

}  // namespace

std::vector<Finding> CheckCluster(const std::string& coordinators, const std::string& tls) {
  std::vector<Finding> findings;
  for (absl::string_view text : absl::StrSplit(coordinators, ',', absl::SkipWhitespace())) {
    const std::string address(absl::StripAsciiWhitespace(text));
    const auto state = AdminClient(address, tls).GetCluster();
    if (!state.ok()) {
      findings.push_back({Verdict::kProblem, "coordinator " + address, std::string(state.status().message()),
                          "is it running there, and is the way to it open?"});
      continue;
    }
    Finding finding{.subject = "coordinator " + address,
                    .text = absl::StrCat(state->coordinator(), ", version ", state->version(),
                                         state->leader() ? ", leader" : ", standby")};
    if (state->version() != PAGODA_VERSION) {
      finding.verdict = Verdict::kWarning;
      finding.advice = "this command is version " PAGODA_VERSION;
    }
    findings.push_back(std::move(finding));
    for (const v1::Deployment& deployment : state->deployments()) findings.push_back(CheckDeployment(deployment));
    for (const v1::WorkerState& worker : state->workers()) findings.push_back(CheckWorker(worker, state->version()));
  }
  return findings;
}

std::vector<Finding> CheckRouter(const std::string& router, const std::string& authority) {
  const auto server = ParseServer(router);
  if (!server.ok()) return {{Verdict::kProblem, "router", std::string(server.status().message()), ""}};
  const std::string subject = "router " + server->ToString();
  const auto models = HttpCall(
      {.server = *server, .target = "/v1/models", .timeout_ms = 3000, .authority = AuthorityFor(router, authority)});
  if (!models.ok()) {
    return {{Verdict::kProblem, subject, std::string(models.status().message()),
             "is it running there, and is the way to it open?"}};
  }
  const nlohmann::json body = nlohmann::json::parse(models->body, nullptr, false);
  if (models->status == 401) return {{Verdict::kGood, subject, "answers, and wants an API key", ""}};
  if (models->status != 200 || !body.is_object() || !body.contains("data") || !body["data"].is_array()) {
    return {{Verdict::kProblem, subject, absl::StrCat("/v1/models was answered with ", models->status), "see its log"}};
  }
  if (body["data"].empty()) {
    return {{Verdict::kWarning, subject, "serves no model", "apply a deployment: pagoda deploy apply NAME --model MODEL"}};
  }
  std::string names;
  for (const nlohmann::json& model : body["data"]) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", TextAt(model, "/id"));
  }
  return {{Verdict::kGood, subject, "serves " + names, ""}};
}

}  // namespace pagoda::cli
