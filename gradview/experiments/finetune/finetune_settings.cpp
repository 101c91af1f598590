#include "gradview/experiments/finetune/finetune_settings.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "gradview/experiments/driver/help.hpp"
#include "gradview/experiments/driver/jobs.hpp"
#include "gradview/io/descriptor.hpp"
#include "gradview/projections/registry.hpp"

namespace gradview {

void FineTuneSettings::declare(Flags& flags) {
  const Range positive{.least = 0, .open_below = true};
  threads = cores();
  flags.text("model", model, "DIR", "checkpoint: config.json and model.safetensors, or its shards");
  flags.text("train", train, "FILE",
             "safetensors of scripts/tokenize: input_ids, attention_mask, labels");
  flags.text("eval", eval, "FILE", "the like, evaluated at the start and at the end");
  flags.choice("task", task, {"classify", "lm"}, "a class of a text, or its next tokens");
  flags.text("projector", projector, "SPEC",
             "--list names them, --help-projector NAME tells more; by default --adapter's");
  flags.text("target", target, "REGEX",
             "searched in the paths of modules: which matrices; by default --adapter's");
  flags.text("optimizer", optimizer, "SPEC", "update rule; options in --help-optimizer");
  flags.number("lr", lr, positive, "required", "learning rate");
  flags.count("steps", steps, {.least = 0}, "of training; 0: only evaluate");
  flags.count("batch-size", batch_size, {.least = 1}, "texts of a step");
  flags.text("schedule", schedule, "SPEC", "constant | linear | cosine, with :warmup=N,final=F");
  flags.number("clip", clip, positive, "none", "largest norm of all factor gradients");
  flags.flag("no-dropout", no_dropout, "train without the dropout that the checkpoint asks for");
  flags.number("lora-dropout", lora_dropout, {.least = 0, .most = 1, .open_above = true},
               "of the adapter's input: x̃ in y = W₀ x + ΔW x̃");
  flags.choice("frozen", frozen, {"float", "nf4", "int4"},
               "how the matrices of linear layers are kept: as they are, or in 4 bits (QLoRA)");
  flags.count("group", group, {.least = 2}, "none: full attention",
              "tokens of a group of shifted sparse attention in training, for long texts");
  flags.number("rope-factor", rope_factor, {.least = 1}, "the checkpoint's",
               "by which rotary positions are divided: how many times as long texts may be");
  flags.choice("pooling", pooling, {"cls", "mean"},
               "of a classifier: tanh(dense(first token)), or the mean of the hidden states");
  flags.count("labels", labels, {.least = 2, .most = 1000000}, "of --train, or of the checkpoint",
              "classes");
  flags.choice("bias", bias, {"none", "all", "lora_only"},
               "which biases are trained: none, all, those of adapted modules");
  flags.text("save-modules", save_modules, "REGEX",
             "modules trained in full and saved, beside a classifier's head");
  flags.text("save", folder.out, "DIR",
             "run folder; it gets the adapter; without it runs/finetune-<time>");
  flags.flag("overwrite", folder.overwrite, "replace the results in an existing run folder");
  flags.flag("resume", folder.resume, "go on from the last checkpoint of the run in --save");
  flags.count("save-every", save_every, {.least = 1}, "steps between two checkpoints");
  flags.text("adapter", adapter, "DIR", "PEFT adapter to go on from");
  flags.flag("merge", merge, "write SAVE/merged too: the whole model, which transformers loads");
  flags.flag("mutated-base", mutated_base,
             "after pissa, olora, lora_ga or symmetric: an adapter of rank r on SAVE/base, which "
             "the start's product is taken out of; without, of rank 2r on the model itself");
  flags.text("predict", predict, "FILE",
             "safetensors: logits of --eval at the end, in its order [N, classes]; lm: [N, L, V]");
  flags.count("eval-every", eval_every, {.least = 0}, "steps; 0: at the start and at the end");
  flags.flag("no-shuffle", no_shuffle, "batches in the order of the file");
  flags.count("init-batches", init_batches, {.least = 1},
              "of the pre-pass, for methods that start from a gradient");
  flags.count("seed", seed, {.least = 0}, "of order, dropout, head and projectors");
  compute.declare(flags);
  flags.count("threads", threads, {.least = 1, .most = 1024}, "the result is the same with any");
  flags.flag("no-plot", no_plot, "draw no picture");
  flags.flag("quick", quick, "at most 20 steps of 8 texts, to see whether it works");
  flags.flag("quiet", quiet, "no progress, no table of parameters");
  flags.print("list", "", "name the projectors and end",
              [](const std::string&) { print_projectors(); });
  flags.print("help-projector", "NAME", "options and fields of a projector", print_projector_help);
  flags.print("help-optimizer", "", "options of the optimizers",
              [](const std::string&) { print_optimizers(); });
}

void FineTuneSettings::finish(const Flags& flags) {
  const auto require = [](bool given, const std::string& flag) {
    if (!given) throw std::invalid_argument(flag + " is required; see --help");
  };
  if (quick) {
    steps = std::min<std::size_t>(steps, 20);
    batch_size = std::min<std::size_t>(batch_size, 8);
  }
  require(!model.empty(), "--model DIR");
  require(!adapts() || !train.empty(), "--train FILE");
  require(!adapts() || lr.has_value(), "--lr X");
  require(!adapts() || !projector.empty() || !adapter.empty(), "--projector SPEC");
  require(!adapts() || !target.empty() || !adapter.empty(), "--target REGEX");
  require(predict.empty() || !eval.empty(), "--eval FILE, for --predict,");
  require(!folder.resume || !folder.out.empty(), "--save DIR, for --resume,");
  require(!mutated_base || !folder.out.empty(), "--save DIR, for --mutated-base,");
  if (!adapts() && eval.empty() && !merge && folder.out.empty()) {
    throw std::invalid_argument("--steps 0 without --eval, --merge or --save has nothing to do");
  }
  for (const char* name : {"group", "rope-factor"}) {
    if (classifies() && flags.given(name)) {
      throw std::invalid_argument(std::string("--") + name + " is for --task lm");
    }
  }
  if (!classifies()) {
    for (const char* name : {"pooling", "labels"}) {
      if (flags.given(name)) {
        throw std::invalid_argument(std::string("--") + name +
                                    " is for --task classify; a language model has none");
      }
    }
  }
  if ((merge || mutated_base) && classifies() && pooling == "mean") {
    throw std::invalid_argument(
        fmt::format("--{} and --pooling mean contradict each other: transformers' classifier pools "
                    "by cls",
                    merge ? "merge" : "mutated-base"));
  }
  if (in_four_bits()) {
    flags.exclude("frozen", "merge");
    flags.exclude("frozen", "mutated-base");
    if (projector.empty() && adapter.empty()) {
      throw std::invalid_argument("--frozen " + frozen + " needs a --projector or an --adapter");
    }
  }
  if (!projector.empty()) check_projector(parse_spec(projector));
  make_optimizer_spec(parse_spec(optimizer));
  make_schedule(schedule);
  if (adapts()) require_schedule_fits(schedule, steps);
  if (!predict.empty()) AtomicFile{predict};  // can it be written?
}

Optimizer::Settings FineTuneSettings::optimizer_settings() const {
  Optimizer::Settings settings{.spec = make_optimizer_spec(parse_spec(optimizer)),
                               .lr = lr.value_or(0),
                               .schedule = make_schedule(schedule),
                               .steps = steps,
                               .seed = seed};
  if (clip) settings.clip = *clip;
  return settings;
}

}  // namespace gradview
