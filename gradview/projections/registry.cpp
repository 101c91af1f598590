#include "gradview/projections/registry.hpp"

#include <algorithm>
#include <stdexcept>

#include "gradview/core/text.hpp"
#include "gradview/projections/adalora.hpp"
#include "gradview/projections/additive.hpp"
#include "gradview/projections/apollo.hpp"
#include "gradview/projections/bitfit.hpp"
#include "gradview/projections/dora.hpp"
#include "gradview/projections/fira.hpp"
#include "gradview/projections/flora.hpp"
#include "gradview/projections/full.hpp"
#include "gradview/projections/galore.hpp"
#include "gradview/projections/ldadam.hpp"
#include "gradview/projections/loha.hpp"
#include "gradview/projections/lokr.hpp"
#include "gradview/projections/lora.hpp"
#include "gradview/projections/lora_fa.hpp"
#include "gradview/projections/random.hpp"
#include "gradview/projections/relora.hpp"
#include "gradview/projections/vera.hpp"

namespace gradview {
namespace {

std::vector<Method>& registry() {
  static std::vector<Method> methods{
      method<Full>("full", "full-rank training, the trivial projector", {"full"}),
      method<BitFit>("bitfit", "only the biases are trained", {"bitfit"}),
      method<Lora>(
          "lora",
          "low-rank adaptation, ΔW = s u v; starts (PiSSA, LoRA-GA …), LoRA+, LoRA-Pro by option",
          {"lora:rank=3,alpha=5", "lora:rank=2,alpha=3,scaling=rslora,lr_ratio=4",
           "lora:rank=2,alpha=5,init=gaussian", "lora:rank=3,alpha=7,init=symmetric",
           "lora:rank=4,alpha=6,init=orthogonal", "lora:rank=3,alpha=2,init=pissa",
           "lora:rank=2,alpha=3,init=pissa,pissa_niter=4", "lora:rank=3,alpha=2,init=olora",
           "lora:rank=3,alpha=5,scaling=rslora,init=lora_ga",
           "lora:rank=5,alpha=3,init=lora_ga,direction=ArBr,scale=gd",
           "lora:rank=2,alpha=3,init=lora_ga,direction=random,variant=peft,svd_niter=4",
           "lora:rank=3,alpha=5,init=symmetric,precondition=riemannian",
           "lora:rank=3,alpha=5,precondition=lora_pro",
           "lora:rank=2,alpha=3,init=pissa,precondition=lora_pro,damping=0.1"}),
      method<LoraFa>("lora_fa", "LoRA with its right factor frozen at random",
                     {"lora_fa:rank=3,alpha=5", "lora_fa:rank=2,alpha=3,correction=peft"}),
      method<Dora>("dora", "LoRA on the directions of W's rows, beside their magnitudes",
                   {"dora:rank=3,alpha=5", "dora:rank=2,alpha=3,norm=detached,scaling=rslora"}),
      method<Vera>("vera",
                   "two trained vectors around frozen random frames that all matrices share",
                   {"vera:rank=5", "vera:rank=20,d_initial=0.3"}),
      method<Loha>("loha", "the entrywise product of two low-rank products, of rank up to r²",
                   {"loha:rank=3,alpha=5", "loha:rank=2,alpha=3,init=lycoris"}),
      method<Lokr>("lokr", "the Kronecker product of two small matrices",
                   {"lokr:rank=3,alpha=5", "lokr:rank=2,alpha=3,decompose=none,init=lycoris",
                    "lokr:rank=1,alpha=3,decompose=both,factor=1"}),
      method<AdaLora>(
          "adalora", "triplets u diag(λ) v with one budget over all matrices",
          {"adalora:rank=3,target=2,alpha=5,tinit=0,deltaT=1,tfinal=0,deviation=0.5",
           "adalora:rank=3,budget=1,alpha=2,tinit=1,tfinal=0.5,gamma=0,deviation=0.3,variant=peft",
           "adalora:rank=2,target=1,alpha=7,penalty=squared,gamma=0.3,deviation=0.4"}),
      method<Random>("random", "random frames redrawn every step, full-rank in the mean",
                     {"random:rank=3", "random:rank=2,family=rademacher,refresh_every=3",
                      "random:rank=3,family=haar,refresh_every=0", "random:rank=2,sides=left",
                      "random:rank=3,sides=right,family=haar", "random:rank=2,normalise=raw"}),
      method<Galore>("galore", "G projected onto its own leading singular vectors",
                     {"galore:rank=3,scale=0.7,refresh_every=2", "galore:rank=2,side=both",
                      "galore:rank=3,side=left,refresh_every=3,error_feedback=true",
                      "galore:rank=2,side=long,projection=subspace,refresh_every=2"}),
      method<Fira>("fira", "GaLore, and the rest of G at the rate of what it projects",
                   {"fira:rank=3,scale=0.7,refresh_every=2,residual=scaled",
                    "fira:rank=2,side=left,projection=subspace,warm_start=false,growth_limit=0"}),
      method<Ldadam>("ldadam",
                     "a subspace that follows the gradient, with its moments and its error",
                     {"ldadam:rank=3", "ldadam:rank=2,side=left,rho=0.5,error_feedback=false"}),
      method<Flora>("flora", "a momentum kept as a random sketch of itself",
                    {"flora:rank=3,beta1=0.5,refresh_every=2",
                     "flora:rank=2,beta1=0.5,refresh_every=3,variant=jax"}),
      method<Apollo>("apollo", "raw gradients, scaled by what a rule does to a random sketch",
                     {"apollo:rank=3,scale=1.7,refresh_every=2",
                      "apollo:rank=2,scaling=tensor,refresh_every=3,growth_limit=0"}),
      method<Relora>("relora", "LoRA that begins anew every so many steps",
                     {"relora:rank=3,alpha=5,refresh_every=2"}),
      method<Additive>("additive", "ΔW as a sum of row and column terms, in blocks for rank > 1",
                       {"additive", "additive:rank=3", "additive:rank=2,frames=raw"}),
  };
  return methods;
}

}  // namespace

const std::vector<Method>& projectors() { return registry(); }

void register_projector(Method method) {
  for (const Method& other : registry()) {
    if (other.name == method.name) {
      throw std::invalid_argument("register_projector: the name '" + method.name + "' is taken");
    }
  }
  registry().push_back(std::move(method));
}

const Method& find_projector(const std::string& name) {
  std::vector<std::string> names;
  for (const Method& method : projectors()) {
    if (method.name == name) return method;
    names.push_back(method.name);
  }
  throw std::invalid_argument("no projector '" + name + "'; there are " + join(names, ", ") +
                              did_you_mean(name, names));
}

void check_projector(const Spec& spec) { find_projector(spec.name).check(spec); }

std::unique_ptr<Projector> make_projector(const Spec& spec, const Site& site) {
  return find_projector(spec.name).make(spec, site);
}

Count count_numbers(const Spec& spec, Shape shape) {
  return find_projector(spec.name).count(spec, shape);
}

}  // namespace gradview
