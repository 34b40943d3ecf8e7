#include "worker/control/model_opener.h"

#include <algorithm>

#include "checkpoint/model_cache.h"
#include "common/log.h"
#include "worker/blob/peer_source.h"

namespace pagoda::worker {
namespace {

using checkpoint::Checkpoint;
using SharedCheckpoint = std::shared_ptr<const Checkpoint>;

absl::Status CheckDigest(const Checkpoint& model, const Assignment& assignment, const std::string& where) {
  if (assignment.model_digest.empty() || model.digest() == assignment.model_digest) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the copy at ", where, " has digest ", model.digest(),
                                                    ", the deployment's is ", assignment.model_digest));
}

absl::StatusOr<SharedCheckpoint> OpenLocal(const std::string& root, const Assignment& assignment, BlobCatalog* catalog) {
  PAGODA_ASSIGN_OR_RETURN(const std::string path, checkpoint::ModelCache(root).Resolve(assignment.model));
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> model, Checkpoint::Open(path));
  PAGODA_RETURN_IF_ERROR(CheckDigest(*model, assignment, path));
  if (catalog != nullptr) {
    const absl::Status added = catalog->Add(model->digest(), path);
    if (!added.ok()) LogWarning("model_not_served", {{"path", path}, {"error", added.ToString()}});
  }
  LogInfo("model_opened", {{"model", assignment.model}, {"path", path}, {"digest", model->digest()}});
  return SharedCheckpoint(std::move(model));
}

absl::StatusOr<SharedCheckpoint> OpenFromPeers(const std::string& root, const Assignment& assignment,
                                               const security::SharedTls& tls) {
  const std::string& digest = assignment.model_digest;
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (digest.size() != 64 || !std::all_of(digest.begin(), digest.end(), is_hex)) {
    return absl::InvalidArgumentError(absl::StrCat("a model of peers needs a digest of 64 hexadecimal digits, got ", digest));
  }
  const std::string folder = absl::StrCat(root, "/peers/", digest);
  PAGODA_RETURN_IF_ERROR(checkpoint::MakeFolders(folder));
  const PeerSourceOptions options{.addresses = assignment.model_peers, .model_digest = digest, .cache_folder = folder,
                                  .tls = tls};
  PAGODA_ASSIGN_OR_RETURN(const std::vector<PeerFile> files, ListPeerFiles(options));
  std::vector<Checkpoint::RemoteFile> sources;
  for (const PeerFile& file : files) {
    PAGODA_ASSIGN_OR_RETURN(std::shared_ptr<checkpoint::ByteSource> source, OpenPeerFile(options, file));
    sources.push_back({.name = file.name, .source = std::move(source)});
  }
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> model, Checkpoint::Open(std::move(sources)));
  PAGODA_RETURN_IF_ERROR(CheckDigest(*model, assignment, "the peers"));
  LogInfo("model_opened", {{"model", assignment.model}, {"peers", assignment.model_peers.size()}, {"digest", digest}});
  return SharedCheckpoint(std::move(model));
}

// The whole of it: a peer that has the model is cheaper, and the coordinator always is one.
absl::StatusOr<SharedCheckpoint> OpenFromSource(const std::string& root, const Assignment& assignment,
                                                const ModelOpenerOptions& options,
                                                const std::function<bool(double)>& keep_going) {
  PAGODA_ASSIGN_OR_RETURN(const checkpoint::ModelReference reference, checkpoint::ParseModelReference(assignment.model));
  if (reference.kind == checkpoint::ModelReference::Kind::kLocal) {
    return absl::NotFoundError("a path of another machine names no source to pull from");
  }
  checkpoint::PullOptions pull = options.pull;
  pull.cache_dir = root;
  pull.progress = [&](const checkpoint::PullProgress& progress) {
    if (progress.bytes_total > 0) {
      keep_going(static_cast<double>(progress.bytes_done) / static_cast<double>(progress.bytes_total));
    }
  };
  LogInfo("model_pull", {{"model", assignment.model}});
  PAGODA_RETURN_IF_ERROR(checkpoint::Pull(assignment.model, pull).status());
  return OpenLocal(root, assignment, options.catalog.get());
}

}  // namespace

ModelOpener MakeModelOpener(const ModelOpenerOptions& options) {
  return [options](const Assignment& assignment,
                   const std::function<bool(double)>& keep_going) -> absl::StatusOr<SharedCheckpoint> {
    std::string root = options.cache_root;
    if (root.empty()) {
      PAGODA_ASSIGN_OR_RETURN(root, checkpoint::DefaultCacheFolder());
    }
    absl::StatusOr<SharedCheckpoint> local = OpenLocal(root, assignment, options.catalog.get());
    if (local.ok()) return local;
    absl::StatusOr<SharedCheckpoint> remote = absl::NotFoundError("no peer has it");
    if (!assignment.model_peers.empty()) remote = OpenFromPeers(root, assignment, options.tls);
    if (remote.ok()) return remote;
    absl::StatusOr<SharedCheckpoint> pulled = OpenFromSource(root, assignment, options, keep_going);
    if (pulled.ok()) return pulled;
    return absl::Status(remote.status().code(),
                        absl::StrCat("no copy here (", local.status().message(), "), none from ",
                                     assignment.model_peers.size(), " peers (", remote.status().message(),
                                     "), none from its source: ", pulled.status().message()));
  };
}

}  // namespace pagoda::worker
