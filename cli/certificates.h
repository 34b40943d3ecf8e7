// The folder that `pagoda certs` makes: a private authority, and below it one folder for each role of a cluster with
// tls.crt, tls.key and ca.crt (what --tls takes), and one for what clients see of the routers (what --ssl-certfile and
// --ssl-keyfile take). Plain functions.
#pragma once

#include <string>
#include <vector>

#include "common/status.h"

namespace pagoda::cli {

struct CertificateFolderOptions {
  std::string folder;
  std::vector<std::string> hosts;  // names and addresses that clients reach the routers by
  int days = 365;                  // of the certificates; the authority's are ten times as many
  bool renew = false;              // make certificates anew that are there; the authority stays
};

struct MadeCertificate {
  std::string folder;
  bool made = false;  // false: it was there
  int64_t end_unix_s = 0;
};

// Makes what is missing. A folder appears, or is exchanged, as a whole: nobody sees half of it.
absl::StatusOr<std::vector<MadeCertificate>> MakeCertificateFolder(const CertificateFolderOptions& options);

// Of the folders above.
inline std::string ServerFolder(const std::string& folder) { return folder + "/server"; }

}  // namespace pagoda::cli
