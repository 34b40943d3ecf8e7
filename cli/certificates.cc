#include "cli/certificates.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "security/certificate_files.h"

namespace pagoda::cli {
namespace {

using security::Issued;

absl::Status MakeFolder(const std::string& path) {
  if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot make ", path, ": ", std::strerror(errno)));
}

absl::StatusOr<Issued> OpenAuthority(const CertificateFolderOptions& options) {
  const std::string folder = options.folder + "/authority";
  const std::string certificate = folder + "/ca.crt";
  const std::string key = folder + "/ca.key";
  if (std::filesystem::exists(certificate) || std::filesystem::exists(key)) {
    Issued authority;
    PAGODA_ASSIGN_OR_RETURN(authority.certificate, security::ReadTextFile(certificate));
    PAGODA_ASSIGN_OR_RETURN(authority.key, security::ReadTextFile(key));
    return authority;
  }
  PAGODA_RETURN_IF_ERROR(MakeFolder(folder));
  PAGODA_ASSIGN_OR_RETURN(Issued authority, security::MakeAuthority("pagoda cluster authority", options.days * 10));
  PAGODA_RETURN_IF_ERROR(security::WriteTextFile(key, authority.key, /*secret=*/true));
  PAGODA_RETURN_IF_ERROR(security::WriteTextFile(certificate, authority.certificate, /*secret=*/false));
  return authority;
}

// Puts `fresh` where `folder` is, in one step; removes what was there.
absl::Status Exchange(const std::string& fresh, const std::string& folder) {
  if (!std::filesystem::exists(folder)) {
    if (std::rename(fresh.c_str(), folder.c_str()) == 0) return absl::OkStatus();
  } else if (renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE) == 0) {
    std::error_code ignored;
    std::filesystem::remove_all(fresh, ignored);
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat("cannot put new certificates at ", folder, ": ", std::strerror(errno)));
}

absl::StatusOr<MadeCertificate> MakeOne(const CertificateFolderOptions& options, const Issued& authority,
                                        const std::string& name, security::CertificateRequest request) {
  MadeCertificate result{.folder = absl::StrCat(options.folder, "/", name)};
  const std::string certificate = absl::StrCat(result.folder, "/", security::kCertificateFile);
  result.made = options.renew || !std::filesystem::exists(certificate);
  if (result.made) {
    request.common_name = "pagoda " + name;
    request.days = options.days;
    PAGODA_ASSIGN_OR_RETURN(const Issued issued, security::IssueCertificate(authority, request));
    const std::string fresh = absl::StrCat(result.folder, ".new.", getpid());
    PAGODA_RETURN_IF_ERROR(MakeFolder(fresh));
    const std::string in = fresh + "/";
    PAGODA_RETURN_IF_ERROR(security::WriteTextFile(in + security::kKeyFile, issued.key, /*secret=*/true));
    PAGODA_RETURN_IF_ERROR(security::WriteTextFile(in + security::kCertificateFile, issued.certificate, /*secret=*/false));
    PAGODA_RETURN_IF_ERROR(security::WriteTextFile(in + security::kAuthorityFile, authority.certificate, /*secret=*/false));
    PAGODA_RETURN_IF_ERROR(Exchange(fresh, result.folder));
  }
  PAGODA_ASSIGN_OR_RETURN(const security::Validity life, security::ValidityOfCertificate(certificate));
  result.end_unix_s = life.end_unix_s;
  return result;
}

}  // namespace

absl::StatusOr<std::vector<MadeCertificate>> MakeCertificateFolder(const CertificateFolderOptions& options) {
  PAGODA_RETURN_IF_ERROR(MakeFolder(options.folder));
  PAGODA_ASSIGN_OR_RETURN(const Issued authority, OpenAuthority(options));
  std::vector<MadeCertificate> made;
  for (const security::Role role : security::kAllRoles) {
    security::CertificateRequest request;
    request.uri = security::UriOf(role);
    request.hosts = {security::HostOf(role)};
    PAGODA_ASSIGN_OR_RETURN(made.emplace_back(),
                            MakeOne(options, authority, std::string(security::NameOf(role)), std::move(request)));
  }
  security::CertificateRequest server;
  server.hosts = {"localhost", "127.0.0.1", "::1"};
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) == 0 && name[0] != '\0') server.hosts.emplace_back(name);
  server.hosts.insert(server.hosts.end(), options.hosts.begin(), options.hosts.end());
  // Made anew, it is still for all that the one before was for.
  const std::string before = absl::StrCat(ServerFolder(options.folder), "/", security::kCertificateFile);
  if (options.renew && std::filesystem::exists(before)) {
    PAGODA_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, security::HostsOfCertificate(before));
    for (const std::string& host : hosts) {
      if (std::find(server.hosts.begin(), server.hosts.end(), host) == server.hosts.end()) server.hosts.push_back(host);
    }
  }
  PAGODA_ASSIGN_OR_RETURN(made.emplace_back(), MakeOne(options, authority, "server", server));
  return made;
}

}  // namespace pagoda::cli
