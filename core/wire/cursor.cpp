#include "core/wire/cursor.hpp"

namespace calico::wire {

void Writer::put(View bytes) {
  if (bad_ || bytes.size() > cap_ - b_.size()) {
    bad_ = true;
    return;
  }
  b_.insert(b_.end(), bytes.begin(), bytes.end());
}

void Writer::put_be(std::uint64_t v, std::size_t width) {
  if (bad_ || width > cap_ - b_.size()) {
    bad_ = true;
    return;
  }
  for (std::size_t i = width; i-- > 0;) b_.push_back(static_cast<std::byte>(v >> (8 * i) & 0xff));
}

Writer::Mark Writer::open(std::size_t width) {
  Mark m{b_.size(), width};
  put_be(0, width);
  return m;
}

void Writer::close(Mark m) {
  if (bad_) return;
  patch(m.at, b_.size() - m.at - m.width, m.width);
}

void Writer::patch(std::size_t at, std::uint64_t v, std::size_t width) {
  if (bad_ || at + width > b_.size() || (width < 8 && v >> (8 * width) != 0)) {
    bad_ = true;
    return;
  }
  for (std::size_t i = 0; i < width; ++i) b_[at + i] = static_cast<std::byte>(v >> (8 * (width - 1 - i)) & 0xff);
}

}  // namespace calico::wire
