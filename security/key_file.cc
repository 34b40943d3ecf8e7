#include "security/key_file.h"

#include "common/log.h"

namespace pagoda::security {

absl::Status KeyFile::Reload() {
  if (open()) return absl::OkStatus();
  std::error_code error;
  const auto change = std::filesystem::last_write_time(path_, error);
  auto ring = KeyRing::Load(path_);
  MutexLock lock(&mutex_);
  if (!error) read_change_ = change;
  if (!ring.ok()) return ring.status();
  keys_ = std::make_shared<const KeyRing>(*std::move(ring));
  LogInfo("keys_loaded", {{"file", path_}, {"keys", keys_->keys().size()}});
  return absl::OkStatus();
}

bool KeyFile::ReloadIfChanged() {
  if (open()) return false;
  std::error_code error;
  const auto change = std::filesystem::last_write_time(path_, error);
  {
    MutexLock lock(&mutex_);
    if (error && !missing_) {
      LogWarning("keys_file_missing", {{"file", path_}, {"error", error.message()}, {"keys", "those read before are kept"}});
    }
    missing_ = static_cast<bool>(error);
    if (error || change == read_change_) return false;
  }
  const absl::Status status = Reload();
  if (!status.ok()) LogWarning("keys_not_loaded", {{"file", path_}, {"error", AsStd(status.message())}});
  return status.ok();
}

std::shared_ptr<const KeyRing> KeyFile::ring() const {
  MutexLock lock(&mutex_);
  return keys_;
}

absl::StatusOr<std::shared_ptr<const ApiKey>> KeyFile::Admit(std::string_view authorization, Scope scope) const {
  if (open()) return std::shared_ptr<const ApiKey>();
  const std::shared_ptr<const KeyRing> keys = ring();
  if (keys == nullptr) return absl::UnauthenticatedError("the API keys could not be read yet");
  // Looked for also when none was sent: the answer takes the same time.
  std::shared_ptr<const ApiKey> key = keys->Find(SecretOf(authorization));
  if (authorization.empty()) {
    return absl::UnauthenticatedError("an API key is needed: send the header 'Authorization: Bearer KEY'");
  }
  if (key == nullptr) return absl::UnauthenticatedError("there is no such API key");
  if (key->Has(scope)) return key;
  return absl::PermissionDeniedError(
      absl::StrCat("key ", key->id, " does not have the scope '", AsAbsl(NameOf(scope)), "'"));
}

}  // namespace pagoda::security
