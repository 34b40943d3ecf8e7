// `pagoda doctor`: runs the checks, prints what they found; the exit status is 1 when something is a problem.
#include <algorithm>
#include <iostream>

#include "cli/command.h"
#include "cli/doctor.h"
#include "cli/terminal.h"
#include "common/config.h"

namespace pagoda::cli {
namespace {

const char* Word(Verdict verdict) {
  switch (verdict) {
    case Verdict::kGood: return "ok";
    case Verdict::kNote: return "note";
    case Verdict::kWarning: return "warning";
    case Verdict::kProblem: return "PROBLEM";
  }
  return "";
}

}  // namespace

std::vector<Finding> Diagnose(const DoctorOptions& options) {
  std::vector<Finding> findings = {CheckProcessor(),    CheckProcessorQuota(),    CheckMemory(),
                                   CheckHugePages(),    CheckSharedMemory(),      CheckFileLimit(),
                                   CheckLockedMemoryLimit(), CheckClock(),        CheckModelCache(options.cache_dir)};
  const auto add = [&](std::vector<Finding> more) { std::move(more.begin(), more.end(), std::back_inserter(findings)); };
  add(CheckTransports());
  // With a cluster named, its ports are meant to be taken.
  if (options.coordinators.empty() && options.router.empty()) add(CheckPorts());
  if (!options.coordinators.empty()) add(CheckCluster(options.coordinators, options.tls));
  if (!options.router.empty()) add(CheckRouter(options.router, options.authority));
  return findings;
}

int RunDoctor(int argc, const char* const* argv) {
  CLI::App app("Looks for what is wrong with this machine or a cluster. Exits with 1 when there is a problem.",
               "pagoda doctor");
  DoctorOptions options;
  app.add_option("--coordinators", options.coordinators, "host:port[,host:port] of a running cluster to look at");
  app.add_option("--tls", options.tls, kTlsHelp);
  app.add_option("--router", options.router, "http://host:port of a running router to look at");
  app.add_option("--ssl-ca-certs", options.authority, kAuthorityHelp);
  app.add_option("--cache-dir", options.cache_dir, "where models are kept; default: ~/.cache/pagoda");
  AddConfigFile(app);
  int exit_status = 0;
  if (!ParseOrExit(app, argc, argv, exit_status)) return exit_status;

  const std::vector<Finding> findings = Diagnose(options);
  std::vector<std::vector<std::string>> rows;
  bool problem = false;
  for (const Finding& finding : findings) {
    rows.push_back({Word(finding.verdict), finding.subject, finding.text});
    if (!finding.advice.empty()) rows.push_back({"", "", "  -> " + finding.advice});
    problem = problem || finding.verdict == Verdict::kProblem;
  }
  std::cout << RenderTable(rows);
  return problem ? kExitFailed : kExitOk;
}

}  // namespace pagoda::cli
