#include "security/certificate_files.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <functional>
#include <fstream>

#include "security/openssl_handles.h"

namespace pagoda::security {
namespace {

constexpr uintmax_t kMaxFileBytes = 1u << 20;

// The first certificate is the process's own, those after it lead to the authority.
absl::StatusOr<std::vector<CertificateHandle>> ReadCertificates(const std::string& path) {
  PAGODA_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  BioHandle bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  std::vector<CertificateHandle> certificates;
  while (X509* one = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) certificates.emplace_back(one);
  ERR_clear_error();
  if (certificates.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " holds no PEM certificate"));
  return certificates;
}

absl::StatusOr<KeyHandle> ParseKey(const std::string& text, const std::string& path) {
  BioHandle bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  const auto no_password = [](char*, int, int, void*) { return 0; };
  KeyHandle key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr));
  ERR_clear_error();
  if (key == nullptr) return absl::InvalidArgumentError(absl::StrCat(path, " holds no PEM private key without a password"));
  return key;
}

std::string TimeText(const ASN1_TIME* time) {
  BioHandle bio(BIO_new(BIO_s_mem()));
  ASN1_TIME_print(bio.get(), time);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

absl::Status CheckPair(const std::vector<CertificateHandle>& chain, const std::string& certificate_path,
                       const std::string& key_path) {
  PAGODA_ASSIGN_OR_RETURN(const std::string key_text, ReadTextFile(key_path));
  PAGODA_ASSIGN_OR_RETURN(const KeyHandle key, ParseKey(key_text, key_path));
  if (X509_check_private_key(chain[0].get(), key.get()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError(absl::StrCat(key_path, " is not the key of ", certificate_path));
  }
  const ASN1_TIME* begin = X509_get0_notBefore(chain[0].get());
  const ASN1_TIME* end = X509_get0_notAfter(chain[0].get());
  if (X509_cmp_current_time(begin) > 0) {
    return absl::FailedPreconditionError(absl::StrCat(certificate_path, " is valid from ", TimeText(begin),
                                                      " on, which is later than this machine's clock"));
  }
  if (X509_cmp_current_time(end) < 0) {
    return absl::FailedPreconditionError(absl::StrCat(certificate_path, " ended on ", TimeText(end), "; make a new one"));
  }
  return absl::OkStatus();
}

std::vector<std::string> UrisOf(X509* certificate) {
  std::vector<std::string> uris;
  auto* names = static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    if (name->type != GEN_URI) continue;
    const ASN1_IA5STRING* uri = name->d.uniformResourceIdentifier;
    uris.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)), static_cast<size_t>(ASN1_STRING_length(uri)));
  }
  GENERAL_NAMES_free(names);
  return uris;
}

absl::Status CheckIssuedBy(const std::vector<CertificateHandle>& chain, const std::vector<CertificateHandle>& authorities,
                           const std::string& certificate_path, const std::string& authority_path) {
  StoreHandle store(X509_STORE_new());
  for (const CertificateHandle& authority : authorities) X509_STORE_add_cert(store.get(), authority.get());
  STACK_OF(X509)* between = sk_X509_new_null();
  for (size_t i = 1; i < chain.size(); ++i) sk_X509_push(between, chain[i].get());
  StoreContextHandle context(X509_STORE_CTX_new());
  X509_STORE_CTX_init(context.get(), store.get(), chain[0].get(), between);
  const bool good = X509_verify_cert(context.get()) == 1;
  const int error = X509_STORE_CTX_get_error(context.get());
  context.reset();
  sk_X509_free(between);
  ERR_clear_error();
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(certificate_path, " is not of the authority in ", authority_path, ": ",
                                                 X509_verify_cert_error_string(error)));
}

// --- making certificates

absl::Status AddExtension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str());
  if (extension == nullptr) return absl::InvalidArgumentError(absl::StrCat("certificate extension '", value, "': ", OpensslError()));
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
  return absl::OkStatus();
}

