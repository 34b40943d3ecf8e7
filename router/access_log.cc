#include "router/access_log.h"

#include "common/limits.h"
#include "common/log.h"
#include "security/key_ring.h"

namespace pagoda::router {

void LogRequest(const RequestLog& request) {
  LogInfo("request",
          {{"request_id", request.request_id.substr(0, limits::kMaxRequestIdBytes)},
           {"method", request.method.substr(0, 16)},
           {"path", security::WithoutKeys(request.path.substr(0, 128))},
           {"status", request.status},
           {"code", request.code},
           {"duration_ms", request.seconds * 1000},
           {"first_token_ms",
            request.first_token_seconds < 0 ? -1.0 : request.first_token_seconds * 1000},
           {"model", request.model.substr(0, 256)},
           {"tenant", request.tenant},
           {"key", request.key_id},
           {"prompt_tokens", request.prompt_tokens},
           {"output_tokens", request.output_tokens}});
}

}  // namespace pagoda::router
