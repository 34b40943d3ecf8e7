#include "tests/sim/toy_model.h"

#include <algorithm>
#include <array>

namespace pagoda::sim {

std::vector<TokenId> ToyAnswer(const ToyRequest& request, int choice, int activation_bits) {
  std::array<std::vector<uint64_t>, kToyLayers> kv;
  std::vector<TokenId> tokens = request.prompt;
  std::vector<TokenId> answer;
  size_t done = 0;
  while (static_cast<int>(answer.size()) < request.max_tokens) {
    uint64_t hidden = 0;
    for (; done < tokens.size(); ++done) {
      hidden = ToyEmbed(tokens[done], static_cast<int>(done), activation_bits);
      for (int layer = 0; layer < kToyLayers; ++layer) {
        kv[static_cast<size_t>(layer)].push_back(ToyKv(hidden, layer));
        for (const uint64_t value : kv[static_cast<size_t>(layer)]) hidden = ToyAttend(hidden, value);
      }
    }
    const int index = static_cast<int>(answer.size());
    const TokenId token = ToySample(hidden,
                                    {.seed = request.seed,
                                     .choice = choice,
                                     .output_index = index,
                                     .may_stop = index >= request.min_tokens,
                                     .period = request.period},
                                    tokens);
    answer.push_back(token);
    tokens.push_back(token);
    if (index >= request.min_tokens && std::ranges::count(request.stop_token_ids, token) > 0) break;
  }
  return answer;
}

}  // namespace pagoda::sim
