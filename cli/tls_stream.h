// A TLS stream over Beast's, as the commands' HTTP clients use it. Brings Boost: include from .cc files.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <string>

namespace pagoda::cli {

using TlsStream = boost::beast::ssl_stream<boost::beast::tcp_stream>;

// `authority`: "system", a file of certificates, or empty when TLS will not be spoken. Throws what Boost throws.
inline boost::asio::ssl::context TlsContext(const std::string& authority) {
  boost::asio::ssl::context context(boost::asio::ssl::context::tls_client);
  SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION);
  if (authority == "system") {
    context.set_default_verify_paths();
  } else if (!authority.empty()) {
    context.load_verify_file(authority);
  }
  context.set_verify_mode(boost::asio::ssl::verify_peer);
  return context;
}

// The certificate must be of this name or address.
inline void VerifyHost(TlsStream& stream, const std::string& host) {
  SSL_set_tlsext_host_name(stream.native_handle(), host.c_str());
  stream.set_verify_callback(boost::asio::ssl::host_name_verification(host));
}

}  // namespace pagoda::cli
