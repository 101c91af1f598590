// The library without its drivers: one's own model, y = tanh(W x), and one's own loop.
#include <cmath>
#include <cstdio>
#include <gradview/optim/optimizer.hpp>
#include <gradview/projections/registry.hpp>
using namespace gradview;

Matrix forward(const Matrix& x, const Matrix& w) {
  Matrix y = matmul_nt(x, w);
  for (Real& value : y) value = std::tanh(value);
  return y;
}

int main() {
  const auto draw = [](Shape shape, const char* name) {
    return normal(shape, 0.3, {1, Purpose::data, name});
  };
  const Matrix x = draw({200, 30}, "x"), start = draw({20, 30}, "w");
  Matrix planted = start;
  add_matmul(planted, 2, draw({20, 2}, "u"), draw({2, 30}, "v"));  // a change of rank 2
  const Matrix target = forward(x, planted);
  for (const char* projector : {"full", "lora:rank=2,alpha=4"}) {
    Matrix w = start;
    Optimizer optimizer({.spec = make_optimizer_spec(parse_spec("adam")), .lr = 0.01, .seed = 1});
    optimizer.add("w", w, make_projector(parse_spec(projector), Site{"w", w, 1}));
    double loss = 0;
    for (int step = 0; step < 300; ++step) {
      const Matrix y = forward(x, w);
      Matrix delta = difference(y, target);
      loss = squared_norm(delta) / 400;
      for (std::size_t i = 0; i < y.size(); ++i)
        delta.data()[i] *= (1 - y.data()[i] * y.data()[i]) / 200;
      optimizer.collect("w", Gradient::outer(share(delta), share(x)));  // G = δᵀ x, never formed
      optimizer.step();
    }
    std::printf("%-20s loss %.1e, %zu bytes of state\n", projector, loss, optimizer.state_bytes());
    if (!(loss < 1e-3)) return 1;
  }
}
