#pragma once
/// Several lambdas as one callable, for std::visit: std::visit(Overloaded{[](A) {…}, [](B) {…}}, variant).
namespace calico {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;  // clang 14 does not deduce it

}  // namespace calico
