// Mutual TLS between the processes of one cluster, over gRPC: the one home of channel and server credentials.
//
// Every process has a folder with tls.crt, tls.key and ca.crt (--tls). Both ends of every connection show a certificate of
// that authority, and each checks the other's role (role.h); names and addresses are not checked, since the authority
// signs for this cluster alone. What a role may call is one table (AllowedMethods). The files are watched: new
// connections use new certificates, without a restart.
//
// Without a folder (a null ClusterTls) everything is plain: for one machine, and tests.
// Thread rule: immutable after Load; any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "security/role.h"

namespace grpc {
class Channel;
class ChannelArguments;
class ChannelCredentials;
class ServerBuilder;
class ServerCredentials;
}  // namespace grpc
namespace grpc::experimental {
class FileWatcherCertificateProvider;
}

namespace pagoda::security {

class ClusterTls {
 public:
  // Empty folder: null, no TLS. Checks the files (CheckClusterFolder) first.
  static absl::StatusOr<std::shared_ptr<const ClusterTls>> Load(const std::string& folder, Role self);
  ~ClusterTls();

  Role self() const { return self_; }
  const std::shared_ptr<grpc::experimental::FileWatcherCertificateProvider>& files() const { return files_; }

 private:
  ClusterTls(const std::string& folder, Role self);
  const Role self_;
  std::shared_ptr<grpc::experimental::FileWatcherCertificateProvider> files_;
};
using SharedTls = std::shared_ptr<const ClusterTls>;

// A channel to a server that must be of one of these roles.
std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address, const SharedTls& tls, std::vector<Role> servers);
std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address, const SharedTls& tls, std::vector<Role> servers,
                                         grpc::ChannelArguments arguments);

// A prefix of "/package.Service/Method" and who may call what begins with it. The longest prefix that fits counts; what
// none fits is refused.
struct MethodRule {
  std::string prefix;
  std::vector<Role> callers;
};
// Every call is held to `rules`, with PERMISSION_DENIED for others. Without TLS nobody is known and nothing is checked.
std::shared_ptr<grpc::ServerCredentials> ServerCredentialsWith(const SharedTls& tls, std::vector<MethodRule> rules);

// Whether a caller with these URIs in its certificate may call. Pure; the core of the above.
bool MayCall(const std::vector<MethodRule>& rules, const std::vector<std::string>& uris, std::string_view method);

// For clients outside (the router's own gRPC port): a server certificate, watched too, and clients need none unless
// `client_authority` names the file of an authority that must have signed theirs. Plain when `certificate` is empty.
struct ServerFiles {
  std::string certificate;
  std::string key;
  std::string client_authority;
};
std::shared_ptr<grpc::ServerCredentials> PublicServerCredentials(const ServerFiles& files);

// gRPC's reflection is on in every server of a process that is linked with it. Not in this one.
void HideReflection(grpc::ServerBuilder& builder);

// The other side of the public port: plain without an authority file ("system": the machine's own authorities).
std::shared_ptr<grpc::ChannelCredentials> PublicChannelCredentials(const std::string& authority);

}  // namespace pagoda::security
