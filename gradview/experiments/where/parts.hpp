// Parts of a transformer, by the names that checkpoints give to their weights: BERT's, Llama's, GPT-2's.
//
//     q k v o   the matrices of attention          norm    scales and shifts of all norms
//     mlp       those of the feed-forward          embed   the table of words
#pragma once

#include <string>
#include <vector>

#include "gradview/models/weights.hpp"

namespace gradview {

// "q,v" → a regular expression that finds their names. std::invalid_argument on an unknown part.
std::string pattern_of(const std::string& parts);
// The numbers that low-rank factors of rank 1 have on these parts: Σ (m + n). Throws where a part is
// not in the model by a name of its own.
std::size_t numbers_at_rank_1(const std::string& parts, const Weights& weights);
// The projector of a part that is trained in full (norm, embed); empty for those of low rank.
std::string full_method(const std::string& part);

}  // namespace gradview
