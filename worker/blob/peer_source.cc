#include "worker/blob/peer_source.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "common/limits.h"
#include "pagoda/internal/v1/blob.grpc.pb.h"
#include "worker/blob/sparse_cache.h"

namespace pagoda::worker {
namespace {

namespace v1 = ::pagoda::internal::v1;

constexpr uint64_t kBytesPerCall = 4 * limits::kBlobChunkBytes;

absl::Status FromGrpc(const grpc::Status& status, const std::string& address) {
  if (status.ok()) return absl::OkStatus();
  return {static_cast<absl::StatusCode>(status.error_code()),
          absl::StrCat(address, ": ", status.error_message())};
}

class Peers {
 public:
  explicit Peers(const PeerSourceOptions& options) : options_(options) {
    for (const std::string& address : options_.addresses) {
      stubs_.push_back(v1::Blob::NewStub(security::ChannelTo(
          address, options_.tls, {security::Role::kWorker, security::Role::kCoordinator})));
    }
  }

  // Asks the peer that answered last, then the others. The error is the last one's, with who failed
  // before.
  template <typename Call>
  absl::Status AskAny(Call&& call) {
    if (stubs_.empty()) return absl::UnavailableError("no peer has the model");
    absl::Status status;
    const size_t first = current_.load();
    for (size_t i = 0; i < stubs_.size(); ++i) {
      const size_t index = (first + i) % stubs_.size();
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() +
                           absl::ToChronoMilliseconds(options_.timeout));
      const absl::Status now = call(*stubs_[index], context, options_.addresses[index]);
      if (now.ok()) {
        current_ = index;
        return now;
      }
      status = status.ok() ? now : Annotate(now, absl::StrCat(status.message(), "; then "));
    }
    return absl::IsNotFound(status) ? status : absl::UnavailableError(status.message());
  }

  const PeerSourceOptions& options() const { return options_; }

 private:
  const PeerSourceOptions options_;
  std::vector<std::unique_ptr<v1::Blob::Stub>> stubs_;
  std::atomic<size_t> current_ = 0;
};

absl::Status ReadFrom(v1::Blob::Stub& stub, grpc::ClientContext& context,
                      const std::string& address, const v1::ReadRangeRequest& request,
                      std::span<std::byte> out) {
  const auto reader = stub.ReadRange(&context, request);
  v1::ReadRangeChunk chunk;
  size_t got = 0;
  bool too_much = false;
  while (!too_much && reader->Read(&chunk)) {
    too_much = chunk.data().size() > out.size() - got;
    if (too_much) {
      context.TryCancel();
    } else {
      std::memcpy(out.data() + got, chunk.data().data(), chunk.data().size());
      got += chunk.data().size();
    }
  }
  const absl::Status status = FromGrpc(reader->Finish(), address);
  if (!too_much && !status.ok()) return status;
  if (!too_much && got == out.size()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(address, ": sent ", too_much ? "more than" : "less than",
                                          " the ", out.size(), " bytes that were asked for"));
}

class PeerSource final : public checkpoint::ByteSource {
 public:
  PeerSource(const PeerSourceOptions& options, PeerFile file, std::unique_ptr<SparseCache> cache)
      : peers_(options), file_(std::move(file)), cache_(std::move(cache)) {}

  uint64_t size() const override { return file_.size; }
  std::string name() const override { return absl::StrCat(file_.name, " of peers"); }

  absl::Status Read(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > file_.size || out.size() > file_.size - offset) {
      return absl::OutOfRangeError(absl::StrCat(name(), " has ", file_.size, " bytes; ", out.size(),
                                                " at offset ", offset, " go past its end"));
    }
    if (cache_ == nullptr) return Fetch(offset, out);
    PAGODA_ASSIGN_OR_RETURN(const std::byte* data, Cached(offset, out.size()));
    if (!out.empty()) std::memcpy(out.data(), data, out.size());
    return absl::OkStatus();
  }

  const std::byte* Map(uint64_t offset, uint64_t length) const override {
    if (cache_ == nullptr || offset > file_.size || length > file_.size - offset) return nullptr;
    const auto data = Cached(offset, length);
    return data.ok() ? *data : nullptr;
  }

 private:
  absl::StatusOr<const std::byte*> Cached(uint64_t offset, uint64_t length) const {
    return cache_->Get(offset, length,
                       [this](uint64_t at, std::span<std::byte> out) { return Fetch(at, out); });
  }

  absl::Status Fetch(uint64_t offset, std::span<std::byte> out) const {
    v1::ReadRangeRequest request;
    request.set_model_digest(peers_.options().model_digest);
    request.set_file(file_.name);
    while (!out.empty()) {
      const auto part = out.first(std::min<size_t>(out.size(), kBytesPerCall));
      request.set_offset(offset);
      request.set_length(part.size());
      const absl::Status status = peers_.AskAny(
          [&](v1::Blob::Stub& stub, grpc::ClientContext& context, const std::string& address) {
            return ReadFrom(stub, context, address, request, part);
          });
      if (!status.ok())
        return Annotate(status, absl::StrCat("reading ", file_.name, " from peers"));
      offset += part.size();
      out = out.subspan(part.size());
    }
    return absl::OkStatus();
  }

  mutable Peers peers_;
  const PeerFile file_;
  const std::unique_ptr<SparseCache> cache_;
};

// A name that a peer sent is a plain file name or nothing.
bool IsPlainName(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name.find('/') == std::string::npos &&
         name.front() != '.' && name.find('\0') == std::string::npos;
}

}  // namespace

absl::StatusOr<std::vector<PeerFile>> ListPeerFiles(const PeerSourceOptions& options) {
  Peers peers(options);
  v1::ListFilesRequest request;
  request.set_model_digest(options.model_digest);
  std::vector<PeerFile> files;
  PAGODA_RETURN_IF_ERROR(peers.AskAny([&](v1::Blob::Stub& stub, grpc::ClientContext& context,
                                          const std::string& address) -> absl::Status {
    v1::ListFilesResponse response;
    PAGODA_RETURN_IF_ERROR(FromGrpc(stub.ListFiles(&context, request, &response), address));
    if (response.files_size() > limits::kMaxModelFiles) {
      return absl::DataLossError(
          absl::StrCat(address, ": lists over ", limits::kMaxModelFiles, " files"));
    }
    files.clear();
    for (const v1::BlobFile& file : response.files()) {
      if (!IsPlainName(file.name())) {
        return absl::DataLossError(
            absl::StrCat(address, ": lists a file whose name is no plain name"));
      }
      files.push_back({.name = file.name(), .size = file.size()});
    }
    return absl::OkStatus();
  }));
  return files;
}

absl::StatusOr<std::shared_ptr<checkpoint::ByteSource>> OpenPeerFile(
    const PeerSourceOptions& options, const PeerFile& file) {
  if (!IsPlainName(file.name))
    return absl::InvalidArgumentError("a peer's file needs a plain name");
  std::unique_ptr<SparseCache> cache;
  if (!options.cache_folder.empty()) {
    std::error_code error;
    std::filesystem::create_directories(options.cache_folder, error);
    if (error)
      return absl::UnavailableError(
          absl::StrCat("cannot make ", options.cache_folder, ": ", error.message()));
    PAGODA_ASSIGN_OR_RETURN(
        cache, SparseCache::Open(absl::StrCat(options.cache_folder, "/", file.name),
                                 absl::StrCat(options.model_digest, " ", file.name), file.size));
  }
  return std::make_shared<PeerSource>(options, file, std::move(cache));
}

}  // namespace pagoda::worker
