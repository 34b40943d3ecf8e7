// What gRPC itself would print to standard error (a handshake that failed, a port that is taken), as lines of our log: event "grpc",
// at most ten in ten seconds, and how many were left out. gRPC names no peer.
#pragma once

namespace pagoda::security {

void TakeGrpcLog();
// For commands, whose own message says what is wrong.
void SilenceGrpcLog();

}  // namespace pagoda::security
