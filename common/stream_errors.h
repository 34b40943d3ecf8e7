// What a coordinator says in place of tokens where routers act upon the very words.
#pragma once

#include <string_view>

namespace pagoda {

// The client came back elsewhere, or somebody asked in its name: whoever still has it lets go, and leaves alone what runs now.
inline constexpr std::string_view kTakenOverError = "ABORTED: another router goes on with this stream";

// Nobody will ever go on with it.
inline constexpr std::string_view kDeletedError = "NOT_FOUND: the model is not served any more: its deployment was deleted";

}  // namespace pagoda
