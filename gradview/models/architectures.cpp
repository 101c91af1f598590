#include "gradview/models/architectures.hpp"

#include <stdexcept>

namespace gradview {

Transformer bert() {
  Transformer t;
  t.types = 2;
  t.after_norm = true;
  t.causal = false;
  t.eps = 1e-12;
  const std::string layer = "bert.encoder.layer.#.";
  t.modules = {.words = "bert.embeddings.word_embeddings",
               .positions = "bert.embeddings.position_embeddings",
               .types = "bert.embeddings.token_type_embeddings",
               .outer_norm = "bert.embeddings.LayerNorm",
               .attention_norm = layer + "attention.output.LayerNorm",
               .hidden_norm = layer + "output.LayerNorm",
               .attention_inputs = {layer + "attention.self.query", layer + "attention.self.key",
                                    layer + "attention.self.value"},
               .attention_output = layer + "attention.output.dense",
               .hidden_inputs = {layer + "intermediate.dense"},
               .hidden_output = layer + "output.dense"};
  return t;
}

Transformer gpt2() {
  Transformer t;
  t.activation = Activation::gelu_tanh;
  const std::string layer = "transformer.h.#.";
  t.modules = {.words = "transformer.wte",
               .positions = "transformer.wpe",
               .types = "",
               .outer_norm = "transformer.ln_f",
               .attention_norm = layer + "ln_1",
               .hidden_norm = layer + "ln_2",
               .attention_inputs = {layer + "attn.c_attn"},
               .attention_output = layer + "attn.c_proj",
               .hidden_inputs = {layer + "mlp.c_fc"},
               .hidden_output = layer + "mlp.c_proj",
               .stored = Stored::transposed};
  return t;
}

Transformer llama() {
  Transformer t;
  t.norm_kind = NormKind::rms;
  t.activation = Activation::silu;
  t.rope = Rope{};
  t.attention_bias = t.output_bias = t.hidden_bias = false;
  const std::string layer = "model.layers.#.";
  t.modules = {.words = "model.embed_tokens",
               .positions = "",
               .types = "",
               .outer_norm = "model.norm",
               .attention_norm = layer + "input_layernorm",
               .hidden_norm = layer + "post_attention_layernorm",
               .attention_inputs = {layer + "self_attn.q_proj", layer + "self_attn.k_proj",
                                    layer + "self_attn.v_proj"},
               .attention_output = layer + "self_attn.o_proj",
               .hidden_inputs = {layer + "mlp.gate_proj", layer + "mlp.up_proj"},
               .hidden_output = layer + "mlp.down_proj"};
  return t;
}

void stretch(Transformer& t, double factor) {
  if (!t.rope) throw std::invalid_argument("only rotary positions can be divided by a factor");
  t.positions =
      static_cast<std::size_t>(static_cast<double>(t.positions) * factor / t.rope->factor);
  t.rope->factor = factor;
}

}  // namespace gradview
