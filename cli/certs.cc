// `pagoda certs FOLDER`: a private authority and the certificates of a first cluster.
#include <ctime>
#include <iostream>

#include "cli/certificates.h"
#include "cli/command.h"
#include "common/config.h"

namespace pagoda::cli {
namespace {

std::string DateText(int64_t unix_s) {
  const std::time_t time = static_cast<std::time_t>(unix_s);
  std::tm utc{};
  gmtime_r(&time, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%d", &utc);
  return text;
}

}  // namespace

int RunCerts(int argc, const char* const* argv) {
  CLI::App app(
      "Makes a private authority and certificates for the processes of one cluster, in FOLDER. What is there stays; --renew makes "
      "certificates anew (running processes take them up by themselves), the authority never.",
      "pagoda certs");
  CertificateFolderOptions options;
  app.add_option("folder", options.folder, "where they go")->required();
  app.add_option("--hosts", options.hosts, "names and addresses that clients reach the routers by, besides this machine's")
      ->delimiter(',');
  app.add_option("--days", options.days, "how long certificates are valid")->check(CLI::Range(1, 3650))->capture_default_str();
  app.add_flag("--renew", options.renew, "make certificates anew that are there");
  AddConfigFile(app);
  int exit_status = 0;
  if (!ParseOrExit(app, argc, argv, exit_status)) return exit_status;
  while (options.folder.size() > 1 && options.folder.ends_with('/')) options.folder.pop_back();
  const auto made = MakeCertificateFolder(options);
  if (!made.ok()) return Fail(made.status());
  for (const MadeCertificate& one : *made) {
    std::cout << (one.made ? "made  " : "kept  ") << one.folder << "  until " << DateText(one.end_unix_s) << "\n";
  }
  std::cout << "\nEach process gets its role's folder and nothing else: --tls " << options.folder << "/worker and so on.\n"
            << "Routers show clients --ssl-certfile " << ServerFolder(options.folder) << "/tls.crt --ssl-keyfile "
            << ServerFolder(options.folder) << "/tls.key; clients trust " << ServerFolder(options.folder) << "/ca.crt.\n"
            << "Keep " << options.folder << "/authority/ca.key away from all of them: who has it can join the cluster.\n";
  return kExitOk;
}

}  // namespace pagoda::cli
