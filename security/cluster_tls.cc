#include "security/cluster_tls.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>

#include "security/certificate_files.h"

namespace pagoda::security {
namespace {

namespace tls = ::grpc::experimental;

constexpr unsigned kLookForNewFilesSeconds = 5;

std::string ToString(grpc::string_ref text) { return {text.data(), text.size()}; }

// gRPC has verified the chain before it asks; this looks at who it is.
class RoleVerifier : public tls::ExternalCertificateVerifier {
 public:
  explicit RoleVerifier(std::vector<Role> wanted) : wanted_(std::move(wanted)) {}
  bool Verify(tls::TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)>,
              grpc::Status* status) override {
    const auto uris = request->uri_names();
    const auto role = uris.size() == 1 ? RoleOfUri(ToString(uris[0])) : std::nullopt;
    if (!role.has_value() || std::ranges::find(wanted_, *role) == wanted_.end()) {
      const std::string shown = uris.empty() ? "no URI" : ToString(uris[0]).substr(0, 128);
      *status = grpc::Status(grpc::StatusCode::UNAUTHENTICATED,
                             absl::StrCat("the server's certificate is of ", shown, ", not of ", UriOf(wanted_[0])));
    }
    return true;
  }
  void Cancel(tls::TlsCustomVerificationCheckRequest*) override {}

 private:
  const std::vector<Role> wanted_;
};

// Runs at the start of every call, on the thread that reads it.
class RoleGate : public grpc::AuthMetadataProcessor {
 public:
  explicit RoleGate(std::vector<MethodRule> rules) : rules_(std::move(rules)) {}
  bool IsBlocking() const override { return false; }
  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context, OutputMetadata*, OutputMetadata*) override {
    std::vector<std::string> uris;
    for (const grpc::string_ref& uri : context->FindPropertyValues("peer_uri")) uris.push_back(ToString(uri));
    const auto path = metadata.find(":path");
    if (path != metadata.end() && MayCall(rules_, uris, ToString(path->second))) return grpc::Status::OK;
    return grpc::Status(grpc::StatusCode::PERMISSION_DENIED, "the certificate of this caller is not of a role that may call this");
  }

 private:
  const std::vector<MethodRule> rules_;
};

class WithoutPlugins : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override { plugins->clear(); }
};

}  // namespace

void HideReflection(grpc::ServerBuilder& builder) { builder.SetOption(std::make_unique<WithoutPlugins>()); }

ClusterTls::ClusterTls(const std::string& folder, Role self)
    : self_(self),
      files_(std::make_shared<tls::FileWatcherCertificateProvider>(
          absl::StrCat(folder, "/", kKeyFile), absl::StrCat(folder, "/", kCertificateFile),
          absl::StrCat(folder, "/", kAuthorityFile), kLookForNewFilesSeconds)) {}
ClusterTls::~ClusterTls() = default;

absl::StatusOr<std::shared_ptr<const ClusterTls>> ClusterTls::Load(const std::string& folder, Role self) {
  if (folder.empty()) return std::shared_ptr<const ClusterTls>();
  PAGODA_RETURN_IF_ERROR(Annotate(CheckClusterFolder(folder, self), "--tls"));
  return std::shared_ptr<const ClusterTls>(new ClusterTls(folder, self));
}

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address, const SharedTls& cluster, std::vector<Role> servers) {
  return ChannelTo(address, cluster, std::move(servers), {});
}

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address, const SharedTls& cluster, std::vector<Role> servers,
                                         grpc::ChannelArguments arguments) {
  if (cluster == nullptr) return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  // Not to be believed (the verifier looks at the role), but a server writes a line about every name that is not its own.
  arguments.SetSslTargetNameOverride(HostOf(servers[0]));
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(cluster->files());
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_certificate_verifier(tls::ExternalCertificateVerifier::Create<RoleVerifier>(std::move(servers)));
  options.set_check_call_host(false);
  return grpc::CreateCustomChannel(address, tls::TlsCredentials(options), arguments);
}

std::shared_ptr<grpc::ServerCredentials> ServerCredentialsWith(const SharedTls& cluster, std::vector<MethodRule> rules) {
  if (cluster == nullptr) return grpc::InsecureServerCredentials();
  tls::TlsServerCredentialsOptions options(cluster->files());
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  auto credentials = tls::TlsServerCredentials(options);
  credentials->SetAuthMetadataProcessor(std::make_shared<RoleGate>(std::move(rules)));
  return credentials;
}

bool MayCall(const std::vector<MethodRule>& rules, const std::vector<std::string>& uris, std::string_view method) {
  if (uris.size() != 1) return false;
  const auto role = RoleOfUri(uris[0]);
  if (!role.has_value()) return false;
  const MethodRule* best = nullptr;
  for (const MethodRule& rule : rules) {
    if (method.starts_with(rule.prefix) && (best == nullptr || rule.prefix.size() > best->prefix.size())) best = &rule;
  }
  return best != nullptr && std::ranges::find(best->callers, *role) != best->callers.end();
}

std::shared_ptr<grpc::ServerCredentials> PublicServerCredentials(const ServerFiles& files) {
  if (files.certificate.empty()) return grpc::InsecureServerCredentials();
  tls::TlsServerCredentialsOptions options(std::make_shared<tls::FileWatcherCertificateProvider>(
      files.key, files.certificate, files.client_authority, kLookForNewFilesSeconds));
  options.watch_identity_key_cert_pairs();
  if (!files.client_authority.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return tls::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> PublicChannelCredentials(const std::string& authority) {
  if (authority.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  if (authority != "system") {
    if (auto text = ReadTextFile(authority); text.ok()) options.pem_root_certs = *text;
  }
  return grpc::SslCredentials(options);
}

}  // namespace pagoda::security