std::string ToPem(const std::function<int(BIO*)>& write) {
  BioHandle bio(BIO_new(BIO_s_mem()));
  write(bio.get());
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

struct Blank {
  CertificateHandle certificate;
  KeyHandle key;
};

absl::StatusOr<Blank> NewCertificate(const std::string& name, int days) {
  Blank blank{CertificateHandle(X509_new()), KeyHandle(EVP_EC_gen("P-256"))};
  if (blank.certificate == nullptr || blank.key == nullptr) return absl::InternalError(absl::StrCat("making a key: ", OpensslError()));
  X509* certificate = blank.certificate.get();
  X509_set_version(certificate, X509_VERSION_3);
  BIGNUM* serial = BN_new();
  BN_rand(serial, 127, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY);
  BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(certificate));
  BN_free(serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -300);  // clocks differ a little
  X509_time_adj_ex(X509_getm_notAfter(certificate), days, 0, nullptr);
  X509_set_pubkey(certificate, blank.key.get());
  X509_NAME* subject = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  return blank;
}

absl::StatusOr<Issued> Sign(const Blank& blank, EVP_PKEY* issuer_key) {
  if (X509_sign(blank.certificate.get(), issuer_key, EVP_sha256()) == 0) {
    return absl::InternalError(absl::StrCat("signing a certificate: ", OpensslError()));
  }
  return Issued{.certificate = ToPem([&](BIO* bio) { return PEM_write_bio_X509(bio, blank.certificate.get()); }),
                .key = ToPem([&](BIO* bio) {
                  return PEM_write_bio_PKCS8PrivateKey(bio, blank.key.get(), nullptr, nullptr, 0, nullptr, nullptr);
                })};
}

// OpenSSL reads them as a list with commas: nothing but names and addresses may pass.
bool IsHost(const std::string& text) {
  return !text.empty() && text.size() <= 253 &&
         text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:_*-") == std::string::npos;
}

absl::StatusOr<std::string> AlternativeNames(const CertificateRequest& request) {
  std::string names;
  const auto add = [&](absl::string_view kind, const std::string& value) {
    absl::StrAppend(&names, names.empty() ? "" : ",", kind, value);
  };
  for (const std::string& host : request.hosts) {
    if (!IsHost(host)) return absl::InvalidArgumentError(absl::StrCat("'", host, "' is no host name or address"));
    unsigned char address[16];
    const bool numeric = inet_pton(AF_INET, host.c_str(), address) == 1 || inet_pton(AF_INET6, host.c_str(), address) == 1;
    add(numeric ? "IP:" : "DNS:", host);
  }
  if (!request.uri.empty()) add("URI:", request.uri);
  return names;
}

}  // namespace

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", error.message()));
  if (size > kMaxFileBytes) return absl::InvalidArgumentError(absl::StrCat(path, " has ", size, " bytes; the limit is ", kMaxFileBytes));
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  return text;
}

absl::Status WriteTextFile(const std::string& path, const std::string& text, bool secret) {
  const std::string beside = absl::StrCat(path, ".new.", getpid());
  const int file = open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, secret ? 0600 : 0644);
  if (file < 0) return absl::UnavailableError(absl::StrCat("cannot write ", beside, ": ", std::strerror(errno)));
  const bool written = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && fsync(file) == 0;
  const int error = errno;
  close(file);
  if (written && std::rename(beside.c_str(), path.c_str()) == 0) return absl::OkStatus();
  unlink(beside.c_str());
  return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", std::strerror(error)));
}

absl::Status CheckServerFiles(const std::string& certificate, const std::string& key) {
  PAGODA_ASSIGN_OR_RETURN(const auto chain, ReadCertificates(certificate));
  return CheckPair(chain, certificate, key);
}

absl::Status CheckClusterFolder(const std::string& folder, Role role) {
  const std::string certificate = absl::StrCat(folder, "/", kCertificateFile);
  const std::string authority = absl::StrCat(folder, "/", kAuthorityFile);
  PAGODA_ASSIGN_OR_RETURN(const auto chain, ReadCertificates(certificate));
  PAGODA_RETURN_IF_ERROR(CheckPair(chain, certificate, absl::StrCat(folder, "/", kKeyFile)));
  PAGODA_ASSIGN_OR_RETURN(const auto authorities, ReadCertificates(authority));
  PAGODA_RETURN_IF_ERROR(CheckIssuedBy(chain, authorities, certificate, authority));
  const std::vector<std::string> uris = UrisOf(chain[0].get());
  if (uris.size() == 1 && uris[0] == UriOf(role)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      certificate, uris.size() == 1 ? absl::StrCat(" is of ", uris[0]) : absl::StrCat(" names ", uris.size(), " URIs"),
      ", but the role ", AsAbsl(NameOf(role)), " needs exactly the one alternative name URI:", UriOf(role),
      " (pagoda certs makes such certificates)"));
}

