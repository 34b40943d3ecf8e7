// Certificates and keys in files, read and checked before anything listens or dials. No OpenSSL in the header.
// Thread rule: plain functions, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "security/role.h"

namespace pagoda::security {

// The three files of a folder as Kubernetes and cert-manager name them.
inline constexpr char kCertificateFile[] = "tls.crt";  // the process's own, with what is between it and the authority
inline constexpr char kKeyFile[] = "tls.key";
inline constexpr char kAuthorityFile[] = "ca.crt";

// The process's own certificate in such a folder; empty when there is no folder.
std::string CertificateIn(const std::string& folder);

// That the folder's files are whole, belong together, are valid today, and that the certificate is of this role. The error
// names the file and what to do.
absl::Status CheckClusterFolder(const std::string& folder, Role role);

// As above, of a certificate for clients outside (HTTPS, gRPC of the router): any name, any issuer.
absl::Status CheckServerFiles(const std::string& certificate, const std::string& key);

// A new private authority, or a certificate signed by one, as PEM.
struct Issued {
  std::string certificate;
  std::string key;
};
absl::StatusOr<Issued> MakeAuthority(const std::string& name, int days);

struct CertificateRequest {
  std::string common_name;
  std::vector<std::string> hosts;  // names and addresses that clients reach it by
  std::string uri;                 // of the role; may be empty
  int days = 365;
};
absl::StatusOr<Issued> IssueCertificate(const Issued& authority, const CertificateRequest& request);

// The names and addresses that it is for.
absl::StatusOr<std::vector<std::string>> HostsOfCertificate(const std::string& path);

// From when to when it is good.
struct Validity {
  int64_t begin_unix_s = 0;
  int64_t end_unix_s = 0;
};
absl::StatusOr<Validity> ValidityOfCertificate(const std::string& path);

absl::StatusOr<std::string> ReadTextFile(const std::string& path);
// Written beside and renamed, so that nobody reads half of it. `secret`: for its owner alone (0600).
absl::Status WriteTextFile(const std::string& path, const std::string& text, bool secret);

}  // namespace pagoda::security
