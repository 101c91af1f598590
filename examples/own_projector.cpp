// test: --task reach --projector full row_sums --optimizer sgd --steps 60 --quiet --out @DIR@/run
// A projector and a task of one's own: compare_main gives them every flag, sweep, table and plot.
#include <gradview/experiments/compare/compare.hpp>
#include <gradview/projections/registry.hpp>
using namespace gradview;

struct RowSums final : Projector {  // ΔW = u 1ᵀ, Jᵀ G = G 1
  using Options = NoOptions;
  RowSums(const Options&, const Site&) {}
  static Count count(const Options&, Shape shape) { return {.trained = shape.rows}; }
  Factors project(const Gradient& g, const Matrix&) const override { return {fold_columns(g, 1)}; }
  void lift(const Factors& u, Matrix& w) const override { w += u[0]; }
  double entry(const Factors& u, const Matrix&, size_t i, size_t) const override {
    return u[0](i, 0);
  }
};
FunctionTask reach(std::uint64_t seed) {  // L = ½‖W − T‖²
  const Matrix t = normal({4, 3}, 1, {seed, Purpose::data});
  return {{{"w", zeros({4, 3})}}, [t](const Weights& w, auto, const Collect& collect) {
            const Matrix g = difference(w["w"], t);
            collect("w", Gradient::dense(g));
            return Score{squared_norm(g) / 2, 1 - squared_norm(g) / squared_norm(t)};
          }};
}
int main(int argc, char** argv) {
  register_projector(method<RowSums>("row_sums", "one number per row", {"row_sums"}));
  register_task(function_task("reach", "a matrix to be reached", reach));
  return compare_main(argc, argv);
}