absl::StatusOr<Issued> MakeAuthority(const std::string& name, int days) {
  PAGODA_ASSIGN_OR_RETURN(Blank blank, NewCertificate(name, days));
  X509* certificate = blank.certificate.get();
  X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
  PAGODA_RETURN_IF_ERROR(AddExtension(certificate, certificate, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  PAGODA_RETURN_IF_ERROR(AddExtension(certificate, certificate, NID_key_usage, "critical,keyCertSign,cRLSign"));
  PAGODA_RETURN_IF_ERROR(AddExtension(certificate, certificate, NID_subject_key_identifier, "hash"));
  return Sign(blank, blank.key.get());
}

absl::StatusOr<Issued> IssueCertificate(const Issued& authority, const CertificateRequest& request) {
  BioHandle bio(BIO_new_mem_buf(authority.certificate.data(), static_cast<int>(authority.certificate.size())));
  CertificateHandle issuer(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (issuer == nullptr) return absl::InvalidArgumentError(absl::StrCat("the authority's certificate: ", OpensslError()));
  PAGODA_ASSIGN_OR_RETURN(const KeyHandle issuer_key, ParseKey(authority.key, "the authority's key"));
  PAGODA_ASSIGN_OR_RETURN(Blank blank, NewCertificate(request.common_name, request.days));
  X509* certificate = blank.certificate.get();
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer.get()));
  PAGODA_RETURN_IF_ERROR(AddExtension(certificate, issuer.get(), NID_basic_constraints, "critical,CA:FALSE"));
  PAGODA_RETURN_IF_ERROR(AddExtension(certificate, issuer.get(), NID_key_usage, "critical,digitalSignature"));
  PAGODA_RETURN_IF_ERROR(AddExtension(certificate, issuer.get(), NID_ext_key_usage, "serverAuth,clientAuth"));
  PAGODA_RETURN_IF_ERROR(AddExtension(certificate, issuer.get(), NID_subject_key_identifier, "hash"));
  PAGODA_RETURN_IF_ERROR(AddExtension(certificate, issuer.get(), NID_authority_key_identifier, "keyid"));
  PAGODA_ASSIGN_OR_RETURN(const std::string names, AlternativeNames(request));
  if (!names.empty()) {
    PAGODA_RETURN_IF_ERROR(AddExtension(certificate, issuer.get(), NID_subject_alt_name, names));
  }
  return Sign(blank, issuer_key.get());
}

std::string CertificateIn(const std::string& folder) { return folder.empty() ? "" : absl::StrCat(folder, "/", kCertificateFile); }

absl::StatusOr<std::vector<std::string>> HostsOfCertificate(const std::string& path) {
  PAGODA_ASSIGN_OR_RETURN(const auto chain, ReadCertificates(path));
  std::vector<std::string> hosts;
  auto* names = static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(chain[0].get(), NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    if (name->type != GEN_DNS && name->type != GEN_IPADD) continue;
    const ASN1_STRING* value = name->type == GEN_DNS ? name->d.dNSName : name->d.iPAddress;
    const auto* bytes = ASN1_STRING_get0_data(value);
    const int length = ASN1_STRING_length(value);
    char text[INET6_ADDRSTRLEN] = {};
    if (name->type == GEN_DNS) {
      hosts.emplace_back(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
    } else if (inet_ntop(length == 4 ? AF_INET : AF_INET6, bytes, text, sizeof(text)) != nullptr && (length == 4 || length == 16)) {
      hosts.emplace_back(text);
    }
  }
  GENERAL_NAMES_free(names);
  return hosts;
}

absl::StatusOr<Validity> ValidityOfCertificate(const std::string& path) {
  PAGODA_ASSIGN_OR_RETURN(const auto chain, ReadCertificates(path));
  const auto unix_s = [](const ASN1_TIME* time) {
    std::tm parts{};
    ASN1_TIME_to_tm(time, &parts);
    return static_cast<int64_t>(timegm(&parts));
  };
  return Validity{.begin_unix_s = unix_s(X509_get0_notBefore(chain[0].get())), .end_unix_s = unix_s(X509_get0_notAfter(chain[0].get()))};
}

}  // namespace pagoda::security
