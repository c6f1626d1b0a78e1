#pragma once
/// A growing array in fixed blocks: no element ever moves, growing copies nothing and never holds two copies, so a
/// table of a million rows costs its rows and not twice that at the moment it grows. Elements are value-initialised.
/// Thread: any, one at a time. Owns: the elements. Errors: none.
#include <cstddef>
#include <memory>
#include <type_traits>
#include <vector>

namespace calico::bgp {

template <class T, std::size_t kBlock = 4096>
class Blocks {
  static_assert((kBlock & (kBlock - 1)) == 0);

 public:
  T& operator[](std::size_t i) { return blocks_[i / kBlock][i % kBlock]; }
  const T& operator[](std::size_t i) const { return blocks_[i / kBlock][i % kBlock]; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& emplace_back() {
    resize(size_ + 1);
    return (*this)[size_ - 1];
  }
  /// Grows only.
  void resize(std::size_t n) {
    while (blocks_.size() * kBlock < n) blocks_.push_back(std::make_unique<T[]>(kBlock));
    if (n > size_) size_ = n;
  }
  void clear() {
    blocks_.clear();
    size_ = 0;
  }

 private:
  std::vector<std::unique_ptr<T[]>> blocks_;
  std::size_t size_ = 0;
};

}  // namespace calico::bgp
